"""Footage from `s3://` and the dataset to `s3://`, over HTTP against a server on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from realdpo import tables
from realdpo.curate import sources
from realdpo.curate.config import IngestConfig, ShardSettings
from realdpo.curate.ingestion import ingest_footage
from realdpo.errors import UserError
from realdpo.workspace import Workspace

pytestmark = pytest.mark.slow
moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"http://{host}:{port}"
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_footage_is_read_there_and_the_dataset_goes_there(
    server: str, bikes: Path, tmp_path: Path
) -> None:
    store = s3fs.S3FileSystem()
    for bucket in ("footage", "sets"):
        store.mkdir(bucket)
    store.put(str(bikes), "footage/day 1/bikes.mp4")
    store.pipe("footage/day 1/broken.mp4", b"nothing")
    store.pipe("footage/day 1/notes.txt", b"nothing")
    settings = IngestConfig(
        target="tiny",
        engine="serial",
        decide={"motion.subject_min": "off", "motion.subject_share_min": "off"},
        shards=ShardSettings(to="s3://sets/mine"),
    )
    workspace = Workspace(tmp_path / "far")
    result = ingest_footage(workspace, ["s3://footage/day 1"], settings)
    assert (result["sources"], result["sources_failed"]) == (2, 1)
    assert result["kept"] > 3
    rows = {
        row["status"]: row
        for row in tables.read_table(workspace.sources, tables.SOURCES).to_pylist()
    }
    assert rows["ok"]["source_url"] == "s3://footage/day 1/bikes.mp4"
    assert "broken.mp4 cannot be read as video" in rows["failed"]["error"]
    here = {file.name: _hash(file.read_bytes()) for file in workspace.data.iterdir()}
    there = {name.rsplit("/", 1)[1]: _hash(store.cat(name)) for name in store.find("sets/mine")}
    assert there == here
    assert ingest_footage(workspace, ["s3://footage/day 1"], settings)["unchanged"]

    near = Workspace(tmp_path / "near")
    ingest_footage(
        near, [str(bikes)], IngestConfig(**{**vars(settings), "shards": ShardSettings()})
    )
    clips = [
        {file.name: file.read_bytes() for file in place.clip_files.iterdir()}
        for place in (workspace, near)
    ]
    assert clips[0] == clips[1]


def test_what_is_not_there_is_one_line(server: str, tmp_path: Path) -> None:
    s3fs.S3FileSystem().mkdir("empty")
    with pytest.raises(UserError, match="nothing matches s3://empty/"):
        sources.find_footage(["s3://empty/*.mp4"])
    with pytest.raises(UserError, match="gone.mp4 cannot be read: No such file"):
        sources.sha256_of("s3://empty/gone.mp4")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
