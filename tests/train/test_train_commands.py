"""`realdpo train` from the outside: settings, dry run, errors in one line, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from realdpo.cli import app
from realdpo.train.config import TrainConfig, describe


@pytest.fixture
def run(fresh, model):
    def invoke(*arguments: str):
        return CliRunner().invoke(
            app, ["train", "-w", str(fresh.root), "--model", str(model), *arguments]
        )

    return invoke


def test_every_setting_has_a_default_and_help():
    names = {name for name, _, _ in describe()}
    assert names == set(TrainConfig.__dataclass_fields__)
    assert all(text.endswith(".") for _, _, text in describe())
    listed = CliRunner().invoke(app, ["train", "--settings"])
    assert all(name in listed.output for name in names)


def test_dry_run_estimates_and_leaves_no_run(run, fresh):
    done = run("--dry-run", "--json", "--set", "rank=2", "--steps", "7")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["settings"]["steps"] == 7
    assert int(found["estimate"]["trained"].replace(",", "")) == 1024
    assert found["estimate"]["peak memory"].endswith("GB")
    assert not (fresh.root / "runs").exists()


def test_a_run_in_json_then_the_same_command_says_it_is_done(run, fresh):
    arguments = ("--steps", "2", "--objective", "sft", "--json", "--set", "held_out_levels=2")
    first = json.loads(run(*arguments).stdout)
    assert first["steps"] == 2
    assert first["after"]["winner_error"] > 0
    assert json.loads(run(*arguments).stdout)["after"] == first["after"]
    assert (fresh.root / "config" / "train.toml").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "best"), "no preset 'best'"),
        (("--set", "betta=3"), "did you mean 'beta'"),
        (("--set", "beta=-1"), "beta must be above 0"),
        (("--loss", "x"), "No such option"),
        (("--set", "weights=full", "--set", "reference=adapter-off"), "needs weights = lora"),
        (("--set", "trackers=['wandb']"), "pip install wandb"),
    ],
)
def test_wrong_input_is_one_clear_line(run, arguments, words):
    done = run(*arguments)
    assert done.exit_code in (1, 2)
    assert words in done.output
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_an_error_in_several_processes_is_no_traceback_either(fresh, model):
    command = [
        sys.executable,
        "-m",
        "realdpo",
        "train",
        "-w",
        str(fresh.root),
        "--model",
        str(model),
    ]
    command += ["--num-processes", "2", "--set", "trackers=['wandb']"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: the tracker wandb is not installed" in done.stderr
    assert "Traceback" not in done.stderr
