"""Frames of a video: upright, square pixels, SDR RGB, in display order, with rational times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from realdpo.media import MediaError, probe
from realdpo.media.probe import Orientation, Source

if TYPE_CHECKING:
    import av
    import av.container
    import av.video
    import av.video.reformatter
    import numpy as np
    import numpy.typing as npt

VERSION = 2  # raise when a frame's pixels or its time change

# FFmpeg's numbers: AVCOL_SPC_* on frames, SWS_CS_* for the scaler.
_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT709, _BT601 = 1, 5
_LIMITED, _FULL = 1, 2
# libswscale's SwsFlags by number: PyAV before 18, the last for Python 3.10, names few of them.
_BICUBIC, _AREA = 0x4, 0x20
_FULL_CHROMA_INTERPOLATION, _FULL_CHROMA_INPUT = 0x2000, 0x4000
_ACCURATE_ROUNDING, _BIT_EXACT = 0x40000, 0x80000
_FULL_RANGE_FORMATS = ("yuvj", "gray", "gbr", "rgb", "bgr", "pal", "mono")


@dataclass(frozen=True)
class Frame:
    """One picture. time: seconds from the stream's first frame. rgb: uint8 [H, W, 3].

    shown: (width, height) of the picture before it was scaled, upright and square.
    luma: uint8 [H, W] of the coded picture at full size, neither turned nor scaled (so that
    interlacing and codec blocks show), when it was asked for.
    """

    time: Fraction
    rgb: npt.NDArray[np.uint8]
    luma: npt.NDArray[np.uint8] | None = None
    shown: tuple[int, int] = (0, 0)


def decode_frames(
    source: Source,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | Callable[[int, int], tuple[int, int]] | None = None,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    threads: int = 0,
    errors: list[str] | None = None,
    luma_every: float | None = None,
) -> Iterator[Frame]:
    """Decode once, in display order, with strictly increasing times.

    short_side: scale so that the shorter side has this many pixels (never up).
    size: scale to exactly (width, height), whatever the aspect; or a function that gives them
    for the (width, height) shown. A stream whose picture changes its size gives pictures that
    change with it, except where `size` is one size for all.
    start, end: seconds; only frames with start <= time < end, found by seeking, or from the
    beginning where that is refused.
    threads: for decoding, 0 lets FFmpeg choose.
    luma_every: seconds after which a frame shall carry its full-size luma again, from the first.
    errors: receives a line for every damaged packet or frame, which is left out. A truncated
    file gives the frames that are there. Raises MediaError when the file is not video or
    nothing in it can be decoded.
    """
    if short_side is not None and size is not None:
        raise ValueError("give short_side or size, not both")
    notes = errors if errors is not None else []
    seek = Fraction(start) if start else None
    while True:
        with probe.open_video(source, threads) as (container, stream):
            origin: Fraction | None = None
            if seek is not None:
                origin = _seek(container, stream, source, seek)
                if origin is None:
                    seek = None
                    continue
            picture: _Picture | None = None
            lost = False
            luma_time = -math.inf
            for time, frame in _timed(container, stream, source, origin, notes):
                if picture is None and seek is not None and time > seek:
                    lost = True
                    break
                if picture is None or not picture.fits(frame):
                    picture = _Picture(frame, stream, short_side, size)
                if end is not None and time >= end:
                    break
                if start is None or time >= start:
                    luma = None
                    if luma_every is not None and time - luma_time >= luma_every - 1e-6:
                        luma, luma_time = _luma(frame), float(time)
                    yield Frame(time, picture.rgb(frame), luma, picture.shown)
        if not lost and (picture is not None or seek is None):
            return
        seek = None  # this container's index is wrong: go through it from its beginning


frames = decode_frames  # the name until 0.2, by which scripts outside call it


def read_clip(source: Source) -> tuple[npt.NDArray[np.uint8], Fraction]:
    """A short clip wholly in memory: uint8 [F, H, W, 3] and its frames per second.

    Raises MediaError when it is not video.
    """
    import numpy as np

    with probe.open_video(source) as (_, stream):
        fps = probe.to_fraction(stream.average_rate or stream.guessed_rate)
    pictures = [frame.rgb for frame in decode_frames(source)]
    if not pictures:
        raise MediaError(f"{probe.source_name(source)} holds no frame")
    if len({picture.shape for picture in pictures}) > 1:
        raise MediaError(f"{probe.source_name(source)} changes the size of its picture")
    return np.stack(pictures), fps


def fit_short_side(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) with the shorter side at most `short_side`, aspect kept."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = Fraction(short_side, min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _seek(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    source: Source,
    seconds: Fraction,
) -> Fraction | None:
    """Go to the key frame before `seconds`; the first frame's own time, None if impossible.

    Raw streams carry no times, and files that mark no frame as a key frame have nowhere to go.
    """
    import av

    first = probe.first_frame(container, stream, source)
    if first.pts is None or not first.time_base or not stream.time_base:
        return None
    origin = first.pts * probe.to_fraction(first.time_base)
    try:
        container.seek(int((origin + seconds) / probe.to_fraction(stream.time_base)), stream=stream)
    except (av.FFmpegError, OSError):
        return None
    return origin


def _timed(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    source: Source,
    origin: Fraction | None,
    notes: list[str],
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """(time from the first frame, frame). origin: the first frame's time, where we sought."""
    step = 1 / probe.to_fraction(stream.average_rate or stream.guessed_rate or 25)
    sought = origin is not None
    last: Fraction | None = None
    for frame in _decoded(container, stream, notes):
        if frame.pts is not None and frame.time_base:
            stamp = frame.pts * probe.to_fraction(frame.time_base)
            if origin is None:
                # Matroska gives frames before its zero no times; the clock goes on after them.
                origin = stamp if last is None else stamp - last - step
                last = None if last is None else last + origin
        else:  # raw streams carry no times: count frames
            stamp = last + step if last is not None else origin or Fraction(0)
        if last is not None and stamp <= last:
            notes.append(f"time goes backwards at {float(stamp - (origin or 0)):.3f} s")
            continue
        last = stamp
        if stamp >= (origin or 0):
            yield stamp - (origin or 0), frame
    if last is not None and stream.duration and stream.time_base:
        promised = stream.duration * probe.to_fraction(stream.time_base)
        shown = last - (origin or 0)
        if promised - shown > max(Fraction(1, 2), 3 * step):
            notes.append(f"the file breaks off at {float(shown):.2f} s of {float(promised):.2f} s")
    if last is None and not sought:
        reason = notes[-1] if notes else "no frame in it"
        raise MediaError(f"{probe.source_name(source)} holds no decodable frame: {reason}")


def _decoded(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, notes: list[str]
) -> Iterator[av.VideoFrame]:
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.EOFError:
            return
        except av.FFmpegError as error:
            notes.append(f"unreadable from here on: {error.strerror}")
            packet = None
        if packet is None:
            return
        try:
            decoded = packet.decode()
        except av.EOFError:
            return
        except av.FFmpegError as error:
            notes.append(f"damaged packet: {error.strerror}")
            continue
        for frame in decoded:
            if frame.is_corrupt:
                notes.append(f"damaged frame at {frame.pts}")
            elif frame.width and frame.height:
                yield frame


class _Picture:
    """Turns decoded frames of one size into RGB of one size; holds the scaler between frames."""

    def __init__(
        self,
        first: av.VideoFrame,
        stream: av.video.stream.VideoStream,
        short_side: int | None,
        size: tuple[int, int] | Callable[[int, int], tuple[int, int]] | None,
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self.turn = probe.read_orientation(first)
        self.of = (first.width, first.height)
        self.shown = probe.shown_size(*self.of, probe.pixel_aspect(first, stream), self.turn)
        if callable(size):
            size = size(*self.shown)
        width, height = size or fit_short_side(*self.shown, short_side)
        self.coded = (height, width) if self.turn.swap else (width, height)
        self.scaler, self.painter = VideoReformatter(), VideoReformatter()

    def fits(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is of the size that this was made for."""
        return (frame.width, frame.height) == self.of

    def rgb(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        wide = frame.color_primaries == probe.BT2020_PRIMARIES
        transfer = probe.TRANSFERS.get(int(frame.color_trc), "unknown")
        if wide or transfer in ("pq", "hlg"):
            return _upright(self._tone_mapped(frame, transfer), self.turn)
        return _upright(self._painted(frame).to_ndarray(), self.turn)

    def _painted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """As rgb24. What shrinks a lot does so as 4:2:0: the scaler is quick at that alone."""
        width, height = self.coded
        if not _shrinks(frame, width, height) or frame.format.is_rgb:
            return self._scaled(frame, "rgb24", _FULL)
        small = self._scaled(frame, "yuv420p", _range(frame))
        return self._reformatted(self.painter, small, frame, "rgb24", _FULL)

    def _scaled(self, frame: av.VideoFrame, pix_fmt: str, out_range: int) -> av.VideoFrame:
        return self._reformatted(self.scaler, frame, frame, pix_fmt, out_range)

    def _reformatted(
        self,
        by: av.video.reformatter.VideoReformatter,
        picture: av.VideoFrame,
        source: av.VideoFrame,
        pix_fmt: str,
        out_range: int,
    ) -> av.VideoFrame:
        """`picture` at our size. source: the decoded frame whose colours and scale it follows."""
        width, height = self.coded
        return by.reformat(
            picture,
            width,
            height,
            pix_fmt,
            src_colorspace=_matrix(source),
            dst_colorspace=_matrix(source),
            src_color_range=_range(source),
            dst_color_range=out_range,
            interpolation=_interpolation(source, width, height),
            threads=1,
        )

    def _tone_mapped(self, frame: av.VideoFrame, transfer: str) -> npt.NDArray[np.uint8]:
        import numpy as np

        from realdpo.media import tonemap

        scaled = self._scaled(frame, "yuv444p16le", _range(frame))
        planes = [
            np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)[:, : plane.width]
            for plane in scaled.planes
        ]
        return tonemap.to_sdr(np.stack(planes), transfer, _range(frame) == _FULL)


def _luma(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """The coded picture's luma, 8 bits, at full size."""
    import numpy as np

    first = frame.format.components[0]
    if not frame.format.is_planar or frame.format.is_rgb or frame.format.is_big_endian:
        frame = frame.reformat(format="yuv444p")
        first = frame.format.components[0]
    plane = frame.planes[0]
    kind = np.uint8 if first.bits == 8 else np.uint16
    lines: npt.NDArray[Any] = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    lines = lines[:, : plane.width]
    return lines if first.bits == 8 else (lines >> (first.bits - 8)).astype(np.uint8)


def _shrinks(frame: av.VideoFrame, width: int, height: int) -> bool:
    return 4 * width * height <= frame.width * frame.height


def _interpolation(frame: av.VideoFrame, width: int, height: int) -> int:
    if _shrinks(frame, width, height):
        return _AREA | _BIT_EXACT  # what the other flags add is averaged away
    exact = _ACCURATE_ROUNDING | _BIT_EXACT | _FULL_CHROMA_INTERPOLATION | _FULL_CHROMA_INPUT
    if width * height < frame.width * frame.height:
        return _AREA | exact
    return _BICUBIC | exact


def _matrix(frame: av.VideoFrame) -> int:
    known = _MATRIX.get(int(frame.colorspace))
    if known is not None:
        return known
    # Untagged: every player takes HD for BT.709 and smaller pictures for BT.601.
    return _BT709 if frame.height > 576 or frame.width > 1024 else _BT601


def _range(frame: av.VideoFrame) -> int:
    if frame.color_range in (_LIMITED, _FULL):
        return int(frame.color_range)
    return _FULL if frame.format.name.startswith(_FULL_RANGE_FORMATS) else _LIMITED


def _upright(pixels: npt.NDArray[Any], turn: Orientation) -> npt.NDArray[np.uint8]:
    import numpy as np

    if turn.swap:
        pixels = pixels.swapaxes(0, 1)
    if turn.flip_x:
        pixels = pixels[:, ::-1]
    if turn.flip_y:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
