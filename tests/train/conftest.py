"""Models and workspaces shared by the tests of training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "pairs")]

import shards
import tiny_pipelines


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A random CogVideoX image-to-video pipeline of the real classes."""
    return tiny_pipelines.save("cogvideox-5b-i2v", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A workspace with pairs; latents are made once and kept in it."""
    return shards.workspace(tmp_path_factory.mktemp("work"))


@pytest.fixture
def fresh(work, tmp_path):
    """The shared pairs and latents under a workspace with runs of its own."""
    from realdpo.workspace import Workspace

    for name in ("pairs", "steps"):
        (work.root / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(work.root / name, target_is_directory=True)
    return Workspace(tmp_path)


@pytest.fixture
def said(caplog, capsys):
    """What was said to the user so far: on stderr under a command, else to the log."""
    caplog.set_level("INFO", logger="realdpo")
    return lambda: caplog.text + capsys.readouterr().err


@pytest.fixture
def own_accelerator():
    """accelerate keeps one precision a process: begin and end this test without any."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
