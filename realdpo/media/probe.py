"""What a video file is: facts read from its headers and its first frame."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from realdpo.media import MediaError

if TYPE_CHECKING:
    import av.container
    import av.video

Source = str | Path | bytes

# Numbers of ITU-T H.273, as FFmpeg stores them.
TRANSFERS = {1: "bt709", 6: "smpte170m", 13: "srgb", 14: "bt2020-10", 16: "pq", 18: "hlg"}
BT2020_PRIMARIES = 9
# Pictures and text that FFmpeg would gladly show as video.
_NOT_VIDEO = {"ansi", "bintext", "xbin", "idf"}


@dataclass(frozen=True)
class Orientation:
    """How a coded picture becomes upright: first transpose, then mirror."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def degrees(self) -> int:
        """Counterclockwise turn in degrees (0, 90, 180, 270); mirroring is not part of it."""
        if self.swap:
            return 90 if self.flip_y else 270
        return 180 if self.flip_y else 0


@dataclass(frozen=True)
class Probe:
    """Facts of a video file.

    width, height: of the picture as it is shown (upright, square pixels), in pixels.
    fps: average frames per second. duration: seconds of the video stream, 0 when unknown.
    start: presentation time of the first frame in the container's clock, seconds.
    frames: number in the header, 0 when unknown. sar: sample aspect ratio of the coded picture.
    hdr: PQ or HLG transfer. rotation: counterclockwise degrees applied to make it upright.
    """

    width: int
    height: int
    fps: Fraction
    duration: Fraction
    start: Fraction
    frames: int
    codec: str
    pix_fmt: str
    bit_depth: int
    rotation: int
    sar: Fraction
    transfer: str
    primaries: int
    hdr: bool
    interlaced: bool
    has_audio: bool
    container: str


def probe_video(source: Source) -> Probe:
    """Facts of the file at a path, or of a file's bytes.

    Raises MediaError when it is missing, not video, empty, or not one frame can be decoded.
    """
    with open_video(source) as (container, stream):
        frame = first_frame(container, stream, source)
        sar = pixel_aspect(frame, stream)
        width, height = shown_size(frame.width, frame.height, sar, read_orientation(frame))
        transfer = TRANSFERS.get(int(frame.color_trc), "unknown")
        return Probe(
            width=width,
            height=height,
            fps=to_fraction(stream.average_rate or stream.guessed_rate),
            duration=_duration(container, stream),
            start=(frame.pts or 0) * to_fraction(frame.time_base),
            frames=stream.frames,
            codec=stream.codec_context.name,
            pix_fmt=frame.format.name,
            bit_depth=max(part.bits for part in frame.format.components),
            rotation=read_orientation(frame).degrees,
            sar=sar,
            transfer=transfer,
            primaries=int(frame.color_primaries),
            hdr=transfer in ("pq", "hlg"),
            interlaced=bool(frame.interlaced_frame),
            has_audio=bool(container.streams.audio),
            container=container.format.name,
        )


@contextlib.contextmanager
def open_video(
    source: Source, threads: int = 0
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    """Open a path or bytes; yield the container and its first video stream that is no cover art.

    threads: for decoding, 0 lets FFmpeg choose. Raises MediaError.
    """
    import av

    # A playlist or a concat script that calls itself .mp4 may not reach other hosts or pipes.
    options = {"protocol_whitelist": "file,crypto,data"}
    target: Any
    if isinstance(source, bytes):
        target, options = io.BytesIO(source), {}
    elif "://" in str(source):
        target, options = _remote(str(source)), {}
    else:
        # An absolute path cannot be read as an option or as a protocol, whatever it is called.
        target = os.path.abspath(source)
    # Up to PyAV 18 a tag in another encoding is an error unless told otherwise; since then never.
    tags: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        container = av.open(target, options=options, **tags)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{source_name(source)} cannot be read as video: {_reason(error)}"
        ) from error
    with container:
        shown = [
            stream
            for stream in container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not shown:
            what = "only cover art" if container.streams.video else "no video stream"
            raise MediaError(f"{source_name(source)} has {what}")
        stream = shown[0]
        if stream.codec_context is None or stream.codec_context.name in _NOT_VIDEO:
            raise MediaError(f"{source_name(source)} is in a codec that cannot be decoded")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield container, stream


def _remote(address: str) -> Any:
    """A file of any fsspec file system, of which only what is decoded is read."""
    import fsspec

    try:
        return fsspec.open(address, "rb").open()
    except (OSError, ImportError, ValueError) as error:
        raise MediaError(f"{source_name(address)} cannot be opened: {_reason(error)}") from error


def first_frame(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, source: Source
) -> av.VideoFrame:
    """The first frame that decodes. Raises MediaError when there is none."""
    import av

    last = "no frame in it"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            for frame in packet.decode():
                if frame.width and frame.height:
                    return frame
        except av.EOFError:
            break
        except av.FFmpegError as error:
            last = _reason(error)
            if packet_lost(error):
                continue
            break
    raise MediaError(f"{source_name(source)} holds no decodable frame: {last}")


def packet_lost(error: Exception) -> bool:
    """Whether an error concerns one damaged packet (go on) rather than the file (stop)."""
    import av

    return isinstance(error, av.InvalidDataError)


def read_orientation(frame: av.VideoFrame) -> Orientation:
    """The turn that the frame's display matrix asks for, to the nearest right angle."""
    data = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if a == b == c == d == 0:
        return Orientation()
    # The matrix sends a picture's (x, y) to (a x + c y, b x + d y).
    if abs(a) >= abs(b):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def pixel_aspect(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> Fraction:
    """Width of a coded pixel over its height; 1 when unknown or absurd."""
    sar = to_fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio)
    return sar if Fraction(1, 8) <= sar <= 8 else Fraction(1)


def to_fraction(value: Any) -> Fraction:
    """PyAV's number, which since PyAV 19 is of a type of its own, as Python's; 0 when unset."""
    return Fraction(value or 0)


def shown_size(width: int, height: int, sar: Fraction, turn: Orientation) -> tuple[int, int]:
    """(width, height) of a coded picture once its pixels are square and it is upright."""
    width = max(1, round(width * sar))
    return (height, width) if turn.swap else (width, height)


def source_name(source: Source) -> str:
    """What to call a source in a message: its path, on one line."""
    if isinstance(source, bytes):
        return f"a video of {len(source)} bytes"
    return str(source).replace("\n", "\\n")


def _duration(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Fraction:
    if stream.duration is not None and stream.time_base:
        return stream.duration * to_fraction(stream.time_base)
    # Matroska keeps no length per stream; the container's counts its longest stream.
    if container.duration is not None:
        return Fraction(container.duration, 1_000_000)
    return Fraction(0)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
