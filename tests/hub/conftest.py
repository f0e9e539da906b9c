"""A small real workspace, and a Hub on loopback to push it to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import hub_workspaces as workspaces
import loopback_hub


@pytest.fixture(scope="session")
def made_once(bikes: Path, tmp_path_factory: pytest.TempPathFactory) -> workspaces.Made:
    return workspaces.make(tmp_path_factory.mktemp("workspace") / "w", bikes)


@pytest.fixture
def made(made_once: workspaces.Made, tmp_path: Path) -> workspaces.Made:
    """A workspace of its own, to change at will."""
    copy = tmp_path / "w"
    shutil.copytree(made_once.workspace.root, copy)
    return workspaces.Made(
        type(made_once.workspace)(copy), made_once.videos, made_once.clips, made_once.pairs
    )


@pytest.fixture
def hub() -> Iterator[loopback_hub.Hub]:
    with loopback_hub.running() as (hub, address):
        hub.address = address
        hub.tokens[loopback_hub.TOKEN] = loopback_hub.token_of("someone", orgs=("lab",))
        yield hub


@pytest.fixture
def api(hub: loopback_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """huggingface_hub against that server, from this process."""
    from huggingface_hub import HfApi, constants

    from realdpo.publish import hub as pushing

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(pushing, "WAITS", (0.01, 0.02, 0.03))
    return HfApi(endpoint=hub.address, token=loopback_hub.TOKEN)


@pytest.fixture
def environment(hub: loopback_hub.Hub, tmp_path: Path) -> dict[str, str]:
    """What a process needs to take that server for the Hub."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": loopback_hub.TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def cli(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `realdpo ...` as a user would, in a process of its own."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "realdpo", *map(str, args)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
