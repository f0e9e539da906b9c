"""Sources: what arguments name, what sidecars and manifests say, downloads that go on."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realdpo.curate import shards, sources
from realdpo.curate.config import ShardSettings
from realdpo.errors import UserError

BODY = bytes(range(256)) * 8000


class Broken(BaseHTTPRequestHandler):
    """A server that hangs up after a third of what is left, and knows ranges."""

    requests: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.requests.append(asked)
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        rest = BODY[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(rest if len(rest) < 300_000 else rest[: len(rest) // 3])

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Broken.requests.clear()
    host = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()


def test_a_broken_download_goes_on_where_it_was(server: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    path = sources.download(f"{server}/a%20b.mp4?x=1", tmp_path, max_bytes=1 << 30, sha256=digest)
    assert path.read_bytes() == BODY
    assert path.suffix == ".mp4"
    assert Broken.requests[0] is None
    assert len(Broken.requests) > 2
    assert all(asked for asked in Broken.requests[1:])
    seen = len(Broken.requests)
    sources.download(f"{server}/a%20b.mp4?x=1", tmp_path, max_bytes=1 << 30)
    assert len(Broken.requests) == seen  # it is there


def test_downloads_that_are_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 1 MB"):
        sources.download(f"{server}/a.mp4", tmp_path, max_bytes=1 << 20)
    with pytest.raises(UserError, match="not the one whose sha256"):
        sources.download(f"{server}/b.mp4", tmp_path, max_bytes=1 << 30, sha256="0" * 64)
    with pytest.raises(UserError, match="404"):
        sources.download(f"{server}/gone.mp4", tmp_path, max_bytes=1 << 30)
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".mp4"]


def test_folders_globs_and_files_name_each_source_once(footage: Path) -> None:
    everything = sources.find([str(footage)])
    names = [Path(c.path).name for c in everything]
    assert len(names) == len({c.path for c in everything}) == 13
    again = sources.find([str(footage), str(footage / "good"), str(footage / "good" / "*.mp4")])
    assert [c.path for c in again] == [c.path for c in everything]
    for word in ("missing.mp4", "*.nothing"):
        with pytest.raises(UserError):
            sources.find([str(footage / word)])


def test_sidecars_of_stock_sites_and_yt_dlp(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "a.info.json").write_text(json.dumps(
        {"license": "CC-BY-4.0", "uploader": "Bo", "webpage_url": "https://x.org/1",
         "tags": ["hair", "braid"], "title": "Braids"}))  # fmt: skip
    (tmp_path / "b.mp4").write_bytes(b"2")
    (tmp_path / "b.json").write_text("[1, 2]")  # somebody else's
    a, b = sources.find([str(tmp_path)])
    assert (a.license, a.author, a.title) == ("CC-BY-4.0", "Bo", "Braids")
    assert a.keywords == ("hair", "braid")
    assert a.source_url == "https://x.org/1"
    assert b.license is None


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ü b.mp4").write_bytes(b"1")
    rows = [
        {"path": "in/ü b.mp4", "license": "CC0-1.0", "keywords": "a; b", "split": "test"},
        {"path": "https://x.org/c.mp4", "license": "", "keywords": "", "split": ""},
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    local, remote = sources.find([str(path)])
    assert (local.path, local.split) == (str(tmp_path / "in" / "ü b.mp4"), "test")
    assert local.keywords == ("a", "b")
    assert remote.license is None
    assert remote.source_url == remote.path == "https://x.org/c.mp4"
    (tmp_path / "bad.jsonl").write_text('{"title": "no path"}')
    with pytest.raises(UserError, match="row 1 has neither"):
        sources.find([str(tmp_path / "bad.jsonl")])


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("no.csv", "title,license\nx,CC0-1.0\n", "row 1 has neither"),
        ("empty.csv", "path,title\n", "no footage in"),
        ("list.jsonl", '["a.mp4"]\n', "row 1 is no JSON object"),
        ("cut.jsonl", '{"path": "a.mp4"}\n\n{"path":\n', "line 3 is no JSON"),
        ("two.jsonl", '{"path": "a.mp4", "license": ["CC0-1.0", "MIT"]}\n', "license is not text"),
        ("odd.csv", "path,split\na.mp4,dev\n", "split 'dev' is none of"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_clear_line(
    tmp_path: Path, name: str, written: str, message: str
) -> None:
    (tmp_path / name).write_text(written)
    with pytest.raises(UserError, match=message) as failed:
        sources.find([str(tmp_path / name)])
    assert name in failed.value.message


def test_a_folder_without_footage_is_no_quiet_success(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(UserError, match="no footage in"):
        sources.find([str(tmp_path)])


def test_a_table_of_pandas_has_numbers_and_nan(tmp_path: Path) -> None:
    nan = float("nan")
    columns = {
        "path": [None, "a.mp4"],
        "url": ["https://x.org/b.mp4", "https://x.org/a.mp4"],
        "license": [nan, nan],
        "title": [3.5, nan],
        "keywords": [nan, nan],
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    local, remote = sources.find([str(tmp_path / "list.parquet")])
    assert (remote.path, remote.title, remote.license) == ("https://x.org/b.mp4", "3.5", None)
    assert (local.source_url, local.title, local.keywords) == ("https://x.org/a.mp4", None, ())


def test_other_file_systems() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/films/a.mp4", b"abc")
    store.pipe("/films/notes.txt", b"")
    [found] = sources.find(["memory://films"])
    assert found.remote
    assert sources.sha256_of(found.path) == hashlib.sha256(b"abc").hexdigest()
    before = sources.stamp(found.path)
    store.pipe("/films/a.mp4", b"abcd")
    assert sources.stamp(found.path) != before
    with pytest.raises(UserError, match=r"nothing matches memory://films/\*\.mov"):
        sources.find(["memory://films/*.mov"])
    with pytest.raises(UserError, match="gone.mp4 cannot be read: No such file"):
        sources.sha256_of("memory://films/gone.mp4")


def test_licences() -> None:
    def reason(license_id: str | None, *allowed: str, required: bool = False) -> str | None:
        return sources.license_reason(license_id, required=required, allowed=allowed)

    assert reason(None) is None
    assert reason(None, required=True) == "license=none"
    assert reason("cc-by-4.0", "CC-BY-4.0") is None
    assert reason("CC-BY-NC-4.0", "CC-BY-4.0") == "license=CC-BY-NC-4.0"


def test_splits_are_by_source_stable_and_not_empty() -> None:
    ids = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    settings = ShardSettings(validation=0.1, test=0.1)
    split = shards.assign(ids, settings)
    counts = {name: list(split.values()).count(name) for name in ("train", "validation", "test")}
    assert 130 < counts["train"] < 185
    assert min(counts.values()) > 5
    # More footage moves nobody.
    fewer = shards.assign(ids[:100], settings)
    assert all(split[i] == fewer[i] for i in ids[:100])
    for n in range(3, 12):
        assert set(shards.assign(ids[:n], settings).values()) == {"train", "validation", "test"}
    linked = shards.assign(ids, settings, linked=[(ids[0], ids[1]), (ids[1], ids[2])])
    assert linked[ids[0]] == linked[ids[1]] == linked[ids[2]]
    wished = shards.assign(ids[:5], settings, wishes={ids[3]: "test"})
    assert wished[ids[3]] == "test"
