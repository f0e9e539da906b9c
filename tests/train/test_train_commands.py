"""`realdpo train` from the outside: settings, dry run, errors in one line, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from realdpo.cli import app
from realdpo.cli.processes import quiet_peer
from realdpo.train import checkpoint, log


@pytest.fixture
def run(fresh, model):
    def invoke(*arguments: str):
        return CliRunner().invoke(
            app, ["train", "-w", str(fresh.root), "--model", str(model), *arguments]
        )

    return invoke


def test_dry_run_estimates_and_leaves_no_run(run, fresh):
    done = run("--dry-run", "--json", "--set", "rank=2", "--steps", "7")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["settings"]["steps"] == 7
    assert int(found["estimate"]["trained"].replace(",", "")) == 2304
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


def test_a_process_that_leaves_closes_what_is_open():
    code = """
import atexit, sys
from realdpo.cli.processes import leave_process
atexit.register(print, "closed")
sys.stdout.write("told ")
leave_process(3)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (3, "told closed\n")


def in_two_processes(workspace, model):
    command = [sys.executable, "-m", "realdpo", "train", "-w", str(workspace.root)]
    return [*command, "--model", str(model), "--num-processes", "2"]


@pytest.mark.slow
def test_ctrl_c_in_several_processes_saves_and_the_same_command_goes_on(fresh, model, tmp_path):
    command = [*in_two_processes(fresh, model), "--json"]
    command += ["--set", "held_out_pairs=0", "--set", "rank=4", "--set", "schedule=constant"]
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
    }
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    run = fresh.runs / "contrast"
    child = subprocess.Popen([*command, "--steps", "500"], **piped)
    while child.poll() is None and not log.read_log(run / "log.jsonl"):
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    told = "stopped; run the same command again to continue\n"
    assert (child.returncode, out, err) == (130, "", told)
    reached = len(log.read_log(run / "log.jsonl"))
    assert checkpoint.latest_checkpoint(run / "checkpoints").name == f"step-{reached:06d}"
    done = subprocess.run([*command, "--steps", str(reached + 1)], **piped)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == reached + 1
    assert not list(folder.glob("torchelastic*"))
    dry = subprocess.run([*command, "--steps", "9", "--dry-run"], **piped)
    assert json.loads(dry.stdout)["settings"]["steps"] == 9, dry.stderr


@pytest.mark.slow
def test_an_error_in_several_processes_is_no_traceback_either(fresh, model):
    command = [*in_two_processes(fresh, model), "--set", "trackers=['wandb']"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: the tracker wandb is not installed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_what_gloo_says_of_a_peer_that_died_is_no_traceback(how):
    """It says "reset" when the peer left data unread: killed in the middle of a step."""
    told = f"gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:52895: Connection {how} by peer"
    with pytest.raises(typer.Exit) as caught, quiet_peer():
        raise RuntimeError(told)
    assert caught.value.exit_code == 1
    with pytest.raises(RuntimeError, match="shape"), quiet_peer():
        raise RuntimeError("shape mismatch")


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", ["raise SystemError('gone')", "os._exit(9)", "os.kill(os.getpid(), 9)"]
)
def test_a_process_that_dies_ends_the_others_out_of_their_collective(tmp_path, end):
    """One fails or vanishes while the other waits for it, deaf to signals, for up to two hours."""
    script = tmp_path / "peers.py"
    script.write_text(f"""
import datetime, os, time
import torch.distributed as dist
from realdpo.cli.processes import worker_process

with worker_process():
    dist.init_process_group("gloo", timeout=datetime.timedelta(hours=2))
    if dist.get_rank() == 0:
        time.sleep(1)
        {end}
    dist.barrier()
""")
    launch = "from realdpo.cli.processes import main; main()"
    command = [sys.executable, "-c", launch, "--standalone", "--shutdown-timeout", "3600"]
    command += ["--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
