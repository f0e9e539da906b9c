"""Scores: frames in, named numbers out. Nothing here knows a threshold.

Streaming, for one pass over a source (many clips are summarised from one table):

    stream = StreamScores(height, width)            # of the analysis pictures, longer side ~256
    for frame in decode_frames(...):                       # display order, increasing times
        stream.feed(float(frame.time), frame.rgb)   # uint8 [h, w, 3]; or, better, now and then
        stream.feed(t, rgb, luma)                   # with the full-size luma, uint8 [H, W]
    table = stream.table()                          # dict of arrays, one row a frame
    summarise_span(table, start_s, end_s)                # {"luma.mean": ..., "motion.subject": ...}
    span_fingerprint(table, start_s, end_s)         # list[int]: `phash` column, for curate.dedup

`stream.wants_luma(t)` is true about twice a second: only then is `luma` looked at. Without any
luma, `detail.*` are taken from the analysis pictures, and then are not comparable with others.

A clip in memory: `score_frames(frames uint8 [F, H, W, 3], fps) -> {"motion.subject": ..., ...}`.

`table` is plain numpy and may be kept with `numpy.savez`. Every name of `NAMES` is in every
summary; NaN means that it is not known (a span of one frame has no motion).

    luma.mean, luma.contrast        mean and standard deviation of luma, 0 to 255
    luma.highlights, luma.shadows   share of clipped pixels, 0 to 1
    black.share                     share of frames that are black
    flash.rate                      flashes a second;  flash.flicker: fast changes of mean luma, levels
    frozen.share, frozen.longest    share of time without any change; longest such stretch, s
    time.fps, time.nominal_fps      frames a second that differ from the one before; all frames
    time.repeats, time.gap          share of repeated frames; longest time between two frames, s
    box.top .bottom .left .right    black bars, share of height or width; box.share: of the area
    detail.sharpness                0 (blurred) to 1, at 360 lines or fewer
    detail.noise                    standard deviation of noise, levels
    detail.blocking                 excess of steps on the 8 x 8 grid of codecs, 0 is none
    detail.combing                  share of pixels torn by interlacing
    motion.total .camera .subject   speed of the picture; of the camera; of what moves within it
    motion.camera_confidence        share of the time in which the camera's motion could be told;
                                    what is measured against the camera is of that time alone
    motion.subject_share            share of the picture that moves by itself
    motion.pan_x .pan_y .zoom .roll signed camera motion: right, down, 1/s inwards, rad/s
    motion.shake                    camera speed that is not steady
    motion.smoothness               1: the subject's speed is steady, 0: it comes in jerks
    motion.ramp                     octaves between the fast and the slow parts
    motion.unexplained              share of contrast that no motion explains (cuts, time-lapse)

All speeds are in picture heights per second and depend on neither frame rate nor size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from realdpo.curate.scores.stream import (
    LUMA_SECONDS,
    NAMES,
    StreamScores,
    score_frames,
    span_fingerprint,
    span_motion_map,
    summarise_span,
)

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 4  # raise when a number of a frame or of a span changes

__all__ = [
    "LUMA_SECONDS",
    "NAMES",
    "VERSION",
    "StreamScores",
    "of",
    "score_frames",
    "span_fingerprint",
    "span_motion_map",
    "summarise_span",
]


def of(path: str | Path) -> dict[str, float]:
    """Scores of a whole video file, as `ingest` stores them; NaN where one cannot be measured.

    Raises UserError when the file cannot be read as video.
    """
    from realdpo.curate.analyse import AnalysisTask, analyse_source
    from realdpo.curate.config import ShotSettings

    seen = analyse_source(AnalysisTask("", str(path), ShotSettings()))
    return summarise_span(seen.scores, 0.0, float(seen.times[-1]) + 1.0)
