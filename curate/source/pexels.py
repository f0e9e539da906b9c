"""Pexels: a key, one licence for all, and terms that forbid passing its files on as a set.

https://www.pexels.com/api/documentation/ (videos moved from /videos to /v1/videos in 2025).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from realdpo.curate.source.client import Client, key_from
from realdpo.curate.source.film import SourceFilm, read_integer, read_number, strip_html

NAME, ENDPOINT, PACE = "pexels", "https://api.pexels.com", 1.0
KEY, KEY_PAGE = "PEXELS_API_KEY", "https://www.pexels.com/api/"
TERMS = (
    "Pexels' licence lets you use and change its videos, but forbids you to redistribute them as "
    "a collection. Keep the clips to yourself; you may publish a list of their ids."
)
LICENSE_TEXT, LICENSE_PAGE = "Pexels License", "https://www.pexels.com/license/"
AT_ONCE = 80
SIDE = 1080
"""Of a film's files the largest up to this shorter side: targets of video models are smaller."""


def access() -> dict[str, Any]:
    """What the client needs to be let in."""
    return {"headers": {"Authorization": key_from(KEY, NAME, KEY_PAGE)}}


def search(
    client: Client, words: str, cursor: Mapping[str, Any] | None
) -> tuple[list[SourceFilm], dict[str, Any] | None]:
    """One page of films for the words, and where the next page begins (None at the end)."""
    page = int((cursor or {}).get("page", 1))
    answer = client.json("/v1/videos/search", {"query": words, "per_page": AT_ONCE, "page": page})
    found = answer.document
    films = [_film(video, answer.retrieved_at) for video in found.get("videos") or ()]
    more = bool(found.get("next_page")) and bool(films)
    return [film for film in films if film.url], {"page": page + 1} if more else None


def _film(video: Mapping[str, Any], retrieved_at: str) -> SourceFilm:
    page = str(video.get("url") or "")
    user = video.get("user") or {}
    file = best_file(video.get("video_files") or [])
    return SourceFilm(
        provider=NAME,
        id=str(video.get("id", "")),
        url=str(file.get("link") or ""),
        page=page,
        title=_title(page),
        author=strip_html(user.get("name")),
        keywords=tuple(str(tag) for tag in video.get("tags") or ()),
        licences=(LICENSE_TEXT,),
        license_text=LICENSE_TEXT,
        license_url=LICENSE_PAGE,
        bytes=read_integer(file.get("size")),
        width=read_integer(file.get("width")),
        height=read_integer(file.get("height")),
        seconds=read_number(video.get("duration")),
        retrieved_at=retrieved_at,
    )


def best_file(files: list[Any]) -> Mapping[str, Any]:
    """The file to take: the largest up to SIDE, else the smallest; no playlists of segments."""

    def side(file: Mapping[str, Any]) -> int:
        return min(read_integer(file.get("width")) or 0, read_integer(file.get("height")) or 0)

    usable = [f for f in files if f.get("link") and side(f) and f.get("quality") != "hls"]
    small = [file for file in usable if side(file) <= SIDE]
    if small:
        return max(small, key=side)
    return min(usable, key=side) if usable else {}


def _title(page: str) -> str:
    """`A woman braids her hair` out of /video/a-woman-braids-her-hair-4873105/."""
    name = urlsplit(page).path.rstrip("/").rpartition("/")[2]
    return re.sub(r"-?\d+$", "", name).replace("-", " ").strip().capitalize()
