"""Detail: sharpness, noise, codec blocks and interlacing, of the full-size picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from realdpo.curate.scores.types import Bytes, Columns

SHARPNESS_LINES = 360
# Noise and blocks are read from a window of this size in the middle: the rest adds only time.
WINDOW = 512
COMB_LEVELS = 12
TILE = 16

NAMES = ("detail.sharpness", "detail.noise", "detail.blocking", "detail.combing")
FIELDS = ("sharpness", "noise", "blocking", "combing")


def measure_detail(luma: Bytes) -> dict[str, float]:
    """Numbers of one picture. luma: uint8 [H, W] at full size."""
    window = _middle(luma)
    return {
        "sharpness": measure_sharpness(luma),
        "noise": measure_noise(window),
        "blocking": measure_blocking(window),
        "combing": measure_combing(window),
    }


def summarise_detail(rows: Columns) -> dict[str, float]:
    """Medians over the span; combing, which needs motion to show, at its upper decile."""
    values = {name: rows[name][~np.isnan(rows[name])] for name in FIELDS}
    if not len(values["noise"]):
        return dict.fromkeys(NAMES, np.nan)
    result = {f"detail.{name}": _median(values[name]) for name in FIELDS}
    result["detail.combing"] = float(np.quantile(values["combing"], 0.9))
    return result


def _median(values: np.ndarray[Any, Any]) -> float:
    """NaN for none: pictures too small for a grid of blocks have no blocking."""
    return float(np.median(values)) if len(values) else np.nan


def measure_sharpness(luma: Bytes) -> float:
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
    kept = []
    for picture in (luma, cv2.transpose(luma)):
        total, lost = _variation(picture)
        if total > 0:
            kept.append(lost / total)
    return max(kept, default=0.0)


def _variation(picture: Bytes) -> tuple[float, float]:
    """Sum of the steps from line to line, and how much of it a blur over 9 lines takes away.

    The step between two such averages is a ninth of that between the line that enters and the
    line that leaves. All of it in whole numbers: no rounding, and a tenth of the time.
    """
    if len(picture) < 2:  # OpenCV crashes on empty arrays
        return 0.0, 0.0
    steps = cv2.absdiff(picture[1:], picture[:-1])
    edged = cv2.copyMakeBorder(picture, 4, 4, 0, 0, cv2.BORDER_REFLECT_101)
    soft = cv2.absdiff(edged[9:], edged[:-9])
    # The sum of 9 * steps - soft where that is above 0.
    larger = steps.astype(np.uint16)
    larger *= 9
    np.maximum(larger, soft, out=larger)
    return 9 * cv2.sumElems(steps)[0], cv2.sumElems(larger)[0] - cv2.sumElems(soft)[0]


def measure_noise(luma: Bytes) -> float:
    """Standard deviation of noise in levels: Immerkaer 1996, on the flattest tenth of the tiles.

    Texture passes the Laplacian too, so only the tiles where it is weakest are believed.
    """
    if min(luma.shape) < 3:
        return np.nan
    second = np.array([1, -2, 1], np.float32)
    response = cv2.sepFilter2D(luma, cv2.CV_16S, second, second)[1:-1, 1:-1]
    response = np.abs(response).astype(np.float32)
    rows, columns = (max(1, length // TILE) for length in response.shape)
    tiles = cv2.resize(response, (columns, rows), interpolation=cv2.INTER_AREA)
    return float(np.sqrt(np.pi / 2) / 6 * _quantile(tiles, 0.1))


def _quantile(values: np.ndarray[Any, Any], share: float) -> float:
    """As NumPy's, whose checks take longer than a thousand values."""
    ascending = np.sort(values, axis=None)
    return float(np.interp(share * (len(ascending) - 1), np.arange(len(ascending)), ascending))


def measure_blocking(luma: Bytes) -> float:
    """How much larger steps on the 8 x 8 grid are than those beside it, 0 for none.

    After Wang, Sheikh and Bovik 2002. Upscaling moves the grid and hides it.
    """
    excess = []
    for picture in (luma, cv2.transpose(luma)):
        if len(picture) < 25:
            continue
        change = cv2.absdiff(picture[1:], picture[:-1])
        steps = cv2.reduce(change, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        phase = np.arange(len(steps)) % 8
        beside = float(steps[phase != 7].mean())
        excess.append(float(steps[phase == 7].mean()) / max(beside, 0.25) - 1)
    return max(0.0, float(np.mean(excess))) if excess else np.nan


def measure_combing(luma: Bytes) -> float:
    """Share of pixels that differ from the lines above and below while those two agree."""
    above, line, below = luma[:-2], luma[1:-1], luma[2:]
    if len(line) < 3:
        return 0.0
    # Subtraction stops at 0, so each of the two holds only one sign.
    bright = cv2.min(cv2.subtract(line, above), cv2.subtract(line, below))
    dark = cv2.min(cv2.subtract(above, line), cv2.subtract(below, line))
    agree = cv2.compare(cv2.absdiff(above, below), COMB_LEVELS // 2, cv2.CMP_LT)  # type: ignore[call-overload]  # OpenCV takes scalars that its stubs do not
    bright, dark = (
        cv2.bitwise_and(cv2.compare(part, COMB_LEVELS, cv2.CMP_GT), agree)  # type: ignore[call-overload]  # OpenCV takes scalars that its stubs do not
        for part in (bright, dark)
    )
    torn = cv2.bitwise_or(bright, dark)
    # One torn line is texture; a comb is torn in three neighbouring lines, in turn up and down.
    turns = cv2.bitwise_or(
        cv2.bitwise_and(bright[:-2], dark[1:-1]), cv2.bitwise_and(dark[:-2], bright[1:-1])
    )
    comb = cv2.bitwise_and(turns, torn[2:])
    return cv2.countNonZero(comb) / comb.size


def _middle(luma: Bytes) -> Bytes:
    # The window starts on a multiple of 8, so that the codec's grid keeps its phase.
    height, width = luma.shape
    top = max(0, (height - WINDOW) // 2) // 8 * 8
    left = max(0, (width - WINDOW) // 2) // 8 * 8
    return luma[top : top + WINDOW, left : left + WINDOW]
