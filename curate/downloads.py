"""Films fetched over HTTP(S): going on after a break, waiting when asked, keeping films only."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from realdpo import waiting
from realdpo.errors import UserError
from realdpo.progress import say

_BLOCK = 1 << 20


def download_stem(url: str) -> str:
    """The stem of the file that a URL is kept in: a hash of it."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def download_film(
    url: str,
    folder: Path,
    *,
    max_bytes: int,
    sha256: str | None = None,
    sha1: str | None = None,
    attempts: int = 6,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch a film into `folder`, going on where an earlier try broke off.

    The file is named by the hash of its URL. attempts: in a row that bring nothing new. A server
    that is busy is asked again when it says so. What comes is kept only when it is a film, so a
    page in its place is asked for anew by the next run. Raises UserError when it is none, is
    larger than `max_bytes`, has another hash than `sha256` or `sha1`, or the server refuses it.
    """
    import httpx

    from realdpo.curate.sources import EXTENSIONS

    suffix = Path(urlsplit(url).path).suffix.lower()
    target = folder / f"{download_stem(url)}{suffix if suffix in EXTENSIONS else '.mp4'}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(target.suffix + ".part")
    tries, reached = 0, -1
    while True:
        asked: float | None = None
        try:
            kind = _fetch(url, part, max_bytes)
            break
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError):
                status = error.response.status_code
                if not waiting.is_passing(status):
                    raise UserError(f"{url}: the server says {status}") from error
                asked = waiting.retry_after(error.response.headers)
            have = part.stat().st_size if part.exists() else 0
            tries = 1 if have > reached else tries + 1
            reached = have
            if tries >= attempts or (asked or 0) > waiting.LONGEST:
                raise UserError(
                    f"{url} cannot be fetched: {error}"
                    + (f"; it asks to wait {asked:.0f} s" if asked else ""),
                    "run again to go on",
                ) from error
            wait = waiting.seconds_to_wait(tries, asked)
            if wait > 5:
                say(f"fetch: {url} asks to wait; again in {wait:.0f} s")
            sleep(wait)
    for name, wanted in (("sha256", sha256), ("sha1", sha1)):
        if wanted and _hash_of(part, name) != wanted.lower():
            part.unlink()
            raise UserError(f"{url}: the file that came is not the one whose {name} was given")
    if reason := not_a_film(part):
        size = part.stat().st_size
        part.unlink()
        raise UserError(
            f"{url}: what came is no film ({kind or 'of no stated kind'}, {size:,} bytes): {reason}"
        )
    os.replace(part, target)
    return target


def not_a_film(path: Path) -> str | None:
    """Why a file holds no video, by its head alone; None when it does."""
    from realdpo.media import MediaError
    from realdpo.media.probe import probe_video

    try:
        probe_video(str(path))
    except MediaError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _fetch(url: str, part: Path, max_bytes: int) -> str:
    """One try; returns the kind of content that the server states. Raises httpx's errors."""
    import httpx

    have = part.stat().st_size if part.exists() else 0
    mark = part.with_suffix(".etag")
    # Wikimedia refuses programs that do not say who they are.
    headers = {"Accept-Encoding": "identity", "User-Agent": waiting.user_agent()}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and mark.exists():
        headers["If-Range"] = mark.read_text()  # a file that changed is sent whole
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer:
        kind: str = answer.headers.get("content-type", "").partition(";")[0].strip()
        if answer.status_code == 416 and answer.headers.get("content-range", "").endswith(
            f"/{have}"
        ):
            return kind
        answer.raise_for_status()
        resumed = answer.status_code == 206
        have = have if resumed else 0
        total = have + int(answer.headers.get("content-length", 0))
        if total > max_bytes:
            raise UserError(f"{url} is {total >> 20} MB, more than {max_bytes >> 20} MB")
        if etag := answer.headers.get("etag"):
            mark.write_text(etag)
        with open(part, "ab" if resumed else "wb") as out:
            for block in answer.iter_raw():  # as it comes: what came is not lost
                have += len(block)
                if have > max_bytes:
                    raise UserError(f"{url} is more than {max_bytes >> 20} MB")
                out.write(block)
    mark.unlink(missing_ok=True)
    return kind


def _hash_of(path: Path, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=False)
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
