"""The commands on a small workspace of drawn footage: report, decide, calibrate, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import camera_clip
from typer.testing import CliRunner

from realdpo import tables
from realdpo.cli import app
from realdpo.config import settings_to_toml
from realdpo.curate import report
from realdpo.curate.config import IngestConfig
from realdpo.curate.decide import merge_thresholds
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.workspace import Workspace

HOSTILE = "<script>alert(\"x\")</script> & 'quotes'.mp4"


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("footage") / HOSTILE.replace("/", "_")
    clip = camera_clip(seconds=2.5, fps=16, height=96, width=128, square=(0.4, 0.4, 0))
    path.write_bytes(encode_video(clip, 16, EncodeSettings(preset="ultrafast")))
    return path


@pytest.fixture
def place(tmp_path: Path, footage: Path) -> Workspace:
    place = Workspace(tmp_path / "work")
    source = {
        "source_id": "s" * 64,
        "path": str(footage),
        "status": "ok",
        "duration_s": 2.5,
        "width": 128,
        "height": 96,
        "license": "CC0-1.0",
        "author": HOSTILE,
    }
    bad = {"path": "broken.mp4", "status": "failed", "error": "holds no decodable frame"}
    rows = [
        {
            "clip_id": name * 32,
            "source_id": "s" * 64,
            "start_s": start,
            "end_s": start + 1,
            "status": "ok",
            "keep": keep,
            "reasons": reasons,
            "prompt": HOSTILE,
            "action": ["dancing"],
            "motion.subject": speed,
        }
        for name, start, keep, reasons, speed in (
            ("a", 0.0, True, [], 0.4),
            ("b", 1.0, False, ["motion.subject=0.01<0.04"], 0.01),
        )
    ]
    tables.write_table(
        place.sources, tables.from_rows(tables.SOURCES, [source, bad]), tables.SOURCES
    )
    tables.write_table(place.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    return place


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["curate", *arguments])
    return result.exit_code, result.output


def test_the_page_shows_both_sides_and_lets_no_markup_in(place: Workspace) -> None:
    page = report.curate_report_html(place)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("data:video/mp4;base64,") == 2
    assert page.count("data:image/png;base64,") == 2
    for words in ("Dropped: motion.subject", "holds no decodable frame", "CC0-1.0", "dancing"):
        assert words in page
    assert 'src="http' not in page


def test_the_page_does_without_footage_that_has_gone(place: Workspace) -> None:
    table = tables.read_table(place.sources, tables.SOURCES).to_pylist()
    gone = [{**row, "path": "/nowhere/else.mp4"} for row in table]
    tables.write_table(place.sources, tables.from_rows(tables.SOURCES, gone), tables.SOURCES)
    assert "not where it was" in report.curate_report_html(place)


def test_a_slow_source_is_shown_at_its_own_pace(tmp_path: Path) -> None:
    path = tmp_path / "one_fps.mp4"
    pictures = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full(
        (64, 64, 3), 40, np.uint8
    )
    path.write_bytes(encode_video(pictures, 1, EncodeSettings(preset="ultrafast")))
    shown = report._preview(path, 0.0, 3.5)
    assert shown is not None
    levels = shown.frames.mean(axis=(1, 2, 3))
    assert len(levels) == 1 + 3 * shown.fps  # up to the last frame, at three seconds
    assert levels[0] < 20
    assert abs(levels[-1] - 120) < 10


def test_decide_judges_and_keeps_its_settings(place: Workspace) -> None:
    code, out = run("decide", "-w", str(place.root), "--set", "motion.subject_min=0.5", "--json")
    assert code == 0
    assert json.loads(out)["dropped"] == {"motion.subject": 2}
    assert report.thresholds_in_force(place)["motion.subject_min"] == 0.5
    code, out = run("decide", "-w", str(place.root), "--dry-run")
    assert code == 0
    assert "would keep 1 of 2" in out
    assert tables.read_table(place.clips, tables.CLIPS)["keep"].to_pylist() == [False, False]


def test_decide_starts_from_what_ingest_was_asked(place: Workspace) -> None:
    settings = IngestConfig(target="tiny", decide={"motion.subject_min": 0.3})
    place.save_config("curate ingest", settings_to_toml("ingest", settings))
    code, out = run("decide", "-w", str(place.root), "--set", "luma.mean_min=30", "--json")
    assert code == 0
    limits = json.loads(out)["thresholds"]
    assert limits["source.short_side_min"] == 80  # of the target, below the default
    assert (limits["motion.subject_min"], limits["luma.mean_min"]) == (0.3, 30)
    assert json.loads(out)["kept"] == 1


def test_a_target_lowers_the_smallest_size_unless_told_otherwise() -> None:
    def least(**settings: Any) -> float:
        return merge_thresholds(IngestConfig(**settings).decide)["source.short_side_min"]

    assert least(target="tiny") == 80
    assert least(target="cogvideox") == least(target="native") == 240
    assert least(target="tiny", decide={"source.short_side_min": 100}) == 100
    assert least(target="tiny", decide={"source": {"short_side_min": 100}}) == 100


def test_a_mistyped_threshold_is_one_line(place: Workspace) -> None:
    code, out = run("decide", "-w", str(place.root), "--set", "motion.subjet_min=1x")
    assert code == 1
    assert out.startswith("error: ")
    assert "Traceback" not in out


def test_calibrate_writes_thresholds_that_decide_reads(place: Workspace) -> None:
    code, out = run("calibrate", "-w", str(place.root), "--keep", "1")
    assert code == 0
    assert "motion.subject" in out
    file = place.root / "config" / "calibrated.toml"
    code, out = run("decide", "-w", str(place.root), "--config", str(file), "--json")
    assert code == 0
    assert json.loads(out)["kept"] == 1


@pytest.mark.slow
def test_inspect_tells_what_is_in_a_file(footage: Path, tmp_path: Path) -> None:
    code, out = run("inspect", str(footage), "--json", "--set", "source.short_side_min=off")
    assert code == 0
    found = json.loads(out)
    assert (found["facts"]["width"], found["facts"]["height"]) == (128, 96)
    (clip,) = found["clips"]
    assert clip["scores"]["motion.subject"] == pytest.approx(0.4, rel=0.25)
    assert clip["keep"], clip["reasons"]
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    code, out = run("inspect", str(text))
    assert code == 1
    assert "cannot be read as video" in out


def test_an_extra_that_does_not_exist_is_named(footage: Path) -> None:
    code, out = run("inspect", str(footage), "--extra", "peple")
    assert code == 1
    assert "people, text, nsfw" in out
