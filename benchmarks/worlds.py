"""The worlds that the miniature is run in: what is drawn, what it does, and which parts are rigid.

`figures` are people on a plain ground under a camera that stands still. `machines` share nothing
with them but the way to read a joint: two jointed arms and a wheel, all textured, on a textured
ground, under a camera that moves. What holds in one of them only is said to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import figures
import numpy as np
from figures import DX, DY, FRAMES, SIZE, Clip


@dataclass(frozen=True)
class World:
    """captions: of every action. held_out: actions that no arm is trained on. bones: rigid pairs."""

    captions: Mapping[str, str]
    held_out: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    make_clip: figures.Maker

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(self.captions)

    @property
    def seen(self) -> tuple[str, ...]:
        return tuple(a for a in self.captions if a not in self.held_out)


# Machines. Columns of a motion: the angles of both arms and of the wheel; the camera's shift stands
# where a figure's own does. Joints: pivot, elbow and tip of either arm, hub and mark of the wheel.
A_UPPER, A_FORE, B_UPPER, B_FORE, WHEEL = range(5)
MACHINE_BONES = ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7))
MACHINE_ACTIONS = {
    "swing": "swings both arms",
    "mirror": "opens and closes both arms",
    "reach": "reaches out with the left arm",
    "fold": "folds the right arm",
    "spin": "turns the wheel fast",
    "rock": "rocks the wheel to and fro",
    "saw": "saws with both arms in turn",
    "lift": "lifts both arms slowly",
    "crank": "turns the wheel and the right arm",
    "beckon": "beckons with the left arm",
}
PIVOTS = np.array([[-0.32, 0.45], [0.32, 0.45], [0.0, 0.2]])


def machine_motion(action: str, phase: np.ndarray) -> np.ndarray:
    """Angles [F, 12] of an action at phases given in cycles [F]; the camera's shift is added later."""
    turn = 2 * np.pi * phase
    s, there_and_back = np.sin(turn), (1 - np.cos(turn)) / 2
    m = np.zeros((len(phase), 12))
    m[:, A_UPPER], m[:, A_FORE], m[:, B_UPPER], m[:, B_FORE] = -0.5, 0.4, 0.5, -0.4
    if action == "swing":
        m[:, A_UPPER] += 0.8 * s
        m[:, B_UPPER] += 0.8 * s
    elif action == "mirror":
        m[:, A_UPPER] -= 1.0 * there_and_back
        m[:, B_UPPER] += 1.0 * there_and_back
    elif action == "reach":
        m[:, A_UPPER] -= 1.3 * there_and_back
        m[:, A_FORE] -= 0.6 * there_and_back
    elif action == "fold":
        m[:, B_FORE] -= 1.6 * there_and_back
    elif action == "spin":
        m[:, WHEEL] = 1.5 * turn
    elif action == "rock":
        m[:, WHEEL] = 1.2 * s
    elif action == "saw":
        m[:, A_UPPER] += 0.7 * s
        m[:, B_UPPER] -= 0.7 * s
        m[:, A_FORE] -= 0.7 * s
        m[:, B_FORE] += 0.7 * s
    elif action == "lift":
        m[:, A_UPPER] -= 1.7 * there_and_back
        m[:, B_UPPER] += 1.7 * there_and_back
    elif action == "crank":
        m[:, WHEEL] = turn
        m[:, B_UPPER] += 0.7 * s
    elif action == "beckon":
        m[:, A_UPPER] = -1.6
        m[:, A_FORE] = -0.6 - 1.0 * there_and_back
    else:
        raise ValueError(f"no action {action!r}")
    return m


def machine_body(m: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Joints [F, 8, 2] in machine heights, y up, from a motion and bones [F, 5]."""

    def along(angle: np.ndarray, length: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(angle), np.cos(angle)], axis=-1) * length[:, None]

    joints = []
    for side, upper, fore in ((0, A_UPPER, A_FORE), (1, B_UPPER, B_FORE)):
        pivot = np.broadcast_to(PIVOTS[side], (len(m), 2))
        elbow = pivot + along(m[:, upper], lengths[:, 2 * side])
        tip = elbow + along(m[:, upper] + m[:, fore], lengths[:, 2 * side + 1])
        joints += [pivot, elbow, tip]
    hub = np.broadcast_to(PIVOTS[2], (len(m), 2))
    joints += [hub, hub + along(m[:, WHEEL], lengths[:, 4])]
    return np.stack(joints, axis=1) + np.stack([m[:, DX], m[:, DY]], axis=-1)[:, None]


def draw_machine(rng: np.random.Generator, pixels: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """uint8 [F, SIZE, SIZE, 3] of joints [F, 8, 2] in pixels; the ground moves by `shift` [F, 2].

    Ground and links are textured in greys between the colours of the markers.
    """
    fine, margin = 4, 12
    cells = rng.integers(140, 200, ((SIZE + 2 * margin) // 2, (SIZE + 2 * margin) // 2))
    wide = (SIZE + 2 * margin) * fine
    ground = cv2.resize(cells.astype(np.float32), (wide, wide), interpolation=cv2.INTER_CUBIC)
    frames = []
    for joints, (right, down) in zip(pixels * fine, shift * fine, strict=True):
        move = np.array([[1, 0, right - margin * fine], [0, 1, down - margin * fine]], np.float32)
        canvas = cv2.warpAffine(ground, move, (SIZE * fine, SIZE * fine), borderMode=2)
        canvas = np.repeat(canvas.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        p = [tuple(round(float(v)) for v in q) for q in joints]
        radius = round(float(np.linalg.norm(joints[7] - joints[6])))
        cv2.circle(canvas, p[6], radius, (110, 110, 110), 6, cv2.LINE_AA)
        for a, b in ((0, 3), *MACHINE_BONES):
            cv2.line(canvas, p[a], p[b], (85, 85, 85), 8, cv2.LINE_AA)
            for share in (0.3, 0.5, 0.7):  # stripes across the link
                at = tuple(round(float(v)) for v in joints[a] + share * (joints[b] - joints[a]))
                cv2.circle(canvas, at, 3, (125, 125, 125), -1, cv2.LINE_AA)
        for joint in (0, 3, 6, 1, 4, 7, 2, 5):
            colour = tuple(int(v) for v in figures.COLOURS[joint])
            cv2.circle(canvas, p[joint], 8, colour, -1, cv2.LINE_AA)
        frames.append(cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def make_machine(
    rng: np.random.Generator,
    action: str,
    damage: str | None = None,
    tempo: np.random.Generator | None = None,
) -> Clip:
    """One clip; the camera's way is drawn with it and is damaged with nothing."""
    cycles = figures.draw_tempo(rng, tempo)
    m = machine_motion(action, rng.uniform(0, 0.3) + cycles * np.arange(FRAMES) / FRAMES)
    bones = np.array([0.17, 0.16, 0.17, 0.16, 0.17]) * rng.uniform(0.9, 1.1, 5)
    m, lengths = figures.damaged(rng, m, np.repeat(bones[None], FRAMES, axis=0), damage)
    height, centre, floor = rng.uniform(24, 28), SIZE / 2 + rng.uniform(-1, 1), rng.uniform(25, 27)
    way = rng.uniform(-0.16, 0.16, 2) * np.array([1, 0.5])
    pan = np.linspace(-0.5, 0.5, FRAMES)[:, None] * way
    m = m.copy()
    m[:, [DX, DY]] = pan
    pixels = figures.to_pixels(machine_body(m, lengths), height, centre, floor)
    shift = height * pan * np.array([1, -1])
    frames = draw_machine(rng, pixels, shift)
    return Clip(action, f"a machine {MACHINE_ACTIONS[action]}", frames, pixels)


FIGURES = World(
    {name: f"a person {text}" for name, text in figures.ACTIONS.items()},
    figures.HELD_OUT,
    figures.BONES,
    figures.make_clip,
)
MACHINES = World(
    {name: f"a machine {text}" for name, text in MACHINE_ACTIONS.items()},
    ("rock", "beckon"),
    MACHINE_BONES,
    make_machine,
)
BY_NAME = {"figures": FIGURES, "machines": MACHINES}
