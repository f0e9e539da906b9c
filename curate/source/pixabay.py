"""Pixabay: a key, one licence for all, and terms that forbid passing its files on as a set.

https://pixabay.com/api/docs/. Answers are to be kept for 24 hours, which `Client` does, and
systematic mass downloads are not allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realdpo.curate.source.client import Client, key_from
from realdpo.curate.source.film import SourceFilm, read_integer, read_number, strip_html

NAME, ENDPOINT, PACE = "pixabay", "https://pixabay.com", 1.0
KEY, KEY_PAGE = "PIXABAY_API_KEY", "https://pixabay.com/api/docs/"
TERMS = (
    "Pixabay's licence lets you use and change its videos, but forbids you to redistribute them as "
    "a collection. Its API terms forbid systematic mass downloads. Keep the clips to yourself; "
    "you may publish a list of their ids."
)
LICENSE_TEXT = "Pixabay Content License"
LICENSE_PAGE = "https://pixabay.com/service/license-summary/"
AT_ONCE = 200
LONGEST_QUERY = 100  # characters


def access() -> dict[str, Any]:
    """What the client needs to be let in."""
    return {"secret": ("key", key_from(KEY, NAME, KEY_PAGE))}


def search(
    client: Client, words: str, cursor: Mapping[str, Any] | None
) -> tuple[list[SourceFilm], dict[str, Any] | None]:
    """One page of films for the words, and where the next page begins (None at the end)."""
    page = int((cursor or {}).get("page", 1))
    answer = client.json(
        "/api/videos/",
        {
            "q": words[:LONGEST_QUERY],
            "video_type": "film",  # no animations
            "safesearch": "true",
            "per_page": AT_ONCE,
            "page": page,
        },
        # Past the last page it says so with 400 and a line of text.
        final=lambda status, text: status == 400 and "out of valid range" in text,
    )
    if answer.document is None:
        return [], None
    found = answer.document
    films = [_film(hit, answer.retrieved_at) for hit in found.get("hits") or ()]
    more = AT_ONCE * page < int(found.get("totalHits") or 0) and bool(films)
    return [film for film in films if film.url], {"page": page + 1} if more else None


def _film(hit: Mapping[str, Any], retrieved_at: str) -> SourceFilm:
    sizes = hit.get("videos") or {}
    # From the best; "large" is there without an address where the film is smaller.
    file = next(
        (s for n in ("large", "medium", "small", "tiny") if (s := sizes.get(n) or {}).get("url")),
        {},
    )
    tags = [tag for text in str(hit.get("tags") or "").split(",") if (tag := strip_html(text))]
    return SourceFilm(
        provider=NAME,
        id=str(hit.get("id", "")),
        url=str(file.get("url") or ""),
        page=str(hit.get("pageURL") or ""),
        title=", ".join(tags[:3]),
        author=strip_html(hit.get("user")),
        keywords=tuple(tags),
        licences=(LICENSE_TEXT,),
        license_text=LICENSE_TEXT,
        license_url=LICENSE_PAGE,
        bytes=read_integer(file.get("size")),
        width=read_integer(file.get("width")),
        height=read_integer(file.get("height")),
        seconds=read_number(hit.get("duration")),
        retrieved_at=retrieved_at,
    )
