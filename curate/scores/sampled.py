"""Scores of a few frames, by models too slow for every frame: people, text, nsfw.

Each is an extra of the package. What depends on the picture is taken of the part that the clip
will show, and of the whole picture beside it, as `people.share` and `people.share_whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from realdpo.curate.box import WHOLE, Box
from realdpo.curate.config import BLAZEPOSE, PeopleSettings
from realdpo.curate.scores import detail, nsfw, people, text
from realdpo.curate.scores.types import Bytes
from realdpo.errors import UserError

VERSION = 2  # raise when which frames are sampled, or a number of theirs, changes
SHORT_SIDE = 480
FEWEST, MOST = 3, 8
EXTRAS = ("people", "text", "nsfw")
# A crop that leaves out less than this is the whole picture.
NEARLY_ALL = 0.98


@dataclass(frozen=True)
class Look:
    """What was seen. crop: the part of the picture that the scores are of."""

    scores: dict[str, float]
    crop: Box


def require_extras(extras: Sequence[str], models: PeopleSettings = BLAZEPOSE) -> None:
    """Check that the extras exist and are installed. Raises UserError that says how to get them."""
    for name in extras:
        if name not in EXTRAS:
            raise UserError(f"no score {name!r} of sampled frames", f"one of: {', '.join(EXTRAS)}")
    if "people" in extras:
        people.require_people(models)
    if "text" in extras:
        text.require_text()
    if "nsfw" in extras:
        nsfw.require_nsfw()


def score_samples(
    source: str | Path | bytes,
    start_s: float,
    end_s: float,
    extras: Sequence[str],
    models: PeopleSettings = BLAZEPOSE,
    crop: Box = WHOLE,
    choose: Callable[[list[list[Box]]], Box] | None = None,
) -> Look:
    """Scores of a span of a file, one frame a second, at least FEWEST and at most MOST.

    models: that find people. crop: the part of the picture that the clip shows, unless there are
    people and `choose` says where from their boxes, frame by frame. Raises UserError when an
    extra is missing, MediaError when nothing can be decoded.
    """
    from realdpo.media.decode import decode_frames

    require_extras(extras, models)
    count = int(np.clip(end_s - start_s, FEWEST, MOST))
    due = list(start_s + (end_s - start_s) * (np.arange(count) + 0.5) / count)
    pictures: list[Bytes] = []
    times: list[float] = []
    last = None
    for frame in decode_frames(source, short_side=SHORT_SIDE, start=start_s, end=end_s):
        last = frame
        if due and frame.time >= due[0] - 1e-6:
            pictures.append(frame.rgb)
            times.append(float(frame.time))
            due.pop(0)
    if not pictures and last is not None:
        pictures, times = [last.rgb], [float(last.time)]
    return of_pictures(pictures, times, extras, models, crop, choose)


def of_pictures(
    pictures: Sequence[Bytes],
    times: Sequence[float],
    extras: Sequence[str],
    models: PeopleSettings = BLAZEPOSE,
    crop: Box = WHOLE,
    choose: Callable[[list[list[Box]]], Box] | None = None,
) -> Look:
    """Scores of pictures (uint8 [H, W, 3] RGB) at `times`; NaN when there are none."""
    result: dict[str, float] = {}
    if "people" in extras:
        seen = [people.find_people(picture, models) for picture in pictures]
        boxes = [[person.box for person in persons] for persons in seen]
        if choose is not None and any(boxes):
            crop = choose(boxes)
        for suffix, box in (("", crop), ("_whole", WHOLE)):
            values = _of_people(pictures, times, seen, box)
            result |= {f"{name}{suffix}": value for name, value in values.items()}
    if "text" in extras:
        covers = [text.find_text(picture) for picture in pictures]
        for suffix, box in (("", crop), ("_whole", WHOLE)):
            parts = [text.text_in_crop(cover, box) for cover in covers]
            values = text.summarise_text(parts) if parts else dict.fromkeys(text.NAMES, np.nan)
            result |= {f"{name}{suffix}": value for name, value in values.items()}
    if "nsfw" in extras:
        found = [nsfw.classify_nsfw(picture) for picture in pictures]
        result |= nsfw.summarise_nsfw(found) if found else dict.fromkeys(nsfw.NAMES, np.nan)
    if pictures and crop.area < NEARLY_ALL:
        grays = [cv2.cvtColor(cut_out(picture, crop), cv2.COLOR_RGB2GRAY) for picture in pictures]
        result["detail.sharpness"] = float(
            np.median([detail.measure_sharpness(gray) for gray in grays])
        )
    return Look(result, crop)


def cut_out(picture: Bytes, box: Box) -> Bytes:
    """The part of a picture [H, W, 3]."""
    height, width = picture.shape[:2]
    rows = slice(round(box.top * height), max(1, round(box.bottom * height)))
    return np.ascontiguousarray(
        picture[rows, round(box.left * width) : max(1, round(box.right * width))]
    )


def _of_people(
    pictures: Sequence[Bytes],
    times: Sequence[float],
    seen: Sequence[Sequence[people.Person]],
    box: Box,
) -> dict[str, float]:
    if not pictures:
        return dict.fromkeys(people.NAMES, np.nan)
    height, width = pictures[0].shape[:2]
    aspect = box.width * width / (box.height * height)
    return people.summarise_people(people.people_in_crop(seen, box), times, aspect)
