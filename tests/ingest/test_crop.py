"""From a film with bars and a subject at its edge to clips that show the subject and no bar."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from realdpo import tables
from realdpo.curate.config import ClipSettings, IngestConfig
from realdpo.curate.ingestion import ingest_footage
from realdpo.media.decode import read_clip
from realdpo.media.encode import encode_video
from realdpo.workspace import Workspace

HEIGHT, WIDTH, BAR, FPS = 160, 320, 24, 16


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A green thing moves up and down at the right edge of a grey picture, between two bars."""
    rng = np.random.default_rng(0)
    cells = rng.integers(60, 190, (HEIGHT // 8, WIDTH // 8), np.uint8)
    grey = cv2.resize(cells, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    thing = cv2.resize(rng.integers(90, 255, (6, 6), np.uint8), (40, 40))
    frames = []
    for index in range(24):
        frame = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        top = round(60 + 20 * np.sin(index / 24 * 2 * np.pi))
        frame[top : top + 40, 262:302] = 20
        frame[top : top + 40, 262:302, 1] = thing
        frame[:BAR] = frame[-BAR:] = 0
        frames.append(frame)
    path = tmp_path_factory.mktemp("film") / "bars.mp4"
    path.write_bytes(encode_video(np.stack(frames), FPS))
    return path


def clip_of(film: Path, folder: Path, crop: str) -> tuple[dict, np.ndarray]:
    off = [
        "source.short_side_min",
        "detail.sharpness_min",
        "frozen.share_max",
        "detail.blocking_max",
        "motion.subject_share_min",
    ]
    settings = IngestConfig(
        target="tiny",
        engine="serial",
        clips=ClipSettings(crop=crop),
        decide=dict.fromkeys(off, "off"),
    )
    workspace = Workspace(folder)
    ingest_footage(workspace, [str(film)], settings)
    (row,) = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    assert row["keep"], row["reasons"]
    return row, read_clip(workspace.clip_file(row["clip_id"]))[0]


def green(frames: np.ndarray) -> float:
    """The share of pixels that are of the thing."""
    pixels = frames.astype(int)
    return float((pixels[..., 1] - pixels[..., 0] > 50).mean())


def test_the_clip_shows_what_moves_and_no_bar(film: Path, tmp_path: Path) -> None:
    row, frames = clip_of(film, tmp_path / "subject", "subject")
    assert frames.shape[1:3] == (80, 80)
    assert min(frames[:, edge].mean(axis=(1, 2)).min() for edge in (0, -1)) > 40
    # 112 lines are left, and as many columns of 320 are taken, at the right.
    assert row["crop.height"] == pytest.approx((HEIGHT - 2 * BAR) / HEIGHT, abs=0.02)
    assert row["crop.left"] + row["crop.width"] >= 302 / WIDTH
    assert row["box.share"] == pytest.approx(0.3, abs=0.01)
    # What moves fills more of the clip than of the film.
    assert row["motion.subject_share"] > 2 * row["motion.subject_share_whole"] > 0
    assert green(frames) > 0.05

    middle, others = clip_of(film, tmp_path / "centre", "centre")
    assert green(others) == 0
    assert middle["motion.subject_share"] == 0
    assert middle["motion.subject_share_whole"] == row["motion.subject_share_whole"]
    assert middle["clip_id"] != row["clip_id"]
