"""Wikimedia Commons by the MediaWiki API: every file states its licence, none needs a key.

https://www.mediawiki.org/wiki/API:Search, API:Imageinfo, API:Continue and API:Etiquette.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from realdpo.curate.source.client import Client
from realdpo.curate.source.film import SourceFilm, read_integer, read_number, strip_html
from realdpo.errors import UserError

NAME, ENDPOINT, PACE = "commons", "https://commons.wikimedia.org", 1.0
TERMS = ""
AT_ONCE = 50  # titles that one request may describe without a bot's rights
MERGES = 20

_FIELDS = (
    "Artist",
    "Categories",
    "Credit",
    "ImageDescription",
    "License",
    "LicenseShortName",
    "LicenseUrl",
    "ObjectName",
    "Restrictions",
    "UsageTerms",
)
# Categories that sort files rather than say what they show.
_HOUSEKEEPING = re.compile(
    r"^(cc[- ]|pd[- ]|gfdl|self-published|uploaded|files |media |pages |all |license|license)|"
    r"(licen[sc]e|reviewed|uploaded|videos? (by|from) (user|youtube|vimeo)|\bby user\b)",
    re.IGNORECASE,
)
_BUSY = ("maxlag", "ratelimited", "readonly", "internal_api_error")


def search(
    client: Client, words: str, cursor: Mapping[str, Any] | None
) -> tuple[list[SourceFilm], dict[str, Any] | None]:
    """One page of films for the words, and where the next page begins (None at the end)."""
    params: dict[str, Any] = {
        "action": "query",
        "format": "json",
        "formatversion": 2,
        "maxlag": 5,  # seconds that the copies of the database may be behind before we wait
        "generator": "search",
        "gsrsearch": f"filetype:video {words}",
        "gsrnamespace": 6,
        "gsrlimit": AT_ONCE,
        "prop": "imageinfo",
        "iiprop": "url|size|mime|sha1|mediatype|user|extmetadata",
        "iiextmetadatalanguage": "en",
        "iiextmetadatafilter": "|".join(_FIELDS),
    }
    pages: dict[int, dict[str, Any]] = {}
    going: Mapping[str, Any] | None = cursor
    for _ in range(MERGES):
        answer = client.json("/w/api.php", {**params, **(going or {})}, busy=_busy)
        document = answer.document
        if error := document.get("error"):
            raise UserError(f"commons refuses the search: {error.get('info') or error.get('code')}")
        for page in (document.get("query") or {}).get("pages") or ():
            # A batch that is too much for one answer comes in parts: some pages get theirs later.
            pages.setdefault(page.get("pageid", 0), {}).update(page)
        going = document.get("continue")
        if going is None or "batchcomplete" in document:
            break
    ordered = sorted(pages.values(), key=lambda page: page.get("index", 0))
    films = [film for page in ordered if (film := _film(page, answer.retrieved_at))]
    return films, dict(going) if going else None


def _busy(document: Any) -> str | None:
    error = document.get("error") if isinstance(document, dict) else None
    if error and error.get("code") in _BUSY:
        return f"the server is busy: {strip_html(error.get('info'))}"
    return None


def _film(page: Mapping[str, Any], retrieved_at: str) -> SourceFilm | None:
    info = (page.get("imageinfo") or [None])[0]
    if not info or not info.get("url") or info.get("mediatype") not in (None, "VIDEO"):
        return None
    extra = {name: (info.get("extmetadata") or {}).get(name, {}).get("value") for name in _FIELDS}
    name = re.sub(r"^File:|\.[^.]+$", "", str(page.get("title", "")))
    texts = [strip_html(extra[field]) for field in ("LicenseUrl", "LicenseShortName", "License")]
    categories = [strip_html(text) for text in str(extra["Categories"] or "").split("|")]
    return SourceFilm(
        provider=NAME,
        id=str(page.get("pageid", "")),
        url=info["url"],
        page=info.get("descriptionurl") or "",
        title=strip_html(extra["ObjectName"]) or name,
        author=strip_html(extra["Artist"]) or str(info.get("user") or ""),
        keywords=tuple(c for c in categories if c and not _HOUSEKEEPING.search(c)),
        description=strip_html(extra["ImageDescription"]),
        licences=tuple(text for text in texts if text),
        choice=True,  # "you may select the license of your choice"
        license_text=strip_html(extra["UsageTerms"]) or texts[1] or texts[2],
        license_url=texts[0],
        restrictions=strip_html(extra["Restrictions"]),
        bytes=read_integer(info.get("size")),
        sha1=str(info.get("sha1") or ""),
        width=read_integer(info.get("width")),
        height=read_integer(info.get("height")),
        seconds=read_number(info.get("duration")),
        retrieved_at=retrieved_at,
    )
