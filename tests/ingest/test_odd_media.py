"""Odd media: holes in the times, changing sizes, no place to seek to, hardly any picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import ffmpeg

from realdpo import tables
from realdpo.curate import analyse, sources
from realdpo.curate.config import TARGETS, ClipSettings, IngestConfig, ShotSettings, Target
from realdpo.curate.ingestion import ingest_footage
from realdpo.curate.inspect import describe_inspection, inspect_file
from realdpo.curate.shots import divide_shots
from realdpo.media import MediaError
from realdpo.media.decode import decode_frames, read_clip
from realdpo.workspace import Workspace

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def moving(size: str, seconds: float, rate: int = 25) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}")


def look(path: Path) -> analyse.Analysis:
    return analyse.analyse_source(analyse.AnalysisTask("", str(path), ShotSettings(), 1))


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Broadcast that changes from 320x136 to 480x360 after three seconds."""
    folder = tmp_path_factory.mktemp("sizes")
    one, two = folder / "one.ts", folder / "two.ts"
    ffmpeg(*moving("320x136", 3), *X264, "-bf", 0, one)
    ffmpeg(
        *moving("480x360", 3), "-vf", "vflip,negate", *X264, "-bf", 0, "-output_ts_offset", 3, two
    )
    path = folder / "both.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


def test_a_picture_that_changes_its_size_keeps_each_shape(two_sizes: Path) -> None:
    shapes = [frame.rgb.shape for frame in decode_frames(two_sizes)]
    assert shapes == [(136, 320, 3)] * 75 + [(360, 480, 3)] * 75
    seen = look(two_sizes)
    one, two = analyse.parts_of(seen.facts)
    assert (one.width, one.height, two.width, two.height) == (320, 136, 480, 360)
    assert one.end == two.start == seen.times[75]
    assert one.fps == two.fps == 25
    assert seen.facts["decode_errors"] == 0
    with pytest.raises(MediaError, match="changes the size"):
        read_clip(two_sizes)


def test_clips_are_cut_on_either_side_of_a_change_of_size(two_sizes: Path, tmp_path: Path) -> None:
    off = {
        f"{name}": "off"
        for name in (
            "source.short_side_min",
            "detail.blocking_max",
            "motion.unexplained_max",
            "flash.flicker_max",
            "motion.subject_min",
            "motion.subject_share_min",
            "motion.camera_confidence_min",
        )
    }
    workspace = Workspace(tmp_path)
    ingest_footage(workspace, [str(two_sizes)], IngestConfig(decide=off, engine="serial"))
    rows = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    assert [row["reasons"] for row in rows] == [[], []]
    assert [row["error"] for row in rows] == [None, None]
    assert [(row["width"], row["height"]) for row in rows] == [(320, 136), (480, 360)]
    for row in rows:
        pictures, _ = read_clip(tmp_path / row["path"])
        assert pictures.shape[1:3] == (row["height"], row["width"])


def test_a_hole_in_the_times_divides_and_the_rate_is_that_of_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "hole.mkv"
    ffmpeg(
        *moving("160x120", 6, 30),
        "-vf",
        "setpts='if(gt(N,89),PTS+2/TB,PTS)'",
        *X264,
        "-fps_mode",
        "vfr",
        path,
    )
    seen = look(path)
    one, two = parts = analyse.parts_of(seen.facts)
    assert float(one.end) == pytest.approx(3, abs=0.002)
    assert float(two.start) == pytest.approx(5, abs=0.002)
    assert seen.facts["fps"] == "30/1"
    assert one.fps == two.fps == 30
    spans = divide_shots(
        seen.times, [], [], Fraction(30), ClipSettings(), Target(), analyse.breaks_of(parts)
    )
    assert [[round(float(t), 1) for t in (s.start, s.end)] for s in spans] == [[0, 2.9], [5.1, 8]]
    assert "divided: a hole of 2.00 s in the times at 3.00 s" in describe_inspection(
        inspect_file(path)
    )


def test_slow_footage_is_no_row_of_holes(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    ffmpeg(*moving("160x120", 6, 1), *X264, path)
    (part,) = analyse.parts_of(look(path).facts)
    assert (part.start, part.end, part.fps) == (0, 6, 1)


def test_frames_before_the_containers_zero_are_footage(tmp_path: Path) -> None:
    path = tmp_path / "before.mkv"
    ffmpeg(
        *moving("160x120", 3, 30),
        "-f",
        "lavfi",
        "-i",
        "sine=d=3",
        *X264,
        "-output_ts_offset",
        -1,
        "-avoid_negative_ts",
        "disabled",
        path,
    )
    damage: list[str] = []
    times = [frame.time for frame in decode_frames(path, errors=damage)]
    assert len(times) == 90
    assert not damage
    np.testing.assert_allclose([float(t) for t in times], np.arange(90) / 30, atol=0.002)
    # A span is of the same frames, though there is no time that could be sought.
    part = list(decode_frames(path, start=0.5, end=1.5))
    assert [frame.time for frame in part] == [t for t in times if 0.5 <= t < 1.5]


def unmarked(path: Path, into: Path) -> None:
    """The same MP4 without a frame that is marked as a key frame."""
    with av.open(str(path)) as read, av.open(str(into), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.is_keyframe, packet.stream = False, stream
                written.mux(packet)


def test_what_cannot_be_sought_in_is_read_from_its_beginning(tmp_path: Path) -> None:
    film, raw, nokey = (tmp_path / name for name in ("film.mp4", "raw.h264", "nokey.mp4"))
    ffmpeg(*moving("160x120", 3), *X264, film)
    ffmpeg("-i", film, "-c", "copy", "-bsf:v", "h264_mp4toannexb", "-f", "h264", raw)
    unmarked(film, nokey)
    right = list(decode_frames(film, start=1, end=2))
    assert len(right) == 25
    for path in (raw, nokey):
        seen = list(decode_frames(path, start=1, end=2))
        assert [f.time for f in seen] == [f.time for f in right]
        for one, two in zip(seen, right, strict=True):
            np.testing.assert_array_equal(one.rgb, two.rgb)


def test_gif_is_footage(tmp_path: Path) -> None:
    path = tmp_path / "a.GIF"
    ffmpeg(*moving("64x48", 2, 10), path)
    (candidate,) = sources.find_footage([str(tmp_path)])
    assert candidate.path == str(path)
    seen = look(path)
    assert (seen.facts["frames"], seen.facts["fps"]) == (20, "10/1")


@pytest.mark.parametrize(("size", "count"), [("8x8", 1), ("160x120", 1), ("160x120", 2)])
def test_hardly_any_picture_gives_no_warning(tmp_path: Path, size: str, count: int) -> None:
    path = tmp_path / "little.mkv"
    ffmpeg(*moving(size, 1), "-frames:v", count, "-c:v", "ffv1", path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = inspect_file(path)
    assert found["clips"][0]["reasons"][0] == "too_short"


@pytest.mark.parametrize(
    ("target", "floor"),
    [("cogvideox", 7.6), ("tiny", 7.6), ("native", None), ("wan2.1", None), ("ltx", None)],
)
def test_the_floor_of_the_rate_follows_the_target(target: str, floor: float | None) -> None:
    assert target in TARGETS
    assert IngestConfig(target=target).decide.get("time.fps_min") == floor
    given: dict[str, object] = {"time.fps_min": 12.0}
    assert IngestConfig(target=target, decide=given).decide["time.fps_min"] == 12.0


def kept_rates(rates: Sequence[int], folder: Path) -> list[bool]:
    """Whether clips of films of these rates pass for the target tiny."""
    for rate in rates:
        ffmpeg(
            *moving("320x240", 3, rate), "-vf", "gblur=sigma=1.5", *X264, folder / f"{rate:02}.mp4"
        )
    workspace = Workspace(folder / "w")
    ingest_footage(workspace, [str(folder)], IngestConfig(target="tiny", engine="serial"))
    seen = {
        row["source_id"]: row["path"]
        for row in tables.read_table(workspace.sources, tables.SOURCES).to_pylist()
    }
    rows = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    slow = {
        Path(seen[row["source_id"]]).stem
        for row in rows
        if any("fps" in why or "slow" in why for why in row["reasons"])
    }
    return [f"{rate:02}" not in slow for rate in rates]


def test_footage_as_fast_as_the_target_is_fast_enough(tmp_path: Path) -> None:
    assert kept_rates((5, 8, 12), tmp_path) == [False, True, True]
