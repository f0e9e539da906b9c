"""Dissolves and fades: where a picture is a mixture of an earlier and a later one."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 16  # thumbnails of this many pixels squared: motion blurs out, mixtures stay
REACH = Fraction(1, 2)  # seconds from a mixture's middle to its ends, at the shortest
STEP = Fraction(1, 13)  # seconds between looks: a dissolve shows in a dozen of them
LEAST_LOOKS = 8  # in the window: two looks a second cannot tell a mixture from a jump
MIN_CHANGE = 14.0  # of 255: root mean square between the ends; less is no other shot
MAX_RESIDUAL = 0.18  # of that change: how far the middle may be from the ends' mean


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
        # Every quarter must be the mixture of its share: a cut inside the window is a step.
        for share in (0.25, 0.5, 0.75):
            at = window[round(share * (len(window) - 1))]
            weight = float((at[0] - first[0]) / (last[0] - first[0]))
            mixture = first[1] * (1 - weight) + last[1] * weight
            if _rms(at[1] - mixture) > MAX_RESIDUAL * change:
                return
        if self._spans and first[0] <= self._spans[-1][1]:
            self._spans[-1] = (self._spans[-1][0], last[0])
        else:
            self._spans.append((first[0], last[0]))

    def found(self) -> list[tuple[Fraction, Fraction]]:
        """(start, end) of soft transitions, ascending, in seconds from the first frame."""
        return list(self._spans)


def _rms(difference: npt.NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.sqrt(np.mean(difference * difference)))
