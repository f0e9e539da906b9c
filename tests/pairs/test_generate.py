"""What counts as broken, and how floats become bytes."""

from __future__ import annotations

import numpy as np

from realdpo.families.sample import to_uint8
from realdpo.pairs.generate import why_broken


def test_what_is_broken_is_named() -> None:
    random = np.random.default_rng(0)
    good = random.random((5, 16, 16, 3)).astype(np.float32)
    assert why_broken(good) is None
    nan = good.copy()
    nan[3, 2, 2, 1] = np.nan
    assert why_broken(nan) == "nan"
    assert why_broken(good * 0.02) == "black"
    assert why_broken(np.full_like(good, 0.5)) == "blank"
    assert why_broken(np.repeat(good[:1], 5, axis=0)) == "frozen"
    half = np.concatenate([good, np.repeat(good[:1], 5, axis=0)])
    assert why_broken(half) is None  # it moves for a while: a failure to learn from


def test_nan_becomes_black_and_values_are_rounded() -> None:
    values = np.array([0.0, 0.5, 1.0, 1.7, np.nan], dtype=np.float32)
    assert to_uint8(values).tolist() == [0, 128, 255, 255, 0]
