"""Exact clips: RGB frames to H.264 in MP4, the same bytes for the same frames and settings."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from realdpo.config import settings
from realdpo.media import MediaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@settings
class EncodeSettings:
    """How clips are written. Part of every clip's id.

    codec: as FFmpeg names it. preset: of x264, from ultrafast to veryslow. pix_fmt: pixel format.
    crf: H.264 constant quality, 0 (lossless) to 51; 12 is visually lossless, so that what a
    model learns is the footage and not the codec. gop: frames between key frames at most.
    x264_params: further settings as x264 names them; pairs turn off `mbtree`, with which the
    quality of a frame would depend on the frames after it.
    """

    codec: str = "libx264"
    crf: int = 12
    preset: str = "veryfast"
    pix_fmt: str = "yuv420p"
    gop: int = 24
    x264_params: str = ""


def encode_video(
    frames: npt.NDArray[np.uint8] | Iterable[npt.NDArray[np.uint8]],
    fps: Fraction | float,
    settings: EncodeSettings = EncodeSettings(),
) -> bytes:
    """MP4 bytes of RGB frames: BT.709 limited range, square pixels, constant rate, no audio.

    frames: uint8 [F, H, W, 3], or an iterable of [H, W, 3] when the clip should not be in
    memory at once; H and W even. One encoder thread and no metadata: the bytes depend on
    frames, settings and the ffmpeg build alone. Raises MediaError for odd sizes, no frames, or
    when ffmpeg fails.
    """
    import numpy as np

    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise MediaError("a clip without frames cannot be encoded")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise MediaError(f"a clip of {width}x{height} cannot be encoded: 4:2:0 needs even sizes")
    with tempfile.TemporaryDirectory(prefix="realdpo-") as folder:
        target = Path(folder) / "clip.mp4"
        complaint = Path(folder) / "stderr"
        with open(complaint, "wb") as log:
            process = subprocess.Popen(
                _command(width, height, Fraction(fps).limit_denominator(100_000), settings, target),
                stdin=subprocess.PIPE,
                stderr=log,
            )
            assert process.stdin is not None
            try:
                for picture in chain([first], pictures):
                    if picture.shape != first.shape or picture.dtype != np.uint8:
                        raise MediaError(
                            f"frames of one clip differ: {first.shape} and "
                            f"{picture.shape} {picture.dtype}"
                        )
                    process.stdin.write(np.ascontiguousarray(picture).data)
                process.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg has died; its own words follow below
            except BaseException:
                process.kill()
                process.wait()
                raise
            code = process.wait()
        if code != 0:
            words = complaint.read_text(errors="replace").strip().splitlines()
            raise MediaError(f"ffmpeg could not encode a clip: {words[-1] if words else code}")
        return target.read_bytes()


@functools.lru_cache
def ffmpeg_exe() -> str:
    """The system's ffmpeg when it can encode H.264, else the one imageio-ffmpeg carries.

    Raises MediaError when there is neither.
    """
    system = shutil.which("ffmpeg")
    if system is not None and "libx264" in _run(system, "-hide_banner", "-encoders"):
        return system
    import imageio_ffmpeg

    try:
        text: str = imageio_ffmpeg.get_ffmpeg_exe()
        return text
    except RuntimeError as error:
        raise MediaError(
            "no ffmpeg with libx264 was found", "install ffmpeg, or pip install imageio-ffmpeg"
        ) from error


def _command(
    width: int, height: int, fps: Fraction, settings: EncodeSettings, target: Path
) -> list[str]:
    import ffmpeg

    scale = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int"
    frames = ffmpeg.input(
        "pipe:0",
        format="rawvideo",
        pix_fmt="rgb24",
        s=f"{width}x{height}",
        framerate=f"{fps.numerator}/{fps.denominator}",
    )
    x264 = {"x264-params": settings.x264_params} if settings.x264_params else {}
    clip = frames.output(
        str(target),
        an=None,
        map_metadata="-1",
        filter_threads=1,
        threads=1,
        vf=f"{scale}+bitexact,format={settings.pix_fmt},setsar=1",
        vcodec=settings.codec,
        preset=settings.preset,
        crf=settings.crf,
        g=settings.gop,
        color_primaries="bt709",
        color_trc="bt709",
        colorspace="bt709",
        color_range="tv",
        movflags="+faststart",
        format="mp4",
        fflags="+bitexact",
        **{"flags:v": "+bitexact"},
        **x264,
    )
    quiet = clip.global_args("-hide_banner", "-loglevel", "error", "-nostdin")
    command: list[str] = quiet.compile(ffmpeg_exe(), overwrite_output=True)
    return command


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
