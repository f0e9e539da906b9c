"""The GPU benchmark's plan with tiny models, without what a bare machine lacks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_names_a_model_and_a_rung(gpu):
    from realdpo.memory import RUNGS

    for model, weights, rung, losers in gpu.ROWS:
        assert model in gpu.MODELS
        assert weights in ("lora", "full")
        assert rung in {known.name for known in RUNGS}
        assert losers >= 0
    assert all(f"check_{name.replace('-', '_')}" in vars(gpu) for name in gpu.CHECKS)


@pytest.mark.parametrize(
    "row", ["cogvideox-5b-i2v lora one-by-one 1", "wan-1.3b full checkpointing 0"]
)
def test_a_row_measures_a_step(gpu, row):
    found = gpu.run_row(row, True)
    assert found["preference"] > 0
    assert found["peak_gb"] > 0
    assert found["seconds"] > 0
    assert (found["against_released"] or 1) > 0
    assert "GB" in gpu.line_of({"row": row, **found})


@pytest.mark.parametrize("name", ["cuda-is-cpu", "fp16", "repeatable", "out-of-memory"])
def test_a_check_says_what_it_saw(gpu, name):
    found = gpu.run_row(name, True)
    assert found["passed"], found["told"]
    assert found["told"]


def test_it_starts_from_the_repository_without_being_installed():
    code = f"""
import sys
sys.path[:] = [p for p in sys.path if "__editable__" not in p]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__name__", str(f)).lower()]
for name in ("av", "cv2", "pydantic", "typer"):
    sys.modules[name] = None
sys.argv = ["gpu.py", "--list"]
import runpy
runpy.run_path({str(ROOT / "benchmarks" / "gpu.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert "wan-14b lora blocks 1" in done.stdout, done.stderr
