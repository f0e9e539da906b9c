"""A region and time span of a video: what a local loser was made anew in, and its loss looks at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Region:
    """A part of a video, each as (start, end) in 0..1 of its frames, rows and columns."""

    time: tuple[float, float]
    rows: tuple[float, float]
    columns: tuple[float, float]

    def spans(self, frames: int, rows: int, columns: int) -> tuple[slice, slice, slice]:
        """Where it lies in an array of so many frames, rows and columns; one of each at least."""
        sizes = (frames, rows, columns)
        parts = zip((self.time, self.rows, self.columns), sizes, strict=True)
        return tuple(_span(low, high, size) for (low, high), size in parts)  # type: ignore[return-value]  # as many parts as axes


def _span(low: float, high: float, size: int) -> slice:
    start = min(round(low * size), size - 1)
    return slice(start, max(start + 1, round(high * size)))
