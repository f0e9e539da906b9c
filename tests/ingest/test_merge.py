"""Workspaces made apart become one: nothing lost, nothing twice, what differs settled and said."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from realdpo import tables
from realdpo.cli import app
from realdpo.curate import merge
from realdpo.curate.caption import edits
from realdpo.errors import UserError
from realdpo.media.decode import decode_frames
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.workspace import Workspace


def run(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["curate", *words, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def table(work: Workspace) -> list[dict[str, Any]]:
    return tables.read_table(work.clips, tables.CLIPS).to_pylist()


@pytest.fixture(scope="module")
def parts(bikes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three workspaces: a film, another film with it, and a re-encoded copy of the first."""
    root = tmp_path_factory.mktemp("parts")
    other = bikes.with_name("carphone.mp4")
    copy = root / "copy.mp4"
    some = np.stack([f.rgb for f in decode_frames(bikes, short_side=200)])
    height, width = (side // 2 * 2 for side in some.shape[1:3])
    pictures = np.ascontiguousarray(some[:, :height, :width])
    copy.write_bytes(
        encode_video(pictures, Fraction(25), EncodeSettings(crf=26, preset="veryfast"))
    )
    footage = {"a": [bikes], "b": [other, bikes], "c": [copy]}
    for name, films in footage.items():
        lines = [
            {"path": str(f), "license": "CC-BY-4.0", "title": f"{name} {f.stem}"} for f in films
        ]
        manifest = root / f"{name}.jsonl"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run(
            "ingest",
            str(manifest),
            "-w",
            str(root / name),
            "--target",
            "tiny",
            "--engine",
            "serial",
            "--set",
            "motion.subject_min=off",
            "--set",
            "motion.subject_share_min=off",
            "--set",
            "source.short_side_min=80",
        )
    return [root / name for name in footage]


@pytest.fixture
def some(parts: list[Path], tmp_path: Path) -> list[Path]:
    for path in parts:
        shutil.copytree(path, tmp_path / path.name)
    return [tmp_path / path.name for path in parts]


def test_three_become_one(some: list[Path], tmp_path: Path) -> None:
    a, b, c = (Workspace(path) for path in some)
    into = Workspace(tmp_path / "all")
    result = run("merge", *map(str, some), "-w", str(into.root))
    rows = {row["clip_id"]: row for row in table(into)}
    before = {row["clip_id"]: row for work in (c, b, a) for row in table(work)}
    assert rows.keys() == before.keys()
    assert result["sources"] == 3  # the first film was in two
    kept = [row for row in rows.values() if row["keep"]]
    assert result["kept"] == len(kept) > 0
    for row in kept:
        assert into.clip_file(row["clip_id"]).read_bytes()
        old = before[row["clip_id"]]
        assert (row["prompt"], row["license"]) == (old["prompt"], old["license"])
        assert row["motion.subject"] == old["motion.subject"]
    copies = [row for row in rows.values() if row["duplicate_of"]]
    assert len(copies) >= 0.8 * sum(bool(row["keep"]) for row in table(c))
    owner = {row["clip_id"]: row for row in rows.values()}
    for row in copies:  # of the larger one, and in the split of its original
        assert owner[row["duplicate_of"]]["source.short_side"] >= row["source.short_side"]
    splits: dict[str, set[str]] = {}
    for row in kept:
        splits.setdefault(row["source_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    shards = [pq.read_table(path) for path in into.data.glob("*.parquet")]
    assert sorted(i for shard in shards for i in shard["clip_id"].to_pylist()) == sorted(
        row["clip_id"] for row in kept
    )
    assert result["conflicts"]["sources with another title; the first counts"] == 1

    stamps = {path: path.stat().st_mtime_ns for path in into.clip_files.iterdir()}
    data = into.clips.read_bytes()
    assert run("merge", *map(str, some), "-w", str(into.root)) == result  # again changes nothing
    assert into.clips.read_bytes() == data
    assert stamps == {path: path.stat().st_mtime_ns for path in into.clip_files.iterdir()}


def test_what_is_told_differently_is_settled_and_said(some: list[Path], tmp_path: Path) -> None:
    a, b = Workspace(some[0]), Workspace(some[1])
    first = table(a)
    kept = [row for row in first if row["keep"]]
    one, two, three = kept[:3]
    rows = table(b)
    for row in rows:
        row["people.share"] = 0.75
        if row["clip_id"] == one["clip_id"]:
            row |= {"prompt": "By a model.", "captioner": "vlm-7b", "caption.tokens": 4.0}
        if row["clip_id"] == two["clip_id"]:
            row |= {"motion.subject": 9.0, "license": "CC-BY-ND-4.0"}
        if row["clip_id"] == three["clip_id"]:
            row |= {"prompt": "Other words."}
    tables.write_table(b.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    for work, text in ((a, "Ann's words."), (b, "Bob's words.")):
        fields = {name: str(three[name]) for name in edits.FIELDS if name != "prompt"}
        edits.write_rows(edits.edits_path(work), [{**fields, "prompt": text}])
    into = Workspace(tmp_path / "all")
    result = merge.merge_workspaces([a, b], into)
    said = result["conflicts"]
    merged = {row["clip_id"]: row for row in table(into)}
    assert merged[one["clip_id"]]["prompt"] == "By a model."
    assert merged[one["clip_id"]]["people.share"] == 0.75  # what only one has measured stays
    assert merged[two["clip_id"]]["motion.subject"] == pytest.approx(two["motion.subject"])
    assert said["clips with other scores; the first count"] == 1
    assert said["clips under two licences; the stricter counts"] == 1
    assert said["clips with two captions; the first counts"] >= 1
    assert said["clips with two edited captions; the first counts"] == 1
    assert said[f"clips of {a.root} without people.share, which others have"] == len(first)
    assert edits.load_edits(into)[three["clip_id"]] == "Ann's words."
    assert json.loads((into.reports / "merge.json").read_text())["conflicts"] == said


def test_a_stopped_merge_goes_on(
    some: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [Workspace(path) for path in some[:2]]
    into = Workspace(tmp_path / "all")

    def broken(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "_judge", broken)
    with pytest.raises(KeyboardInterrupt):
        merge.merge_workspaces(given, into)
    monkeypatch.undo()
    stopped = merge.merge_workspaces(given, into)
    whole = merge.merge_workspaces(given, Workspace(tmp_path / "whole"))
    assert stopped == whole
    assert into.clips.read_bytes() == (tmp_path / "whole" / "clips.parquet").read_bytes()


def test_what_does_not_go_together(some: list[Path], tmp_path: Path) -> None:
    a, b = (Workspace(path) for path in some[:2])
    into = Workspace(tmp_path / "all")
    with pytest.raises(UserError, match="two workspaces or more"):
        merge.check_mergeable([a], into)
    with pytest.raises(UserError, match="named twice"):
        merge.check_mergeable([a, Workspace(a.root / ".")], into)
    with pytest.raises(UserError, match="one of the workspaces"):
        merge.check_mergeable([a, b], a)
    with pytest.raises(UserError, match="is not there"):
        merge.check_mergeable([a, Workspace(tmp_path / "none")], into)
    with pytest.raises(UserError, match="clips of its own"):
        merge.check_mergeable([a, b], Workspace(some[2]))
    path = b.root / "config" / "curate-ingest.toml"
    path.write_text(path.read_text().replace('target = "tiny"', 'target = "ltx"'))
    with pytest.raises(UserError, match="was made with target tiny, .* with ltx"):
        merge.check_mergeable([a, b], into)
    assert not into.root.exists()
