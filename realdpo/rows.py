"""What a row of each table holds, for readers and type checkers.

`realdpo.tables` has the same columns as Parquet knows them, with their meaning; a test compares
both. Scores are further columns, `<group>.<name>`, which no row type names.
"""

from __future__ import annotations

from typing import TypedDict


class PartRow(TypedDict):
    """A stretch of a film of one size and rate; times as num/den seconds."""

    start: str
    end: str
    width: int
    height: int
    fps: str


class SpanRow(TypedDict):
    """A stretch that the user wants as a clip; `end` is null for the film's own end."""

    start: str
    end: str | None
    captions: list[str] | None


class RegionRow(TypedDict):
    """A part of a video: start and end in 0..1 of its frames, rows and columns."""

    time: list[float]
    rows: list[float]
    columns: list[float]


class SourceRow(TypedDict, total=False):
    """A film of sources.parquet. One that cannot be read lacks what was not found."""

    source_id: str | None
    path: str
    status: str
    error: str | None
    bytes: int
    container: str | None
    codec: str | None
    pix_fmt: str | None
    width: int
    height: int
    rotation: int
    sample_aspect: str
    fps: str
    duration_s: float
    start_s: float
    frames: int
    decode_errors: int
    parts: list[PartRow]
    transfer: str | None
    hdr: bool
    audio: bool
    license: str | None
    author: str | None
    source_url: str | None
    title: str | None
    keywords: list[str] | None
    retrieved_at: str | None
    split: str | None
    captions: list[str] | None
    captions_from: str | None
    spans: list[SpanRow] | None


class ClipRow(TypedDict, total=False):
    """A kept clip of clips.parquet. A dropped one has null in place of what was not made."""

    clip_id: str
    source_id: str
    shot: int
    start: str
    end: str
    start_s: float
    end_s: float
    status: str
    error: str | None
    keep: bool
    reasons: list[str]
    prompt: str
    captioner: str | None
    caption_status: str
    caption_raw: str | None
    action: list[str]
    path: str
    sha256: str
    width: int
    height: int
    frames: int
    fps: str
    phash: list[int]
    duplicate_of: str | None
    license: str | None
    author: str | None
    source_url: str | None
    title: str | None
    keywords: list[str] | None
    retrieved_at: str | None
    split: str


class PairRow(TypedDict, total=False):
    """A pair of pairs.parquet that is ok. A failed one lacks what was not made."""

    pair_id: str
    clip_id: str
    prompt: str
    split: str
    status: str
    error: str | None
    win: str
    lose: list[str]
    first_frame: str | None
    width: int
    height: int
    frames: int
    fps: float
    model: str
    revision: str | None
    lora: str | None
    guide: str | None
    task: str
    scheduler: str
    steps: int
    guidance: float
    negative_prompt: str | None
    call: str | None
    scheduler_settings: str | None
    dtype: str
    quantization: str | None
    seeds: list[int] | None
    strategy: list[str]
    strength: list[float | None]
    regions: list[RegionRow | None]
    round: int
    seconds: list[float]
    review: str | None
    source_id: str
    license: str | None
    author: str | None
    source_url: str | None
    title: str | None
    keywords: list[str] | None
    retrieved_at: str | None
