"""Answers of a captioner on disk: one small file each, whole or not there, found by what was asked.

An answer costs money or GPU time, so it is written, synced and renamed into place before its
worker asks for the next one. Raw text is kept; cleaning happens on the way out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from realdpo.files import write_text


@dataclass(frozen=True)
class Answer:
    """What one clip got. `error` is set when there is no answer at all; it is asked again."""

    raw: str = ""
    finish: str | None = None
    """stop | length | content_filter | None (not known)"""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    attempts: int = 1
    seconds: float = 0.0
    error: str = ""
    asked_at: float = 0.0
    """Unix time."""


def save(folder: Path, clip_id: str, answer: Answer) -> None:
    """Write one answer; on return it survives `kill -9` and a power cut."""
    text = json.dumps(dataclasses.asdict(answer), ensure_ascii=False, sort_keys=True)
    write_text(_path(folder, clip_id), text)


def load(folder: Path, clip_ids: Iterable[str]) -> dict[str, Answer]:
    """The answers that are there. A damaged file counts as not there."""
    return dict(_read(folder, clip_ids))


def _read(folder: Path, clip_ids: Iterable[str]) -> Iterator[tuple[str, Answer]]:
    fields = {field.name for field in dataclasses.fields(Answer)}
    for clip_id in clip_ids:
        try:
            document = json.loads(_path(folder, clip_id).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if isinstance(document, dict):
            yield clip_id, Answer(**{k: v for k, v in document.items() if k in fields})


def _path(folder: Path, clip_id: str) -> Path:
    return folder / clip_id[:2] / f"{clip_id}.json"
