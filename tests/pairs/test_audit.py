"""The audit finds what was planted, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from pair_workspace import footage

from realdpo.errors import UserError
from realdpo.media.decode import read_clip
from realdpo.media.encode import EncodeSettings, encode
from realdpo.pairs import audit, conform
from realdpo.pairs.statistics import measure, pixels

FORM = conform.Form(64, 64, 9, Fraction(8))
Video = np.ndarray


PAIRS = 8


def numbers(video: Video) -> dict[str, float]:
    return measure(conform.write(video, FORM, 12))


@pytest.fixture(scope="module")
def clips(bikes) -> list[Video]:
    long = footage(bikes, 0, 78, (64, 64), 8)
    return [long[8 * k : 8 * k + 9] for k in range(PAIRS)]


@pytest.fixture(scope="module")
def winners(clips) -> list[dict[str, float]]:
    return [numbers(clip) for clip in clips]


def other_motion(clip: Video, seed: int) -> Video:
    """The same pictures in another order after the first: only the motion differs."""
    order = np.random.default_rng(seed).permutation(np.arange(1, len(clip)))
    return clip[[0, *order]]


def pairs_of(clips, winners, plant: Callable[[Video], Video]) -> list[audit.Pair]:
    return [
        (winner, [numbers(plant(other_motion(clip, k)))])
        for k, (clip, winner) in enumerate(zip(clips, winners, strict=True))
    ]


def normalisation(video: Video) -> Video:
    return np.round(video / 2 + 127.5).clip(0, 255).astype(np.uint8)  # -1..1 read as 0..1


def reencoding(video: Video) -> Video:
    return read_clip(encode(video, 8, EncodeSettings(crf=34)))[0]


def frozen_tail(video: Video) -> Video:
    video = video.copy()
    video[-3:] = video[-4]
    return video


def brightness(video: Video) -> Video:
    return (video.astype(int) + 10).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("plant", "groups"),
    [
        (normalisation, {"levels"}),
        (reencoding, {"encoding", "detail"}),
        (frozen_tail, {"time"}),
        (brightness, {"levels"}),
    ],
)
def test_planted_shortcuts_are_flagged(clips, winners, plant, groups) -> None:
    pairs = pairs_of(clips, winners, plant)
    for image_to_video in (True, False):
        found = audit.audit(pairs, image_to_video)
        assert found["verdict"] == "shortcut", found["summary"]
        assert found["auc"] > 0.95
        assert found["preparation_auc"] > 0.95
        assert found["features"][0]["group"] in groups


def test_pairs_that_differ_in_motion_alone_are_clean(clips, winners) -> None:
    found = audit.audit(pairs_of(clips, winners, lambda video: video), True)
    assert found["verdict"] == "clean", found["summary"]
    assert found["preparation_auc"] == 0.5
    assert found["first_frame_difference"] == 0


def test_a_shortcut_whose_sides_are_shuffled_is_clean(clips, winners) -> None:
    random = np.random.default_rng(0)
    shuffled = [
        (losers[0], [win]) if random.random() < 0.5 else (win, losers[:1])
        for win, losers in pairs_of(clips, winners, brightness) * 5
    ]
    assert audit.audit(shuffled, True)["verdict"] == "clean"


def test_other_encoder_settings_show_in_the_structure(clips) -> None:
    clip = clips[0]
    ours = measure(conform.write(clip, FORM, 12))
    other = measure(encode(clip, 8, EncodeSettings(gop=3, x264_params="bframes=0:scenecut=0")))
    assert other["key_frames"] == 3
    assert ours["key_frames"] == 1
    assert other["b_frames"] == 0
    assert ours["b_frames"] > 0.3


def test_the_first_frame_costs_the_same_bytes_whatever_follows(clips) -> None:
    clip = clips[0]
    one, two = (measure(conform.write(v, FORM, 12)) for v in (clip, other_motion(clip, 1)))
    assert one["first_size"] == two["first_size"]


@pytest.mark.parametrize("seed", range(4))
def test_auc_counts_like_its_definition(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(-2, 3, 17).astype(float)
    wins = sum((a > -b) + 0.5 * (a == -b) for a in scores for b in scores)
    assert audit.auc(scores) == pytest.approx(wins / 17**2)


def test_no_pair_is_judged_by_a_model_that_saw_it() -> None:
    # every pair differs in a feature of its own: learnable only from the pair itself
    differences = np.repeat(np.eye(10), 3, axis=0)
    groups = np.repeat(np.arange(10), 3)
    assert np.all(audit.cross_validated(differences, groups) == 0)


def test_a_handful_of_pairs_gets_a_direct_verdict(clips, winners) -> None:
    found = audit.audit(pairs_of(clips[:2], winners[:2], brightness), True)
    assert found["verdict"] == "shortcut"
    assert found["auc_low"] is None
    assert "fewer than" in found["method"]


def test_no_pairs_is_an_error_with_a_way_out() -> None:
    with pytest.raises(UserError, match="no pairs"):
        audit.audit([], True)


def test_frozen_tail_counts_frames() -> None:
    video = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), dtype=np.uint8)
    assert pixels(video)["frozen_tail"] == 0
    video[-4:] = video[-4]
    assert pixels(video)["frozen_tail"] == 3
