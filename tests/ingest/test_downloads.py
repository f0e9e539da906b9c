"""Downloads: they go on where they broke off, wait as they are asked, and keep films only."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from films import ffmpeg

from realdpo.curate.config import IngestConfig
from realdpo.curate.downloads import download_film
from realdpo.curate.ingestion import identify_sources
from realdpo.curate.sources import Candidate
from realdpo.errors import UserError
from realdpo.workspace import Workspace


class Host(BaseHTTPRequestHandler):
    """Sends a film and knows ranges; hangs up after a third, sends a page first, or is busy."""

    film = b""
    asked: list[str | None] = []  # noqa: RUF012 - of one server
    busy: list[tuple[int, dict[str, str]]] = []  # noqa: RUF012 - of one server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        if self.busy:
            status, headers = self.busy.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        page = self.path.startswith("/page") and len(self.asked) == 1
        body = b"<html>please wait</html>" if page else self.film
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        rest = body[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", "text/html" if page else "video/mp4")
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        breaks = self.path.startswith("/a") and len(rest) > 300_000
        self.wfile.write(rest[: len(rest) // 3] if breaks else rest)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=640x360:r=24:d=2",
        "-vf",
        "noise=alls=40:allf=t",
        "-c:v",
        "mpeg4",
        "-q:v",
        2,
        path,
    )
    assert path.stat().st_size > 1 << 20
    return path.read_bytes()


@pytest.fixture
def host(film: bytes) -> Iterator[str]:
    Host.film = film
    Host.asked.clear()
    Host.busy.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_broken_download_goes_on_where_it_was(host: str, film: bytes, tmp_path: Path) -> None:
    digests = {"sha256": hashlib.sha256(film).hexdigest(), "sha1": hashlib.sha1(film).hexdigest()}
    url = f"{host}/a%20b.mp4?x=1"
    path = download_film(url, tmp_path, max_bytes=1 << 30, sleep=lambda _: None, **digests)
    assert path.read_bytes() == film
    assert path.suffix == ".mp4"
    assert Host.asked[0] is None
    assert len(Host.asked) > 2
    assert all(Host.asked[1:])
    seen = len(Host.asked)
    download_film(url, tmp_path, max_bytes=1 << 30)
    assert len(Host.asked) == seen  # it is there


def test_downloads_that_are_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 1 MB"):
        download_film(f"{host}/b.mp4", tmp_path, max_bytes=1 << 20)
    with pytest.raises(UserError, match="not the one whose sha256"):
        download_film(f"{host}/c.mp4", tmp_path, max_bytes=1 << 30, sha256="0" * 64)
    with pytest.raises(UserError, match="not the one whose sha1"):
        download_film(f"{host}/c.mp4", tmp_path, max_bytes=1 << 30, sha1="0" * 40)
    with pytest.raises(UserError, match="404"):
        download_film(f"{host}/gone.mp4", tmp_path, max_bytes=1 << 30)
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".mp4"]


def test_a_page_in_place_of_a_film_is_not_kept(host: str, film: bytes, tmp_path: Path) -> None:
    workspace, address = Workspace(tmp_path), f"{host}/page.mp4"
    [first] = identify_sources(workspace, [Candidate(address)], IngestConfig(engine="serial"))
    assert first.source_id is None
    assert address in str(first.error)
    assert "text/html" in str(first.error)
    [second] = identify_sources(workspace, [Candidate(address)], IngestConfig(engine="serial"))
    assert (second.error, second.source_id) == (None, hashlib.sha256(film).hexdigest())
    assert len(Host.asked) == 2


def test_a_busy_host_is_waited_for_as_it_asks(host: str, film: bytes, tmp_path: Path) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=90)
    Host.busy[:] = [
        (429, {"Retry-After": "7"}),
        (503, {"Retry-After": format_datetime(soon, usegmt=True)}),
        (429, {"RateLimit": '"resolvers";r=0;t=55'}),
        (502, {}),
    ]
    waits: list[float] = []
    path = download_film(f"{host}/b.mp4", tmp_path, max_bytes=1 << 30, sleep=waits.append)
    assert path.read_bytes() == film
    seconds, date, window, unasked = waits
    assert 7 <= seconds <= 7.25
    assert 85 <= date <= 90.25
    assert 55 <= window <= 55.25
    assert 4 <= unasked <= 8  # the fourth in a row


def test_a_host_that_asks_for_hours_is_left_for_another_run(host: str, tmp_path: Path) -> None:
    Host.busy[:] = [(429, {"Retry-After": "7200"})]
    with pytest.raises(UserError, match="asks to wait 7200 s"):
        download_film(f"{host}/b.mp4", tmp_path, max_bytes=1 << 30, sleep=lambda _: None)
