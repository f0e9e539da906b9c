"""Scores of a few frames, by models too slow for every frame: people, text, nsfw.

Each is an extra of the package. Their models come inside Python packages; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from realdpo.curate.scores import nsfw, people, text
from realdpo.curate.scores.types import Bytes
from realdpo.errors import UserError

VERSION = 1  # raise when which frames are sampled, or a number of theirs, changes
SHORT_SIDE = 480
FEWEST, MOST = 3, 8

_SUBJECTS = {"people": people, "text": text, "nsfw": nsfw}
EXTRAS = tuple(_SUBJECTS)


def require(extras: Sequence[str]) -> None:
    """Check that the extras exist and are installed. Raises UserError that says how to get them."""
    for name in extras:
        if name not in _SUBJECTS:
            raise UserError(f"no score {name!r} of sampled frames", f"one of: {', '.join(EXTRAS)}")
        _SUBJECTS[name].require()


def measure(
    source: str | Path | bytes, start_s: float, end_s: float, extras: Sequence[str]
) -> dict[str, float]:
    """Scores of a span of a file, one frame a second, at least FEWEST and at most MOST.

    Raises UserError when an extra is missing, MediaError when nothing can be decoded.
    """
    from realdpo.media.decode import frames

    require(extras)
    count = int(np.clip(end_s - start_s, FEWEST, MOST))
    due = list(start_s + (end_s - start_s) * (np.arange(count) + 0.5) / count)
    pictures: list[Bytes] = []
    last = None
    for frame in frames(source, short_side=SHORT_SIDE, start=start_s, end=end_s):
        last = frame.rgb
        if due and frame.time >= due[0] - 1e-6:
            pictures.append(frame.rgb)
            due.pop(0)
    if not pictures and last is not None:
        pictures = [last]
    return of_pictures(pictures, extras)


def of_pictures(pictures: Sequence[Bytes], extras: Sequence[str]) -> dict[str, float]:
    """Scores of pictures (uint8 [H, W, 3] RGB) in the order of time; NaN when there are none."""
    result: dict[str, float] = {}
    for name in extras:
        subject = _SUBJECTS[name]
        result |= subject.summary([subject.of_frame(p) for p in pictures]) if pictures else (
            dict.fromkeys(subject.NAMES, np.nan)
        )  # fmt: skip
    return result
