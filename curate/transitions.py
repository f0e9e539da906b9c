"""Dissolves and fades: where a picture is a mixture of an earlier and a later one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 16  # thumbnails of this many pixels squared: motion blurs out, mixtures stay
REACH = Fraction(1, 2)  # seconds from a mixture's middle to its ends, at the shortest
STEP = Fraction(1, 13)  # seconds between looks: a dissolve shows in a dozen of them
LEAST_LOOKS = 8  # in the window: two looks a second cannot tell a mixture from a jump
MIN_CHANGE = 14.0  # of 255: root mean square between the ends; less is no other shot
MAX_RESIDUAL = 0.18  # of that change: how far the middle may be from the ends' mean

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

    In a cross-dissolve from A to B the frame halfway is their mean, so its distance from
    (A + B) / 2 is small against |A - B|. In a moving shot it is about as large as the change
    itself, and beside a hard cut it is exactly half of |A - B|. A fade is a dissolve with black.
    """

    def __init__(self) -> None:
        self._window: deque[tuple[Fraction, npt.NDArray[np.float32]]] = deque()
        self._spans: list[tuple[Fraction, Fraction]] = []

    def feed(self, time: Fraction, rgb: npt.NDArray[np.uint8]) -> None:
        """The next frame: uint8 [H, W, 3]."""
        import cv2
        import numpy as np

        window = self._window
        if window and time - window[-1][0] < STEP:
            return
        small = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        window.append((time, small))
        while len(window) > 2 and time - window[1][0] >= 2 * REACH:
            window.popleft()
        first, last = window[0], window[-1]
        if last[0] - first[0] < 2 * REACH or len(window) < LEAST_LOOKS:
            return
        change = _rms(last[1] - first[1])
        if change < MIN_CHANGE:
            return
        # Everything between must be a mixture of the ends, growing, and not all of it one end.
        change_vector = last[1] - first[1]
        between = np.stack([picture for _, picture in window])[1:-1] - first[1]
        share = (between * change_vector).sum(axis=(1, 2, 3)) / (change_vector**2).sum()
        mixed = np.clip(share, 0, 1)[:, None, None, None] * change_vector
        stray = np.sqrt(((between - mixed) ** 2).mean(axis=(1, 2, 3)))
        inside = (share > 0.2) & (share < 0.8)
        if stray.max() > MAX_RESIDUAL * change or inside.sum() < 2 or np.diff(share).min() < -0.1:
            return
        steps = np.concatenate([[0.0], share, [1.0]])
        start = window[int(np.flatnonzero(steps <= 0.05)[-1])][0]
        end = window[int(np.flatnonzero(steps >= 0.95)[0])][0]
        if self._spans and start <= self._spans[-1][1]:
            self._spans[-1] = (min(start, self._spans[-1][0]), max(end, self._spans[-1][1]))
        else:
            self._spans.append((start, end))

    def found(self) -> list[tuple[Fraction, Fraction]]:
        """(start, end) of soft transitions, ascending, in seconds from the first frame."""
        return list(self._spans)


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
