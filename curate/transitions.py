"""Dissolves and fades: where a picture is a mixture of an earlier and a later one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 16  # thumbnails of this many pixels squared: motion blurs out, mixtures stay
STEP = Fraction(3, 100)  # seconds between looks: every frame up to 33 a second
BLOCK = 384  # looks that are searched at once: 13 seconds or more
LEAST_LOOKS = 4  # from a window's first to its last: a blended frame at a cut is no dissolve
LEAST_RATE = 8  # looks a second: fewer cannot tell a mixture from a jump
POINTS = 8  # steps in which a window is looked through
MIN_CHANGE = 14.0  # of 255: root mean square between the ends; less is no other shot
BAR = 24  # of 255: black bars are no brighter
FLAT = 6.0  # of 255: standard deviation of a picture that shows nothing

# Lengths in seconds, and how far a picture between the ends may be from their mixtures, of the
# change; the latter figure where contrast sinks as in a mixture. Half of the demo's films, panned
# over, zoomed into and lit as in benchmarks/transitions.py, have 0.41 at least, the other half
# 0.46, where the ends are of two shots and the picture is at rest beside; short windows are
# stricter, little moves in them. In long ones with sinking contrast none has less than 0.65.
WINDOWS = ((0.24, 0.26, 0.26), (0.36, 0.26, 0.26), (0.56, 0.35, 0.47), (0.84, 0.35, 0.47),
           (1.25, 0.35, 0.47), (1.9, 0.35, 0.47), (2.6, 0.35, 0.47))  # fmt: skip
# A shot that moves on while it dissolves leads away from all mixtures of its ends. Yet half and
# half of two unrelated pictures has half their power, whatever moves, and a camera that turns
# from one to the other keeps it, or loses all of it before a wall: what is lost, of the loss in
# a mixture. At a hard cut inside a moving shot one step of the eight is larger than JUMP.
SINKS = (0.9, 1.3)
JUMP = 0.4
SAME = 0.5  # correlation of two pictures of one shot; from here to 0.6 motion comes to 0.28
# Where a transition ends the change ends: of that, how much the pictures beside the window may
# differ from its end, on one side. In the same films' dissolves 0.34 at most, when a grid of
# squares is panned over, whose every step is a mixture, 0.54 at least.
REST = 0.45
BESIDE = 20  # looks: so far beside a window, or its own length
LONGEST_FADE = 1.3  # seconds from a flat picture to a whole one; then motion changes contrast
EDGE = 0.1  # share of the other shot with which a transition begins

# For pieces that the finder let pass: pictures of other shots, and the change between them.
UNRELATED = 0.35  # correlation below which two pictures show different things
LONGEST = 2.5  # seconds that one transition takes
MAX_STRAY = 0.25  # of the change: how far a picture inside may be from any mixture
# The median change of a cell, as a share of the mean square: of 3,464 pairs of pictures from
# different films one in a hundred has less than 0.34. Somebody who walks through a room changes
# few cells, and those much.
MIN_SPREAD = 0.3


class DissolveFinder:
    """Collects soft transitions from the same stream of frames as everything else.

    In a cross-dissolve from A to B every frame is near a mixture of both, and B's share grows.
    In a moving shot the frames lead away from all mixtures of its ends, at a hard cut none is
    between them. Means are taken out first, so light that swells and dims changes nothing. At
    a fade one end is flat; then the contrast alone tells the share, whatever moves.
    """

    def __init__(self) -> None:
        self._times: list[Fraction] = []
        self._pictures: list[npt.NDArray[np.uint8]] = []
        self._spans: list[tuple[Fraction, Fraction]] = []

    def feed(self, time: Fraction, rgb: npt.NDArray[np.uint8]) -> None:
        """The next frame: uint8 [H, W, 3]."""
        import cv2
        import numpy as np

        if self._times and time - self._times[-1] < STEP:
            return
        self._times.append(time)
        # Cells of whole pixels, without up to 15 at the rim: a third of the time.
        height, width = (max(n // SIDE * SIDE, min(n, SIDE)) for n in rgb.shape[:2])
        small = cv2.resize(rgb[:height, :width], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        self._pictures.append(small.astype(np.uint8))
        if len(self._times) >= BLOCK:
            self._spans = _union(self._spans + self._search())
            # Whatever begins a longest window before the last looks has been seen from all sides.
            known = bisect_left(self._times, time - Fraction(WINDOWS[-1][0])) - 2 * BESIDE
            del self._times[:known], self._pictures[:known]

    def found(self) -> list[tuple[Fraction, Fraction]]:
        """(start, end) of soft transitions, ascending, in seconds from the first frame."""
        return _union(self._spans + self._search())

    def _search(self) -> list[tuple[Fraction, Fraction]]:
        """Soft transitions among the looks at hand, once for every window that shows one."""
        import numpy as np

        if len(self._times) <= LEAST_LOOKS:
            return []
        inside = _inside_bars(np.stack(self._pictures))
        cells = inside.reshape(len(self._times), -1, 3).astype(np.float32)
        cells -= cells.mean(axis=1, keepdims=True)
        flattened = cells.reshape(len(cells), -1)
        # Every distance and share below follows from the products of the pictures.
        product = flattened @ flattened.T / np.float32(flattened.shape[1])
        times = np.array([float(time) for time in self._times])
        spans = []
        for seconds, allowed, sinking in WINDOWS:
            for start, end in _mixtures(product, times, seconds, allowed, sinking):
                spans.append((self._times[start], self._times[end]))
        return spans


def _inside_bars(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pictures [N, H, W, 3] without rows and columns at the rim that are always dark.

    Black bars are the same in every shot, and beside them no picture is flat.
    """
    import numpy as np

    bright = pictures.max(axis=(0, 3)) > BAR
    for axis in (1, 2):
        seen = np.flatnonzero(bright.any(axis=2 - axis))
        if not len(seen):
            return pictures
        size = pictures.shape[axis]
        # The first row that is seen may be in part bar.
        first = seen[0] + 1 if seen[0] else 0
        end = seen[-1] if seen[-1] < size - 1 else size
        if end - first >= SIDE // 4:
            pictures = pictures.take(np.arange(first, end), axis=axis)
    return pictures


def _likely(
    product: npt.NDArray[np.float32], times: npt.NDArray[np.float64], seconds: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First and last looks [N, 1] of the windows whose ends can be those of a transition."""
    import numpy as np

    last = np.searchsorted(times, times + seconds - 1e-6)
    first = np.flatnonzero(last < len(times))
    last = last[first]
    power = np.diag(product)
    one, two = power[first], power[last]
    change = one + two - 2 * product[first, last]
    beside = np.minimum(last - first, BESIDE)
    before, after = np.maximum(first - beside, 0), np.minimum(last + beside, len(times) - 1)
    moved = np.minimum(
        np.where(first < beside, np.inf, one + power[before] - 2 * product[first, before]),
        np.where(last + beside > after, np.inf, two + power[after] - 2 * product[last, after]),
    )
    likely = (product[first, last] < SAME * np.sqrt(one * two)) & (moved < REST**2 * change)
    if seconds <= LONGEST_FADE:
        likely |= np.minimum(one, two) < FLAT**2
    likely &= change > MIN_CHANGE**2
    likely &= last - first >= max(LEAST_LOOKS, LEAST_RATE * seconds)
    return first[likely, None], last[likely, None]


def _mixtures(
    product: npt.NDArray[np.float32],
    times: npt.NDArray[np.float64],
    seconds: float,
    allowed: float,
    sinking: float,
) -> list[tuple[int, int]]:
    """First and last look of the transitions that windows of one length show."""
    import numpy as np

    first, last = _likely(product, times, seconds)
    power = np.diag(product)
    one, two = power[first], power[last]
    change = one + two - 2 * product[first, last]
    flat = (np.minimum(one, two) < FLAT**2) & (seconds <= LONGEST_FADE)
    between = first + np.round((last - first) * np.arange(1, POINTS) / POINTS).astype(int)
    grown = product[between, last] - product[between, first] - product[first, last] + one
    share = grown / change
    mixed = np.clip(share, 0, 1)
    stray = power[between] + one - 2 * product[between, first] - 2 * mixed * grown
    stray = np.sqrt(np.maximum(stray + mixed**2 * change, 0).max(axis=1, keepdims=True) / change)
    contrast = np.sqrt(power[between] / np.maximum(one, two))
    share = np.where(flat, np.where(one < two, contrast, 1 - contrast), share)
    looks = np.hstack([first, between, last])
    share = np.hstack([np.zeros_like(change), share, np.ones_like(change)])
    inside = (share > 0.15) & (share < 0.85) & (np.diff(looks, axis=1, prepend=-1) > 0)
    steps = np.diff(share, axis=1)
    grows = steps.min(axis=1) > -0.1
    fall = (1 - mixed) * one + mixed * two - power[between]
    fall /= np.maximum(mixed * (1 - mixed) * change, 1e-6)
    sinks = (((fall > SINKS[0]) & (fall < SINKS[1])) | ~inside[:, 1:-1]).all(axis=1)
    sinks &= steps.max(axis=1) < JUMP
    near = stray < np.where(sinks[:, None], sinking, allowed)
    sure = (flat | near)[:, 0] & grows & (inside.sum(axis=1) >= 2)

    spans = []
    for at, part in zip(looks[sure], share[sure], strict=True):
        begin, end = np.flatnonzero(part <= EDGE)[-1], np.flatnonzero(part >= 1 - EDGE)[0]
        start = np.interp(EDGE, part[begin : begin + 2], at[begin : begin + 2])
        finish = np.interp(1 - EDGE, part[end - 1 : end + 1], at[end - 1 : end + 1])
        spans.append((int(np.floor(start)), int(np.ceil(finish))))
    return spans


def _union(spans: list[tuple[Fraction, Fraction]]) -> list[tuple[Fraction, Fraction]]:
    """The same stretches of time, ascending and apart."""
    apart: list[tuple[Fraction, Fraction]] = []
    for start, end in sorted(spans):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def crossed(table: Mapping[str, Any], start_s: float, end_s: float) -> bool:
    """Whether a piece begins in one shot and ends in another: the reason `transition`.

    table: the stored numbers of `curate.scores`, whose thumbs show eight pictures a second. The
    pictures at both ends must be unrelated, and somewhere inside one must turn into the other
    as a mixture, nearly everywhere at once; a camera that turns away or a person who walks
    through the picture does not do that.
    """
    import numpy as np

    from realdpo.curate.dedup import picture

    rows = table["sampled"] & (table["time"] >= start_s - 1e-6) & (table["time"] < end_s - 1e-6)
    times, cells = table["time"][rows], table["thumb"][rows].astype(np.float32)
    if len(times) < 4:
        return False
    views = picture(cells)
    if float(views[:2].mean(axis=0) @ views[-2:].mean(axis=0)) > UNRELATED:
        return False
    for first in range(len(times)):
        for last in range(first + 3, len(times)):
            if times[last] - times[first] > LONGEST:
                break
            change = cells[last] - cells[first]
            size = _rms(change)
            if size < MIN_CHANGE or float(views[first] @ views[last]) >= UNRELATED:
                continue
            if float(np.median(np.abs(change))) < MIN_SPREAD * size:
                continue
            between = cells[first + 1 : last] - cells[first]
            share = np.clip(between @ change / (change @ change), 0, 1)
            stray = between - share[:, None] * change
            mixed = ((share > 0.2) & (share < 0.8)).sum() >= 2
            if mixed and all(_rms(row) <= MAX_STRAY * size for row in stray):
                return True
    return False


def _rms(difference: npt.NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.sqrt(np.mean(difference * difference)))
