"""Detail: sharpness, noise, codec blocks and interlacing, of the full-size picture."""

from __future__ import annotations

import cv2
import numpy as np

from realdpo.curate.scores.types import Bytes, Columns

SHARPNESS_LINES = 360
# Noise and blocks are read from a window of this size in the middle: the rest adds only time.
WINDOW = 512
COMB_LEVELS = 12

NAMES = ("detail.sharpness", "detail.noise", "detail.blocking", "detail.combing")
FIELDS = ("sharpness", "noise", "blocking", "combing")

_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def of_frame(luma: Bytes) -> dict[str, float]:
    """Numbers of one picture. luma: uint8 [H, W] at full size."""
    window = _middle(luma)
    return {
        "sharpness": sharpness(luma),
        "noise": noise(window),
        "blocking": blocking(window),
        "combing": combing(window),
    }


def summary(rows: Columns) -> dict[str, float]:
    """Medians over the span; combing, which needs motion to show, at its upper decile."""
    values = {name: rows[name][~np.isnan(rows[name])] for name in FIELDS}
    if not len(values["noise"]):
        return dict.fromkeys(NAMES, np.nan)
    result = {f"detail.{name}": float(np.median(values[name])) for name in FIELDS}
    result["detail.combing"] = float(np.quantile(values["combing"], 0.9))
    return result


def sharpness(luma: Bytes) -> float:
    """1 - the perceptual blur of Crete et al. 2007, in [0, 1]; independent of contrast.

    A sharp picture loses much of its variation between neighbours to a 9-tap blur, a blurred
    one loses little. The better of the two directions counts, so motion blur along one axis is
    not taken for lack of focus.
    """
    height, width = luma.shape
    lines = min(height, width)
    if lines > SHARPNESS_LINES:
        scale = SHARPNESS_LINES / lines
        size = (round(width * scale), round(height * scale))
        luma = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    picture = luma.astype(np.float32)
    kept = []
    for axis, kernel in ((0, (1, 9)), (1, (9, 1))):
        sharp = np.abs(np.diff(picture, axis=axis))
        soft = np.abs(np.diff(cv2.blur(picture, kernel), axis=axis))
        total = float(sharp.sum())
        if total > 0:
            kept.append(float(np.maximum(sharp - soft, 0).sum()) / total)
    return max(kept, default=0.0)


def noise(luma: Bytes) -> float:
    """Standard deviation of noise in levels: Immerkaer 1996, on the flattest tenth of the tiles.

    Texture passes the Laplacian too, so only the tiles where it is weakest are believed.
    """
    if min(luma.shape) < 3:
        return np.nan
    response = np.abs(cv2.filter2D(luma.astype(np.float32), -1, _LAPLACE))[1:-1, 1:-1]
    tiles = cv2.resize(
        response,
        (max(1, response.shape[1] // 16), max(1, response.shape[0] // 16)),
        interpolation=cv2.INTER_AREA,
    )
    return float(np.sqrt(np.pi / 2) / 6 * np.quantile(tiles, 0.1))


def blocking(luma: Bytes) -> float:
    """How much larger steps on the 8 x 8 grid are than those beside it, 0 for none.

    After Wang, Sheikh and Bovik 2002. Upscaling moves the grid and hides it.
    """
    picture = luma.astype(np.float32)
    excess = []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture, axis=axis)).mean(axis=1 - axis)
        if len(steps) < 24:
            continue
        phase = np.arange(len(steps)) % 8
        beside = float(steps[(phase != 7)].mean())
        excess.append(float(steps[phase == 7].mean()) / max(beside, 0.25) - 1)
    return max(0.0, float(np.mean(excess))) if excess else np.nan


def combing(luma: Bytes) -> float:
    """Share of pixels that differ from the lines above and below while those two agree."""
    picture = luma.astype(np.int16)
    up, down = picture[1:-1] - picture[:-2], picture[1:-1] - picture[2:]
    torn = (
        (np.minimum(np.abs(up), np.abs(down)) > COMB_LEVELS)
        & ((up > 0) == (down > 0))
        & (np.abs(picture[:-2] - picture[2:]) < COMB_LEVELS // 2)
    )
    # One torn line is texture; a comb is torn in three neighbouring lines, in turn up and down.
    comb = torn[:-2] & torn[1:-1] & torn[2:] & ((up[:-2] > 0) != (up[1:-1] > 0))
    return float(comb.mean()) if comb.size else 0.0


def _middle(luma: Bytes) -> Bytes:
    # The window starts on a multiple of 8, so that the codec's grid keeps its phase.
    height, width = luma.shape
    top = max(0, (height - WINDOW) // 2) // 8 * 8
    left = max(0, (width - WINDOW) // 2) // 8 * 8
    return luma[top : top + WINDOW, left : left + WINDOW]
