"""Footage that a user might really have: ordinary, odd and broken, made with ffmpeg."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from films import ffmpeg

NASTY = "-a \"b\" 'c'\n\\d 🎬 %d.mp4"


@pytest.fixture(scope="session")
def footage(bikes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three good sources, three that are good but odd, and seven bad ones."""
    folder = tmp_path_factory.mktemp("footage")
    small = ("-vf", "scale=320:-2", "-an", "-preset", "ultrafast")
    good = folder / "good"
    good.mkdir()
    ffmpeg("-ss", 0, "-t", 4, "-i", bikes, *small, good / "street.mp4")
    ffmpeg("-ss", 4, "-t", 3, "-i", bikes, *small, good / NASTY)
    (good / "street.json").write_text(
        '{"license": "CC-BY-4.0", "user": {"name": "Ann"}, "tags": ["cycling", "street"], '
        '"title": "People riding bikes"}'
    )
    ffmpeg(
        "-ss",
        7,
        "-t",
        3,
        "-i",
        bikes,
        "-vf",
        "scale=321:241,setsar=3/2",
        "-c:v",
        "ffv1",
        "-an",
        good / "odd_sizes.mkv",
    )

    odd = folder / "odd"
    odd.mkdir()
    ffmpeg(
        "-t",
        2,
        "-i",
        bikes,
        "-vf",
        "scale=160:-2,settb=1/9600,setpts='(N+N*N/90)/25/TB'",
        "-enc_time_base",
        "1/9600",
        "-fps_mode",
        "vfr",
        "-an",
        odd / "vfr.mkv",
    )
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x120:r=1:d=6", odd / "one_fps.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x120:r=25", "-frames:v", 1, odd / "one_frame.mp4")

    bad = folder / "bad"
    bad.mkdir()
    (bad / "zero.mp4").write_bytes(b"")
    (bad / "text.mp4").write_text("not a video\n" * 100)
    whole = (good / "street.mp4").read_bytes()
    (bad / "headless.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", bad / "audio.m4v")
    (bad / "loop.mp4").symlink_to("loop.mp4")
    (bad / "gone.mp4").symlink_to("nowhere.mp4")
    shutil.copy(good / "street.json", bad / "playlist.mp4")
    (bad / "circle").symlink_to(bad)
    return folder
