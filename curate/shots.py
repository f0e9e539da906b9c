"""Shot boundaries and the spans between them that can become clips."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from realdpo.curate.config import ClipSettings, ShotSettings, Target
from realdpo.reasons import Reason

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from realdpo.curate.neural import NeuralFinder

VERSION = 1  # raise when the same cuts give other spans
_CLOCK = 1_000_000_000  # ticks a second: the detectors want one time base for all frames
# The adaptive one: benchmarks/films.csv holds a cut between two fast shots with a ratio of 3.28, 3.1 at full size.
_THRESHOLDS = {"adaptive": 3.1, "content": 31.0, "threshold": 12.0, "transnetv2": 0.4}


@dataclass(frozen=True)
class ShotSpan:
    """A piece of a shot, seconds from the stream's first frame; `end` is exclusive.

    reasons: why it cannot become a clip, whatever its scores.
    """

    shot: int
    start: Fraction
    end: Fraction
    reasons: tuple[Reason, ...] = ()


class CutFinder:
    """The cuts of a PySceneDetect detector, from our frames."""

    def __init__(self, settings: ShotSettings, fps: Fraction) -> None:
        self._settings = settings
        self._detector = None if settings.detector == "adaptive" else _detector(settings)
        self._soft: list[tuple[Fraction, Fraction]] = []
        self._fps = fps if fps > 0 else Fraction(25)
        self._last: Any = None
        self._cuts: list[Any] = []
        self._changes = array("d")
        self._before: npt.NDArray[np.uint8] | None = None

    def feed(self, time: Fraction, rgb: npt.NDArray[np.uint8]) -> None:
        """The next frame: uint8 [H, W, 3] at analysis size."""
        if self._detector is None:
            hsv = _hsv(rgb)
            self._changes.append(_change(self._before, hsv))
            self._before = hsv
            return
        from scenedetect import FrameTimecode
        from scenedetect.common import Timecode

        code = Timecode(pts=round(time * _CLOCK), time_base=Fraction(1, _CLOCK))
        self._last = FrameTimecode(code, fps=self._fps)
        self._cuts += self._detector.process_frame(self._last, rgb)

    def cuts(self, times: Sequence[Fraction]) -> list[Fraction]:
        """Times of the first frames of all shots but the first. times: of all frames fed."""
        if self._detector is None:
            return self._spaced(times)
        if self._last is None:
            return []
        found = [*self._cuts, *self._detector.post_process(self._last)]
        # A fade's cut lies between two frames: the shot begins at the next one.
        codes = [round(time * _CLOCK) for time in times]
        places = {bisect_left(codes, round(cut.pts * cut.time_base * _CLOCK)) for cut in found}
        return [times[place] for place in sorted(places) if 0 < place < len(codes)]

    def _spaced(self, times: Sequence[Fraction]) -> list[Fraction]:
        """Cuts of the adaptive detector that keep their distance; notes the others as soft."""
        kept: list[Fraction] = []
        self._soft = []
        last = times[0] if times else Fraction(0)
        for place in _jumps(self._changes, self._settings):
            if times[place] - last >= exact_seconds(self._settings.min_seconds):
                last = times[place]
                kept.append(last)
            else:
                self._soft.append((times[place], times[place]))
        return kept

    def soft(self) -> list[tuple[Fraction, Fraction]]:
        """(start, end) of further places that no clip may cross; known after `cuts`.

        The adaptive detector passes over a cut that follows another too soon. It begins no
        shot of its own, yet the frames before it are foreign to those after it.
        """
        return list(self._soft)


def make_finder(settings: ShotSettings, fps: Fraction) -> CutFinder | NeuralFinder:
    """The detector that the settings name. Raises UserError when it is not installed."""
    if settings.detector == "transnetv2":
        from realdpo.curate.neural import NeuralFinder

        return NeuralFinder(_threshold(settings))
    return CutFinder(settings, fps)


def divide_shots(
    times: Sequence[Fraction],
    cuts: Sequence[Fraction],
    soft: Sequence[tuple[Fraction, Fraction]],
    fps: Fraction,
    settings: ClipSettings,
    target: Target,
    breaks: Sequence[tuple[Fraction, Fraction]] = (),
) -> list[ShotSpan]:
    """Spans that fill every shot without its edges, each beginning at a frame.

    times: of all frames, ascending. cuts: first frames of new shots. soft: (start, end) of
    dissolves and fades; they separate shots as cuts do. breaks: (end, start) around holes in the
    times and where the picture changes its size. A shot that is too short for a clip
    gives one span with the reason `too_short`; what lies inside a soft transition is in none.
    """
    if not times:
        return []
    frame = 1 / fps if fps > 0 else Fraction(1, 25)
    finish = times[-1] + frame
    gaps = sorted(
        [(cut, cut, exact_seconds(settings.trim_seconds)) for cut in cuts]
        + [(end, start, exact_seconds(settings.trim_seconds)) for end, start in breaks]
        + [(start, end, exact_seconds(settings.soft_trim_seconds)) for start, end in soft]
    )
    spans: list[ShotSpan] = []
    begin, lead, shot = Fraction(0), Fraction(0), 0
    for gap_start, gap_end, trim in [*gaps, (finish, finish, Fraction(0))]:
        if gap_start > begin:
            spans += _pieces(shot, begin + lead, gap_start - trim, times, frame, settings, target)
            shot += 1
        if gap_end >= begin:
            lead = max(trim, lead - (gap_end - begin))
            begin = gap_end
    return spans


def divide_given(
    times: Sequence[Fraction],
    given: Sequence[tuple[Fraction, Fraction | None]],
    fps: Fraction,
    settings: ClipSettings,
    target: Target,
    breaks: Sequence[tuple[Fraction, Fraction]] = (),
) -> list[ShotSpan]:
    """As `divide_shots`, for spans that somebody chose: no shots are looked for, nothing is trimmed.

    given: (start, end), the end None for the film's; `shot` of the result counts them. A span
    that begins after the film gives one with the reason `outside`.
    """
    if not times:
        return []
    frame = 1 / fps if fps > 0 else Fraction(1, 25)
    finish = times[-1] + frame
    spans: list[ShotSpan] = []
    for number, (start, wanted) in enumerate(given):
        end = finish if wanted is None else min(wanted, finish)
        if start >= end:
            spans.append(ShotSpan(number, start, start, (Reason("outside"),)))
            continue
        for gap_end, gap_start in sorted(breaks):
            if start < gap_end < end:
                spans += _pieces(number, start, gap_end, times, frame, settings, target)
                start = gap_start
        if start < end:
            spans += _pieces(number, start, end, times, frame, settings, target)
    return spans


def _pieces(
    shot: int,
    start: Fraction,
    end: Fraction,
    times: Sequence[Fraction],
    frame: Fraction,
    settings: ClipSettings,
    target: Target,
) -> list[ShotSpan]:
    """One shot's spans: of equal length, or as many of the target's length as fit."""
    start = _snap(start, times)
    if target.frames:
        # The last picture needs a frame of its own; what it would last for is not needed.
        reach = (target.frames - 1) / target.fps
        pieces = []
        while start + reach <= end - frame:
            pieces.append(ShotSpan(shot, start, min(start + target.seconds, end)))
            start = _snap(start + target.seconds, times)
        return pieces or [ShotSpan(shot, start, max(start, end), (Reason("too_short"),))]
    length = end - start
    if length < exact_seconds(settings.min_seconds):
        return [ShotSpan(shot, start, max(start, end), (Reason("too_short"),))]
    count = math.ceil(length / exact_seconds(settings.max_seconds))
    edges = [_snap(start + length * i / count, times) for i in range(count)] + [end]
    return [ShotSpan(shot, a, b) for a, b in pairwise(edges)]


def of(path: str | Path, settings: ShotSettings | None = None) -> list[ShotSpan]:
    """The shots of a video file, trimmed as `ingest` trims them, whatever their length.

    Raises UserError when the file cannot be read as video.
    """
    from realdpo.curate.analyse import AnalysisTask, analyse_source

    seen = analyse_source(AnalysisTask("", str(path), settings or ShotSettings()))
    whole = ClipSettings(min_seconds=1e-3, max_seconds=1e6)
    return divide_shots(
        seen.times, seen.cuts, seen.soft, Fraction(seen.facts["fps"]), whole, Target()
    )


def exact_seconds(seconds: float) -> Fraction:
    """A setting such as 0.1 as the fraction that was meant, not the nearest binary one."""
    return Fraction(seconds).limit_denominator(100_000)


def _snap(time: Fraction, times: Sequence[Fraction]) -> Fraction:
    """The first frame at or after `time`, or the last frame."""
    return times[min(bisect_left(times, time), len(times) - 1)]


def _detector(settings: ShotSettings) -> Any:
    from scenedetect import detectors

    threshold = _threshold(settings)
    shortest = float(settings.min_seconds)
    if settings.detector == "content":
        return _quick(detectors.ContentDetector)(threshold=threshold, min_scene_len=shortest)
    return detectors.ThresholdDetector(threshold=threshold, min_scene_len=shortest)


def _threshold(settings: ShotSettings) -> float:
    given = settings.threshold
    return _THRESHOLDS[settings.detector] if given is None else given


def _quick(kind: type) -> type:
    """A detector whose frame score, the same number, takes a quarter of the time."""

    class Quick(kind):  # type: ignore[misc]  # the class is chosen at run time
        _before: npt.NDArray[np.uint8] | None = None

        def _calculate_frame_score(self, timecode: Any, frame_img: npt.NDArray[np.uint8]) -> float:
            hsv = _hsv(frame_img)
            before, self._before = self._before, hsv
            return _change(before, hsv)

    return Quick


def _hsv(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2
    import numpy as np

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), np.uint8)


def _change(before: npt.NDArray[np.uint8] | None, hsv: npt.NDArray[np.uint8]) -> float:
    """PySceneDetect's frame score with its default weights: mean difference of HSV values."""
    import cv2

    return 0.0 if before is None else cv2.norm(hsv, before, cv2.NORM_L1) / hsv.size


def _jumps(changes: Sequence[float], settings: ShotSettings) -> list[int]:
    """Frames where the adaptive detector cuts, whatever their distance.

    A frame's change must be `threshold` times the mean change of the `window` frames on either
    side, and at least `min_content`; among frames that do not change at all, only the latter.
    PySceneDetect's own class says the same, at the price of several frame scores a frame.
    """
    import numpy as np

    change, window = np.asarray(changes, np.float64), settings.window
    if len(change) < 2 * window + 1:
        return []
    middle = change[window : len(change) - window]
    around = np.zeros_like(middle)
    for shift in range(2 * window + 1):
        if shift != window:
            around += change[shift : shift + len(middle)]
    around /= 2.0 * window
    still = np.abs(around) < 1e-5
    ratio = np.minimum(middle / np.where(still, 1.0, around), 255.0)
    jump = (middle >= settings.min_content) & (still | (ratio >= _threshold(settings)))
    return (np.flatnonzero(jump) + window).tolist()
