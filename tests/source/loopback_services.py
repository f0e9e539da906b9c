"""Wikimedia Commons, Internet Archive, Pexels and Pixabay on loopback, in the shapes of their APIs.

Pages and continuation, half-filled batches, errors with status 200, HTML in fields, odd licences,
quotas, lines of text where JSON is expected. Shapes are from the services' documentation and from
clients of theirs. Also runs by itself over a folder of films:

    python tests/source/loopback_services.py FOLDER 8791
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from realdpo.media.encode import EncodeSettings, encode_video

PEXELS_KEY, PIXABAY_KEY = "pexels-secret-4711", "pixabay-secret-0815"
BATCH = 10  # files that Commons describes in one answer here; the rest of a page comes after


@functools.cache
def small_film(shade: int) -> bytes:
    """A film of four grey frames; another shade is another film."""
    pictures = np.full((4, 64, 64, 3), 40 + 20 * shade, np.uint8)
    return encode_video(pictures, 8, EncodeSettings())


@dataclass
class Services:
    """What they hold, what they were asked, and how they misbehave."""

    films: dict[str, bytes] = field(default_factory=dict)
    commons: list[dict[str, Any]] = field(default_factory=list)
    archive: list[dict[str, Any]] = field(default_factory=list)
    pexels: list[dict[str, Any]] = field(default_factory=list)
    pixabay: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    faults: list[tuple[str, int, dict[str, str], str]] = field(default_factory=list)
    quota: dict[str, str] = field(default_factory=dict)
    address: str = ""

    def fail(
        self, pattern: str, status: int, times: int = 1, text: str = "", **headers: str
    ) -> None:
        """Answer requests that match with this."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults += [(pattern, status, named, text)] * times

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.log)

    def film(self, name: str) -> str:
        return f"{self.address}/films/{quote(name)}"

    # -- what they hold ------------------------------------------------------------------------

    def add_commons(self, title: str, film: str, **about: Any) -> dict[str, Any]:
        """A file page; `license` is (code, short name, address, terms)."""
        data = self.films.get(film, b"")
        code, short, address, terms = about.get(
            "license",
            (
                "cc-by-sa-4.0",
                "CC BY-SA 4.0",
                "https://creativecommons.org/licenses/by-sa/4.0",
                "Creative Commons Attribution-Share Alike 4.0",
            ),
        )
        fields = {
            "ObjectName": title,
            "Artist": about.get("artist", "Someone"),
            "ImageDescription": about.get("description", ""),
            "Categories": about.get("categories", ""),
            "License": code,
            "LicenseShortName": short,
            "LicenseUrl": address,
            "UsageTerms": terms,
            "Restrictions": about.get("restrictions", ""),
        }
        number = len(self.commons) + 1
        page = {
            "pageid": 1000 + number,
            "ns": 6,
            "title": f"File:{title}.webm",
            "index": number,
            "imagerepository": "local",
            "imageinfo": [
                {
                    "user": "Uploader",
                    "size": about.get("size", len(data)),
                    "width": about.get("width", 1280),
                    "height": about.get("height", 720),
                    "duration": about.get("duration", 12.5),
                    "url": self.film(film),
                    "descriptionurl": f"{self.address}/wiki/File:{quote(title)}.webm",
                    "sha1": about.get("sha1", hashlib.sha1(data or title.encode()).hexdigest()),
                    "mime": "video/webm",
                    "mediatype": about.get("mediatype", "VIDEO"),
                    "extmetadata": {
                        name: {"value": value, "source": "commons-desc-page"}
                        for name, value in fields.items()
                        if value
                    },
                }
            ],
        }
        self.commons.append(page)
        return page

    def add_archive(self, identifier: str, film: str, **about: Any) -> dict[str, Any]:
        """An item with an original and two derivatives of it."""
        data = self.films.get(film, b"")
        stem = film.rpartition(".")[0]
        original = {
            "name": film,
            "source": "original",
            "format": "MPEG4",
            "size": str(about.pop("size", len(data))),
            "sha1": about.pop("sha1", hashlib.sha1(data).hexdigest()),
            "length": about.pop("length", "12.50"),
            "width": "1280",
            "height": str(about.pop("height", 720)),
        }
        files = about.pop("files", None) or [
            {
                "name": f"{stem}.ogv",
                "source": "derivative",
                "original": film,
                "format": "Ogg Video",
                "height": "300",
                "width": "400",
                "size": "100",
                "length": "00:00:12",
            },
            original,
            {
                "name": f"{stem}.thumbs/x.jpg",
                "source": "derivative",
                "original": film,
                "format": "Thumbnail",
            },
            {"name": f"{identifier}_meta.xml", "source": "metadata", "format": "Metadata"},
        ]
        item = {"identifier": identifier, "mediatype": "movies", "files": files, **about}
        self.archive.append(item)
        return item

    def add_pexels(self, slug: str, film: str, **about: Any) -> None:
        number = 4000 + len(self.pexels)
        self.pexels.append(
            {
                "id": number,
                "width": 3840,
                "height": 2160,
                "duration": about.get("duration", 12),
                "full_res": None,
                "tags": [],
                "url": f"https://www.pexels.com/video/{slug}-{number}/",
                "image": "https://images.pexels.com/x.jpeg",
                "avg_color": None,
                "user": {
                    "id": 7,
                    "name": about.get("user", "Ketut"),
                    "url": "https://www.pexels.com/@ketut",
                },
                "video_files": [
                    {
                        "id": 1,
                        "quality": "uhd",
                        "file_type": "video/mp4",
                        "width": 3840,
                        "height": 2160,
                        "fps": 25.0,
                        "link": f"{self.address}/films/uhd.mp4",
                        "size": 9000000,
                    },
                    {
                        "id": 2,
                        "quality": "hd",
                        "file_type": "video/mp4",
                        "width": 1920,
                        "height": 1080,
                        "fps": 25.0,
                        "link": self.film(film),
                        "size": len(self.films.get(film, b"")),
                    },
                    {
                        "id": 3,
                        "quality": "hls",
                        "file_type": "video/mp4",
                        "width": None,
                        "height": None,
                        "fps": None,
                        "link": f"{self.address}/films/x.m3u8",
                    },
                ],
                "video_pictures": [],
            }
        )

    def add_pixabay(self, tags: str, film: str, **about: Any) -> None:
        number = 9000 + len(self.pixabay)
        size = {
            "url": self.film(film),
            "width": 1920,
            "height": 1080,
            "size": len(self.films.get(film, b"")),
            "thumbnail": "",
        }
        self.pixabay.append(
            {
                "id": number,
                "pageURL": f"https://pixabay.com/videos/id-{number}/",
                "type": "film",
                "tags": tags,
                "duration": 14,
                "views": 1,
                "downloads": 1,
                "likes": 1,
                "comments": 0,
                "user_id": 5,
                "user": about.get("user", "Tom"),
                "userImageURL": "",
                "noAiTraining": False,
                "videos": {
                    "large": {"url": "", "width": 0, "height": 0, "size": 0, "thumbnail": ""},
                    "medium": size,
                    "small": size,
                    "tiny": size,
                },
            }
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    services: Services

    def log_message(self, *args: Any) -> None:
        pass

    def answer(
        self, content: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        told = self.services
        told.log.append(f"{path} {json.dumps(query, sort_keys=True)}")
        told.agents.add(self.headers.get("User-Agent", ""))
        for number, (pattern, status, headers, text) in enumerate(told.faults):
            if re.search(pattern, self.path):
                del told.faults[number]
                self.answer(text, status, headers)
                return
        if path == "/w/api.php":
            self.commons(query)
        elif path == "/advancedsearch.php":
            self.archive_search(query)
        elif path.startswith("/metadata/"):
            self.archive_item(path.removeprefix("/metadata/"))
        elif path.startswith("/download/"):
            self.film(path.rpartition("/")[2])
        elif path == "/v1/videos/search":
            self.pexels(query)
        elif path == "/api/videos/":
            self.pixabay(query)
        elif path.startswith("/films/"):
            self.film(path.removeprefix("/films/"))
        else:
            self.answer("<html><title>404</title></html>", 404)

    def film(self, name: str) -> None:
        data = self.services.films.get(name)
        if data is None:
            self.answer("<html>not here</html>", 404)
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    # -- Wikimedia Commons -----------------------------------------------------------------------

    def commons(self, query: dict[str, str]) -> None:
        if "(" not in self.headers.get("User-Agent", ""):
            self.answer("Please set a user-agent and respect our robot policy", 403)
            return
        if query.get("generator") != "search" or query.get("format") != "json":
            self.answer({"error": {"code": "badvalue", "info": "Unrecognized value"}})
            return
        words = query["gsrsearch"].replace("filetype:video", "").lower().split()
        hits = [page for page in self.services.commons if _speaks(page, words)]
        offset, limit = int(query.get("gsroffset", 0)), int(query["gsrlimit"])
        shown = hits[offset : offset + limit]
        if not shown:
            self.answer({"batchcomplete": True})
            return
        # Of a batch that is too much for one answer, the others' imageinfo comes with iicontinue.
        first = int(query.get("iicontinue", "0|").split("|")[0])
        pages = []
        for number, page in enumerate(shown):
            inside = first <= number < first + BATCH
            bare = {k: v for k, v in page.items() if k != "imageinfo"}
            pages.append({**page, "index": offset + number + 1} if inside else bare)
        document: dict[str, Any] = {"query": {"pages": pages}}
        if first + BATCH < len(shown):
            document["continue"] = {
                "iicontinue": f"{first + BATCH}|x",
                "continue": "gsroffset||",
                **({"gsroffset": offset} if offset else {}),
            }
        else:
            document["batchcomplete"] = True
            if offset + limit < len(hits):
                document["continue"] = {"gsroffset": offset + limit, "continue": "gsroffset||"}
        self.answer(document)

    # -- Internet Archive ------------------------------------------------------------------------

    def archive_search(self, query: dict[str, str]) -> None:
        rows, page = int(query["rows"]), int(query.get("page", 1))
        if rows * page > 10_000:
            self.answer({"error": "[DEEP_PAGING] Invalid or no response from Elasticsearch"})
            return
        words = re.findall(
            r"\w+", query["q"].split(") AND mediatype")[0].lower().replace(" and ", " ")
        )
        hits = [
            {
                name: item[name]
                for name in ("identifier", "title", "creator", "licenseurl", "rights", "subject")
                if name in item
            }
            for item in self.services.archive
            if _speaks({k: v for k, v in item.items() if k != "files"}, words)
            and "creativecommons" in str(item.get("licenseurl"))
        ]
        self.answer(
            {
                "responseHeader": {"status": 0, "QTime": 5, "params": {"query": query["q"]}},
                "response": {
                    "numFound": len(hits),
                    "start": rows * (page - 1),
                    "docs": hits[rows * (page - 1) : rows * page],
                },
            }
        )

    def archive_item(self, identifier: str) -> None:
        for item in self.services.archive:
            if item["identifier"] == identifier and not item.get("gone"):
                about = {k: v for k, v in item.items() if k not in ("files", "is_dark")}
                dark = {"is_dark": True} if item.get("is_dark") else {}
                files = {} if dark else {"files": item["files"], "files_count": len(item["files"])}
                self.answer(
                    {
                        "created": 1,
                        "server": "ia800",
                        "dir": "/1/items",
                        "metadata": about,
                        **files,
                        **dark,
                    }
                )
                return
        self.answer({})

    # -- stock sites -----------------------------------------------------------------------------

    def pexels(self, query: dict[str, str]) -> None:
        if self.headers.get("Authorization") != PEXELS_KEY:
            self.answer({"status": 401, "code": "Unauthorized"}, 401)
            return
        page, size = int(query.get("page", 1)), int(query["per_page"])
        words = query["query"].lower().split()
        hits = [video for video in self.services.pexels if _speaks(video, words)]
        document: dict[str, Any] = {
            "page": page,
            "per_page": size,
            "total_results": len(hits),
            "url": "https://www.pexels.com/videos/",
            "videos": hits[size * (page - 1) : size * page],
        }
        if size * page < len(hits):
            document["next_page"] = f"https://api.pexels.com/v1/videos/search?page={page + 1}"
        self.answer(document, headers=self.services.quota)

    def pixabay(self, query: dict[str, str]) -> None:
        if query.get("key") != PIXABAY_KEY:
            self.answer(
                "[ERROR 400] Invalid or missing API key (https://pixabay.com/api/docs/).", 400
            )
            return
        page, size = int(query.get("page", 1)), int(query["per_page"])
        words = query["q"].lower().split()
        hits = [hit for hit in self.services.pixabay if _speaks(hit, words)]
        if page > 1 and size * (page - 1) >= len(hits):
            self.answer('[ERROR 400] "page" is out of valid range.', 400)
            return
        found = hits[size * (page - 1) : size * page]
        self.answer({"total": 5 * len(hits), "totalHits": len(hits), "hits": found})


def _speaks(item: dict[str, Any], words: list[str]) -> bool:
    text = json.dumps(item).lower()
    return all(word in text for word in words)


@contextmanager
def running(port: int = 0) -> Iterator[Services]:
    """Yield the services; they serve from threads until the block ends."""
    services = Services()
    handler = type("BoundHandler", (Handler,), {"services": services})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    services.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()


def fill(services: Services) -> None:
    """A little of everything that the real services hold, over the first four films."""
    one, two, three, four = (*sorted(services.films), "a.mp4", "b.mp4", "c.mp4", "d.mp4")[:4]
    services.add_commons(
        "Tango dancing in the street",
        one,
        artist='<div class="vcard"><span class="fn"><a href="//commons.wikimedia.org/wiki/User:Ana" title="User:Ana">Ana &amp; L&oacute;pez</a></span><span style="display: none;">bot</span></div>',
        description='<div class="description mw-content-ltr en" lang="en"><b>Two people</b> dance<br>a tango</div>',
        categories="Tango|CC-BY-SA-4.0|Self-published work|Videos of dancing",
        restrictions="personality",
    )
    services.add_commons(
        "Peasant dance 1911",
        two,
        artist="Unknown author",
        license=("pd", "Public domain", "", "Public domain"),
        categories="Folk dances",
    )
    services.add_commons(
        "Dance class",
        three,
        license=(
            "cc0",
            "CC0",
            "http://creativecommons.org/publicdomain/zero/1.0/deed.en",
            "Creative Commons Zero, Public Domain Dedication",
        ),
    )
    services.add_commons(
        "Dancing under two licences",
        "two.webm",
        license=(
            "gfdl",
            "GFDL",
            "https://creativecommons.org/licenses/by-sa/3.0",
            "GFDL or CC BY-SA 3.0",
        ),
    )
    services.add_commons(
        "Dance under a strange licence",
        "x.webm",
        license=("", "Museum licence", "https://example.org/licence", "Museum terms"),
    )
    services.add_commons("Dance without a licence", "y.webm", license=("", "", "", ""))
    services.add_commons("Dance music", "z.ogg", mediatype="AUDIO")
    services.add_archive(
        "folk-dance-1950",
        four,
        title="Folk dance",
        creator=["Prelinger", "Ministry"],
        licenseurl="http://creativecommons.org/licenses/by/3.0/",
        subject="dance;folk",
        description="<p>People <i>dance</i></p>",
    )
    services.add_archive(
        "dance-nd",
        two,
        title="Dance, unchanged",
        licenseurl="https://creativecommons.org/licenses/by-nc-nd/4.0/",
    )
    services.add_archive(
        "dance-reserved",
        two,
        title="Dance, reserved",
        rights="All Rights Reserved.",
        licenseurl="https://creativecommons.org/licenses/by/4.0/",
    )
    services.add_archive(
        "dance-gone",
        two,
        title="Dance, gone",
        gone=True,
        licenseurl="https://creativecommons.org/licenses/by/4.0/",
    )
    services.add_archive(
        "dance-dark",
        two,
        title="Dance, dark",
        is_dark=True,
        licenseurl="https://creativecommons.org/licenses/by/4.0/",
    )
    services.add_pexels("a-woman-dancing-at-home", one)
    services.add_pexels("children-dancing", two, user="Mara")
    services.add_pixabay("dance, girl, street", three)


if __name__ == "__main__":
    with running(int(sys.argv[2]) if len(sys.argv) > 2 else 8791) as served:
        served.films = {file.name: file.read_bytes() for file in Path(sys.argv[1]).glob("*.mp4")}
        fill(served)
        for name in ("commons", "archive", "pexels", "pixabay"):
            print(f"--set endpoints.{name}={served.address}", flush=True)
        threading.Event().wait()
