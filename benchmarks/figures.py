"""Articulated figures drawn by code: actions, captions, damage, and joints read back from pixels.

Eight joints carry markers in the corners of the RGB cube, the colours farthest apart, so that
where a joint is in any picture, drawn or generated, is read off by colour and not guessed by a
trained network that would imagine a body where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.fft import dct

SIZE, FRAMES, FPS = 32, 9, 8
JOINTS = ("head", "hip", "l_hand", "r_hand", "l_knee", "r_knee", "l_foot", "r_foot")
COLOURS = np.array(
    [
        (255, 255, 255),
        (0, 0, 0),
        (255, 0, 0),
        (0, 0, 255),
        (0, 255, 0),
        (255, 0, 255),
        (255, 255, 0),
        (0, 255, 255),
    ],
    np.float32,
)
# Pairs of joints that a rigid bone joins; arms have no elbow marker and are left out.
BONES = ((0, 1), (1, 4), (1, 5), (4, 6), (5, 7))
DAMAGES = ("jitter", "freeze", "shuffle", "stretch")

# Columns of a motion: angles in radians (0 hangs down, positive forward; lean 0 is upright),
# root shift in figure heights, and the cosine of a turn about the vertical.
LEAN, L_ARM, L_ELBOW, R_ARM, R_ELBOW, L_LEG, L_KNEE, R_LEG, R_KNEE, DX, DY, TURN = range(12)

ACTIONS: dict[str, str] = {
    "walk": "walks forward",
    "run": "runs fast",
    "wave": "waves with one hand",
    "sit": "sits down and gets up",
    "jump": "jumps up with both arms",
    "pick": "picks something up from the floor",
    "turn": "turns around on the spot",
    "clap": "claps the hands",
    "kick": "kicks with one leg",
    "bow": "bows to greet",
    "star": "does star jumps",
    "punch": "punches straight ahead",
}
HELD_OUT = ("kick", "clap")  # never among the clips of preference training


@dataclass(frozen=True)
class Clip:
    """frames: uint8 [F, 32, 32, 3]. joints: true positions in pixels [F, 8, 2] as (x, y)."""

    action: str
    caption: str
    frames: np.ndarray
    joints: np.ndarray


def motion(action: str, phase: np.ndarray) -> np.ndarray:
    """Angles and shifts [F, 12] of an action at phases given in cycles [F]."""
    s, c = np.sin(2 * np.pi * phase), np.cos(2 * np.pi * phase)
    there_and_back = (1 - c) / 2
    m = np.zeros((len(phase), 12))
    m[:, TURN] = 1
    m[:, L_ARM], m[:, R_ARM] = -0.25, 0.25
    m[:, L_LEG], m[:, R_LEG] = -0.12, 0.12
    if action in ("walk", "run"):
        swing, stride = (0.5, 0.5) if action == "walk" else (0.9, 0.9)
        m[:, L_LEG], m[:, R_LEG] = swing * s, -swing * s
        m[:, L_KNEE] = swing * np.maximum(0, c)
        m[:, R_KNEE] = swing * np.maximum(0, -c)
        m[:, L_ARM], m[:, R_ARM] = -swing * s, swing * s
        if action == "run":
            m[:, L_ELBOW] = m[:, R_ELBOW] = 1.2
            m[:, LEAN] = 0.25
        m[:, DX] = stride * (phase - phase[0]) - stride / 2
    elif action == "wave":
        m[:, L_ARM] = -2.3
        m[:, L_ELBOW] = -0.3 + 0.8 * np.sin(4 * np.pi * phase)
    elif action == "sit":
        m[:, L_LEG], m[:, R_LEG] = 1.4 * there_and_back, 1.5 * there_and_back
        m[:, L_KNEE] = m[:, R_KNEE] = 1.45 * there_and_back
        m[:, LEAN] = 0.3 * there_and_back
    elif action == "jump":
        m[:, L_ARM], m[:, R_ARM] = -0.3 - 2.3 * there_and_back, 0.3 + 2.3 * there_and_back
        m[:, DY] = 0.22 * there_and_back
    elif action == "pick":
        m[:, LEAN] = 1.2 * there_and_back
        m[:, L_ARM], m[:, R_ARM] = 0.2 + 0.3 * there_and_back, 0.35 + 0.3 * there_and_back
        m[:, L_LEG], m[:, R_LEG] = 0.5 * there_and_back, 0.7 * there_and_back
        m[:, L_KNEE] = m[:, R_KNEE] = 0.9 * there_and_back
    elif action == "turn":
        m[:, L_ARM], m[:, R_ARM] = -0.9, 0.9
        m[:, L_LEG], m[:, R_LEG] = -0.3 * c, 0.3 * c
        m[:, TURN] = c
    elif action == "clap":
        m[:, L_ARM], m[:, R_ARM] = 0.9 + 0.5 * s, 1.5 - 0.5 * s
        m[:, L_ELBOW], m[:, R_ELBOW] = 0.3, -0.1
    elif action == "kick":
        m[:, R_LEG] = 0.1 + 1.4 * there_and_back
        m[:, L_ARM], m[:, R_ARM] = 0.8 * there_and_back, -0.8 * there_and_back
    elif action == "bow":
        m[:, LEAN] = 1.0 * there_and_back
    elif action == "star":
        m[:, L_ARM], m[:, R_ARM] = -0.3 - 2.2 * there_and_back, 0.3 + 2.2 * there_and_back
        m[:, L_LEG], m[:, R_LEG] = -0.1 - 0.45 * there_and_back, 0.1 + 0.45 * there_and_back
        m[:, DY] = 0.06 * np.abs(s)
    elif action == "punch":
        m[:, L_ARM], m[:, L_ELBOW] = 0.8, 1.4
        m[:, R_ARM] = 0.5 + 1.0 * there_and_back
        m[:, R_ELBOW] = 1.6 * (1 - there_and_back)
        m[:, LEAN] = 0.15 * there_and_back
    else:
        raise ValueError(f"no action {action!r}")
    return m


def skeleton(m: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Points [F, 12, 2] in figure heights, y up, ground 0, from a motion and bones [F, 6].

    Order: the eight JOINTS, then neck, left elbow, right elbow, and a spare copy of the hip.
    """
    trunk, head, upper, fore, thigh, shank = lengths.T

    def down(angle: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(angle), -np.cos(angle)], axis=-1)

    up = np.stack([np.sin(m[:, LEAN]), np.cos(m[:, LEAN])], axis=-1)
    hip = np.zeros((len(m), 2))
    neck = hip + trunk[:, None] * up
    top = neck + head[:, None] * up
    side = m[:, TURN][:, None] * np.array([1.0, 0.0]) + np.array([0.0, 1.0])
    points = {}
    for s, arm, elbow, leg, knee in (
        ("l", L_ARM, L_ELBOW, L_LEG, L_KNEE),
        ("r", R_ARM, R_ELBOW, R_LEG, R_KNEE),
    ):
        middle = upper[:, None] * down(m[:, arm])
        hand = middle + fore[:, None] * down(m[:, arm] + m[:, elbow])
        points[f"{s}_elbow"], points[f"{s}_hand"] = neck + middle * side, neck + hand * side
        points[f"{s}_knee"] = hip + thigh[:, None] * down(m[:, leg])
        shin = down(m[:, leg] - m[:, knee])
        points[f"{s}_foot"] = points[f"{s}_knee"] + shank[:, None] * shin
    order = [top, hip, *(points[name] for name in JOINTS[2:]), neck]
    order += [points["l_elbow"], points["r_elbow"], hip]
    body = np.stack(order, axis=1)
    ground = np.minimum(body[:, 6, 1], body[:, 7, 1])
    body[..., 1] += (m[:, DY] - ground)[:, None]
    body[..., 0] += m[:, DX][:, None]
    return body


def draw(body: np.ndarray, height: float, centre: float, ground: float, shade: int) -> np.ndarray:
    """uint8 [F, 32, 32, 3] of a body in figure heights; also what `to_pixels` maps."""
    fine = 4
    frames = []
    for points in to_pixels(body, height, centre, ground) * fine:
        canvas = np.full((SIZE * fine, SIZE * fine, 3), shade, np.uint8)
        floor = int(ground * fine) + fine
        canvas[floor:] = shade - 35
        p = [tuple(round(float(v)) for v in q) for q in points]
        for a, b in (
            (0, 8),
            (8, 1),
            (8, 9),
            (9, 2),
            (8, 10),
            (10, 3),
            (1, 4),
            (4, 6),
            (1, 5),
            (5, 7),
        ):
            cv2.line(canvas, p[a], p[b], (95, 95, 95), 6, cv2.LINE_AA)
        for joint in (1, 4, 5, 6, 7, 2, 3, 0):
            colour = tuple(int(v) for v in COLOURS[joint])
            cv2.circle(canvas, p[joint], 8 if joint else 10, colour, -1, cv2.LINE_AA)
        frames.append(cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def to_pixels(body: np.ndarray, height: float, centre: float, ground: float) -> np.ndarray:
    return np.stack([centre + body[..., 0] * height, ground - body[..., 1] * height], axis=-1)


def make_clip(
    rng: np.random.Generator,
    action: str,
    damage: str | None = None,
    tempo: np.random.Generator | None = None,
) -> Clip:
    """One clip with a body, place, tempo and starting pose drawn from `rng`.

    The first frame is never damaged: it is what the model is given. tempo: draws the tempo in place
    of `rng`; nothing else changes, and the first frame does not show it.
    """
    cycles = draw_tempo(rng, tempo)
    m = motion(action, rng.uniform(0, 0.3) + cycles * np.arange(FRAMES) / FRAMES)
    bones = np.array([0.30, 0.10, 0.17, 0.16, 0.24, 0.24]) * rng.uniform(0.9, 1.1, 6)
    lengths = np.repeat(bones[None], FRAMES, axis=0)
    m, lengths = damaged(rng, m, lengths, damage)
    body = skeleton(m, lengths)
    place = (rng.uniform(20, 24), SIZE / 2 + rng.uniform(-2, 2), rng.uniform(26.7, 28.7))
    frames = draw(body, *place, shade=int(rng.integers(165, 195)))
    return Clip(action, f"a person {ACTIONS[action]}", frames, to_pixels(body, *place)[:, :8])


def draw_tempo(rng: np.random.Generator, tempo: np.random.Generator | None) -> float:
    """Cycles of the action in a clip. `rng` is asked in any case, so that the rest stays the same."""
    cycles = rng.uniform(0.9, 1.3)
    return cycles if tempo is None else tempo.uniform(0.9, 1.3)


def damaged(
    rng: np.random.Generator, m: np.ndarray, lengths: np.ndarray, damage: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """What large models do to motion: trembling, freezes, lost order, limbs that change length."""
    n = len(m)
    if damage == "jitter":
        noise = rng.normal(0, 0.35, (n, 9))
        noise[0] = 0
        m = m.copy()
        m[:, :9] += noise
    elif damage == "freeze":
        index = np.arange(n)
        for start in rng.choice(np.arange(1, n - 3), 2, replace=False):
            index[start : start + int(rng.integers(2, 5))] = start
        m = m[index]
    elif damage == "shuffle":
        index = np.arange(n)
        for start in range(1, n, 3):
            index[start : start + 3] = rng.permutation(index[start : start + 3])
        m = m[index]
    elif damage == "stretch":
        factor = np.exp(rng.normal(0, 0.22, lengths.shape))
        factor[0] = 1
        lengths = lengths * factor
    elif damage is not None:
        raise ValueError(f"no damage {damage!r}")
    return m, lengths


Maker = Callable[[np.random.Generator, str, str | None, np.random.Generator | None], Clip]


def make_clips(
    seed: int,
    count: int,
    actions: tuple[str, ...],
    damaged_share: float = 0.0,
    make: Maker = make_clip,
    tempo: np.random.Generator | None = None,
) -> list[Clip]:
    """`count` clips, actions in turn, a share of them damaged in a way drawn per clip."""
    rng = np.random.default_rng(seed)
    clips = []
    for k in range(count):
        damage = str(rng.choice(DAMAGES)) if rng.random() < damaged_share else None
        clips.append(make(rng, actions[k % len(actions)], damage, tempo))
    return clips


def read_joints(frames: np.ndarray) -> np.ndarray:
    """Joint positions [F, 8, 2] in pixels read from uint8 frames [F, 32, 32, 3]; NaN if not seen.

    The weight of a pixel for a joint falls from 1 at its colour to 0 at distance 150; the joint
    is the weighted centre around the strongest 5x5 neighbourhood.
    """
    distance = np.linalg.norm(
        frames[:, None].astype(np.float32) - COLOURS[None, :, None, None], axis=-1
    )
    weight = np.clip(1 - distance / 150, 0, None) ** 2  # [F, 8, H, W]
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)
    found = np.full((*weight.shape[:2], 2), np.nan)
    for f, joint in np.ndindex(*weight.shape[:2]):
        w = weight[f, joint]
        around = cv2.boxFilter(w, -1, (5, 5), normalize=False)
        peak = np.unravel_index(int(around.argmax()), around.shape)
        near = w * (np.hypot(y - peak[0], x - peak[1]) <= 3.5)
        if near.sum() >= 0.6:
            found[f, joint] = (near * x).sum() / near.sum(), (near * y).sum() / near.sum()
    return found


def true_motion(joints: np.ndarray, bones: tuple[tuple[int, int], ...] = BONES) -> dict[str, float]:
    """What the joints [F, 8, 2] of one clip say about its motion; NaN joints are left out.

    path: speed of a joint, pixels a frame. roughness: its second difference over its speed.
    bone: relative deviation of bone lengths from their mean over the clip. lost: share of
    joints not found.
    """
    velocity = np.linalg.norm(np.diff(joints, axis=0), axis=-1)
    acceleration = np.linalg.norm(np.diff(joints, n=2, axis=0), axis=-1)
    spans = np.stack(
        [np.linalg.norm(joints[:, a] - joints[:, b], axis=-1) for a, b in bones], axis=1
    )
    speed = float(np.nanmean(velocity)) if np.isfinite(velocity).any() else 0.0
    steady = np.isfinite(spans).sum(axis=0) >= 3
    spread = [
        float(np.nanstd(spans[:, k]) / np.nanmean(spans[:, k])) for k in np.flatnonzero(steady)
    ]
    rough = float(np.nanmean(acceleration)) if np.isfinite(acceleration).any() else np.nan
    return {
        "true.path": speed,
        "true.acceleration": rough,
        "true.roughness": rough / speed if speed > 0.05 else np.nan,
        "true.bone": float(np.mean(spread)) if spread else np.nan,
        "true.lost": float(np.isnan(joints[..., 0]).mean()),
    }


def distance_to_truth(joints: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in pixels from the joints of the true clip, over the joints found."""
    return float(np.nanmean(np.linalg.norm(joints - truth, axis=-1)))


def shared_distance(
    joints: np.ndarray, other: np.ndarray, truth: np.ndarray
) -> tuple[float, float]:
    """Distances of two videos from the truth, over the joints that both of them show.

    `distance_to_truth` counts the joints that a video shows, so a video that loses its hardest
    joints looks nearer. NaN: they show none in common.
    """
    off = np.stack([np.linalg.norm(j - truth, axis=-1) for j in (joints, other)])
    both = off[:, np.isfinite(off).all(axis=0)]
    if not both.size:
        return float("nan"), float("nan")
    one, two = both.mean(axis=1).tolist()
    return one, two


def error_by_frequency(joints: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Squared distance from the true joints in pixels, split by temporal frequency.

    Of the joints that are found in every frame. The cosine transform over the frames is orthonormal,
    so the parts add up to the mean squared distance. place: the mean over the clip; slow: up to one
    period a clip; fast: the rest, what an eye sees as trembling. NaN: no joint is always found.
    """
    off = (joints - truth)[:, np.isfinite(joints).all(axis=(0, 2))]
    if not off.size:
        return dict.fromkeys(("place", "slow", "fast"), float("nan"))
    power = np.square(dct(off, axis=0, norm="ortho")).sum(-1).mean(1) / len(off)
    bands = {"place": power[:1], "slow": power[1:3], "fast": power[3:]}
    return {name: float(part.sum()) for name, part in bands.items()}


def classifier_features(joints: np.ndarray) -> np.ndarray:
    """A clip's joints as a vector: places about the first hip, and the changes of place."""
    filled = joints.copy()
    for k in range(filled.shape[1]):
        for axis in range(2):
            track = filled[:, k, axis]
            known = np.isfinite(track)
            if known.any():
                track[~known] = np.interp(
                    np.flatnonzero(~known), np.flatnonzero(known), track[known]
                )
            else:
                track[:] = (
                    np.nanmean(joints[..., axis]) if np.isfinite(joints[..., axis]).any() else 0
                )
    centred = (filled - filled[:1, 1:2]) / SIZE
    return np.concatenate([centred.ravel(), 3 * np.diff(centred, axis=0).ravel()])
