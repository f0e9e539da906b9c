"""HDR and wide gamut to SDR: PQ and HLG (BT.2100) to BT.709, in numpy with tables."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# BT.2408: diffuse white in HDR. It becomes SDR white.
REFERENCE_WHITE = 203.0
# Nominal peak of HLG and of nearly all PQ masters, cd/m2. Mastering metadata is often wrong.
PEAK = 1000.0
_CODES = 4096

# BT.2087: linear BT.2020 to linear BT.709.
_TO_709 = np.array(
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    dtype=np.float32,
)


def to_sdr(yuv: npt.NDArray[np.uint16], transfer: str, full_range: bool) -> npt.NDArray[np.uint8]:
    """Bring one BT.2020 picture to BT.709 8-bit RGB.

    yuv: [3, H, W] of 16-bit code values. transfer: "pq", "hlg", or any other name for an SDR
    picture in the wide gamut. Returns [H, W, 3]. Highlights above SDR white follow the curve of
    BT.2390 on the largest component, which keeps hue.
    """
    light = _linear(_rgb(yuv, full_range), transfer)
    if transfer in ("pq", "hlg"):
        peak = light.max(axis=0)
        # The table is over the square root: shadows need more of its entries than highlights.
        at = np.sqrt(peak * np.float32(1 / 10000)) * np.float32(_CODES - 1)
        light *= _gain()[at.astype(np.int32)]
        light *= np.float32(1 / REFERENCE_WHITE)
    out = np.tensordot(_TO_709, light, axes=1)
    codes = np.clip(out, 0, 1) * np.float32(_CODES - 1) + np.float32(0.5)
    return np.ascontiguousarray(_display()[codes.astype(np.int32)].transpose(1, 2, 0))


def pq_to_light(signal: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """SMPTE ST 2084: signal in [0, 1] to cd/m2 in [0, 10000]."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = np.asarray(signal, dtype=np.float64) ** (1 / m2)
    return 10000.0 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def light_to_pq(light: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The inverse of `pq_to_light`."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = (np.asarray(light, dtype=np.float64) / 10000.0) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg_to_scene(signal: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """BT.2100 inverse OETF of HLG: signal in [0, 1] to scene light in [0, 1]."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.asarray(signal, dtype=np.float64)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def compress_highlights(light: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """BT.2390 EETF: cd/m2 up to PEAK to cd/m2 up to REFERENCE_WHITE, unchanged below the knee."""
    top = light_to_pq(PEAK)
    signal = np.minimum(light_to_pq(light) / top, 1.0)
    limit = light_to_pq(REFERENCE_WHITE) / top
    knee = 1.5 * limit - 0.5
    t = (signal - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * limit
    )
    return pq_to_light(np.where(signal < knee, signal, spline) * top)


def _rgb(yuv: npt.NDArray[np.uint16], full_range: bool) -> Floats:
    """BT.2020 non-constant luminance Y'CbCr to R'G'B' in [0, 1], [3, H, W]."""
    code = yuv.astype(np.float32)
    if full_range:
        y = code[0] / 65535
        cb, cr = ((code[i] - 32768) / 65535 for i in (1, 2))
    else:
        y = (code[0] - (16 << 8)) / (219 << 8)
        cb, cr = ((code[i] - (128 << 8)) / (224 << 8) for i in (1, 2))
    red = y + np.float32(1.4746) * cr
    blue = y + np.float32(1.8814) * cb
    green = y - np.float32(0.16455313) * cb - np.float32(0.57135313) * cr
    found: Floats = np.clip(np.stack([red, green, blue]), 0, 1)
    return found


def _linear(signal: Floats, transfer: str) -> Floats:
    """R'G'B' to light: cd/m2 for HDR, [0, 1] for SDR."""
    codes = (signal * np.float32(_CODES - 1) + np.float32(0.5)).astype(np.int32)
    light = _decoding(transfer)[codes]
    if transfer == "hlg":
        # BT.2100 OOTF at 1000 cd/m2, system gamma 1.2: light grows with luminance^0.2.
        y = 0.2627 * light[0] + 0.6780 * light[1] + 0.0593 * light[2]
        light = light * (np.float32(PEAK) * np.power(y, np.float32(0.2)))
    return light


@functools.lru_cache
def _decoding(transfer: str) -> Floats:
    signal = np.arange(_CODES) / (_CODES - 1)
    if transfer == "pq":
        return pq_to_light(signal).astype(np.float32)
    if transfer == "hlg":
        return hlg_to_scene(signal).astype(np.float32)
    return (signal**2.4).astype(np.float32)  # BT.1886


@functools.lru_cache
def _gain() -> Floats:
    light = np.maximum((np.arange(_CODES) / (_CODES - 1)) ** 2 * 10000, 1e-4)
    return (compress_highlights(light) / light).astype(np.float32)


@functools.lru_cache
def _display() -> npt.NDArray[np.uint8]:
    light = np.arange(_CODES) / (_CODES - 1)
    return np.round(255 * light ** (1 / 2.4)).astype(np.uint8)  # inverse of BT.1886
