"""BlazePose: people without a download, for want of a better model.

BlazePose (Bazarevsky et al. 2020): its detector finds faces and torsos, its landmark model follows
each one's body. Both tflite files are in the mediapipe 0.10.21 wheel, which itself asks for numpy 1;
they are run by ai-edge-litert, and mediapipe is never imported.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from realdpo.curate.box import Box
from realdpo.curate.scores.people import Person
from realdpo.curate.scores.types import Bytes, Floats
from realdpo.errors import UserError

HINT = "pip install 'realdpo[people]' && pip install --no-deps mediapipe==0.10.21"
DETECTOR = "mediapipe/modules/pose_detection/pose_detection.tflite"
LANDMARKS = "mediapipe/modules/pose_landmark/pose_landmark_full.tflite"

# The model's own settings, from its graph files: anchors, score and overlap.
DETECTOR_SIZE, LANDMARK_SIZE = 224, 256
STRIDES = (8, 16, 32, 32, 32)
LEAST_SCORE, OVERLAP = 0.5, 0.3
LEAST_PRESENCE = 0.5
MOST_PEOPLE = 6
# A landmark is seen from this visibility on; nose, hips, knees and ankles make a full body.
SEEN = 0.5
BODY, FULL = 33, ((0,), (23, 24), (25, 26), (27, 28))
# From the nose to the crown, and from the ankle to the sole, as a share of nose to ankle.
BEYOND = 0.06


def require_blazepose() -> None:
    """Raises UserError when the models or the runtime are not installed."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401 - is it installed?
    except ImportError:
        raise UserError("the people scores need ai-edge-litert", HINT) from None
    for name in (DETECTOR, LANDMARKS):
        _model_file(name)


def find_poses(rgb: Bytes) -> list[Person]:
    """The people in one picture. rgb: uint8 [H, W, 3]."""
    found: list[Person] = []
    for centre, size, angle in _detect(rgb):
        person = _follow(rgb, centre, size, angle)
        # Two detections of one body end on the same landmarks.
        if person and all(person.box.overlap(other.box) < 0.5 for other in found):
            found.append(person)
    return found


def _detect(rgb: Bytes) -> list[tuple[Floats, float, float]]:
    """Centre, size (pixels) and turn (radians) of the square around each body."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    scale = DETECTOR_SIZE / side
    matrix = np.array(
        [[scale, 0, (side - width) / 2 * scale], [0, scale, (side - height) / 2 * scale]]
    )
    square = cv2.warpAffine(rgb, matrix, (DETECTOR_SIZE, DETECTOR_SIZE), flags=cv2.INTER_AREA)
    first, second = _run(DETECTOR, square.astype(np.float32) / 127.5 - 1)[:2]
    boxes, logits = (first[0], second[0]) if first.shape[-1] == 12 else (second[0], first[0])
    scores = 1 / (1 + np.exp(-np.clip(logits[:, 0], -80, 80)))
    good = scores >= LEAST_SCORE
    if not good.any():
        return []
    anchors = _anchors()[good]
    raw, scores = boxes[good] / DETECTOR_SIZE, scores[good]
    points = raw[:, 4:12].reshape(-1, 4, 2) + anchors[:, None]
    corner = raw[:, :2] + anchors - raw[:, 2:4] / 2
    rectangles = np.concatenate([corner, raw[:, 2:4]], axis=1)
    chosen = cv2.dnn.NMSBoxes(rectangles.tolist(), scores.tolist(), LEAST_SCORE, OVERLAP)
    result = []
    for index in np.asarray(chosen).ravel()[:MOST_PEOPLE]:
        # Point 0 is between the hips, point 1 on the circle around the whole body.
        hips, rim = ((points[index, k] * DETECTOR_SIZE - matrix[:, 2]) / scale for k in (0, 1))
        across = rim - hips
        size = 2 * float(np.hypot(*across)) * 1.25
        result.append((hips, size, float(np.arctan2(across[0], -across[1]))))
    return result


def _follow(rgb: Bytes, centre: Floats, size: float, angle: float) -> Person | None:
    """The body in a square of the picture, or None when the second model sees no one."""
    if size < 8:
        return None
    unit = size / LANDMARK_SIZE
    cos, sin = np.cos(angle) * unit, np.sin(angle) * unit
    half = LANDMARK_SIZE / 2
    take = np.array(
        [
            [cos, -sin, centre[0] - half * cos + half * sin],
            [sin, cos, centre[1] - half * sin - half * cos],
        ]
    )
    square = cv2.warpAffine(
        rgb, take, (LANDMARK_SIZE, LANDMARK_SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    outputs = _run(LANDMARKS, square.astype(np.float32) / 255)
    presence = next(float(o.ravel()[0]) for o in outputs if o.size == 1)
    if presence < LEAST_PRESENCE:
        return None
    body = next(o for o in outputs if o.size == 195).reshape(39, 5)[:BODY]
    at = body[:, :2] @ take[:, :2].T + take[:, 2]
    visible = 1 / (1 + np.exp(-body[:, 3])) >= SEEN
    height, width = rgb.shape[:2]
    inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
    seen = visible & inside
    if not seen.any():
        return None
    full = all(any(seen[k] for k in part) for part in FULL)
    left, top = at.min(axis=0)
    right, bottom = at.max(axis=0)
    # The crown is above the nose, the soles below the ankles.
    beyond = BEYOND * (bottom - top)
    top, bottom = top - beyond, bottom + (beyond if full else 0.0)
    cut = bool((~inside).sum() > 2)
    # Where the body would go on beyond the picture, it is taken to reach the edge.
    edges = np.clip([left / width, top / height, right / width, bottom / height], 0, 1)
    return Person(Box(*edges.tolist()), full, cut)


@lru_cache(maxsize=1)
def _anchors() -> Floats:
    """Centres [2254, 2] of the detector's anchors, in shares of its input."""
    result = []
    layer = 0
    while layer < len(STRIDES):
        # Layers of one stride share their cells; each brings two anchors.
        same = sum(stride == STRIDES[layer] for stride in STRIDES[layer:])
        cells = DETECTOR_SIZE // STRIDES[layer]
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
        result.append(np.repeat(centres, 2 * same, axis=0))
        layer += same
    return np.concatenate(result).astype(np.float32)


def _run(model: str, picture: Floats) -> list[Floats]:
    interpreter = _interpreter(model)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None])
    interpreter.invoke()
    return [interpreter.get_tensor(out["index"]) for out in interpreter.get_output_details()]


@lru_cache(maxsize=2)
def _interpreter(model: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(_model_file(model)), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _model_file(name: str) -> Path:
    """A file of the mediapipe wheel, found by the wheel's list. Raises UserError."""
    try:
        files = metadata.files("mediapipe") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == name:
            return Path(str(file.locate()))
    raise UserError("the people scores need the pose models of mediapipe 0.10.21", HINT)
