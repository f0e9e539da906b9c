"""Motion: of the camera, and of what moves within the picture, in picture heights per second.

Dense flow (DIS, Kroeger et al. 2016) between pictures about an eighth of a second apart. The camera
is the similarity transform that the rim of the picture follows: guessed from the flow by RANSAC,
then aligned to the pixels themselves (inverse compositional, Baker and Matthews 2004). What does not
look as that transform would make it look, and flows otherwise, is the subject. Where the rim holds
too little to tell, or parts of it disagree (parallax), the camera is unknown and so is the subject.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from realdpo.curate.scores import borders
from realdpo.curate.scores.types import Bools, Bytes, Columns, Floats

PAIR_SECONDS = 1 / 8
LINES = 180
GRID = 4
SMALLEST, SMALLEST_LONG = 64, 128

# Pixels at LINES or fewer: what flow gets wrong in a still picture, and per pixel of camera
# motion (lens distortion, parallax of a hand-held camera). The second was chosen on the tuning
# half of benchmarks/films.csv: a larger one hides slow subjects, a smaller one finds no more.
STILL_PIXELS, PARALLAX = 0.5, 0.1
# A point can tell how it moved where the picture changes by so many levels a pixel, and by this
# share of what its strongest places do: so a picture of low contrast can tell as well.
LEAST_SLOPE, SLOPE_SHARE = 0.8, 0.15
# A place looks as it should when it is off by no more than this many levels and pixels.
SAME_LEVELS, SAME_PIXELS = 1.0, 0.35
# The rim: the outer ones of CELLS x CELLS. So many of them must be able to tell, with FEWEST_VOTES
# points each, and this share of them must follow the camera.
CELLS, FEWEST_CELLS, FEWEST_VOTES, AGREEMENT = 4, 5, 4, 0.6
# Where it moves is kept for so many cells a side.
CELLS_KEPT = 8
# Pixels a pair below which a camera needs no closer look.
AT_REST = 0.1
FEWEST_POINTS, FOLLOWED = 5, 64
# A place has moved when a patch of so many pixels matches by this factor better elsewhere.
PATCH, BETTER = 9, 0.8
# Changes of level over more than so many of every other pixel are light.
AROUND = (7, 7)
# Alignment ends when a step moves no corner by so many pixels.
STEPS, SETTLED = 8, 0.03
SPARSE = 7  # of how many differences one is taken for their spread
# Above this share of contrast left over, the flow is tried again from the whole picture's shift.
LOST = 0.35

NAMES = (
    "motion.total",
    "motion.camera",
    "motion.camera_confidence",
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
    "agreement",
    "subject",
    "subject_share",
    "pan_x",
    "pan_y",
    "zoom",
    "roll",
    "unexplained",
)
# Averaged over the pairs whose camera is known, and over all pairs.
_OF_CAMERA = ("camera", "subject", "subject_share", "pan_x", "pan_y", "zoom", "roll")
_OF_ALL = ("total", "unexplained")


class _Slopes(NamedTuple):
    """Of every other pixel, levels a pixel: to the right, down, and how steep it is around it."""

    right: Floats
    down: Floats
    steep: Floats


class _Look(NamedTuple):
    """A guess at the camera: [2, 3], by how many levels every other pixel is off, how far each grid
    point is off (above 1 it does not follow), the share of the rim that follows, and how far off
    the rim is altogether."""

    matrix: Floats
    difference: Floats
    off: Floats
    agreement: float
    cost: float


@lru_cache(maxsize=1)
def _flow() -> cv2.DISOpticalFlow:
    # Once a process: the object keeps its pyramids between calls.
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


def measure_motion(before: Bytes, after: Bytes, seconds: float) -> dict[str, float]:
    """Motion from one picture to another `seconds` later. uint8 [h, w], h and w at most ~LINES.

    agreement: share of the rim, in [0, 1], that follows one camera; 0 where too little of it can
    tell. Below AGREEMENT the camera and all that is measured against it are NaN.
    """
    return look_at(before, after, seconds)[0]


def look_at(before: Bytes, after: Bytes, seconds: float) -> tuple[dict[str, float], Bytes]:
    """`measure_motion`, and where it moves: uint8 [CELLS_KEPT ** 2], share of each cell, 255 is all."""
    nowhere = np.zeros(CELLS_KEPT**2, np.uint8)
    # A bar stands still whatever the camera does.
    whole, wide = before.shape
    inside = _within_bars(before, after)
    before, after = (np.ascontiguousarray(picture[inside]) for picture in (before, after))
    height, width = before.shape
    if min(height, width) < 16:
        return dict.fromkeys(FIELDS, np.nan), nowhere
    flow, unexplained = _best_flow(before, after)
    x, y = _grid(height, width)
    right, down = cv2.split(flow[GRID // 2 :: GRID, GRID // 2 :: GRID])
    slopes = _slopes(before)
    look = _camera(before, after, slopes, right, down)
    per_second = 1 / (whole * seconds)
    if look.agreement < AGREEMENT:
        unknown = {
            **dict.fromkeys(FIELDS, np.nan),
            "total": float(cv2.magnitude(right, down).mean()) * per_second,
            "agreement": look.agreement,
            "unexplained": unexplained,
        }
        return unknown, nowhere
    matrix = look.matrix
    camera_x = (matrix[0, 0] * x + matrix[0, 1] * y + (matrix[0, 2] - x)).astype(np.float32)
    camera_y = (matrix[1, 0] * x + matrix[1, 1] * y + (matrix[1, 2] - y)).astype(np.float32)
    speed = cv2.magnitude(camera_x, camera_y)
    residual = cv2.magnitude(right - camera_x, down - camera_y)
    to_x, to_y = x + camera_x, y + camera_y
    seen = (to_x >= 2) & (to_x < width - 2) & (to_y >= 2) & (to_y < height - 2)
    moving = seen & (residual > STILL_PIXELS + PARALLAX * speed) & (look.off > 1)
    enough = int(moving.sum()) >= FEWEST_POINTS
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = matrix[:, :2] @ middle + matrix[:, 2] - middle
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    total = np.where(moving, cv2.magnitude(right, down), speed)
    subject, verified = (
        _subject(before, after, _at_grid(slopes.steep), flow, moving, look)
        if enough
        else (0.0, 0.0)
    )
    found = {
        "total": float(total.mean()) * per_second,
        "camera": float(speed.mean()) * per_second,
        "agreement": look.agreement,
        "subject": subject * per_second,
        "subject_share": verified * _share(moving),
        # The picture moves against the camera.
        "pan_x": -float(shift[0]) * per_second,
        "pan_y": -float(shift[1]) * per_second,
        "zoom": float(np.log(max(scale, 1e-3))) / seconds,
        "roll": -float(np.arctan2(matrix[1, 0], matrix[0, 0])) / seconds,
        "unexplained": unexplained,
    }
    cells = np.zeros((whole // GRID + 1, wide // GRID + 1), np.float32)
    top, left = inside[0].start // GRID, inside[1].start // GRID
    cells[top : top + moving.shape[0], left : left + moving.shape[1]] = moving * verified
    cells = cv2.resize(cells, (CELLS_KEPT, CELLS_KEPT), interpolation=cv2.INTER_AREA)
    return found, np.rint(cells * 255).astype(np.uint8).ravel()


def summarise_motion(rows: Columns) -> dict[str, float]:
    """Scores of a span from the pairs that lie wholly in it."""
    inside = ~np.isnan(rows["pair_s"]) & ~np.isnan(rows["total"])
    inside &= rows["time"] - np.nan_to_num(rows["pair_s"]) >= rows["time"][0] - 1e-6
    if not inside.any():
        return dict.fromkeys(NAMES, np.nan)
    pair = {name: rows[name][inside] for name in FIELDS}
    seconds = rows["pair_s"][inside]
    known = ~np.isnan(pair["camera"])
    result = {f"motion.{n}": float(np.average(pair[n], weights=seconds)) for n in _OF_ALL}
    result["motion.camera_confidence"] = float(np.average(known, weights=seconds))
    if not known.any():
        return {**dict.fromkeys(NAMES, np.nan), **result}
    pair, seconds = {name: values[known] for name, values in pair.items()}, seconds[known]
    result |= {f"motion.{n}": float(np.average(pair[n], weights=seconds)) for n in _OF_CAMERA}
    result["motion.shake"] = camera_shake(pair["pan_x"], pair["pan_y"])
    result["motion.smoothness"] = motion_smoothness(pair["subject"])
    result["motion.ramp"] = speed_ramp(pair["total"], seconds)
    return result


def motion_map(rows: Columns) -> Floats:
    """How much moves by itself in each part of the picture: [CELLS_KEPT, CELLS_KEPT], 0 to 1."""
    inside = ~np.isnan(rows["camera"])
    if not inside.any():
        return np.zeros((CELLS_KEPT, CELLS_KEPT))
    found: Floats = (rows["moving"][inside].mean(axis=0) / 255).reshape(CELLS_KEPT, CELLS_KEPT)
    return found


def camera_shake(pan_x: Floats, pan_y: Floats) -> float:
    """Mean speed of the camera against its own average over five pairs (0.6 s)."""
    steady = [_average(values, 5) for values in (pan_x, pan_y)]
    return float(np.hypot(pan_x - steady[0], pan_y - steady[1]).mean())


def motion_smoothness(speed: Floats) -> float:
    """1 - mean |change of speed| / (sum of the two speeds): 1 is steady, 0 is stop and go."""
    both = speed[1:] + speed[:-1]
    moves = both > 0
    if not moves.any():
        return np.nan
    return float(1 - np.average(np.abs(np.diff(speed))[moves] / both[moves], weights=both[moves]))


def speed_ramp(total: Floats, seconds: Floats) -> float:
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
    flow = _flow().calc(before, after, None)  # type: ignore[call-overload]  # OpenCV takes None and scalars that its stubs do not
    found: Floats = flow[:height, :width]
    return found


def _unexplained(before: Bytes, after: Bytes, flow: Floats) -> float:
    """Mean |before - after brought back along the flow| over the contrast of `before`.

    Of every other pixel of every other line: it is a mean, and theirs is the same.
    """
    places = flow[::2, ::2] + _pixels(*before.shape)
    back = cv2.remap(  # type: ignore[call-overload]  # OpenCV takes None and scalars that its stubs do not
        after, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    contrast = float(cv2.meanStdDev(before)[1][0, 0])
    value: float = min(
        1.0, cv2.norm(before[::2, ::2], back, cv2.NORM_L1) / back.size / (contrast + 4)
    )
    return value


@lru_cache(maxsize=8)
def _pixels(height: int, width: int) -> Floats:
    y, x = np.mgrid[:height:2, :width:2]
    return np.stack([x, y], -1).astype(np.float32)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> Floats:
    """Columns and lines of the points that are looked at: float32 [2, h / GRID, w / GRID]."""
    y, x = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID]
    return np.stack([x, y]).astype(np.float32)


def _within_bars(before: Bytes, after: Bytes) -> tuple[slice, slice]:
    """Lines and columns inside the black bars that both have; all when one is all dark."""
    height, width = before.shape
    ends = [borders.measure_borders(picture) for picture in (before, after)]
    sides = {side: min(end[side] for end in ends) for side in ends[0]}
    if np.isnan(sum(end[side] for end in ends for side in sides)) or not any(sides.values()):
        return slice(0, height), slice(0, width)
    # To whole grid steps, and a line more: the edge of a bar is blurred.
    top, bottom = (_steps(sides[side] * height) for side in ("top", "bottom"))
    left, right = (_steps(sides[side] * width) for side in ("left", "right"))
    return slice(top, height - bottom), slice(left, width - right)


def _steps(pixels: float) -> int:
    return GRID * int(np.ceil((round(pixels) + 1) / GRID)) if round(pixels) else 0


def _slopes(gray: Bytes) -> _Slopes:
    right, down = (
        cv2.Sobel(gray, cv2.CV_32F, *order, scale=1 / 8)[::2, ::2] for order in ((1, 0), (0, 1))
    )
    right, down = np.ascontiguousarray(right), np.ascontiguousarray(down)
    return _Slopes(right, down, cv2.blur(cv2.magnitude(right, down), (3, 3)))


def _at_grid(halved: Floats) -> Floats:
    """Of a map of every other pixel, what lies at the grid's points."""
    return halved[GRID // 4 :: GRID // 2, GRID // 4 :: GRID // 2]


def _camera(before: Bytes, after: Bytes, slopes: _Slopes, right: Floats, down: Floats) -> _Look:
    """The camera that most of the rim follows; right, down: the flow at the grid's points.

    A person before a plain wall is also one consistent motion, and may fill most of the picture;
    what is behind reaches to the rim.
    """
    x, y = _grid(*before.shape)
    steep = _at_grid(slopes.steep)
    strong = float(np.partition(steep.ravel(), k := int(0.95 * (steep.size - 1)))[k])
    voters = _rim(*x.shape) & (steep > max(LEAST_SLOPE, SLOPE_SHARE * strong))
    points = np.stack([x[voters], y[voters]], -1)
    shifts = np.stack([right[voters], down[voters]], -1)
    rest = np.eye(2, 3)
    if len(points) < 12:
        return _looks(before, after, steep, voters, [rest])[0]
    length = cv2.magnitude(shifts[:, 0], shifts[:, 1]).ravel()
    middle = float(np.partition(length, len(length) // 2)[len(length) // 2])
    if middle < AT_REST:
        look = _looks(before, after, steep, voters, [rest])[0]
        if look.agreement > 0.9:
            return look
    every = 1 + len(points) // 400
    few = points[::every].copy()
    matrix, _ = cv2.estimateAffinePartial2D(
        few,
        few + shifts[::every],
        method=cv2.RANSAC,
        ransacReprojThreshold=STILL_PIXELS + 0.05 * middle,
        maxIters=200,
        confidence=0.99,
    )
    guesses = [rest] if matrix is None else [rest, _aligned(before, after, slopes, matrix)]
    return min(_looks(before, after, steep, voters, guesses), key=lambda look: look.cost)


@lru_cache(maxsize=8)
def _rim(rows: int, columns: int) -> Bools:
    """Which grid points lie in the outer cells."""
    row, column = _cell_of(rows, columns)
    found: Bools = (row % (CELLS - 1) == 0) | (column % (CELLS - 1) == 0)
    return found


@lru_cache(maxsize=8)
def _cell_of(rows: int, columns: int) -> tuple[Floats, Floats]:
    row, column = np.mgrid[:rows, :columns]
    return row * CELLS // rows, column * CELLS // columns


def _aligned(before: Bytes, after: Bytes, slopes: _Slopes, matrix: Floats) -> Floats:
    """The transform nearest to `matrix` under which the pixels themselves agree.

    Gauss-Newton over the four numbers of a similarity, each pixel weighed down by how far it is
    off (Cauchy), so that the subject hardly counts.
    """
    height, width = before.shape
    every = np.ascontiguousarray(before[::2, ::2])
    steepest = _steepest(slopes, height, width)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]).T
    # From pixels to half heights from the middle.
    frame = (
        np.array([[2, 0, -(width - 1)], [0, 2, -(height - 1)], [0, 0, height]], np.float64) / height
    )
    unframe, ridge, step = np.linalg.inv(frame), np.eye(4), np.eye(3)
    whole = np.vstack([matrix, [0, 0, 1]])
    at = whole[:2] @ corners
    for _ in range(STEPS):
        off = _difference(every, after, whole[:2]).ravel()
        some = np.abs(off[::SPARSE])  # its middle is near enough to that of all
        spread = max(2.0, 3 * float(np.partition(some, some.size // 2)[some.size // 2]))
        ratio = off * np.float32(1 / spread)
        weighed = steepest * (1 / (1 + ratio * ratio))
        square = (weighed @ steepest.T).astype(np.float64)
        square += (1e-6 * np.trace(square) + 1e-6) * ridge
        _, answer = cv2.solve(square, -(weighed @ off).astype(np.float64).reshape(4, 1))
        right, down, grow, turn = answer.ravel().tolist()
        step[:2] = cv2.invertAffineTransform(
            np.array([[1 + grow, -turn, right], [turn, 1 + grow, down]])
        )
        last = at
        whole = whole @ unframe @ step @ frame
        at = whole[:2] @ corners
        if np.abs(at - last).max() < SETTLED:
            break
    moved = np.abs((whole[:2] - matrix) @ corners).max()
    # Further than the flow can be off, it has fallen into another hollow.
    near = np.isfinite(moved) and moved < 4 + 0.2 * np.abs(matrix @ corners - corners[:2]).max()
    return whole[:2] if near else matrix


def _steepest(slopes: _Slopes, height: int, width: int) -> Floats:
    """How the level of every other pixel changes with the four numbers of a similarity: [4, n].

    Lengths are in half heights from the middle. What changes over larger parts is left out, as
    `_difference` does.
    """
    x, y = (
        ((np.arange(0, length, 2) - (length - 1) / 2) * (2 / height)).astype(np.float32)
        for length in (width, height)
    )
    right, down = slopes.right * (height / 2), slopes.down * (height / 2)
    y = y[:, None]
    rows = [right, down, right * x + down * y, down * x - right * y]
    return np.stack([(row - cv2.blur(row, AROUND)).ravel() for row in rows])


def _difference(every: Bytes, after: Bytes, matrix: Floats) -> Floats:
    """before - after as the camera would have it; every: every other pixel and line of before.

    Without what light changes over larger parts.
    """
    take = np.asarray(matrix, np.float64) @ np.diag([2.0, 2.0, 1.0])
    # What comes from outside of `after` is left as it is in `before`: no difference.
    steady = cv2.warpAffine(
        after,
        take,
        every.shape[::-1],
        every.copy(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    off = cv2.subtract(every, steady, dtype=cv2.CV_32F)
    return cv2.subtract(off, cv2.blur(off, AROUND))


def _looks(
    before: Bytes, after: Bytes, steep: Floats, voters: Bools, guesses: list[Floats]
) -> list[_Look]:
    height, width = before.shape
    every = np.ascontiguousarray(before[::2, ::2])
    x, y = _grid(height, width)
    raw = [np.abs(_difference(every, after, matrix)) for matrix in guesses]
    offs = [_at_grid(cv2.blur(off, (3, 3))) for off in raw]
    # What the better guess leaves in the quieter fifth is noise.
    noise = min(float(np.partition(off.ravel(), off.size // 5)[off.size // 5]) for off in offs)
    row, column = _cell_of(*x.shape)
    cell = row * CELLS + column
    found = []
    for matrix, difference, off in zip(guesses, raw, offs, strict=True):
        to_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
        to_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
        here = voters & (to_x >= 2) & (to_x < width - 2) & (to_y >= 2) & (to_y < height - 2)
        relative = off / (SAME_LEVELS + 2 * noise + SAME_PIXELS * steep)
        votes = np.bincount(cell[here], minlength=CELLS**2)
        follow = np.bincount(cell[here], relative[here] <= 1, minlength=CELLS**2)
        told = votes >= FEWEST_VOTES
        enough = int(told.sum()) >= FEWEST_CELLS
        agreement = float((follow[told] / votes[told]).mean()) if enough else 0.0
        cost = float(np.minimum(relative[here], 3).mean()) if enough else 3.0
        found.append(_Look(matrix, difference, relative, agreement, cost))
    return found


def _subject(
    before: Bytes, after: Bytes, steep: Floats, flow: Floats, moving: Bools, look: _Look
) -> tuple[float, float]:
    """Speed of what moves, pixels a pair, and the share of `moving` that does.

    Dense flow is smeared over the edges of what is small, so the steepest places are followed one
    by one, from where the flow is (Lucas and Kanade 1981, in pyramids). Those that are found
    where the camera takes them, or that look no better anywhere else, did not move.
    """
    rows, columns = np.nonzero(moving)
    best = np.argsort(-steep[rows, columns], kind="stable")[:FOLLOWED]
    x, y = columns[best] * GRID + GRID // 2, rows[best] * GRID + GRID // 2
    points = np.stack([x, y], -1).astype(np.float32)
    guess = points + flow[y, x]
    seen, good, left = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points,
        guess.copy(),
        winSize=(PATCH, PATCH),
        maxLevel=1,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    matrix = look.matrix
    still = points @ matrix[:, :2].T + matrix[:, 2]
    residual = np.hypot(*(seen - still).T)
    pixels = np.hypot(*(still - points).T)
    around = (PATCH // 2 + 1, PATCH // 2 + 1)
    steady = cv2.blur(look.difference, around)[y // 2, x // 2]
    moves = (good.ravel() > 0) & (residual > STILL_PIXELS + PARALLAX * pixels)
    moves &= left.ravel() < BETTER * steady
    if int(moves.sum()) < FEWEST_POINTS:
        return 0.0, 0.0
    speeds = np.sort(residual[moves])
    place = 0.7 * (len(speeds) - 1)
    speed = float(np.interp(place, np.arange(len(speeds)), speeds))
    return speed, float(moves.mean())


def _share(moving: Bools) -> float:
    """Area of the moving points with the holes that flat texture leaves in them closed."""
    kernel = np.ones((5, 5), np.uint8)
    closed = cv2.morphologyEx(np.pad(moving.astype(np.uint8), 4), cv2.MORPH_CLOSE, kernel)
    return float(closed.sum() / moving.size)
