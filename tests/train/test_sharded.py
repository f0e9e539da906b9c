"""Weights in shards (FSDP2) in two processes: what whole ones do."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realdpo.train import log, loop
from realdpo.train.config import TrainConfig

HERE = Path(__file__).parent
CPU = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # as `accelerate config` suggests
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "CogVideoXBlock",
}
FULL = {"weights": "full", "lr": 1e-3, "reference": "ema", "ema_every": 2, "ema_rate": 0.5}
APART = {"memory": "one-by-one", "accumulation": 2}


@pytest.mark.slow
def test_reference_and_checkpoint_of_sharded_weights():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(HERE / "sharded.py")]
    done = subprocess.run(command, env={**os.environ, **CPU}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_waiting_for_a_process_that_hangs_ends_in_one_line():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(HERE / "waits.py")]
    done = subprocess.run(command, env={**os.environ, **CPU}, capture_output=True, text=True)
    assert done.returncode != 0
    ours = done.stderr.split("torch.distributed.elastic")[0]
    assert "error: process 0 waited 2 s for the others" in ours, done.stderr
    assert "py-spy" in ours
    assert "RuntimeError" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "changes"), [(FSDP, FULL), (FSDP, APART)], ids=["full-ema", "lora-apart"]
)
def test_two_processes_in_shards_equal_one_with_twice_the_batch(fresh, model, shards, changes):
    """Stopped after three of four steps and gone on with; the whole checkpoint is compared."""
    # Adam with a large epsilon is linear in the gradient, see the same test without shards.
    settings = {
        "lr": 0.05,
        "adam_eps": 1.0,
        "rank": 4,
        "warmup": 0,
        "held_out_levels": 2,
        "held_out_every": 1,
        "objective": "dpo",
        "beta": 200.0,
        "schedule": "constant",
        **changes,
    }
    one = TrainConfig(model=str(model), steps=4, name="one", batch=2, **settings)
    loop.run_training(fresh, one)
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "realdpo", "train", "-w", str(fresh.root), "--name", "two"]
    command += ["--model", str(model), "--num-processes", "2", *sets]
    for steps in ("3", "4"):
        done = subprocess.run(
            [*command, "--steps", steps],
            env={**os.environ, **CPU, **shards},
            text=True,
            capture_output=True,
            cwd=HERE.parents[1],
        )
        assert done.returncode == 0, done.stderr
    ends = [fresh.runs / name / "checkpoints" / "step-000004" for name in ("one", "two")]
    files = sorted(p.relative_to(ends[0]) for p in ends[0].rglob("*.safetensors"))
    assert len(files) == (4 if changes is FULL else 3)
    for file in files:
        expected, found = (load_file(end / file) for end in ends)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"weights": "full", "lr": 1e-4}], ids=["lora", "full"])
def test_shards_in_bfloat16_compute_on_the_inputs_of_one_process(fresh, changes, tmp_path):
    """Wan, whose clock is a float: cast to bfloat16 it would be 524 for 522.8. Base and adapters are
    of two dtypes. One process with the same micro-batches gives the same losses and gradients."""
    import tiny_pipelines

    model = tiny_pipelines.save("wan2.1-i2v", tmp_path / "wan")
    settings = {
        "rank": 4,
        "warmup": 0,
        "held_out_levels": 5,
        "precision": "bf16",
        "losers": 1,
        "condition_draws": 0,
        **changes,
    }
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "realdpo", "train", "-w", str(fresh.root), "--steps", "2"]
    command += ["--model", str(model), "--objective", "dpo", *sets]
    wan = {**FSDP, "FSDP_TRANSFORMER_CLS_TO_WRAP": "WanTransformerBlock"}
    for name, extra, environment in (
        ("one", ["--set=accumulation=2"], {}),
        ("two", ["--num-processes", "2"], wan),
    ):
        done = subprocess.run(
            [*command, "--name", name, *extra],
            env={**os.environ, **CPU, **environment},
            text=True,
            capture_output=True,
            cwd=HERE.parents[1],
        )
        assert done.returncode == 0, done.stderr
    held = [log.read_log(fresh.runs / name / "held_out.jsonl") for name in ("one", "two")]
    assert held[1][0]["winner_error"] == pytest.approx(held[0][0]["winner_error"], rel=1e-4)
    steps = [log.read_log(fresh.runs / name / "log.jsonl") for name in ("one", "two")]
    for one, two in zip(*steps, strict=True):
        assert math.isfinite(two["grad_norm"])
        assert two["error/win"] == pytest.approx(one["error/win"], rel=1e-6)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
