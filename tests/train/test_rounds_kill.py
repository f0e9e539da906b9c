"""Rounds killed in the second of them: the same command goes on and does nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realdpo.train import log


@pytest.mark.slow
def test_killed_in_the_second_round_and_gone_on_with(fresh, model):
    command = [
        sys.executable,
        "-m",
        "realdpo",
        "rounds",
        "2",
        "-w",
        str(fresh.root),
        "--model",
        str(model),
        "--steps",
        "6",
        "--prompts",
        "0",
        "--keep-going",
        "--json",
    ]
    for setting in ("rank=2", "checkpoint_every=1", "held_out_levels=2", "data=pairs", "lr=1e-2"):
        command += ["--set", setting]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    how = {"env": environment, "cwd": Path(__file__).parents[2]}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([*command, "--name", "killed"], **how, **quiet)
    second = fresh.runs / "killed-round-2" / "log.jsonl"
    while child.poll() is None and len(log.read_log(second)) < 2:
        time.sleep(0.005)
    assert child.poll() is None, "ended before it could be killed"
    child.kill()
    assert child.wait() == -signal.SIGKILL
    first = fresh.runs / "killed-round-1" / "summary.json"
    written = first.stat().st_mtime_ns
    made = {}
    for name in ("killed", "calm"):
        done = subprocess.run([*command, "--name", name], **how, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made[name] = json.loads(done.stdout)
    assert first.stat().st_mtime_ns == written
    changes = {n: [r["change"] for r in m["rounds"]] for n, m in made.items()}
    assert changes["killed"] == changes["calm"]
    assert len(changes["calm"]) == 2
    part = "weights/pytorch_lora_weights.safetensors"
    ends = [load_file(fresh.runs / f"{n}-round-2" / part) for n in made]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
