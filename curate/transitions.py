"""Dissolves and fades: where a picture is a mixture of an earlier and a later one.

A window of a quarter of a second to three seconds is described by how far its pictures are
mixtures of its ends, everywhere alike, and by two logistic models of that description: one for
dissolves, one for fades to and from a flat picture. What tells most is sharpness: half and half
of two pictures has half their edges, wherever these have moved meanwhile, and a camera that
turns from one to the other keeps them. `benchmarks/transitions.py` fits the weights and shows
how they do on films that they were not fitted to.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Places = npt.NDArray[np.intp]

FINE, SIDE, BLOCKS = 64, 16, 4  # pixels: of the reduced picture, of the thumbnail; blocks a side
STEP = Fraction(3, 100)  # seconds between looks: every frame up to 33 a second
WINDOWS = (0.24, 0.36, 0.56, 0.84, 1.25, 1.9, 2.8)  # seconds
LEAST_LOOKS = 4  # from a window's first to its last: a blended frame at a cut is no dissolve
STEPS = 8  # in which a window is looked through
REACH = Fraction(57, 10)  # seconds: a window and as much again beside it
BATCH = 512  # looks that are searched at once, beside those that were searched before
MIN_CHANGE = 10.0  # of 255: root mean square between the ends; less is no other shot
SAME = 0.75  # correlation of two pictures of one shot; of unrelated ones 99.7 % have less
DARK = 8.0  # of 255: contrast below which correlation tells nothing
BAR = 24  # of 255: black bars are no brighter
LEAST_INSIDE = 2  # looks between the ends that are mixtures: one is a blended frame at a cut
NEAR = 1.0  # windows whose score is as near to the best one's tell where a transition lies
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
EDGE = 0.1  # share of the other shot with which a transition begins

# How a window is described, with the weights of the two models; a score above 0 is a transition.
# Fitted as `benchmarks/transitions.py --fit` does, to 900 joins of the tuning half of its films.
WEIGHTS: dict[str, tuple[float, float]] = {
    "correlation": (-2.79, 1.85),
    "size": (1.35, 4.17),
    "jump": (-8.82, -2.91),
    "sinking": (1.42, 0.585),
    "uneven": (-10.5, -4.24),
    "rest_least": (-1.52, 1.34),
    "rest_most": (5.5, 0.492),
    "far_most": (-2.89, 0.451),
    "inside": (0.617, 0.276),
    "length": (0.532, -1.02),
    "light": (-3.82, 0.876),
    "flat": (-0.213, -5.16),
    "contrasts": (-1.39, -0.201),
    "everywhere": (2.09, 0.749),
    "edges_off": (-4.09, -0.826),
    "edges_gain": (8.21, -0.464),
    "edges_sink": (3.91, 1.46),
    "edges_middle": (-0.869, -1.2),
    "dimming": (-10.6, -0.559),
}
BIAS = (-5.14, -9.5)


class DissolveFinder:
    """Collects soft transitions from the same stream of frames as everything else."""

    def __init__(self) -> None:
        self._times: list[Fraction] = []
        self._pictures: list[npt.NDArray[np.uint8]] = []
        self._edges: list[Floats] = []
        self._spans: list[tuple[Fraction, Fraction]] = []
        self._searched = Fraction(-1)  # windows that begin up to here are judged

    def feed(self, time: Fraction, rgb: npt.NDArray[np.uint8]) -> None:
        """The next frame: uint8 [H, W, 3]."""
        import cv2

        if self._times and time - self._times[-1] < STEP:
            return
        fine = cv2.resize(rgb, (FINE, FINE), interpolation=cv2.INTER_AREA)
        self._times.append(time)
        self._pictures.append(cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]  # OpenCV's stubs know no uint8 view
        self._edges.append(_edges(fine))  # type: ignore[arg-type]  # OpenCV's stubs know no uint8 view
        if len(self._times) >= BATCH:
            self._search(time - REACH)
            known = bisect_left(self._times, time - 2 * REACH)
            del self._times[:known], self._pictures[:known], self._edges[:known]

    def found(self) -> list[tuple[Fraction, Fraction]]:
        """(start, end) of soft transitions, ascending, in seconds from the first frame."""
        if self._times:
            self._search(self._times[-1])
        return list(self._spans)

    def _search(self, until: Fraction) -> None:
        """Judge the windows that begin after those that are judged, up to `until`."""
        import numpy as np

        looks = _Looks.of(self._times, self._pictures, self._edges)
        fresh = bisect_left(self._times, self._searched + Fraction(1, 10_000))
        first, last = _candidates(looks, fresh, bisect_left(self._times, until))
        self._searched = until
        if not len(first):
            return
        table = describe_windows(looks, first, last)
        values = np.stack([table[name] for name in WEIGHTS], axis=1)
        scores = np.clip(values, -4, 5) @ np.array(list(WEIGHTS.values())) + BIAS
        scores[table["mixtures"] < LEAST_INSIDE] = -np.inf
        seen = scores.max(axis=1) > 0
        spans = [
            (self._times[start], self._times[end])
            for start, end in _extents(looks, first[seen], last[seen], scores[seen])
        ]
        self._spans = _union(self._spans + spans)


def _edges(fine: npt.NDArray[np.uint8]) -> Floats:
    """Mean squared steps between neighbours in each block, float32 [BLOCKS * BLOCKS]."""
    import cv2
    import numpy as np

    gray = cv2.cvtColor(fine, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = np.zeros_like(gray)
    across, down = gray[:, 1:] - gray[:, :-1], gray[1:] - gray[:-1]
    np.multiply(across, across, out=energy[:, 1:])
    energy[1:] += down * down
    means: Any = cv2.resize(energy, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
    found: Floats = means.ravel()
    return found


@dataclass(frozen=True)
class _Looks:
    """Looks at a stretch of film.

    times: seconds [N]. means: of red, green and blue [N, 3]. blocks: pictures less their means,
    for each block of the picture [N, values]. products: of every look with every other [N, N],
    over all blocks. edges: [N, BLOCKS * BLOCKS].
    """

    times: npt.NDArray[np.float64]
    means: Floats
    blocks: list[Floats]
    products: Floats
    edges: Floats

    @classmethod
    def of(
        cls, times: list[Fraction], pictures: list[npt.NDArray[np.uint8]], edges: list[Floats]
    ) -> _Looks:
        import numpy as np

        shown = inside_bars(np.stack(pictures)).astype(np.float32)
        means = shown.reshape(len(shown), -1, 3).mean(axis=1)
        shown -= means[:, None, None]
        flat = shown.reshape(len(shown), -1)
        scale = np.float32(1 / np.sqrt(flat.shape[1]))
        rows, columns = (np.array_split(np.arange(n), min(BLOCKS, n)) for n in shown.shape[1:3])
        blocks = [
            (shown[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1] * scale).reshape(len(shown), -1)
            for r in rows
            for c in columns
        ]
        seconds = np.array([float(time) for time in times])
        products: Floats = (flat * scale) @ (flat * scale).T
        return cls(seconds, means, blocks, products, np.stack(edges))

    def distance(self, one: Places, two: Places) -> Floats:
        """Mean squared difference of looks, without that of their means."""
        import numpy as np

        power = self.products.diagonal()
        apart: Floats = np.maximum(power[one] + power[two] - 2 * self.products[one, two], 0)
        return apart


def inside_bars(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pictures [N, H, W, 3] without rows and columns at the rim that are always dark.

    Black bars are the same in every shot, and beside them no picture is flat.
    """
    import numpy as np

    bright = pictures.max(axis=(0, 3)) > BAR
    for axis in (1, 2):
        seen = np.flatnonzero(bright.any(axis=2 - axis))
        if not len(seen):
            return pictures
        size = pictures.shape[axis]
        # The first row that is seen may be in part bar.
        first = seen[0] + 1 if seen[0] else 0
        end = seen[-1] if seen[-1] < size - 1 else size
        if end - first >= BLOCKS:
            pictures = pictures.take(np.arange(first, end), axis=axis)
    return pictures


def _candidates(looks: _Looks, fresh: int, until: int) -> tuple[Places, Places]:
    """First and last looks [W] of windows whose ends can be of two shots."""
    import numpy as np

    firsts, lasts = [], []
    for seconds in WINDOWS:
        last = np.searchsorted(looks.times, looks.times + seconds - 1e-6)
        first = np.arange(len(last))
        wanted = (first >= fresh) & (first <= until) & (last < len(last))
        wanted &= last - first >= LEAST_LOOKS
        firsts.append(first[wanted])
        lasts.append(last[wanted])
    first, last = np.concatenate(firsts), np.concatenate(lasts)
    power = looks.products.diagonal()
    low = np.minimum(power[first], power[last])
    other = looks.products[first, last] < SAME * np.sqrt(power[first] * power[last])
    other |= low < DARK**2
    other &= looks.distance(first, last) > MIN_CHANGE**2
    return first[other], last[other]


def describe_windows(looks: _Looks, first: Places, last: Places) -> dict[str, Floats]:
    """Windows from looks `first` to `last` [W], by the names of WEIGHTS and one more, each [W].

    correlation: of the ends. size: log of the change between them (levels). jump: largest step
    of the share of the later end among STEPS. sinking: of the contrast, as a share of what it
    loses in a mixture of unrelated pictures. uneven: how far the shares of the blocks lie apart.
    rest_least, rest_most: change beside the window, over 0.4 of its length, of the change in it;
    far_most: over all its length. inside: steps that are neither of the ends. length: log of
    seconds. light: how far the means are from their mixture, of the change; dimming: how much
    less light there is than in the mixture, of what is there. flat: log of the lesser contrast of
    the ends; contrasts: of the greater. everywhere: change of the quietest quarter of blocks.
    edges_off: how far the energy of edges is from that of a mixture; edges_gain: how much nearer
    than to a change without one; edges_sink: as `sinking`, of edges; edges_middle: how much less
    there is in the window's middle than at its ends. Beside them mixtures: looks that are
    neither of the ends.
    """
    import numpy as np

    product, power = looks.products, looks.products.diagonal()
    start, end = first[:, None], last[:, None]
    between = start + np.round((end - start) * np.arange(1, STEPS) / STEPS).astype(int)
    change = looks.distance(first, last)[:, None]
    grown = product[between, end] - product[between, start]
    share = (grown - product[start, end] + power[start]) / change
    mixed = np.clip(share, 0, 1)
    steps = np.diff(share, axis=1, prepend=0, append=1)
    inside = (share > 0.15) & (share < 0.85)
    weight = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)

    loss = (1 - mixed) * power[start] + mixed * power[end] - power[between]
    sinking = np.clip(loss / np.maximum(mixed * (1 - mixed) * change, 1e-3), -3, 3)
    apart, part = _by_block(looks, first, last, between, share, change)
    mean = looks.means
    ramp = (1 - mixed)[..., None] * mean[start] + mixed[..., None] * mean[end]
    luma, level = (colours @ np.array(LUMA, np.float32) for colours in (mean[between], ramp))
    light = np.sqrt(np.square(mean[between] - ramp).mean(axis=-1)).max(axis=1)
    length = last - first
    rest = _beside(looks, first, last, np.maximum(1, (length * 0.4).astype(int)), change[:, 0])
    far = _beside(looks, first, last, length, change[:, 0])
    low, high = (f(power[first], power[last]) for f in (np.minimum, np.maximum))
    result = {
        "correlation": product[first, last] / np.sqrt(np.maximum(power[first] * power[last], 1)),
        "size": np.log(change[:, 0]) / 2,
        "jump": steps.max(axis=1),
        "sinking": (sinking * weight).sum(axis=1),
        "uneven": apart,
        "rest_least": rest.min(axis=0),
        "rest_most": rest.max(axis=0),
        "far_most": far.max(axis=0),
        "inside": inside.sum(axis=1),
        "length": np.log(looks.times[last] - looks.times[first]),
        "light": np.minimum(light / np.sqrt(change[:, 0]), 2),
        "dimming": ((level - luma) / np.maximum(level, 8)).max(axis=1),
        "flat": np.log(np.sqrt(low) + 1),
        "contrasts": np.sqrt(low / high),
        "everywhere": np.minimum(part, 2),
        "mixtures": (inside & (np.diff(between, axis=1, prepend=-1) > 0)).sum(axis=1),
        **_of_edges(looks.edges, first, last, between, mixed, weight),
    }
    return {name: np.asarray(values, np.float32) for name, values in result.items()}


def _by_block(
    looks: _Looks, first: Places, last: Places, between: Places, share: Floats, change: Floats
) -> tuple[Floats, Floats]:
    """(how far the blocks' shares lie apart, change of the quietest quarter of blocks) [W]."""
    import numpy as np

    apart = np.zeros_like(share)
    changes = []
    for block in looks.blocks:
        step = block[last] - block[first]
        own = np.square(step).sum(axis=1)
        least = 0.02 * change[:, 0] / len(looks.blocks)
        # Shares of this block alone: how far each look has come along the block's own change.
        come = np.einsum("wkv,wv->wk", block[between] - block[first][:, None], step)
        of_block = come / np.maximum(own, least)[:, None]
        apart += np.minimum(np.square(of_block - share), 4) * own[:, None]
        changes.append(own)
    quiet = np.sort(np.stack(changes), axis=0)[len(changes) // 4]
    return np.sqrt(apart / change).mean(axis=1), quiet * len(changes) / change[:, 0]


def _beside(
    looks: _Looks, first: Places, last: Places, reach: Places, change: Floats
) -> npt.NDArray[np.float64]:
    """Change of the `reach` looks before and after windows, of the change in them [2, W].

    Where there are none on one side, the other side's; on neither, a half.
    """
    import numpy as np

    count = len(looks.times)
    before, after = np.maximum(first - reach, 0), np.minimum(last + reach, count - 1)
    moved = np.stack(
        [
            np.where(before < first, np.sqrt(looks.distance(first, before) / change), np.nan),
            np.where(after > last, np.sqrt(looks.distance(last, after) / change), np.nan),
        ]
    )
    moved = np.where(np.isnan(moved), moved[::-1], moved)
    return np.minimum(np.where(np.isnan(moved), 0.5, moved), 3)


def _of_edges(
    edges: Floats, first: Places, last: Places, between: Places, mixed: Floats, weight: Floats
) -> dict[str, npt.NDArray[np.floating]]:
    """What the energy of edges tells: see `describe_windows`."""
    import numpy as np

    one, inner, two = edges[first][:, None], edges[between], edges[last][:, None]
    part = mixed[..., None]
    # The energy of a mixture of pictures with unrelated edges, and of a slow change without one.
    mixture = (1 - part) ** 2 * one + part**2 * two
    without = (1 - part) * one + part * two

    def off(expected: Floats) -> npt.NDArray[np.floating]:
        total = np.maximum(expected.sum(axis=-1), 1)
        gone: npt.NDArray[np.floating] = np.abs(inner - expected).sum(axis=-1) / total
        values: npt.NDArray[np.floating] = (gone * weight).sum(axis=1)
        return values

    sunk = ((without - inner) * weight[..., None]).sum(axis=1)
    due = ((without - mixture) * weight[..., None]).sum(axis=1)
    each = np.minimum(np.clip(sunk / np.maximum(due, 1), -2, 2), 1)
    middle = inner[:, 2:5].mean(axis=1)
    ends = (one[:, 0] + two[:, 0]) / 2
    lost = (ends - middle).sum(axis=1) / np.maximum((ends / 2).sum(axis=1), 1)
    return {
        "edges_off": np.minimum(off(mixture), 3),
        "edges_gain": np.minimum(off(without) - off(mixture), 3),
        "edges_sink": (each * due).sum(axis=1) / np.maximum(due.sum(axis=1), 1),
        "edges_middle": np.clip(lost, -3, 3),
    }


def _extents(
    looks: _Looks, first: Places, last: Places, scores: npt.NDArray[np.floating]
) -> list[tuple[int, int]]:
    """First and last look of every transition that windows [W] with scores [W, 2] show."""
    import numpy as np

    best = scores.max(axis=1)
    spans: list[tuple[int, int]] = []
    waiting = np.ones(len(first), bool)
    while waiting.any():
        top = int(np.flatnonzero(waiting)[best[waiting].argmax()])
        crossing = waiting & (first < last[top]) & (last > first[top])
        good = np.flatnonzero(crossing & (best > best[top] - NEAR))
        parts = [_extent(looks, first[i], last[i], scores[i, 1] > scores[i, 0]) for i in good]
        spans.append((min(start for start, _ in parts), max(end for _, end in parts)))
        waiting &= ~crossing
    return spans


def _extent(looks: _Looks, start: int, end: int, fade: bool) -> tuple[int, int]:
    """Where in a window the other shot has EDGE of the picture, and all but EDGE."""
    import numpy as np

    product, power = looks.products, looks.products.diagonal()
    inner = np.arange(start, end + 1)
    if fade:  # whatever moves, contrast alone tells how much of the shot is there
        share = np.sqrt(power[inner] / max(power[start], power[end]))
        share = share if power[start] < power[end] else 1 - share
    else:
        grown = product[inner, end] - product[inner, start]
        grown = grown - product[start, end] + power[start]
        share = grown / (power[start] + power[end] - 2 * product[start, end])
    own = np.flatnonzero(share <= EDGE)
    begin = int(own[-1]) if len(own) else 0
    other = np.flatnonzero(share[begin:] >= 1 - EDGE)
    finish = begin + int(other[0]) if len(other) else len(inner) - 1
    return int(start) + begin, int(start) + finish


def _union(spans: list[tuple[Fraction, Fraction]]) -> list[tuple[Fraction, Fraction]]:
    """The same stretches of time, ascending and apart."""
    apart: list[tuple[Fraction, Fraction]] = []
    for start, end in sorted(spans):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart
