"""Other sets: footage that a benchmark or an earlier release holds is found and dropped."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from realdpo import tables
from realdpo.cli import app
from realdpo.curate import against
from realdpo.errors import UserError
from realdpo.media.decode import decode_frames
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.workspace import Workspace


@pytest.fixture(scope="module")
def made(bikes: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of one real film."""
    work = Workspace(tmp_path_factory.mktemp("against") / "w")
    words = ["curate", "ingest", str(bikes), "-w", str(work.root), "--target", "tiny"]
    done = CliRunner().invoke(app, [*words, "--engine", "serial"])
    assert done.exit_code == 0, done.output
    return work


@pytest.fixture
def work(made: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(made.root, tmp_path / "w")
    return Workspace(tmp_path / "w")


def shown(film: Path, start: float, end: float) -> bytes:
    """The same footage as others would publish it: smaller, 12.5 frames a second, low quality."""
    some = [f.rgb for f in decode_frames(film, short_side=120, start=start, end=end)][::2]
    height, width = (side // 2 * 2 for side in some[0].shape[:2])
    pictures = np.ascontiguousarray(np.stack(some)[:, :height, :width])
    return encode_video(pictures, Fraction(25, 2), EncodeSettings(crf=30, preset="veryfast"))


def run(*words: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["curate", "dedup", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_against_a_workspace_a_dataset_and_a_film(
    work: Workspace, made: Workspace, bikes: Path, tmp_path: Path
) -> None:
    before = run("-w", str(work.root))
    assert before["known_elsewhere"] == 0
    kept = before["kept"]
    assert kept
    found = run("-w", str(work.root), "--against", str(made.root))
    assert found["kept"] == 0
    assert found["known_elsewhere"] == found["clips"]
    clips = tables.read_table(work.clips, tables.CLIPS).to_pylist()
    assert all(f"known=w/{c['clip_id']}" in c["reasons"] for c in clips)  # of the same fingerprint

    name = "w"
    again = CliRunner().invoke(app, ["curate", "decide", "-w", str(work.root), "--json"])
    assert json.loads(again.stdout)["kept"] == 0  # decide heeds it too
    assert run("-w", str(work.root), "--forget", name)["kept"] == kept

    shards = tmp_path / "set"
    shards.mkdir()
    videos = [{"bytes": shown(bikes, c["start_s"], c["end_s"]), "path": None} for c in clips]
    table = pa.table({"video": pa.array(videos, tables.MEDIA), "label": ["x"] * len(videos)})
    pq.write_table(table, shards / "test.parquet", row_group_size=2)
    found = run("-w", str(work.root), "--against", str(shards), "--engine", "serial")
    assert found["sets"] == {"set": len(videos)}
    assert isinstance(found["known_elsewhere"], int)
    assert found["known_elsewhere"] >= 0.8 * len(videos)  # of another size, rate and quality
    run("-w", str(work.root), "--forget", "set")

    found = run("-w", str(work.root), "--against", str(bikes), "--engine", "serial")
    assert found["kept"] <= 1  # one second of a long shot may be unlike the whole of it


def test_what_is_no_set(work: Workspace, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="nothing to compare"):
        against.add_set(work, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="does not exist"):
        against.add_set(work, tmp_path / "nowhere")
    with pytest.raises(UserError, match="itself"):
        against.add_set(work, work.root)
    with pytest.raises(UserError, match="no set 'x'"):
        against.forget_set(work, "x")
    assert against.list_sets(work) == []
