"""The scripts under examples/ run, one after the other, as their headings say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, *arguments: str | Path) -> str:
    found = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"},
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_from_footage_to_evidence(bikes: Path, tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    (tmp_path / "footage" / "bikes.mp4").symlink_to(bikes)
    (tmp_path / "footage" / "bikes.txt").write_text("People ride bicycles down a street.")
    told = example("curate_and_look.py", tmp_path / "footage", tmp_path / "work")
    assert "motion.subject" in told
    assert "shot 0: 0.00" in told or "shot 0: 0.10" in told
    told = example("pairs_and_training.py", tmp_path / "work")
    assert "step 3" in told
    assert (tmp_path / "work/runs/example/weights/pytorch_lora_weights.safetensors").is_file()


def test_the_objective_alone() -> None:
    told = example("objective_in_your_own_loop.py").splitlines()
    assert len(told) == 3
    # At the start policy and reference are one model: ln 2 plus the winner's weighted error.
    assert "'rewards/margin': 0.0" in told[0]


def test_every_example_is_listed() -> None:
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(file.name in told for file in EXAMPLES.glob("*.py"))
