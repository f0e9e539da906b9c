"""Media: frames come upright, square, SDR and timed; clips are exact and their bytes repeat."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from films import ffmpeg

from realdpo.media import MediaError, tonemap
from realdpo.media.decode import decode_frames, read_clip
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.media.probe import probe_video

# One colour a quadrant, so that any turn or mirror shows: red, green / blue, white.
QUADRANTS = np.zeros((64, 96, 3), np.uint8)
QUADRANTS[:32, :48] = (220, 30, 30)
QUADRANTS[:32, 48:] = (30, 200, 30)
QUADRANTS[32:, :48] = (30, 30, 220)
QUADRANTS[32:, 48:] = (230, 230, 230)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    path.write_bytes(encode_video(np.stack([QUADRANTS] * 12), 12))
    return path


def corners(rgb: np.ndarray) -> list[int]:
    """The dominant channel of each corner: 0 red, 1 green, 2 blue, 3 white."""
    spots = [rgb[4, 4], rgb[4, -5], rgb[-5, 4], rgb[-5, -5]]
    return [3 if spot.min() > 150 else int(spot.argmax()) for spot in spots]


def test_a_clip_survives_encoding_and_its_bytes_repeat(plain: Path) -> None:
    rgb, fps = read_clip(plain.read_bytes())
    assert rgb.shape == (12, 64, 96, 3)
    assert fps == 12
    flat = np.abs(rgb[:, 8:24, 8:40].astype(int) - QUADRANTS[8:24, 8:40])
    assert flat.max() <= 3  # BT.709 written and read back
    again = encode_video(iter([QUADRANTS] * 12), 12)
    assert again == plain.read_bytes()
    assert encode_video([QUADRANTS] * 12, 12, EncodeSettings(crf=30)) != again


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_rotation_is_applied_as_ffmpeg_applies_it(plain: Path, tmp_path: Path, turn: int) -> None:
    turned, upright = tmp_path / "turned.mp4", tmp_path / "upright.png"
    try:  # an input option since FFmpeg 6, metadata before
        ffmpeg("-display_rotation", turn, "-i", plain, "-c", "copy", turned)
    except subprocess.CalledProcessError:
        ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v:0", f"rotate={turn}", turned)
    ffmpeg("-i", turned, "-frames:v", "1", upright)
    expected = next(decode_frames(upright)).rgb
    first = next(decode_frames(turned)).rgb
    assert first.shape == expected.shape == ((96, 64, 3) if turn % 180 else (64, 96, 3))
    assert corners(first) == corners(expected)
    assert (corners(first) == corners(QUADRANTS)) == (turn == 0)
    facts = probe_video(turned)
    assert (facts.width, facts.height) == (first.shape[1], first.shape[0])


def test_a_tag_that_is_not_utf8_does_not_matter(plain: Path, tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.mp4"
    ffmpeg("-i", plain, "-c", "copy", "-metadata", "title=Cafe", tagged)
    tagged.write_bytes(tagged.read_bytes().replace(b"Cafe", b"Caf\xe9"))
    assert b"Caf\xe9" in tagged.read_bytes()
    assert probe_video(tagged) == probe_video(plain)
    assert len(list(decode_frames(tagged))) == 12


def test_anamorphic_pixels_become_square(plain: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.mp4"
    ffmpeg("-i", plain, "-vf", "setsar=4/3", wide)
    assert (probe_video(wide).width, probe_video(wide).height) == (128, 64)
    assert next(decode_frames(wide)).rgb.shape == (64, 128, 3)


def test_times_of_variable_rate_and_delayed_start(plain: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.mkv"
    ffmpeg(
        "-i",
        plain,
        "-vf",
        "settb=1/4800,setpts='(N+N*N/4)/12/TB+1.5/TB'",
        "-enc_time_base",
        "1/4800",
        "-fps_mode",
        "vfr",
        odd,
    )
    times = [frame.time for frame in decode_frames(odd)]
    assert times[0] == 0  # counted from the first frame, not from the container's zero
    expected = [(n + n * n / 4) / 12 for n in range(12)]
    assert np.allclose([float(t) for t in times], expected, atol=0.001)
    assert all(isinstance(t, Fraction) for t in times)
    assert probe_video(odd).start == Fraction(3, 2)


def test_a_span_is_the_same_frames_as_in_the_whole(bikes: Path) -> None:
    whole = list(decode_frames(bikes, short_side=64))
    start, end = whole[100].time, whole[131].time
    part = list(decode_frames(bikes, short_side=64, start=start, end=end))
    assert [f.time for f in part] == [f.time for f in whole[100:131]]
    assert all((a.rgb == b.rgb).all() for a, b in zip(part, whole[100:131], strict=True))


def test_truncated_file_gives_what_is_there(bikes: Path, tmp_path: Path) -> None:
    stream = tmp_path / "whole.mp4"
    ffmpeg("-i", bikes, "-c", "copy", "-an", "-movflags", "+faststart", stream)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    notes: list[str] = []
    found = list(decode_frames(cut, short_side=32, errors=notes))
    total = len(list(decode_frames(stream, short_side=32)))
    assert 0.2 * total < len(found) < 0.8 * total
    assert notes


@pytest.mark.parametrize("content", [b"", b"this is not a video\n" * 50, b"\x00" * 4096])
def test_what_is_no_video_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd\nname.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match="cannot be read as video|no decodable|no video") as caught:
        list(decode_frames(path))
    assert "\n" not in caught.value.message
    with pytest.raises(MediaError):
        probe_video(path)


def test_audio_alone_and_cover_art_are_no_video(plain: Path, tmp_path: Path) -> None:
    audio, cover, song = tmp_path / "a.m4a", tmp_path / "c.png", tmp_path / "song.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", audio)
    with pytest.raises(MediaError, match="no video stream"):
        probe_video(audio)
    ffmpeg("-i", plain, "-frames:v", "1", cover)
    ffmpeg(
        *("-i", audio, "-i", cover, "-map", "0", "-map", "1", "-c:a", "copy", "-c:v", "mjpeg"),
        *("-disposition:v:0", "attached_pic", song),
    )
    with pytest.raises(MediaError, match="only cover art"):
        probe_video(song)


def test_hdr_becomes_sdr() -> None:
    # BT.2408 diffuse white, 203 cd/m2, is signal 0.5807 in PQ: just under SDR white after the
    # curve of BT.2390 has made room for highlights. 26 cd/m2 is below the knee: exact.
    for light, expected in [(0.0, 0), (26.0, 255 * (26 / 203) ** (1 / 2.4)), (1000.0, 255)]:
        code = round((219 * float(tonemap.light_to_pq(light)) + 16) * 256)
        grey = np.full((3, 2, 2), 128 << 8, np.uint16)
        grey[0] = code
        out = tonemap.to_sdr(grey, "pq", full_range=False)
        assert np.abs(out.astype(float) - expected).max() <= 1.5, light
    assert abs(float(tonemap.light_to_pq(203.0)) - 0.5807) < 1e-3
    assert abs(float(tonemap.hlg_to_scene(0.75)) - 0.2650) < 1e-3  # BT.2100 table: 75 % signal
    assert float(tonemap.compress_highlights(1000.0)) == pytest.approx(203.0, rel=1e-3)


def test_ten_bit_hdr_file_is_tone_mapped(plain: Path, tmp_path: Path) -> None:
    hdr = tmp_path / "hdr.mkv"
    # On the frames themselves: newer encoders no longer take it from the output's options.
    tags = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"
    ffmpeg("-i", plain, "-vf", tags, "-pix_fmt", "yuv420p10le", "-c:v", "ffv1", hdr)
    facts = probe_video(hdr)
    assert facts.hdr
    assert facts.bit_depth == 10
    mapped, untouched = next(decode_frames(hdr)).rgb, next(decode_frames(plain)).rgb
    # Signal 0.9 of PQ is 3,900 cd/m2: it must end at SDR white, not stay at 230.
    assert mapped[-5, -5].min() > 250 > untouched[-5, -5].max()


def test_odd_sizes_are_refused_by_the_encoder() -> None:
    with pytest.raises(MediaError, match="even"):
        encode_video(np.zeros((2, 3, 4, 3), np.uint8), 8)
    with pytest.raises(MediaError, match="without frames"):
        encode_video([], 8)
