"""Motion: of the camera, and of what moves within the picture, in picture heights per second.

Dense flow (DIS, Kroeger et al. 2016) between pictures about an eighth of a second apart; a
similarity transform fitted to it by RANSAC is the camera; what neither that transform nor flat
texture explains is the subject.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from realdpo.curate.scores.types import Bools, Bytes, Columns, Floats

PAIR_SECONDS = 1 / 8
LINES = 180
GRID = 4
SMALLEST, SMALLEST_LONG = 64, 128

# Pixels at LINES or fewer: what flow gets wrong in a still picture, and per pixel of camera
# motion (lens distortion, parallax of a hand-held camera).
STILL_PIXELS, PARALLAX = 0.5, 0.2
# Levels by which a moving point must differ from the picture that the camera alone would give.
EVIDENCE_LEVELS = 4.0
TEXTURE = 2e-4
# The camera moves the whole picture: its points reach over this much of width and height.
CAMERA_SPREAD, CAMERA_SUPPORT = 0.5, 0.35
FEWEST_POINTS = 5
# Above this share of contrast left over, the flow is tried again from the whole picture's shift.
LOST = 0.35

NAMES = (
    "motion.total",
    "motion.camera",
    "motion.subject",
    "motion.subject_share",
    "motion.pan_x",
    "motion.pan_y",
    "motion.zoom",
    "motion.roll",
    "motion.shake",
    "motion.smoothness",
    "motion.ramp",
    "motion.unexplained",
)
FIELDS = (
    "total",
    "camera",
    "subject",
    "subject_share",
    "pan_x",
    "pan_y",
    "zoom",
    "roll",
    "unexplained",
)


@lru_cache(maxsize=1)
def _flow() -> cv2.DISOpticalFlow:
    # Once a process: the object keeps its pyramids between calls.
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


def of_pair(before: Bytes, after: Bytes, seconds: float) -> dict[str, float]:
    """Motion from one picture to another `seconds` later. uint8 [h, w], h and w at most ~LINES."""
    height, width = before.shape
    if min(height, width) < 16:
        return dict.fromkeys(FIELDS, np.nan)
    flow, unexplained = _best_flow(before, after)
    x, y = _grid(height, width)
    right, down = cv2.split(flow[GRID // 2 :: GRID, GRID // 2 :: GRID])
    matrix = _camera(x, y, right, down, _texture(before))
    camera_x = matrix[0, 0] * x + matrix[0, 1] * y + (matrix[0, 2] - x)
    camera_y = matrix[1, 0] * x + matrix[1, 1] * y + (matrix[1, 2] - y)
    speed = cv2.magnitude(camera_x, camera_y)
    residual = cv2.magnitude(right - camera_x, down - camera_y)
    moving = _moving(before, after, matrix, (x + camera_x, y + camera_y), speed, residual)
    enough = int(moving.sum()) >= FEWEST_POINTS
    per_second = 1 / (height * seconds)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = matrix[:, :2] @ middle + matrix[:, 2] - middle
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    total = np.where(moving, cv2.magnitude(right, down), speed)
    return {
        "total": float(total.mean()) * per_second,
        "camera": float(speed.mean()) * per_second,
        "subject": _speed(residual[moving]) * per_second if enough else 0.0,
        "subject_share": _share(moving) if enough else 0.0,
        # The picture moves against the camera.
        "pan_x": -float(shift[0]) * per_second,
        "pan_y": -float(shift[1]) * per_second,
        "zoom": float(np.log(max(scale, 1e-3))) / seconds,
        "roll": -float(np.arctan2(matrix[1, 0], matrix[0, 0])) / seconds,
        "unexplained": unexplained,
    }


def summary(rows: Columns) -> dict[str, float]:
    """Scores of a span from the pairs that lie wholly in it."""
    inside = ~np.isnan(rows["pair_s"]) & ~np.isnan(rows["total"])
    inside &= rows["time"] - np.nan_to_num(rows["pair_s"]) >= rows["time"][0] - 1e-6
    if not inside.any():
        return dict.fromkeys(NAMES, np.nan)
    pair = {name: rows[name][inside] for name in FIELDS}
    seconds = rows["pair_s"][inside]
    result = {
        f"motion.{name}": float(np.average(values, weights=seconds))
        for name, values in pair.items()
    }
    result["motion.shake"] = shake(pair["pan_x"], pair["pan_y"])
    result["motion.smoothness"] = smoothness(pair["subject"])
    result["motion.ramp"] = ramp(pair["total"], seconds)
    return result


def shake(pan_x: Floats, pan_y: Floats) -> float:
    """Mean speed of the camera against its own average over five pairs (0.6 s)."""
    steady = [_average(values, 5) for values in (pan_x, pan_y)]
    return float(np.hypot(pan_x - steady[0], pan_y - steady[1]).mean())


def smoothness(speed: Floats) -> float:
    """1 - mean |change of speed| / (sum of the two speeds): 1 is steady, 0 is stop and go."""
    both = speed[1:] + speed[:-1]
    moves = both > 0
    if not moves.any():
        return np.nan
    return float(1 - np.average(np.abs(np.diff(speed))[moves] / both[moves], weights=both[moves]))


def ramp(total: Floats, seconds: Floats) -> float:
    """log2 of the 90th over the 10th percentile of speed, averaged over half seconds.

    A speed ramp in the edit shows as two octaves or more. Speeds under 0.02 heights per second
    count as 0.02: rest is no slow motion.
    """
    if seconds.sum() < 1:
        return np.nan
    slow, fast = np.quantile(np.maximum(_average(total, 4), 0.02), [0.1, 0.9])
    return float(np.log2(fast / slow))


def _average(values: Floats, taps: int) -> Floats:
    kernel = np.ones(min(taps, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _best_flow(before: Bytes, after: Bytes) -> tuple[Floats, float]:
    """Flow [h, w, 2] in pixels, and the share of the contrast that it leaves unexplained."""
    flow = _dense(before, after)
    left = _unexplained(before, after, flow)
    if left > LOST:
        # Too far for the pyramid: take the shift of the whole picture out first.
        window = cv2.createHanningWindow(before.shape[::-1], cv2.CV_32F)
        shift, _ = cv2.phaseCorrelate(before.astype(np.float32), after.astype(np.float32), window)
        x, y = round(shift[0]), round(shift[1])
        back = np.array([[1, 0, -x], [0, 1, -y]], np.float64)
        nearer = cv2.warpAffine(after, back, after.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        second = _dense(before, nearer) + np.array([x, y], np.float32)
        if (again := _unexplained(before, after, second)) < left:
            return second, again
    return flow, left


def _dense(before: Bytes, after: Bytes) -> Floats:
    """DIS flow; pictures that are small for its pyramid, where it crashes, are extended."""
    height, width = before.shape
    wide = SMALLEST if height >= SMALLEST_LONG else SMALLEST_LONG
    down, right = max(0, SMALLEST - height), max(0, wide - width)
    if down or right:
        before, after = (
            cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE)
            for picture in (before, after)
        )
    flow = _flow().calc(before, after, None)  # type: ignore[call-overload]
    return flow[:height, :width]


def _unexplained(before: Bytes, after: Bytes, flow: Floats) -> float:
    """Mean |before - after brought back along the flow| over the contrast of `before`.

    Of every other pixel of every other line: it is a mean, and theirs is the same.
    """
    places = flow[::2, ::2] + _pixels(*before.shape)
    back = cv2.remap(  # type: ignore[call-overload]
        after, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    contrast = float(cv2.meanStdDev(before)[1][0, 0])
    return min(1.0, cv2.norm(before[::2, ::2], back, cv2.NORM_L1) / back.size / (contrast + 4))


@lru_cache(maxsize=8)
def _pixels(height: int, width: int) -> Floats:
    y, x = np.mgrid[:height:2, :width:2]
    return np.stack([x, y], -1).astype(np.float32)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> Floats:
    """Columns and lines of the points that are looked at: float32 [2, h / GRID, w / GRID]."""
    y, x = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID]
    return np.stack([x, y]).astype(np.float32)


def _texture(gray: Bytes) -> Bools:
    """Grid points whose patch pins its own displacement down.

    It does where the smaller eigenvalue of its structure is large.
    """
    return cv2.cornerMinEigenVal(gray, 7)[GRID // 2 :: GRID, GRID // 2 :: GRID] > TEXTURE


def _camera(x: Floats, y: Floats, right: Floats, down: Floats, textured: Bools) -> Floats:
    """The similarity transform [2, 3] that most textured points follow, else no motion.

    A person who fills half of the picture before a plain wall is also one consistent motion;
    the camera's reaches over the whole picture.
    """
    still = np.eye(2, 3, dtype=np.float32)
    points = np.stack([x[textured], y[textured]], -1)
    if len(points) < 12:
        return still
    shifts = np.stack([right[textured], down[textured]], -1)
    length = np.asarray(cv2.magnitude(shifts[:, 0], shifts[:, 1]), np.float32).ravel()
    tolerance = STILL_PIXELS + 0.05 * float(np.median(length))
    matrix, inliers = cv2.estimateAffinePartial2D(
        points,
        points + shifts,
        method=cv2.RANSAC,
        ransacReprojThreshold=tolerance,
        maxIters=200,
        confidence=0.99,
    )
    if matrix is None:
        return still
    matrix = matrix.astype(np.float32)
    chosen = inliers.ravel().astype(bool)
    at_rest = length < tolerance
    if chosen.mean() < CAMERA_SUPPORT or at_rest.sum() >= chosen.sum():
        return still if at_rest.mean() >= CAMERA_SUPPORT or not chosen.any() else matrix
    ordered = np.sort(points[chosen], axis=0)
    ends = len(ordered) // 20  # all but a twentieth at each end
    spread = (ordered[-1 - ends] - ordered[ends]) / (x[-1, -1] + GRID / 2, y[-1, -1] + GRID / 2)
    return matrix if spread.min() >= CAMERA_SPREAD else still


def _moving(
    before: Bytes,
    after: Bytes,
    matrix: Floats,
    target: tuple[Floats, Floats],
    speed: Floats,
    residual: Floats,
) -> Bools:
    """Which grid points move by themselves: against the camera, and visibly so.

    target: where the camera takes them. speed: of the camera there, residual: beside it, pixels.
    """
    height, width = before.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    steady = cv2.warpAffine(after, matrix, (width, height), flags=flags)
    evidence = cv2.blur(cv2.absdiff(before, steady), (5, 5))[GRID // 2 :: GRID, GRID // 2 :: GRID]
    x, y = target
    inside = (x >= 2) & (x < width - 2) & (y >= 2) & (y < height - 2)
    return inside & (residual > STILL_PIXELS + PARALLAX * speed) & (evidence > EVIDENCE_LEVELS)


def _speed(residual: Floats) -> float:
    """The 80th percentile: flow is smeared at the edges of what moves, never above its speed."""
    return float(np.partition(residual, index := int(0.8 * (len(residual) - 1)))[index])


def _share(moving: Bools) -> float:
    """Area of the moving points with the holes that flat texture leaves in them closed."""
    kernel = np.ones((5, 5), np.uint8)
    closed = cv2.morphologyEx(np.pad(moving.astype(np.uint8), 4), cv2.MORPH_CLOSE, kernel)
    return float(closed.sum() / moving.size)
