"""Near-duplicates: what must be found, what must not, and that nothing is overlooked."""

from __future__ import annotations

import subprocess
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import texture

from realdpo.curate import dedup
from realdpo.curate.scores import StreamScores, span_fingerprint
from realdpo.media.decode import decode_frames
from realdpo.media.encode import ffmpeg_exe

FPS = 24


def scene(seed: int, take: int = 0, seconds: float = 4.0) -> np.ndarray:
    """A texture before which three patches wander: [F, 144, 192, 3]. The take is the wandering."""
    back = cv2.resize(texture(256, seed), (192, 144))
    rng = np.random.default_rng([seed, take])
    patches = [texture(48, int(rng.integers(1_000_000))) for _ in range(3)]
    pace, phase = rng.uniform(0.5, 3, (3, 2)), rng.uniform(0, 6.3, (3, 2))
    frames = []
    for index in range(round(seconds * FPS)):
        frame = back.copy()
        for patch, speed, start in zip(patches, pace, phase, strict=True):
            x, y = (np.sin(index / FPS * speed + start) + 1) / 2 * (144, 96)
            frame[int(y) : int(y) + 48, int(x) : int(x) + 48] = patch
        frames.append(frame)
    return np.stack(frames)


def words(clip: np.ndarray, fps: float = FPS) -> np.ndarray:
    stream = StreamScores(*clip.shape[1:3])
    for index, frame in enumerate(clip):
        stream.feed(index / fps, np.ascontiguousarray(frame))
    return np.array(span_fingerprint(stream.table(), 0, 1e9), np.uint64)


def changed(clip: np.ndarray, how: str) -> np.ndarray:
    height, width = clip.shape[1:3]
    if how == "encoded":
        bytes_ = [cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, 12])[1] for f in clip]
        return np.stack([cv2.imdecode(b, cv2.IMREAD_COLOR) for b in bytes_])
    if how == "resized":
        return np.stack([cv2.resize(f, (96, 72), interpolation=cv2.INTER_AREA) for f in clip])
    if how == "cropped":
        top, left = round(height * 0.025), round(width * 0.025)
        return clip[:, top : height - top, left : width - left]
    if how == "cut 0.3 s off":
        return clip[round(0.3 * FPS) :]
    if how == "brighter":
        return np.clip(clip.astype(float) * 1.15 + 8, 0, 255).astype(np.uint8)
    raise ValueError(how)


WAYS = ("encoded", "resized", "cropped", "cut 0.3 s off", "brighter")


@pytest.mark.parametrize("how", WAYS)
def test_the_same_footage_is_found(how: str) -> None:
    for seed in range(3):
        clip = scene(seed)
        assert dedup.same_footage(
            dedup.unpack_fingerprint(words(clip)),
            dedup.unpack_fingerprint(words(changed(clip, how))),
        ), seed


def test_all_changes_at_once_and_half_the_frame_rate() -> None:
    clip = scene(4)
    other = changed(changed(changed(clip, "cut 0.3 s off"), "cropped"), "encoded")
    assert dedup.duplicate_pairs([words(clip), words(other[::2], FPS / 2)]) == [(0, 1)]


def test_takes_and_scenes_differ() -> None:
    prints = [words(scene(seed, take)) for seed in range(3) for take in range(3)]
    assert dedup.duplicate_pairs(prints) == []


def test_moments_before_an_unmoving_camera_are_not_duplicates() -> None:
    """A small figure crosses: the background fills nearly all of every picture."""
    back, figure = cv2.resize(texture(256, 1), (192, 144)), texture(24, 2)
    film = np.repeat(back[None], 8 * FPS, axis=0)
    for index, frame in enumerate(film):
        x, y = round(index / len(film) * 160), round(100 + 12 * np.sin(index / FPS * 2))
        frame[y : y + 24, x : x + 24] = figure
    moments = [words(film[start : start + 2 * FPS]) for start in range(0, 8 * FPS, 2 * FPS)]
    assert dedup.duplicate_pairs(moments, ["film"] * 4) == []
    assert dedup.duplicate_pairs(moments) == []  # nor when they come in files of their own
    again = words(changed(film[: 2 * FPS], "encoded"))
    assert dedup.duplicate_pairs([*moments, again], [*["film"] * 4, "copy"]) == [(0, 4)]
    looped = words(film[: 2 * FPS])
    assert dedup.duplicate_pairs([*moments, looped], ["film"] * 5) == [(0, 4)]


WINDOWS = ((1.4, 1.7), (3.1, 1.6), (5.5, 1.5), (7.5, 1.5))  # of the street film, within shots
COPIES = {
    "encoded": ["-crf", "38"],
    "resized": ["-vf", "scale=320:136"],
    "cropped": ["-vf", "crop=608:258"],
    "cut 0.3 s off": [],
    "all of it": ["-vf", "crop=608:258,scale=320:136", "-crf", "30"],
}


@pytest.mark.slow
def test_copies_of_real_footage_are_found_and_other_footage_is_not(
    bikes: Path, tmp_path: Path
) -> None:
    def taken(start: float, seconds: float, options: list[str]) -> np.ndarray:
        path = tmp_path / "copy.mp4"
        subprocess.run(
            [
                ffmpeg_exe(),
                "-v",
                "error",
                "-y",
                "-ss",
                f"{start}",
                "-i",
                bikes,
                "-t",
                f"{seconds}",
                "-an",
                "-preset",
                "ultrafast",
                *options,
                path,
            ],
            check=True,
        )
        seen = list(decode_frames(path, size=(256, 109)))
        return words(np.stack([frame.rgb for frame in seen]), 25)

    originals = [taken(start, seconds, ["-crf", "12"]) for start, seconds in WINDOWS]
    missed, right, wrong = [], 0, 0
    for how, options in COPIES.items():
        late = 0.3 if how in ("cut 0.3 s off", "all of it") else 0.0
        for index, (start, seconds) in enumerate(WINDOWS):
            copy = taken(start + late, seconds - late, options)
            found = dedup.duplicate_pairs([*originals, copy])
            right += (index, 4) in found
            missed += [] if (index, 4) in found else [(how, start)]
            wrong += len(found) - ((index, 4) in found)
    print(f"recall {right / 20:.2f}, precision {right / max(1, right + wrong):.2f}")
    assert (missed, wrong) == ([], 0)


def test_only_equal_stills_are_the_same() -> None:
    one, other = (np.repeat(scene(seed)[:1], 48, axis=0) for seed in (0, 1))
    assert dedup.duplicate_pairs([words(one), words(changed(one, "encoded")), words(other)]) == [
        (0, 1)
    ]


def test_clips_without_a_fingerprint_match_nothing() -> None:
    empty = np.zeros(0, np.uint64)
    assert dedup.duplicate_pairs([None, empty, None, empty]) == []
    assert dedup.pack_fingerprint(np.zeros(1), np.zeros((1, 64), np.uint8)) == []


def test_a_fingerprint_is_read_back() -> None:
    thumbs = np.random.default_rng(0).integers(0, 256, (9, 64), np.uint8)
    cells = dedup.unpack_fingerprint(dedup.pack_fingerprint(np.arange(9) / 8, thumbs))
    assert np.array_equal(cells, thumbs[::2])  # every quarter of a second


def plainly_the_same(a: np.ndarray, b: np.ndarray, one_source: bool) -> bool:
    """The rule for two clips in float64, one offset after another."""
    s = dedup.DedupSettings()

    def alike(one: np.ndarray, two: np.ndarray) -> float:
        return float(dedup.mean_pictures(one.mean(axis=0)) @ dedup.mean_pictures(two.mean(axis=0)))

    if alike(a, b) < s.candidate:
        return False
    if max(a.var(axis=0).mean(), b.var(axis=0).mean()) <= s.still**2:
        return not one_source and alike(a, b) >= s.picture
    least = s.loop if one_source else s.motion
    shorter = min(len(a), len(b))
    overlap = max(2, min(4, shorter), int(s.overlap * shorter))
    quarters = np.arange(4 * len(b) - 3) / 4
    fine = np.stack([np.interp(quarters, np.arange(len(b)), cell) for cell in b.T], axis=1)

    def shown(quarter: int) -> tuple[np.ndarray, np.ndarray] | None:
        whole, part = divmod(quarter, 4)
        other = fine[part::4]
        start, stop = max(0, -whole), min(len(a), len(other) - whole)
        if stop - start < overlap:
            return None
        return a[start:stop], other[start + whole : stop + whole]

    reach = round(s.shift_s * 16)
    for both in filter(None, map(shown, range(-reach, reach + 1, 4))):
        left, right = both[0] - a.mean(axis=0), both[1] - b.mean(axis=0)
        length = np.linalg.norm(left) * np.linalg.norm(right)
        if (left * right).sum() >= (least - 0.3) * max(length, 1e-3):
            break
    else:
        return False
    for one, two in filter(None, map(shown, range(-reach, reach + 1))):
        left, right = one - one.mean(axis=0), two - two.mean(axis=0)
        powers = (left**2).mean(), (right**2).mean()
        if min(powers) <= s.still**2 / 2 or (left * right).mean() < least * np.sqrt(
            np.prod(powers)
        ):
            continue
        doubt = sum(powers) / max(one.mean(axis=0).var() + two.mean(axis=0).var(), 1e-6) / len(one)
        if alike(one, two) >= max(s.candidate, s.picture - doubt):
            return True
    return False


def test_the_search_finds_what_the_rule_says_of_every_pair() -> None:
    rng = np.random.default_rng(1)
    basis = dedup._COSINES[1:25] / np.maximum(dedup._WEIGHTS[1:25, None], 0.5)

    def walk(length: int, pace: float) -> np.ndarray:
        return np.cumsum(rng.normal(0, pace, (length, len(basis))), axis=0) @ basis

    clips, owners = [], []
    for source in range(40):
        back = 128 + rng.normal(0, 80, len(basis)) @ basis
        for _ in range(int(rng.integers(1, 8))):  # moments before an unmoving camera
            cells = back + walk(int(rng.integers(8, 24)), rng.choice([0.0, 4.0, 12.0]))
            copy = cells[int(rng.integers(3)) :] * 1.04 + rng.normal(0, rng.choice([1, 12]), 64)
            for owner, one in ((source, cells), (rng.choice([source, 100 + source]), copy)):
                clips.append(np.clip(one, 0, 255).astype(np.uint8))
                owners.append(f"{owner}")
    prints = [np.ascontiguousarray(clip).reshape(-1).view(np.uint64) for clip in clips]
    cells = [clip.astype(np.float64) for clip in clips]
    want = [
        (i, j)
        for i, j in combinations(range(len(cells)), 2)
        if plainly_the_same(cells[i], cells[j], owners[i] == owners[j])
    ]
    assert 40 < len(want) < 0.1 * len(cells) ** 2
    assert dedup.duplicate_pairs(prints, owners) == want
    for i, j in want[:5]:
        one, other = dedup.unpack_fingerprint(prints[i]), dedup.unpack_fingerprint(prints[j])
        assert dedup.same_footage(one, other, one_source=owners[i] == owners[j])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_no_pair_of_pictures_is_overlooked(seed: int, count: int) -> None:
    """The blocked search finds exactly what comparing one by one finds."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((count, 8)).astype(np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    want = {(i, j) for i in range(count) for j in range(i + 1, count) if means[i] @ means[j] >= 0.5}
    found = {
        (int(i), int(j))
        for batch in dedup._candidates(means, means, 0.5, within=True, block=7)
        for i, j in zip(*batch, strict=True)
    }
    doubtful = {
        (i, j)
        for i in range(count)
        for j in range(i + 1, count)
        if abs(means[i] @ means[j] - 0.5) < 1e-5
    }
    assert found ^ want <= doubtful
