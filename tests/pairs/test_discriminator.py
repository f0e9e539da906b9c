"""The upper bound: it finds what no number was made for, on films that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
from pair_workspace import footage

from realdpo.errors import UserError
from realdpo.pairs.discriminator import draw_patches, train_discriminator


@pytest.fixture(scope="module")
def moments(bikes) -> list[np.ndarray]:
    long = footage(bikes, 0, 78, (64, 64), 8)
    return [long[3 * k : 3 * k + 3] for k in range(24)]


def woven(video: np.ndarray) -> np.ndarray:
    """A faint chequered weave: no colour, no contrast and no grid that the audit measures."""
    y, x = np.mgrid[: video.shape[1], : video.shape[2]]
    weave = np.where((x // 3 + y // 3) % 2, 8, -8)[None, ..., None]
    return (video.astype(int) + weave).clip(0, 255).astype(np.uint8)


def judged(moments, plant) -> dict:
    """Pairs of moments that none shares with another, three films of four pairs each."""
    order = np.random.default_rng(0).permutation(len(moments))
    pairs = [
        [draw_patches(moments[order[2 * k]], plant(moments[order[2 * k + 1]]), False, k)]
        for k in range(len(order) // 2)
    ]
    return train_discriminator(pairs, [f"film {k // 4}" for k in range(len(pairs))])


def test_a_texture_that_nobody_thought_of_is_found(moments) -> None:
    found, alike = judged(moments, woven), judged(moments, lambda video: video)
    assert found["auc"] > 0.85
    assert found["auc"] > alike["auc"] + 0.1
    assert found["sources"] == 3
    assert found["auc_low"] is None
    assert "3 sources, too few for an interval" in found["words"]


def test_one_film_is_no_ground_to_judge_on(moments) -> None:
    pair = [draw_patches(moments[0], moments[1], True, 0)]
    with pytest.raises(UserError, match="of one source"):
        train_discriminator([pair, pair], ["a", "a"])
