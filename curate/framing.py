"""Framing: which part of the source's picture a clip shows, chosen once a clip, so that it stands.

Bars go first. Of what is left the clip takes the largest part of its target's shape, which can
only be moved along one side; where to is said by the people in it, else by what moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from realdpo.curate.box import WHOLE, Box
from realdpo.curate.config import Target

VERSION = 1  # raise when a clip would show another part of its source
PLACES = 65
# What a person who is partly outside counts for, and how much more the tallest counts.
PARTLY, TALLEST = 0.5, 2.0
# Room around a person's box, as a share of its sides: boxes are drawn tight.
ROOM = 0.03
# The crop leaves the middle only when the middle would lose more than this leaves of what moves:
# motion all over the picture says nothing about where the subject is.
KEPT = 0.75


NAMES = ("crop.left", "crop.top", "crop.width", "crop.height")


def scores_of(box: Box) -> dict[str, float]:
    """As score columns: crop.left, crop.top, crop.width, crop.height."""
    places = (box.left, box.top, box.width, box.height)
    return dict(zip(NAMES, places, strict=True))


def from_scores(row: Mapping[str, float | None]) -> Box:
    """The box that a clip's row holds; the whole picture where it holds none."""
    left, top, width, height = (row.get(name) for name in NAMES)
    if left is None or top is None or width is None or height is None:
        return WHOLE
    return Box(left, top, left + width, top + height)


def without_bars(scores: Mapping[str, float], width: int, height: int) -> Box:
    """The picture inside its black bars. scores: `box.*` of the clip; width, height: in pixels.

    A little more than the bars is left out: they were measured on a small picture, and their
    edges are blurred.
    """
    sides = {}
    for side, length in (("left", width), ("top", height), ("right", width), ("bottom", height)):
        bar = scores.get(f"box.{side}", 0.0)
        known = bar > 0 and not math.isnan(bar)
        sides[side] = math.ceil(bar * length + length / 256) / length if known else 0.0
    return Box(sides["left"], sides["top"], 1 - sides["right"], 1 - sides["bottom"])


def frame_clip(
    picture: Box,
    width: int,
    height: int,
    target: Target,
    people: Sequence[Sequence[Box]] = (),
    moving: npt.NDArray[np.floating] | None = None,
) -> Box:
    """The part of a source's picture that a clip shows.

    picture: the part without bars. width, height: of the source, pixels. people: their boxes in
    each of some frames of the clip, the tallest first. moving: [rows, columns], how much moves by
    itself in each part of the source's picture. Without either it is the middle; without a
    target size it is the whole picture.
    """
    if not target.width:
        return picture
    wide, high = picture.width * width, picture.height * height
    scale = min(wide / target.width, high / target.height)
    across, down = target.width * scale / width, target.height * scale / height
    free = (picture.width - across, picture.height - down)
    boxes = [
        Box(picture.left + x, picture.top + y, picture.left + x + across, picture.top + y + down)
        for x, y in zip(
            np.linspace(0, max(0.0, free[0]), PLACES),
            np.linspace(0, max(0.0, free[1]), PLACES),
            strict=True,
        )
    ]
    middle = PLACES // 2
    if any(people):
        values = [_shown(box, people) for box in boxes]
    elif moving is not None and moving.sum() > 0:
        values = [_covered(box, moving) for box in boxes]
        if values[middle] >= KEPT * max(values):
            return boxes[middle]
    else:
        return boxes[middle]
    # Of the best places the one in their middle: what moves may move a little more.
    best = np.flatnonzero(np.asarray(values) >= max(values) - 1e-9)
    run = best[: 1 + int(np.argmax([*(np.diff(best) > 1), True]))]
    return boxes[int(run[len(run) // 2])] if middle not in run else boxes[_nearest(run, people)]


def _nearest(run: npt.NDArray[np.intp], people: Sequence[Sequence[Box]]) -> int:
    """The middle of the picture is as good as any, but a person rather stands in the middle."""
    return int(run[len(run) // 2]) if any(people) else PLACES // 2


def _shown(box: Box, people: Sequence[Sequence[Box]]) -> float:
    """How well people are in the box: whole ones count most, of one who is cut the upper part."""
    total = 0.0
    for persons in people:
        for place, person in enumerate(persons):
            x, y = ROOM * person.width, ROOM * person.height
            roomy = Box(
                max(0.0, person.left - x),
                max(0.0, person.top - y),
                min(1.0, person.right + x),
                min(1.0, person.bottom + y),
            )
            inside = box.shared(roomy) / max(roomy.area, 1e-9)
            whole = inside > 1 - 1e-6
            # The head says more than the feet.
            head = Box(roomy.left, roomy.top, roomy.right, roomy.top + roomy.height / 4)
            seen = (inside + box.shared(head) / max(head.area, 1e-9)) / 2
            weight = person.height * (TALLEST if place == 0 else 1.0)
            total += weight * (1.0 if whole else PARTLY * seen)
    return total


def _covered(box: Box, moving: npt.NDArray[np.floating]) -> float:
    """How much of what moves lies in the box."""
    rows, columns = moving.shape
    down = _overlap(box.top, box.bottom, rows)
    across = _overlap(box.left, box.right, columns)
    return float(down @ moving @ across)


def _overlap(start: float, end: float, count: int) -> npt.NDArray[np.float64]:
    """The share of each of `count` equal parts of [0, 1] that lies in [start, end]."""
    edges = np.arange(count + 1) / count
    covered = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
    values: npt.NDArray[np.float64] = np.clip(covered, 0, None) * count
    return values


def moving_share(box: Box, moving: npt.NDArray[np.floating], share: float) -> float:
    """The share of the box that moves. share: of the whole picture, of which `moving` is a map."""
    total = float(moving.sum())
    if total <= 0 or math.isnan(share) or box.area <= 0:
        return share
    return min(1.0, share * _covered(box, moving) / total / box.area)


def of_crop(
    crop: Box, moving: npt.NDArray[np.floating], scores: Mapping[str, float]
) -> dict[str, float]:
    """Scores of a crop, and beside them those of the whole picture that they take the place of.

    moving: where the source's picture moves. scores: of the whole picture.
    """
    share, sharp = scores["motion.subject_share"], scores["detail.sharpness"]
    return {
        **scores_of(crop),
        "motion.subject_share": moving_share(crop, moving, share),
        "motion.subject_share_whole": share,
        "detail.sharpness_whole": sharp,
    }
