"""Captions that came with the footage: a text or JSON file beside it, or a table in its folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from realdpo.errors import UserError

FIELDS = ("caption", "prompt", "text", "description")
"""Names under which a caption is looked for, in this order."""
TABLES = ("captions.csv", "metadata.csv", "captions.jsonl", "metadata.jsonl")
FILE_FIELDS = ("file_name", "file", "path", "video")


def find(video: str | Path) -> str | None:
    """The caption that belongs to a video file, or None.

    Looked for as `<video>.caption`, `.txt` and `.json` (also with the extension kept, as in
    `a.mp4.json`), then in captions/metadata .csv/.jsonl of the same folder by `file_name`.
    Raises UserError when such a file cannot be read.
    """
    video = Path(video)
    for base in (video.with_suffix(""), video):
        for suffix in (".caption", ".txt"):
            path = base.with_name(base.name + suffix)
            if path.is_file() and (text := _text(path).strip()):
                return text
        path = base.with_name(base.name + ".json")
        if path.is_file() and (said := _field(_json(path, _text(path)))):
            return said
    for name in TABLES:
        path = video.parent / name
        if path.is_file() and (said := _captions(path, path.stat().st_mtime_ns).get(video.name)):
            return said
    return None


@lru_cache(maxsize=64)
def _captions(path: Path, changed: int) -> dict[str, str]:
    # `changed` is in the signature so that an edited file is read again.
    found: dict[str, str] = {}
    for row in _rows(path):
        name = next((row[f] for f in FILE_FIELDS if isinstance(row.get(f), str)), None)
        text = _field(row)
        if name and text:
            found[Path(name).name] = text
    return found


def _rows(path: Path) -> Iterator[dict]:
    text = _text(path)
    if path.suffix == ".csv":
        yield from csv.DictReader(text.splitlines(keepends=True))
        return
    for line in text.splitlines():
        if line.strip():
            row = _json(path, line)
            if isinstance(row, dict):
                yield row


def _field(row: object) -> str | None:
    if not isinstance(row, dict):
        return None
    values = (row.get(name) for name in FIELDS)
    return next((v.strip() for v in values if isinstance(v, str) and v.strip()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
