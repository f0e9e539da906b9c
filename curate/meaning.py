"""What embeddings say about clips: fit to a caption, action, realness, aesthetics, likeness.

Pure NumPy over unit vectors; which model made them is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realdpo.errors import UserError

Vectors = npt.NDArray[Any]
"""float32, one vector a row."""

REAL = (
    "real video footage of a person",
    "a real photograph of people doing something",
    "camera footage of people outdoors",
    "camera footage of a person indoors",
)
"""What footage for training human action looks like, against everything below."""
NOT_REAL = (
    "an animated cartoon",
    "a 3d rendered animation",
    "a video game screenshot",
    "a screen recording of a computer",
    "a slide with text",
    "a title card with text on a plain background",
    "a landscape without people",
    "an object without people",
    "a black screen",
)


def unit_vectors(vectors: npt.ArrayLike) -> Vectors:
    """Rows scaled to length 1; rows of zeros stay zero. float32 [..., D]."""
    array = np.asarray(vectors, np.float32)
    length = np.linalg.norm(array, axis=-1, keepdims=True)
    return array / np.where(length > 0, length, 1)


def text_likeness(clips: Vectors, texts: Vectors) -> Vectors:
    """Cosine of each clip with its own text: [N, D] and [N, D] to [N], in -1..1."""
    found: Vectors = np.einsum("nd,nd->n", clips, texts).astype(np.float32)
    return found


def zero_shot(clips: Vectors, classes: Vectors, scale: float) -> Vectors:
    """Probability of each class: softmax of `scale` x cosine. [N, D], [C, D] to [N, C].

    `scale` is the model's own (exp of its logit scale, 100 for CLIP).
    """
    logits = (clips.astype(np.float64) @ classes.T.astype(np.float64)) * scale
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    found: Vectors = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def text_standing(clips: Vectors, texts: Vectors) -> Vectors:
    """For each clip the share of the other, different texts that fit it worse than its own.

    [N, D], [N, D] to [N] in 0..1, NaN where all texts are the same. 1 means that its own caption
    fits best; a caption of another clip gives one half on average. Unlike the cosine it needs no
    threshold of its own for every model.
    """
    result = np.full(len(clips), np.nan, np.float32)
    different, index = np.unique(np.round(texts, 6), axis=0, return_inverse=True)
    if len(different) < 2:
        return result
    for start in range(0, len(clips), 1024):
        part = slice(start, start + 1024)
        fits = clips[part] @ different.T
        own = np.take_along_axis(fits, index.reshape(-1)[part, None], axis=1)
        result[part] = (fits < own).sum(axis=1) / (len(different) - 1)
    return result


def nearest_before(clips: Vectors) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Highest cosine of each clip with any clip before it, and which; NaN and -1 for the first.

    Because only earlier ones count, `semantic.nearest_max` drops all but the first of a group.
    """
    count = len(clips)
    best = np.full(count, np.nan, np.float32)
    which = np.full(count, -1, np.int64)
    for start in range(0, count, 1024):
        stop = min(start + 1024, count)
        cosines = clips[start:stop] @ clips[:stop].T
        later = np.arange(stop)[None, :] >= np.arange(start, stop)[:, None]
        cosines[later] = -np.inf
        which[start:stop] = cosines.argmax(axis=1)
        best[start:stop] = np.take_along_axis(cosines, which[start:stop, None], axis=1)[:, 0]
    if count:
        best[0], which[0] = np.nan, -1
    return best, which


def near_duplicates(clips: Vectors, least: float = 0.98) -> list[tuple[int, int]]:
    """All pairs (earlier, later) of rows whose cosine is at least `least`.

    0.98 between middle frames is Open-Sora's setting. The pairs are what `decide.decide_clips` takes as
    links.
    """
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(clips), 1024):
        stop = min(start + 1024, len(clips))
        close = (clips[start:stop] @ clips[:stop].T) >= least
        later, earlier = np.nonzero(np.tril(close, k=start - 1))
        pairs += [(int(e), int(start + n)) for n, e in zip(later, earlier, strict=True)]
    return pairs


def predict_aesthetics(frames: Vectors, head: Sequence[tuple[Vectors, Vectors]]) -> Vectors:
    """The LAION predictor on unit CLIP vectors: [N, D] to [N], about 1 to 10.

    Its published form is a chain of linear layers without activations between them
    (github.com/christophschuhmann/improved-aesthetic-predictor), or a single one.
    """
    values = frames.astype(np.float32)
    for weight, bias in head:
        values = values @ weight.T + bias
    return values[:, 0]


def aesthetic_head(path: str | Path, width: int) -> list[tuple[Vectors, Vectors]]:
    """The layers of a LAION head from its weights file, .safetensors or .pth.

    `width` is the length of the embeddings it is for. Raises UserError when the file cannot be
    read, is no such head, or is for another width.
    """
    path = Path(path).expanduser()
    state = _weights(path)
    names = sorted(
        (name for name in state if name.endswith("weight")),
        key=lambda name: [int(part) for part in name.split(".") if part.isdigit()],
    )
    head = []
    inside = width
    for name in names:
        weight, bias = state[name], state.get(name[: -len("weight")] + "bias")
        if bias is None or weight.ndim != 2 or weight.shape[1] != inside:
            raise UserError(
                f"{path} is no aesthetic head for embeddings of {width} numbers",
                "LAION's heads are for ViT-L-14 (768): embed with --model ViT-L-14",
            )
        head.append((weight, bias))
        inside = weight.shape[0]
    if not head or inside != 1:
        raise UserError(f"{path} holds no aesthetic head that ends in one number")
    return head


def _weights(path: Path) -> dict[str, Vectors]:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no weights file {path}") from None
    except Exception as error:  # each format has its own ways to say that a file is not of it
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise UserError(f"{path} holds no plain weights")
    return {name: value.float().numpy() for name, value in state.items()}


def best_action(
    probabilities: Vectors, names: Sequence[str], least: float
) -> list[tuple[str | None, float]]:
    """For each clip the likeliest action, None when its probability is under `least`."""
    top = probabilities.argmax(axis=1)
    values = probabilities[np.arange(len(top)), top]
    return [
        (names[i] if value >= least else None, float(value))
        for i, value in zip(top, values, strict=True)
    ]
