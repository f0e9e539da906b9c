"""Motion scores against truth: cameras over still pictures, and subjects laid over them.

    python benchmarks/motion.py FOLDER [FOLDER ...] [--frames 3] [--each]

A FOLDER holds photographs and films; each is one half of a split (say, what was tuned on and what
was not), and gets a table of its own. Of a film, some frames are taken as stills. A window of
256 x 144 is moved over each still by exact resampling, so nothing in it moves by itself; then an
ellipse cut from the next still is moved over it, so its speed and its size are known.

Passes: clips that the default thresholds of `motion.camera_confidence`, `motion.subject` and
`motion.subject_share` let through. Unknown: clips whose `motion.camera_confidence` is under its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from realdpo.curate import decide
from realdpo.curate.scores import score_frames
from realdpo.media.decode import decode_frames as decoded
from realdpo.media.probe import probe_video

Picture = npt.NDArray[np.uint8]

HEIGHT, WIDTH, FPS, COUNT = 144, 256, 12, 14
PICTURES = {".jpg", ".jpeg", ".png"}
FILMS = {".mp4", ".avi", ".mkv", ".webm", ".mov"}
# Name: (right, down) in heights, log scale, radians, all a second.
CAMERAS = {
    "at rest": (0.0, 0.0, 0.0, 0.0),
    "pan 0.14": (0.14, 0.0, 0.0, 0.0),
    "pan 0.42": (0.42, 0.0, 0.0, 0.0),
    "tilt 0.2": (0.0, 0.2, 0.0, 0.0),
    "zoom 0.2": (0.0, 0.0, 0.2, 0.0),
    "roll 0.2": (0.0, 0.0, 0.0, 0.2),
    "all at once": (0.2, -0.1, 0.15, -0.1),
}
# (diameter in heights, speed in heights a second, of the camera beside it)
SUBJECTS = [
    (size, speed, pan) for pan in (0.0, 0.2) for size in (0.2, 0.35) for speed in (0.07, 0.14, 0.42)
]
SUBJECT_STILLS = 16  # about so many of the stills are enough for speeds
GATES = ("motion.camera_confidence", "motion.subject", "motion.subject_share")


def stills(folder: Path, frames: int) -> Iterator[tuple[str, Picture]]:
    """Every photograph, and `frames` frames of every film, from its start to its end."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            yield path.name, fitted(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        elif path.suffix.lower() in FILMS:
            length = float(probe_video(path).duration)
            for time in np.linspace(0, length, frames + 2)[1:-1]:
                frame = next(iter(decoded(path, short_side=480, start=time)), None)
                if frame is not None:
                    yield f"{path.name}@{time:.1f}", fitted(frame.rgb)


def fitted(picture: Picture) -> Picture:
    """At the size at which the window covers six tenths of it, at twice the window's pixels."""
    scale = 2 / 0.6 / min(picture.shape[0] / HEIGHT, picture.shape[1] / WIDTH)
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def camera_clip(
    still: Picture,
    right: float = 0.0,
    down: float = 0.0,
    zoom: float = 0.0,
    roll: float = 0.0,
    subject: tuple[Picture, float, float] | None = None,
) -> Picture:
    """A window over a still, uint8 [COUNT, HEIGHT, WIDTH, 3].

    subject: a picture, the diameter of the disc of it, in heights, and its speed to the right in
    the window.
    """
    height, width = still.shape[:2]
    # The window covers six tenths of the still: nothing outside of it comes into sight.
    unit = 0.6 * min(height / HEIGHT, width / WIDTH)
    if subject is not None:
        shrink = 2 * subject[1] * HEIGHT / (0.8 * min(subject[0].shape[:2]))
        shape = (round(subject[0].shape[1] * shrink), round(subject[0].shape[0] * shrink))
        subject = (cv2.resize(subject[0], shape, interpolation=cv2.INTER_AREA), *subject[1:])
    found = []
    for index in range(COUNT):
        time = (index - (COUNT - 1) / 2) / FPS
        scale = unit * np.exp(-zoom * time)
        turn = scale * np.array(
            [
                [np.cos(roll * time), -np.sin(roll * time)],
                [np.sin(roll * time), np.cos(roll * time)],
            ]
        )
        centre = np.array([width / 2, height / 2]) + np.array([right, down]) * time * HEIGHT * unit
        frame = window(still, turn, centre)
        if subject is not None:
            other, size, speed = subject
            at = np.array([WIDTH / 2 + speed * time * HEIGHT, HEIGHT / 2])
            middle = np.array([other.shape[1] / 2, other.shape[0] / 2])
            # The patch has twice the window's pixels, as the still has.
            aside = np.array([(WIDTH / 2 - at[0]) * 2, 0])
            patch = window(other, np.eye(2) * 2, middle + aside)
            y, x = np.mgrid[:HEIGHT, :WIDTH]
            far = np.hypot(x - at[0], y - at[1]) - size * HEIGHT / 2
            cover = np.clip(0.5 - far, 0, 1)[..., None]
            frame = np.rint(frame * (1 - cover) + patch * cover).astype(np.uint8)
        found.append(frame)
    return np.stack(found)


def window(
    picture: Picture, turn: npt.NDArray[np.float64], centre: npt.NDArray[np.float64]
) -> Picture:
    """HEIGHT x WIDTH pixels around `centre`. turn: from window pixels to the picture's."""
    fine = max(1, round(np.hypot(*turn[0])))  # samples a pixel, then averaged: no aliasing
    half = np.array([(WIDTH * fine - 1) / 2, (HEIGHT * fine - 1) / 2])
    take = np.column_stack([turn / fine, centre - turn / fine @ half])
    drawn = cv2.warpAffine(
        picture,
        take,
        (WIDTH * fine, HEIGHT * fine),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return cv2.resize(drawn, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def passes(scores: dict[str, float]) -> bool:
    limits = {key: value for key, value in decide.default_thresholds().items() if key[:-4] in GATES}
    columns = {name: np.array([scores[name]], np.float32) for name in GATES}
    return not decide.find_reasons(columns, limits, 1)[0]


def share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} of {len(flags)} ({100 * np.mean(flags):.1f} %)"


def table(folder: Path, frames: int, each: bool) -> None:
    pictures = list(stills(folder, frames))
    print(f"\n{folder.name}: {len(pictures)} stills\n")
    print("| camera over a still | passes as subject motion | camera unknown | camera within 5 % |")
    print("|---|---|---|---|")
    moving: list[bool] = []
    for name, (right, down, zoom, roll) in CAMERAS.items():
        found = [
            score_frames(camera_clip(still, right, down, zoom, roll), FPS) for _, still in pictures
        ]
        wrong = [passes(scores) for scores in found]
        least = decide.default_thresholds()["motion.camera_confidence_min"]
        unknown = [not scores["motion.camera_confidence"] >= least for scores in found]
        known = [scores for scores, lost in zip(found, unknown, strict=True) if not lost]
        right_ones = [
            abs(scores["motion.pan_x"] - right) < 0.05 * abs(right) + 0.01
            and abs(scores["motion.pan_y"] - down) < 0.05 * abs(down) + 0.01
            and abs(scores["motion.zoom"] - zoom) < 0.05 * abs(zoom) + 0.01
            and abs(scores["motion.roll"] - roll) < 0.05 * abs(roll) + 0.01
            for scores in known
        ]
        print(f"| {name} | {share(wrong)} | {share(unknown)} | {share(right_ones)} |")
        if name != "at rest":
            moving += wrong
        if each:
            for (still, _), scores, bad, lost in zip(pictures, found, wrong, unknown, strict=True):
                if bad or lost:
                    print(
                        f"    {still}: {'PASSES' if bad else 'unknown'} "
                        + " ".join(
                            f"{k[7:]} {v:.3f}"
                            for k, v in scores.items()
                            if k.startswith("motion.") or k == "luma.contrast"
                        )
                    )
    print(f"\nAll that move: {share(moving)} pass as subject motion.\n")
    print(
        "| subject: diameter, speed, pan | passes | speed read / true: median (10th, 90th) "
        "| within 10 % | share read / true |"
    )
    print("|---|---|---|---|---|")
    few = pictures[:: max(1, len(pictures) // SUBJECT_STILLS)]
    for size, speed, pan in SUBJECTS:
        found = []
        for (_, still), (_, other) in zip(few, few[1:] + few[:1], strict=True):
            # It goes right in the window while the pan takes the still to the left.
            clip = camera_clip(still, right=pan, subject=(other, size, speed - pan))
            found.append(score_frames(clip, FPS))
        seen = [passes(scores) for scores in found]
        kept = [scores for scores, ok in zip(found, seen, strict=True) if ok]
        ratio = np.array([scores["motion.subject"] / speed for scores in kept])
        true = np.pi / 4 * size**2 * HEIGHT / WIDTH
        cover = np.median([scores["motion.subject_share"] / true for scores in kept])
        low, middle, high = np.quantile(ratio, [0.1, 0.5, 0.9])
        print(
            f"| {size}, {speed}, {pan} | {share(seen)} | {middle:.2f} ({low:.2f}, {high:.2f}) "
            f"| {share(list(abs(ratio - 1) <= 0.1))} | {cover:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=3, help="stills taken of each film")
    parser.add_argument("--each", action="store_true", help="print the clips that are wrong")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # stdout is a text stream here
    for folder in arguments.folders:
        table(folder, arguments.frames, arguments.each)


if __name__ == "__main__":
    main()
