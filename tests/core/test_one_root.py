"""All rooms come from one checkout, whatever the working folder and whoever is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("realdpo", "realdpo.curate", "realdpo.pairs", "realdpo.train", "realdpo.data_cards")


def test_a_second_checkout_uses_its_own_rooms(tmp_path: Path) -> None:
    """`python -m pytest` in another clone must not mix that clone with the installed one."""
    for room in ("curate", "pairs", "train", "data_cards"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / "realdpo").mkdir()
    for entry in (ROOT / "realdpo").iterdir():
        if entry.is_symlink():  # how git checks the rooms out
            (tmp_path / "realdpo" / entry.name).symlink_to(entry.readlink())
    (tmp_path / "realdpo" / "__init__.py").touch()
    code = f"import importlib; [print(importlib.import_module(n).__file__) for n in {ROOMS}]"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(found) == len(ROOMS)
    assert all(Path(file).resolve().is_relative_to(tmp_path.resolve()) for file in found)
