"""A table of addresses from elsewhere: CSV, JSONL or Parquet whose columns have other names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from realdpo.curate.caption.prompts import read_prompt_table
from realdpo.curate.source.config import COLUMNS
from realdpo.curate.source.film import SourceFilm, read_integer, read_number, read_texts, strip_html
from realdpo.errors import UserError


def read_film_table(path: Path, columns: Mapping[str, str]) -> Iterator[SourceFilm]:
    """The rows of a table that name a film. columns: our name to the table's, where they differ.

    Raises UserError when a named column is not there, or no row has an address.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = False
    for number_, row in enumerate(read_prompt_table(path), 1):
        if not isinstance(row, Mapping):
            raise UserError(f"{path}, row {number_} is not a JSON object")
        if missing := [theirs for theirs in columns.values() if number_ == 1 and theirs not in row]:
            there = ", ".join(str(name) for name in row)
            raise UserError(f"{path} has no column {missing[0]!r}", f"its columns are: {there}")
        film = _film(path, {name: row.get(columns.get(name, name)) for name in _NAMES}, now)
        if film is not None:
            found = True
            yield film
    if not found:
        raise UserError(
            f"no row of {path} has a `path` or `url`",
            "name its column of addresses: --column url=THEIRS",
        )


_NAMES = (*COLUMNS, "retrieved_at")


def _film(path: Path, row: Mapping[str, Any], now: str) -> SourceFilm | None:
    def text(name: str) -> str:
        value = row.get(name)
        return "" if value is None or value != value else strip_html(value)

    place = text("path") or text("url")
    if not place:
        return None
    if "://" not in place:
        place = os.path.abspath(path.parent / Path(place).expanduser())
    words = row.get("keywords")
    if isinstance(words, str):
        words = words.replace(";", ",").split(",")
    return SourceFilm(
        provider=path.name,
        id=text("id") or hashlib.sha256(place.encode()).hexdigest()[:16],
        url=place,
        page=text("source_url"),
        title=text("title"),
        author=text("author"),
        keywords=tuple(read_texts(words)) if isinstance(words, (list, tuple)) else (),
        description=text("description"),
        licences=(text("license"),) if text("license") else (),
        license_text=text("license"),
        bytes=read_integer(row.get("bytes")),
        sha1=text("sha1"),
        sha256=text("sha256"),
        width=read_integer(row.get("width")),
        height=read_integer(row.get("height")),
        seconds=read_number(row.get("seconds")),
        retrieved_at=text("retrieved_at") or now,
    )
