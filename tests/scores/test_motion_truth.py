"""Motion over real stills: a small version of benchmarks/motion.py, on frames of a street."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from realdpo.curate.scores import score_frames
from realdpo.media.decode import decode_frames

PLACE = Path(__file__).parents[2] / "benchmarks" / "motion.py"


@pytest.fixture(scope="module")
def truth() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_motion", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stills(truth: ModuleType, bikes: Path) -> list:
    cv2.setNumThreads(1)  # as ingest does
    return [truth.fitted(next(iter(decode_frames(bikes, start=t))).rgb) for t in (2.0, 6.0, 8.5)]


@pytest.mark.parametrize("camera", ["pan 0.14", "zoom 0.2", "roll 0.2", "all at once"])
def test_a_camera_over_a_still_has_no_subject(truth: ModuleType, stills: list, camera: str) -> None:
    right, down, zoom, roll = truth.CAMERAS[camera]
    for still in stills:
        found = score_frames(truth.camera_clip(still, right, down, zoom, roll), truth.FPS)
        assert found["motion.camera_confidence"] == 1
        assert not truth.passes(found), found
        assert found["motion.pan_x"] == pytest.approx(right, abs=0.01)
        assert found["motion.pan_y"] == pytest.approx(down, abs=0.01)
        assert found["motion.zoom"] == pytest.approx(zoom, abs=0.015)
        assert found["motion.roll"] == pytest.approx(roll, abs=0.015)


@pytest.mark.parametrize(("size", "speed", "pan"), [(0.2, 0.14, 0.0), (0.35, 0.14, 0.2)])
def test_a_small_slow_subject_reads_within_a_tenth(
    truth: ModuleType, stills: list, size: float, speed: float, pan: float
) -> None:
    for still, other in zip(stills, stills[1:] + stills[:1], strict=True):
        clip = truth.camera_clip(still, right=pan, subject=(other, size, speed - pan))
        found = score_frames(clip, truth.FPS)
        assert truth.passes(found), found
        assert found["motion.subject"] == pytest.approx(speed, rel=0.1)
