"""Text: titles, subtitles, captions and logos that were laid over the picture.

Found and read by RapidOCR, whose models come in its wheel; what it finds but cannot read is
mostly texture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from realdpo.curate.box import Box
from realdpo.curate.scores.types import Bytes, Floats
from realdpo.errors import UserError

LEAST_CONFIDENCE, LEAST_CHARACTERS = 0.6, 2
# A static overlay lies at one place in at least this share of the frames.
GRID, STATIC = 64, 0.8

NAMES = ("text.area", "text.share", "text.static")


def require_text() -> None:
    """Raises UserError when RapidOCR is not installed."""
    try:
        import rapidocr_onnxruntime  # noqa: F401 - is it installed?
    except ImportError:
        raise UserError("the text scores need RapidOCR", "pip install 'realdpo[text]'") from None


def find_text(rgb: Bytes) -> Floats:
    """Where there is text: a map [GRID, GRID] of 0 and 1 over the picture."""
    height, width = rgb.shape[:2]
    found, _ = _reader()(np.ascontiguousarray(rgb[..., ::-1]))
    cover = np.zeros((GRID, GRID), np.uint8)
    for box, words, confidence in found or []:
        letters = sum(letter.isalnum() for letter in words)
        if float(confidence) < LEAST_CONFIDENCE or letters < LEAST_CHARACTERS:
            continue
        corners = np.asarray(box, np.float64) * (GRID / width, GRID / height)
        cv2.fillPoly(cover, [np.floor(corners).astype(np.int32)], 1)
    return cover.astype(np.float64)


def text_in_crop(cover: Floats, box: Box) -> Floats:
    """The map of a part of the picture."""
    rows = slice(round(box.top * GRID), max(round(box.top * GRID) + 1, round(box.bottom * GRID)))
    left = round(box.left * GRID)
    return cover[rows, left : max(left + 1, round(box.right * GRID))]


def summarise_text(frames: Sequence[Floats]) -> dict[str, float]:
    """area: mean share of the picture under text. share: of frames with any. static: share of
    the picture that is under text nearly always, as station logos and subtitles' places are."""
    cover = np.stack(list(frames))
    return {
        "text.area": float(cover.mean()),
        "text.share": float((cover.max(axis=(1, 2)) > 0).mean()),
        "text.static": float((cover.mean(axis=0) >= STATIC).mean()) if len(cover) > 1 else np.nan,
    }


@lru_cache(maxsize=1)
def _reader() -> Any:
    from rapidocr_onnxruntime import RapidOCR

    return RapidOCR(use_cls=False, intra_op_num_threads=1)
