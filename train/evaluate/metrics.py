"""Metrics of one video that need no weights: motion, smoothness, flicker, drift, first frame.

Motion, freezing and flicker come from curate's scores, so a model is judged by the same measures by
which its data was chosen. Faults that only generated videos have are measured here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

VERSION = 1  # raise if a number changes that does not come from curate.scores

_ANALYSIS_HEIGHT = 240
_FLOW_HEIGHT = 128


@dataclass(frozen=True)
class Metric:
    """direction: +1 more is better, -1 less is better, 0 neither is better."""

    name: str
    direction: int
    unit: str
    meaning: str


# For the amount of motion, neither direction is better: standing still is smooth, and shaking is
# not life. It comes first, so every table shows it beside smoothness.
METRICS: tuple[Metric, ...] = (
    Metric("motion.total", 0, "heights/s", "mean speed of the moving picture"),
    Metric("motion.camera", 0, "heights/s", "speed of the global motion"),
    Metric("motion.subject", 0, "heights/s", "speed that remains without that of the camera"),
    Metric("motion.difference", 0, "of range", "mean change from frame to frame"),
    Metric("smooth.residual", -1, "ratio", "second difference of frames, relative to motion"),
    Metric("smooth.jerk", -1, "ratio", "second difference of the flow, relative to its speed"),
    Metric("motion.smoothness", 1, "0-1", "evenness of the subject's speed"),
    Metric("flash.flicker", -1, "levels", "fast changes of mean brightness"),
    Metric("frozen.share", -1, "share", "share of time in stretches without any change"),
    Metric("time.repeats", -1, "share", "frames that repeat the one before"),
    Metric("drift.sharpness", -1, "octaves", "gain or loss of sharpness from start to end"),
    Metric("drift.colour", -1, "Lab", "shift of mean colour from start to end"),
    Metric("first.psnr", 1, "dB", "first frame, compared with the given one"),
    Metric("first.ssim", 1, "", "first frame, compared with the given one"),
    Metric("clip.text", 1, "cosine", "fit of the frames to the prompt, by open_clip"),
    Metric(
        "clip.consistency", 1, "cosine", "each frame, compared with the first and the previous one"
    ),
    Metric("judge.first_frame", 1, "0-10", "judge: fits the first frame"),
    Metric("judge.text", 1, "0-10", "judge: fits the text"),
    Metric("judge.motion", 1, "0-10", "judge: natural motion"),
    Metric("judge.body", 1, "0-10", "judge: human body"),
    Metric("vbench.subject_consistency", 1, "", "VBench"),
    Metric("vbench.background_consistency", 1, "", "VBench"),
    Metric("vbench.motion_smoothness", 1, "", "VBench"),
    Metric("vbench.dynamic_degree", 0, "", "VBench: share of videos with large motion"),
    Metric("vbench.aesthetic_quality", 1, "", "VBench"),
    Metric("vbench.imaging_quality", 1, "", "VBench"),
)
_FROM_SCORES = (
    "motion.total",
    "motion.camera",
    "motion.subject",
    "motion.smoothness",
    "flash.flicker",
    "frozen.share",
    "time.repeats",
)
BY_NAME = {metric.name: metric for metric in METRICS}


def video_metrics(
    frames: np.ndarray, fps: Fraction | float, first_frame: np.ndarray | None = None
) -> dict[str, float]:
    """All metrics of one video that need no weights.

    frames: uint8 [F, H, W, 3], F >= 3. first_frame: the picture from which the video was made,
    uint8 [h, w, 3], scaled to the video's size for comparison. Without it, first.* is left out. A
    number that is undefined (the jerk of a video that does not move) is NaN.
    Raises ValueError for fewer than three frames.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or len(frames) < 3:
        raise ValueError(f"a video needs at least 3 RGB frames, got shape {frames.shape}")
    grey = _grey(frames, _ANALYSIS_HEIGHT)
    numbers = {
        **_from_scores(frames, fps),
        "motion.difference": frame_difference(grey),
        "smooth.residual": smoothness_residual(grey),
        "smooth.jerk": flow_jerk(_grey(frames, _FLOW_HEIGHT)),
        "drift.sharpness": sharpness_drift(grey),
        "drift.colour": colour_drift(frames),
    }
    if first_frame is not None:
        height, width = frames.shape[1:3]
        given = first_frame
        if given.shape[:2] != (height, width):
            given = cv2.resize(given, (width, height), interpolation=cv2.INTER_AREA)
        numbers["first.psnr"] = picture_psnr(frames[0], given)
        numbers["first.ssim"] = picture_ssim(frames[0], given)
    return numbers


def _from_scores(frames: np.ndarray, fps: Fraction | float) -> dict[str, float]:
    from realdpo.curate.scores import score_frames

    scores = score_frames(np.ascontiguousarray(frames), float(fps))
    return {name: float(scores[name]) for name in _FROM_SCORES}


def _grey(frames: np.ndarray, height: int) -> np.ndarray:
    """float32 [F, h, w] in [0, 1], scaled down to `height` rows (never up)."""
    scale = min(1.0, height / frames.shape[1])
    size = (max(8, round(frames.shape[2] * scale)), max(8, round(frames.shape[1] * scale)))
    pictures = []
    for frame in frames:
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        pictures.append(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
    return np.stack(pictures).astype(np.float32) / 255


def frame_difference(grey: np.ndarray) -> float:
    """Mean |x[t+1] - x[t]| of grey frames [F, H, W] in [0, 1]."""
    return float(np.abs(np.diff(grey, axis=0)).mean())


def smoothness_residual(grey: np.ndarray) -> float:
    """Mean |x[t] - (x[t-1] + x[t+1])/2| over mean |x[t+1] - x[t]|: 0 linear, 1 zigzag.

    Independent noise gives sqrt(3)/2 = 0.87, so a frozen noisy video does not count as smooth.
    NaN if nothing changes.
    """
    change = frame_difference(grey)
    if change < 1e-6:
        return math.nan
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()) / change


def flow_jerk(grey: np.ndarray) -> float:
    """Mean |v[t-1] - 2 v[t] + v[t+1]| over mean |v|, v the optical flow (Farneback) in pixels.

    The means run over places and times that move (more than 0.05 pixels per frame). Motion of
    constant acceleration gives 0. NaN if nothing moves, or for fewer than four frames.
    """
    if len(grey) < 4:
        return math.nan
    bytes_ = (grey * 255).astype(np.uint8)
    flows = np.stack(
        [
            cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]  # OpenCV takes None for flow
            for a, b in itertools.pairwise(bytes_)
        ]
    )
    speed = np.linalg.norm(flows, axis=-1)
    moving = (speed[:-2] + speed[1:-1] + speed[2:]) / 3 > 0.05
    if moving.sum() < 0.001 * moving.size:
        return math.nan
    jerk = np.linalg.norm(flows[:-2] - 2 * flows[1:-1] + flows[2:], axis=-1)
    return float(jerk[moving].mean() / speed[1:-1][moving].mean())


def frame_sharpness(grey: np.ndarray) -> np.ndarray:
    """Mean |Laplacian| of each grey frame [F]."""
    return np.array([np.abs(cv2.Laplacian(frame, cv2.CV_32F)).mean() for frame in grey])


def sharpness_drift(grey: np.ndarray) -> float:
    """|log2| of sharpness in the last sixth of the frames over that in the first sixth."""
    values = frame_sharpness(grey)
    n = max(1, round(len(values) / 6))
    first, last = float(values[:n].mean()), float(values[-n:].mean())
    if min(first, last) < 1e-6:
        return math.nan
    return abs(math.log2(last / first))


def colour_drift(frames: np.ndarray) -> float:
    """Distance in CIE Lab between the mean colour of the first and the last sixth of frames."""
    n = max(1, round(len(frames) / 6))

    def mean_lab(part: np.ndarray) -> np.ndarray:
        pixels = part.reshape(-1, part.shape[2], 3).astype(np.float32) / 255
        values: np.ndarray = cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab).mean(
            axis=(0, 1), dtype=np.float64
        )
        return values

    return float(np.linalg.norm(mean_lab(frames[-n:]) - mean_lab(frames[:n])))


def picture_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB, at most 100 (equal pictures)."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return min(100.0, 10 * math.log10(255**2 / error)) if error > 0 else 100.0


def picture_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two uint8 pictures, mean over luma (Wang et al. 2004).

    11x11 Gaussian window of deviation 1.5, C1 = (0.01 x 255)^2, C2 = (0.03 x 255)^2. Only
    windows that lie wholly inside the picture count.
    """
    x, y = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float64) for p in (a, b))
    if min(x.shape) < 11:
        raise ValueError("ssim needs pictures of at least 11x11 pixels")

    def blur(p: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(p, (11, 11), 1.5)[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mx * my + c1) * (2 * cxy + c2)
    return float((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
