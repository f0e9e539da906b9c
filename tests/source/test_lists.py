"""Lists of films: a Hub repository, a zip, a table with foreign column names."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import loopback_hub
import loopback_services
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realdpo.curate import sources
from realdpo.curate.downloads import download_film
from realdpo.curate.source import run
from realdpo.curate.source.config import SourceConfig
from realdpo.errors import UserError
from realdpo.workspace import Workspace


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(result["manifest"]).read_text().splitlines()]


def test_a_table_with_foreign_names(work: Workspace, tmp_path: Path) -> None:
    table = pa.table(
        {
            "content_loc": ["https://h/1.mp4", "https://h/2.mp4", "", "https://h/3.mp4"],
            "name": ["A man rides a bike", "Still life", "x", "Woman cooks soup"],
            "terms": ["CC BY 4.0", "Pexels License", "CC0", None],
            "len": [4.0, 5.0, 6.0, float("nan")],
            "kw": [["street"], None, [], ["kitchen", "soup"]],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    columns = {
        "url": "content_loc",
        "title": "name",
        "license": "terms",
        "seconds": "len",
        "keywords": "kw",
    }
    where = [str(tmp_path / "t.parquet")]
    result = run.source_films(work, where, SourceConfig(columns=columns))
    assert [(row["url"], row["license"], row["action"]) for row in rows(result)] == [
        ("https://h/1.mp4", "CC-BY-4.0", "cycling")
    ]
    assert result["left_out"] == {
        "licence: its terms forbid passing files on as a collection": 1,
        "licence: no licence is stated": 1,
    }
    mine = SourceConfig(columns=columns, default_license="own", actions=("cooking",))
    result = run.source_films(work, where, mine)
    assert [row["title"] for row in rows(result)] == ["Woman cooks soup"]
    assert result["left_out"] == {"its words name no action or search of yours": 2}
    with pytest.raises(UserError, match="no column 'adress'"):
        run.check_sourcing(where, SourceConfig(columns={"adress": "x"}))
    result = run.source_films(work, where, SourceConfig(columns={"url": "link"}))
    assert "no column 'link'" in next(iter(result["failed"].values()))
    result = run.source_films(work, where, SourceConfig())
    assert "no row of" in next(iter(result["failed"].values()))


def test_a_zip_of_films(work: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("kungfu/kick_1.mp4", b"one" * 100)
        out.writestr("kungfu/kick_1.json", json.dumps({"author": "Li"}))
        out.writestr("dance/waltz.webm", b"two" * 100)
        out.writestr("readme.txt", "x")
        out.writestr("qa.json", "{}")
        out.writestr("__MACOSX/._waltz.webm", b"x")
    result = run.source_films(work, [str(path)], SourceConfig(default_license="CC-BY-4.0"))
    found = rows(result)
    assert [(row["title"], row["keywords"], row["license"]) for row in found] == [
        ("kick 1", ["kungfu"], "CC-BY-4.0"),
        ("waltz", ["dance"], "CC-BY-4.0"),
    ]
    candidates = {c.title: c for c in sources.find_footage([result["manifest"]])}
    assert Path(candidates["waltz"].path).read_bytes() == b"two" * 100
    assert candidates["kick 1"].author == "Li"  # of the JSON beside it
    before = Path(candidates["waltz"].path).stat().st_mtime_ns
    run.source_films(work, [str(path)], SourceConfig(default_license="CC-BY-4.0"))
    assert Path(candidates["waltz"].path).stat().st_mtime_ns == before  # it is there


@pytest.mark.parametrize("name", ["../../evil.mp4", "/tmp/evil.mp4", "a/../../evil.mp4"])
def test_a_zip_that_reaches_out(work: Workspace, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as out:
        out.writestr("ok.mp4", b"x")
        out.writestr(zipfile.ZipInfo(name), b"x")
    result = run.source_films(work, [str(tmp_path / "films.zip")], SourceConfig())
    assert "outside its folder" in next(iter(result["failed"].values()))
    assert not list(tmp_path.rglob("evil.mp4"))
    assert not list(tmp_path.rglob("ok.mp4"))


def test_a_zip_that_is_none_or_damaged(work: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as out:
        out.writestr("x.mp4", b"y" * 1000)
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[100] ^= 255
    (tmp_path / "b.zip").write_bytes(data)
    for name in ("a.zip", "b.zip"):
        result = run.source_films(work, [str(tmp_path / name)], SourceConfig())
        assert "cannot be read as a zip" in result["failed"][str(tmp_path / name)]
    assert not list(tmp_path.rglob("x.mp4"))


def test_a_hub_repository_of_bare_videos(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    with loopback_hub.running() as (hub, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        film = loopback_services.small_film(0)
        digest = hashlib.sha256(film).hexdigest()
        hub.large[digest] = film
        card = b"---\ntags:\n- license:cc-by-sa-4.0\n---\n"
        hub.small["card"] = card
        repo = loopback_hub.Repo("datasets", private=False)
        hub.repos["datasets", "lab/films"] = repo
        files = {
            "README.md": loopback_hub.Blob(len(card), "card"),
            "dancing/a b_1.mp4": loopback_hub.Blob(len(film), "0" * 40, digest),
            "notes.txt": loopback_hub.Blob(3, "1" * 40),
        }
        commit = repo.commit("main", files, "films")
        result = run.source_films(work, ["hf://datasets/lab/films"], SourceConfig())
        (row,) = rows(result)
        assert row["url"] == f"{address}/datasets/lab/films/resolve/{commit}/dancing/a%20b_1.mp4"
        assert (row["license"], row["sha256"]) == ("CC-BY-SA-4.0", digest)
        assert (row["title"], row["keywords"], row["action"]) == ("a b 1", ["dancing"], "dancing")
        assert "by its card" in row["license_text"]
        path = download_film(row["url"], tmp_path, max_bytes=1 << 20, sha256=row["sha256"])
        assert path.read_bytes() == film
        result = run.source_films(work, ["hf://datasets/lab/none"], SourceConfig())
        assert "cannot be read" in result["failed"]["hf://datasets/lab/none"]
        result = run.source_films(work, ["hf://films"], SourceConfig())
        assert "is not the address of a repository" in result["failed"]["hf://films"]
