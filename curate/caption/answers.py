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
class CaptionAnswer:
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


def save_answer(folder: Path, clip_id: str, answer: CaptionAnswer) -> None:
    """Write one answer; on return it survives `kill -9` and a power cut."""
    text = json.dumps(dataclasses.asdict(answer), ensure_ascii=False, sort_keys=True)
    write_text(_path(folder, clip_id), text)


def load_answers(folder: Path, clip_ids: Iterable[str]) -> dict[str, CaptionAnswer]:
    """The answers that are there. A damaged file counts as not there."""
    return dict(_read(folder, clip_ids))


def _read(folder: Path, clip_ids: Iterable[str]) -> Iterator[tuple[str, CaptionAnswer]]:
    fields = {field.name for field in dataclasses.fields(CaptionAnswer)}
    for clip_id in clip_ids:
        try:
            document = json.loads(_path(folder, clip_id).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if isinstance(document, dict):
            yield clip_id, CaptionAnswer(**{k: v for k, v in document.items() if k in fields})


def _path(folder: Path, clip_id: str) -> Path:
    return folder / clip_id[:2] / f"{clip_id}.json"
