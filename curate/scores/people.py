"""People: how many, how tall in the picture, whole or cut off, and who stays.

Persons come from a detector and a pose model of transformers (RT-DETR, D-FINE, ViTPose and their
like; see `pose_models`), or from BlazePose, which needs no download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from realdpo.curate.box import WHOLE, Box
from realdpo.curate.config import PeopleSettings
from realdpo.curate.scores.types import Bytes

MOST_PEOPLE = 12
# Of a person who is counted in a crop, at least so much is inside; whole is all but so little.
INSIDE, MISSING = 0.35, 0.03
# One person in two frames: how far it may have gone, in its heights a second and at once, and how
# much its height may have changed.
STRIDE, JUMP, GROWTH = 0.8, 0.35, 1.6

NAMES = (
    "people.share",
    "people.count",
    "people.height",
    "people.full_body",
    "people.cut_off",
    "people.tracks",
    "people.stay",
)


@dataclass(frozen=True)
class Person:
    """box: in shares of the picture. full: head to feet are seen. cut: runs out of the picture."""

    box: Box
    full: bool
    cut: bool


def require_people(settings: PeopleSettings) -> None:
    """Raises UserError when the models or what runs them is not there."""
    if settings.detector:
        from realdpo.curate.scores import pose_models

        pose_models.require_pose_models(settings)
    else:
        from realdpo.curate.scores import blazepose

        blazepose.require_blazepose()


def find_people(rgb: Bytes, settings: PeopleSettings) -> list[Person]:
    """The people in one picture, tallest first. rgb: uint8 [H, W, 3]."""
    if settings.detector:
        from realdpo.curate.scores import pose_models

        found = pose_models.find_model_poses(rgb, settings)
    else:
        from realdpo.curate.scores import blazepose

        found = blazepose.find_poses(rgb)
    return sorted(found, key=lambda person: -person.box.height)[:MOST_PEOPLE]


def people_in_crop(frames: Sequence[Sequence[Person]], crop: Box) -> list[list[Person]]:
    """The people as they are seen in a part of the picture, tallest first."""
    result = []
    for people in frames:
        seen = []
        for person in people:
            kept = crop.shared(person.box) / max(person.box.area, 1e-9)
            if kept < INSIDE:
                continue
            whole = kept > 1 - MISSING
            box = person.box.within(crop).clipped()
            seen.append(Person(box, person.full and whole, person.cut or not whole))
        result.append(sorted(seen, key=lambda person: -person.box.height))
    return result


def summarise_people(
    frames: Sequence[Sequence[Person]], times: Sequence[float], aspect: float
) -> dict[str, float]:
    """Scores of a clip from the people of its sampled frames.

    times: of the frames, seconds. aspect: width over height of the picture. share: of frames with
    anyone. count: mean over all frames. Of frames with anyone, for the tallest person: height
    (median), full_body and cut_off (shares of frames). tracks: different persons that were
    followed over two frames or more; one who comes back counts again. stay: share of the frames
    in which the person who stays longest is seen.
    """
    tallest = [people[0] for people in frames if people]
    lengths = [len(track) for track in follow_people(frames, times, aspect)]
    lasting = [length for length in lengths if length > 1 or len(frames) == 1]
    return {
        "people.share": len(tallest) / len(frames),
        "people.count": float(np.mean([len(people) for people in frames])),
        "people.height": float(np.median([p.box.height for p in tallest])) if tallest else 0.0,
        "people.full_body": float(np.mean([p.full for p in tallest])) if tallest else 0.0,
        "people.cut_off": float(np.mean([p.cut for p in tallest])) if tallest else 0.0,
        "people.tracks": float(len(lasting)),
        "people.stay": max(lengths, default=0) / len(frames),
    }


def follow_people(
    frames: Sequence[Sequence[Person]], times: Sequence[float], aspect: float
) -> list[list[tuple[int, Person]]]:
    """Persons over time: of each, (frame, person), in the order in which they appear.

    Nearest first: who overlaps or is within a stride, and is about as tall, is the same one. A
    person may be missed in one frame.
    """
    tracks: list[list[tuple[int, Person]]] = []
    for index, people in enumerate(frames):
        live = [track for track in tracks if index - track[-1][0] <= 2]
        pairs = sorted(
            (distance, a, b)
            for a, track in enumerate(live)
            for b, person in enumerate(people)
            if (
                distance := _distance(
                    track[-1][1].box, person.box, times[index] - times[track[-1][0]], aspect
                )
            )
            < 1
        )
        taken: set[int] = set()
        grown: set[int] = set()
        for _, a, b in pairs:
            if a not in grown and b not in taken:
                live[a].append((index, people[b]))
                grown.add(a)
                taken.add(b)
        tracks += [[(index, person)] for b, person in enumerate(people) if b not in taken]
    return tracks


def _distance(one: Box, other: Box, seconds: float, aspect: float) -> float:
    """0 where both boxes are one; from 1 on they cannot be the same person."""
    across = (one.left + one.right - other.left - other.right) / 2 * aspect
    down = (one.top + one.bottom - other.top - other.bottom) / 2
    tall = max(one.height, other.height, 1e-6)
    far = float(np.hypot(across, down)) / (tall * (JUMP + STRIDE * seconds))
    grown = abs(float(np.log(max(one.height, 1e-6) / max(other.height, 1e-6)))) / np.log(GROWTH)
    # Who crouches or comes into sight changes in height, but overlaps.
    return max(far, grown if one.overlap(other) < 0.3 else 0.0)


__all__ = [
    "NAMES",
    "WHOLE",
    "Person",
    "find_people",
    "follow_people",
    "people_in_crop",
    "require_people",
    "summarise_people",
]
