"""Integrity: damaged bytes are found wherever they are kept, and what is well is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from realdpo import doctor, ids, integrity, tables
from realdpo.cli import app
from realdpo.errors import UserError
from realdpo.workspace import Workspace

CLIP, WIN, LOSE = b"a clip" * 50, b"a winner" * 50, b"a loser" * 50


def named(data: bytes, ending: str = ".mp4") -> dict[str, Any]:
    return {"bytes": data, "path": f"{ids.bytes_hash(data)}{ending}"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One clip and one pair, in files and in shards."""
    made = Workspace(tmp_path / "w")
    clip = {
        "clip_id": "c",
        "sha256": ids.bytes_hash(CLIP),
        "video": {"bytes": CLIP, "path": "c.mp4"},
    }
    pair = {"pair_id": "p", "prompt": "a man waves", "win": named(WIN), "lose": [named(LOSE)]}
    for folder, kind, row in (
        (made.data, tables.DATASET, clip),
        (made.pair_data, tables.PAIR_SHARD, pair),
    ):
        tables.write_table(
            folder / "train-00000-of-00001.parquet", tables.from_rows(kind, [row]), kind
        )
    row = {"clip_id": "c", "path": "clips/c.mp4", "sha256": ids.bytes_hash(CLIP), "status": "ok"}
    tables.write_table(made.clips, tables.from_rows(tables.CLIPS, [row]), tables.CLIPS)
    for path, data in (
        (made.clip_file("c"), CLIP),
        *((made.pair_videos / named(d)["path"], d) for d in (WIN, LOSE)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return made


def damage(path: Path, part: bytes) -> None:
    data = path.read_bytes()
    place = data.index(part) + len(part) // 2
    path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])


def plain(shard: Path, kind: tables.TableKind) -> None:
    """Write a shard again without compression, so that its bytes can be found in it."""
    table = pq.read_table(shard)
    tables.write_table(
        shard, table, kind, compression="none", use_dictionary=False, write_statistics=False
    )


def test_what_is_well_is_well(workspace: Workspace) -> None:
    assert list(integrity.workspace_damages(workspace)) == [None] * 5
    findings = doctor.examine_files(workspace)
    assert [f.state for f in findings] == ["ok"]
    assert "5 of 5" in findings[0].found
    assert doctor.examine_files(Workspace(workspace.root / "none"))[0].state == "absent"


@pytest.mark.parametrize("what", ["clip file", "clip shard", "winner", "loser", "pair video"])
def test_one_flipped_byte_is_found_and_named(workspace: Workspace, what: str) -> None:
    clips, pairs = (
        f / "train-00000-of-00001.parquet" for f in (workspace.data, workspace.pair_data)
    )
    plain(clips, tables.DATASET)
    plain(pairs, tables.PAIR_SHARD)
    path, part, kind = {
        "clip file": (workspace.clip_file("c"), CLIP, None),
        "clip shard": (clips, CLIP, tables.DATASET),
        "winner": (pairs, WIN, tables.PAIR_SHARD),
        "loser": (pairs, LOSE, tables.PAIR_SHARD),
        "pair video": (workspace.pair_videos / named(LOSE)["path"], LOSE, None),
    }[what]
    damage(path, part)
    [found] = [d for d in integrity.workspace_damages(workspace) if d is not None]
    assert found.path == path
    if kind is not None:
        with pytest.raises(UserError, match="is not what its"):
            integrity.require_shards([path], kind)
    shown = CliRunner().invoke(app, ["doctor", "-w", str(workspace.root), "--deep"])
    assert shown.exit_code == 1
    assert path.name in shown.output
    assert "4 of 5" in shown.output


def test_a_shard_that_is_cut_off_is_found(workspace: Workspace) -> None:
    [path] = workspace.data.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    [found] = [d for d in integrity.workspace_damages(workspace) if d is not None]
    assert (found.path, "cannot be read" in found.what) == (path, True)


@pytest.mark.parametrize(
    ("prompt", "names", "problem"),
    [
        ("a", ["w", "l"], None),
        ("", ["w", "l"], "no prompt"),
        (None, ["w", "l"], "no prompt"),
        (" \n", ["w", "l"], "no prompt"),
        ("a", ["w"], "no loser"),
        ("a", ["w", "l", "w"], "loser 1 is the winner itself"),
    ],
)
def test_pairs_that_teach_nothing(prompt: str, names: list[str], problem: str | None) -> None:
    found = integrity.pair_problem(prompt, names)
    assert found == problem if problem is None else problem in str(found)
