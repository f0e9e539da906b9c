"""The services on loopback, and a workspace to source into."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "hub")]

import loopback_services

from realdpo.workspace import Workspace


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback_services.Services]:
    monkeypatch.setenv("REALDPO_CONTACT", "test@example.org")
    monkeypatch.setenv("PEXELS_API_KEY", loopback_services.PEXELS_KEY)
    monkeypatch.setenv("PIXABAY_API_KEY", loopback_services.PIXABAY_KEY)
    with loopback_services.running() as served:
        names = ("a.mp4", "b.mp4", "c.mp4", "d.mp4")
        served.films = {name: loopback_services.small_film(k) for k, name in enumerate(names)}
        yield served


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")
