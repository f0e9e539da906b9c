"""Every step has one VERSION beside its code, and golden results that tell when to raise it.

What a step has made is kept and read back as long as its version is the same. When one of these
tests fails, the step makes something else than before: raise the VERSION that the message names,
so that nobody is given old results for new ones, and write the golden file anew:

    REALDPO_WRITE_GOLDEN=1 pytest tests/ingest/test_versions.py
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import ffmpeg

from realdpo import tables
from realdpo.curate import analyse, box, cut, decide, scores, shards, shots
from realdpo.curate.config import ClipSettings, IngestConfig, ShardSettings, ShotSettings, Target
from realdpo.curate.ingestion import ingest_footage
from realdpo.curate.scores import sampled
from realdpo.media import decode
from realdpo.media.decode import decode_frames, read_clip
from realdpo.media.encode import EncodeSettings
from realdpo.train.evaluate import metrics
from realdpo.workspace import Workspace

GOLDEN = Path(__file__).with_name("golden")
WRITE = bool(os.environ.get("REALDPO_WRITE_GOLDEN"))


def check(step: str, version: object, constant: str, found: dict[str, Any]) -> None:
    """Compare with the golden file; numbers to a thousandth, as other machines round otherwise."""
    path = GOLDEN / f"{step}.json"
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"version": version, "result": found}, indent=1) + "\n")
    golden = json.loads(path.read_text())
    result = json.loads(json.dumps(found))
    different = [
        key
        for key in {**golden["result"], **result}
        if not same(golden["result"].get(key), result.get(key))
    ]
    if golden["version"] == version:
        assert not different, (
            f"{step} makes something else than before ({', '.join(different)}): raise {constant}, "
            "then run: REALDPO_WRITE_GOLDEN=1 pytest tests/ingest/test_versions.py"
        )
    else:
        pytest.fail(
            f"{constant} is {version}, its golden file {golden['version']}; "
            "run: REALDPO_WRITE_GOLDEN=1 pytest tests/ingest/test_versions.py"
        )


def same(one: Any, two: Any) -> bool:
    if isinstance(one, float) and isinstance(two, float | int):
        both_unknown = math.isnan(one) and math.isnan(two)
        return both_unknown or math.isclose(one, two, rel_tol=1e-3, abs_tol=2e-3)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


@pytest.fixture(scope="module")
def raw_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw video, which every FFmpeg decodes alike: two shots, the second dissolving into a third.

    Smooth random texture that drifts, with a disc that moves by itself; 160x96, 25 a second.
    """
    import cv2

    numbers = np.random.default_rng(5)

    grounds = [
        cv2.GaussianBlur(numbers.integers(0, 256, (96, 320), np.uint8), (0, 0), 3) * 6.0 - 640
        for _ in range(3)
    ]
    path = tmp_path_factory.mktemp("raw") / "film.y4m"
    with open(path, "wb") as file:
        file.write(b"YUV4MPEG2 W160 H96 F25:1 Ip A1:1 C420jpeg\n")
        for n in range(150):

            def shown(shot: int, place: int = n) -> np.ndarray:
                left = place // 2 + 10 * shot
                return np.asarray(grounds[shot][:, left : left + 160])

            if n < 50:
                luma = shown(0)
            else:
                part = min(1.0, max(0.0, (n - 90) / 25))
                luma = shown(1) * (1 - part) + shown(2) * part
            picture = np.clip(luma, 16, 235).astype(np.uint8)
            cv2.circle(picture, (30 + n // 2, 48 + round(20 * math.sin(n / 9))), 12, 220, -1)
            chroma = [np.full((48, 80), 128 + 30 * (n >= 50) * s, np.uint8) for s in (1, -1)]
            file.write(b"FRAME\n" + picture.tobytes() + b"".join(c.tobytes() for c in chroma))

    return path


def summary(pictures: list[np.ndarray]) -> list[list[float]]:
    """Means of the quarters of some pictures."""
    half = [n // 2 for n in pictures[0].shape[:2]]
    return [
        [
            float(part.mean())
            for rows in np.split(p, [half[0]])
            for part in np.split(rows, [half[1]], 1)
        ]
        for p in pictures
    ]


def test_decoded_frames(raw_film: Path) -> None:
    seen = list(decode_frames(raw_film))
    small = [frame.rgb for frame in decode_frames(raw_film, size=(64, 38))]
    found = {
        "times": [str(frame.time) for frame in seen[::40]],
        "pictures": summary([frame.rgb for frame in seen[::40]]),
        "colours": [[float(m) for m in frame.rgb.mean(axis=(0, 1))] for frame in seen[::40]],
        "small": summary(small[::40]),
        "sharpness": float(np.abs(np.diff(small[7].astype(int), axis=1)).mean()),
    }
    check("decode", decode.VERSION, "VERSION in realdpo/media/decode.py", found)


def test_scores_of_a_span(raw_film: Path) -> None:
    seen = list(decode_frames(raw_film))
    stream = scores.StreamScores(*seen[0].rgb.shape[:2])
    for frame in seen:
        stream.feed(float(frame.time), frame.rgb)
    table = stream.table()
    found: dict[str, Any] = {
        f"{start}": scores.summarise_span(table, start, start + 1.9) for start in (0.0, 2.0)
    }
    found["fingerprint"] = scores.span_fingerprint(table, 0.0, 1.9)[:4]
    check("scores", scores.VERSION, "VERSION in curate/scores/__init__.py", found)


def test_scores_of_sampled_frames(raw_film: Path) -> None:
    """Which frames are looked at and what a crop shows; the models have versions of their own."""
    right = box.Box(0.5, 0.0, 1.0, 1.0)
    found = {
        f"{start} to {end}": sampled.score_samples(raw_film, start, end, (), crop=right).scores
        for start, end in ((0.0, 1.2), (0.3, 3.1), (1.9, 2.0))
    }
    check("sampled", sampled.VERSION, "VERSION in curate/scores/sampled.py", found)


def test_facts_cuts_and_transitions(raw_film: Path) -> None:
    seen = analyse.analyse_source(analyse.AnalysisTask("", str(raw_film), ShotSettings(), 1))
    found = {
        **{k: v for k, v in seen.facts.items() if k not in ("container", "codec")},
        "cuts": [float(time) for time in seen.cuts],
        "soft": [[float(a), float(b)] for a, b in seen.soft],
    }
    assert found["cuts"] == [2.0]
    assert len(seen.soft) == 1
    check("analyse", analyse.VERSION, "VERSION in curate/analyse.py", found)


def test_spans_of_shots() -> None:
    times = [Fraction(n, 25) for n in range(500)]
    spans = [
        shots.divide_shots(
            times,
            [times[120], times[170]],
            [(times[200], times[230])],
            Fraction(25),
            ClipSettings(),
            target,
            [(times[300], times[320])],
        )
        for target in (Target(), Target(frames=16, fps=Fraction(8)))
    ]
    found = {
        str(n): [[s.shot, str(s.start), str(s.end), *map(str, s.reasons)] for s in part]
        for n, part in enumerate(spans)
    }
    check("spans", shots.VERSION, "VERSION in curate/shots.py", found)


def test_verdicts() -> None:
    limits = decide.default_thresholds()
    columns = {
        name: np.array([low, high], np.float32)
        for name, low, high in [
            ("motion.subject", 0.01, 0.2),
            ("motion.subject_share", 0.1, 0.1),
            ("luma.mean", 120, 250),
            ("frozen.share", 0.1, 0.9),
            ("time.fps", 12, 24),
            ("source.short_side", 200, 1080),
            ("flash.rate", 0, 5),
            ("box.share", 0, 0.2),
        ]
    }
    # Defaults may change without a new version: they are part of every key as they are.
    fixed = {"motion.subject_min": 0.04, "luma.mean_max": 235.0, "frozen.share_max": 0.3}
    found = {
        "reasons": [list(map(str, row)) for row in decide.find_reasons(columns, fixed, 2)],
        "thresholds": sorted(decide.merge_thresholds({"motion": {"subject_min": "off"}, **fixed}))[
            :3
        ],
    }
    assert limits.keys() >= fixed.keys()
    check("decide", decide.VERSION, "VERSION in curate/decide.py", found)


def test_a_cut_clip(raw_film: Path) -> None:
    targets = {"native": Target(), "small": Target(80, 64, 9, Fraction(8))}
    found = {}
    for name, target in targets.items():
        task = cut.CutTask(
            "",
            str(raw_film),
            Fraction(1, 2),
            Fraction(17, 10),
            160,
            96,
            Fraction(25),
            target,
            EncodeSettings(),
            1,
        )
        clip = cut.cut_clip(task)
        pictures, fps = read_clip(clip.data)
        found[name] = [clip.width, clip.height, clip.frames, str(clip.fps), str(fps)]
        # What an encoder loses differs by its build: to half a level.
        found[f"{name}_pictures"] = [
            [round(2 * v) / 2 for v in row] for row in summary(list(pictures[::4]))
        ]
    check("cut", cut.VERSION, "VERSION in curate/cut.py", found)


def test_splits_and_columns_of_shards() -> None:
    names = [f"{n:064x}" for n in range(0, 400, 7)]
    found = {
        "splits": shards.assign_splits(names, ShardSettings(validation=0.2, test=0.2)),
        "columns": list(tables.DATASET.schema.names),
    }
    check("shards", shards.VERSION, "VERSION in curate/shards.py", found)


def test_a_raised_version_names_other_results(monkeypatch: pytest.MonkeyPatch) -> None:
    key = analyse.AnalysisTask("source", "film.mp4", ShotSettings()).key
    for part in (analyse, scores, decode):
        with monkeypatch.context() as patch:
            patch.setattr(part, "VERSION", 99)
            assert analyse.AnalysisTask("source", "film.mp4", ShotSettings()).key != key
    assert analyse.AnalysisTask("source", "film.mp4", ShotSettings()).key == key


def test_another_default_is_judged_anew(
    raw_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = tmp_path / "film.mkv"
    ffmpeg("-i", raw_film, "-c:v", "ffv1", film)
    settings = IngestConfig(target="tiny", engine="serial")
    workspace = Workspace(tmp_path / "w")

    def run() -> dict[str, Any]:
        return ingest_footage(workspace, [str(film)], settings)

    before = run()
    assert before["kept"] > 0
    assert run()["unchanged"]
    limits = [
        dataclasses.replace(limit, least=9.0) if limit.score == "motion.subject" else limit
        for limit in decide.LIMITS
    ]
    with monkeypatch.context() as patch:
        patch.setattr(decide, "LIMITS", tuple(limits))
        patch.setattr(analyse, "analyse_source", None)  # nothing is decoded for it
        after = run()
    assert "unchanged" not in after
    assert after["kept"] == 0
    stamps = {path: path.stat().st_mtime_ns for path in workspace.clip_files.iterdir()}
    assert run()["kept"] == before["kept"]
    with monkeypatch.context() as patch:
        patch.setattr(cut, "VERSION", 99)
        assert run()["kept"] == before["kept"]
    again = {path: path.stat().st_mtime_ns for path in workspace.clip_files.iterdir()}
    assert again.keys() == stamps.keys()
    assert all(again[path] > stamps[path] for path in stamps)


def test_metrics_of_a_video(raw_film: Path) -> None:
    seen = [frame.rgb for frame in decode_frames(raw_film, size=(64, 38))][:49]
    found = metrics.video_metrics(np.stack(seen), 24.0, seen[0])
    check("metrics", metrics.VERSION, "VERSION in train/evaluate/metrics.py", found)
