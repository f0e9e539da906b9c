"""Internet Archive: items found by advancedsearch, their files by the metadata API; no key.

The licence is what the uploader set for the item (`licenseurl`), often absent and sometimes
contradicted by `rights`. https://archive.org/help/aboutsearch.htm,
https://archive.org/developers/md-read.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from realdpo.curate.source.client import Client
from realdpo.curate.source.film import SourceFilm, read_integer, read_number, read_texts, strip_html
from realdpo.curate.source.rights import read_rights
from realdpo.curate.sources import EXTENSIONS
from realdpo.errors import UserError

NAME, ENDPOINT, PACE = "archive", "https://archive.org", 1.0
TERMS = ""
AT_ONCE = 50
FILMS_AN_ITEM = 3
"""Of an item that is a collection of films, no more: one uploader should not fill a set."""

_FIELDS = ("identifier", "title", "creator", "licenseurl", "rights", "subject")
_CONTRADICTED = re.compile(r"all rights reserved|not for (re)?distribution|no redistribution", re.I)


def search(
    client: Client, words: str, cursor: Mapping[str, Any] | None
) -> tuple[list[SourceFilm], dict[str, Any] | None]:
    """One page of films for the words, and where the next page begins (None at the end).

    An item whose licence keeps it out is returned without files, which are not asked for.
    """
    page = int((cursor or {}).get("page", 1))
    wanted = " AND ".join(re.findall(r"\w+", words))
    answer = client.json(
        "/advancedsearch.php",
        {
            "q": f"({wanted}) AND mediatype:movies AND licenseurl:(*creativecommons.org*)"
            " AND NOT access-restricted-item:true",
            "fl[]": list(_FIELDS),
            "rows": AT_ONCE,
            "page": page,
            "output": "json",
        },
    )
    found = answer.document.get("response") if isinstance(answer.document, dict) else None
    if not isinstance(found, dict):
        said = strip_html(answer.document.get("error")) if isinstance(answer.document, dict) else ""
        raise UserError(f"archive refuses the search: {said or 'its answer has no response'}")
    films: list[SourceFilm] = []
    for item in found.get("docs") or ():
        name = str(item.get("identifier") or "")
        if not name:
            continue
        if read_rights(_licences(item)).problem:
            films.append(_film(name, item, {}, client.endpoint, answer.retrieved_at))
        else:
            films += _item(client, name, item)
    more = AT_ONCE * page < int(found.get("numFound") or 0)
    return films, {"page": page + 1} if more else None


def _item(client: Client, name: str, item: Mapping[str, Any]) -> list[SourceFilm]:
    """The films of an item: of each one file, the best that is no larger than it has to be."""
    answer = client.json(f"/metadata/{quote(name, safe='')}")
    document = answer.document if isinstance(answer.document, dict) else {}
    about = {**item, **(document.get("metadata") or {})}
    if not document.get("files") or document.get("is_dark") or _restricted(about):
        # One that is gone answers {} with status 200.
        return [_film(name, about, {}, client.endpoint, answer.retrieved_at)]
    originals: dict[str, list[dict[str, Any]]] = {}
    for file in document["files"]:
        path = str(file.get("name") or "")
        if os.path.splitext(path)[1].lower() in EXTENSIONS and str(file.get("private")) != "true":
            origin = path if file.get("source") == "original" else str(file.get("original") or path)
            originals.setdefault(os.path.splitext(origin)[0], []).append(file)
    chosen = [max(files, key=_worth) for _, files in sorted(originals.items())] or [{}]
    found = [_film(name, about, file, client.endpoint, answer.retrieved_at) for file in chosen]
    if len(found) > 1:  # the item's title says nothing of which of its films this is
        found = [
            replace(film, title=f"{film.title}: {strip_html(file.get('title')) or _stem(file)}")
            for film, file in zip(found, chosen, strict=True)
        ]
    return found[:FILMS_AN_ITEM]


def _stem(file: Mapping[str, Any]) -> str:
    return os.path.splitext(os.path.basename(str(file["name"])))[0].replace("_", " ")


def _worth(file: Mapping[str, Any]) -> tuple[bool, bool, int, int]:
    """Originals before derivatives, unless they are in a codec's raw container."""
    suffix = os.path.splitext(str(file["name"]))[1].lower()
    handy = suffix in (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".ogv")
    height, size = read_integer(file.get("height")) or 0, read_integer(file.get("size")) or 0
    return handy, file.get("source") == "original", height, size


def _film(
    name: str, about: Mapping[str, Any], file: Mapping[str, Any], endpoint: str, retrieved_at: str
) -> SourceFilm:
    licences = _licences(about)
    path = str(file.get("name") or "")
    titles = read_texts(about.get("title")) or [name]
    subjects = [word for text in read_texts(about.get("subject")) for word in text.split(";")]
    return SourceFilm(
        provider=NAME,
        id=f"{name}/{path}" if path else name,
        url=f"{endpoint}/download/{quote(name, safe='')}/{quote(path)}" if path else "",
        page=f"{endpoint}/details/{quote(name, safe='')}",
        title=strip_html(titles[0]),
        author="; ".join(strip_html(text) for text in read_texts(about.get("creator"))),
        keywords=tuple(word for text in subjects if (word := strip_html(text))),
        description=" ".join(strip_html(text) for text in read_texts(about.get("description"))),
        licences=licences,
        license_text="; ".join(
            read_texts(about.get("licenseurl")) + read_texts(about.get("rights"))
        ),
        license_url=next(iter(read_texts(about.get("licenseurl"))), ""),
        bytes=read_integer(file.get("size")),
        sha1=str(file.get("sha1") or ""),
        width=read_integer(file.get("width")),
        height=read_integer(file.get("height")),
        seconds=read_number(file.get("length")),
        retrieved_at=retrieved_at,
    )


def _licences(about: Mapping[str, Any]) -> tuple[str, ...]:
    """All that is said about the licence; a `rights` that takes back what the address gives."""
    rights = [text for text in read_texts(about.get("rights")) if _CONTRADICTED.search(text)]
    status = read_texts(about.get("possible-copyright-status"))
    taken = [text for text in status if text.upper().startswith("IN_COPYRIGHT")]
    barred = ("all rights reserved",) if rights or taken else ()
    return (*read_texts(about.get("licenseurl")), *barred)


def _restricted(about: Mapping[str, Any]) -> bool:
    return any(
        str(about.get(name)).lower() == "true"
        for name in ("access-restricted-item", "nodownload", "is_dark")
    )
