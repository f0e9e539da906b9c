"""The audit of cached latents: was a loser encoded in the same way as its winner?

The videos of a pair can be alike while the latents are not, if only one side was scaled to -1..1
before the VAE. The same first frame must give the same first latent frame, whatever follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families import frames_first
from realdpo.pairs import audit
from realdpo.rows import PairRow
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Latent = npt.NDArray[np.float32]  # [C, F, H, W]

MEAN, SPREAD, LARGEST = "mean", "spread", "largest"
# In units of the winner's standard deviation, and in natural logarithms. Channel means of two
# videos of one scene differ by a few hundredths; a factor of 1.1 in spread is as much.
_TOLERANCE = {MEAN: 0.1, SPREAD: 0.1, LARGEST: 0.3}
_SHIFTED = 0.25  # standard deviations of channel means; encodings of one picture differ less
_AT_MOST_CHANNELS = 64


def folder_of(workspace: Workspace) -> Path:
    """The folder of imported latents: <name of the video file>.safetensors."""
    return workspace.step("pair-latents")


def audit_latents(
    pairs: Sequence[tuple[Latent, Sequence[Latent]]], same_first_frame: bool
) -> dict[str, Any]:
    """The verdict on the latents of (winner, losers), each float32 [C, F, H, W].

    The keys are those of `audit.audit_pairs`. `normalised_differently` is true if the losers'
    channels are shifted or scaled against those of their winner. Raises UserError if there is no
    pair, or if the shapes of a pair differ.
    """
    import numpy as np

    if not pairs:
        raise UserError("there are no cached latents to audit")
    values = []
    for win, losers in pairs:
        if any(lose.shape != win.shape for lose in losers):
            raise UserError("the latents of a winner and its losers have different shapes")
        # over all sides, so it does not depend on which one is called the winner
        scale = np.mean([v.std(axis=(1, 2, 3)) for v in (win, *losers)], axis=0) + 1e-6
        values.append(np.stack([_numbers(video, scale) for video in (win, *losers)]))
    channels = values[0].shape[3]
    tolerance = np.tile(np.repeat(list(_TOLERANCE.values()), channels), 2)
    first = range(len(tolerance) // 2) if same_first_frame else range(len(tolerance))
    flat = [v.reshape(len(v), -1) for v in values]
    found = audit.told_apart(flat, tolerance, first).found
    differences = np.concatenate([v[1:] - v[:1] for v in values])  # loser minus winner
    where = 0 if same_first_frame else 1
    shift = float(np.sqrt((differences[:, where, 0] ** 2).mean()))
    stretch = float(np.exp(np.median(differences[:, 1, 1])))
    largest = float(np.exp(np.median(differences[:, 1, 2])))
    found["verdict"] = audit.audit_verdict(found, audit.Rule())
    # One picture has one latent, so a first frame with another latent is no accident.
    shifted = np.sqrt((differences[:, 0, 0] ** 2).mean(axis=1)) > _SHIFTED
    if same_first_frame and shifted.all():
        found["verdict"] = audit.SHORTCUT
    found |= {
        "pairs": len(pairs),
        "losers": len(differences),
        "channels": channels,
        "shift": round(shift, 4),
        "spread_ratio": round(stretch, 4),
        "largest_ratio": round(largest, 4),
    }
    found["normalised_differently"] = found["verdict"] == audit.SHORTCUT and shift > _SHIFTED
    found["summary"] = _summary(found, same_first_frame)
    return found


def _summary(found: Mapping[str, Any], same_first_frame: bool) -> str:
    place = "of the first latent frame " if same_first_frame else ""
    facts = (
        f"the losers' channel means {place}lie {found['shift']:.2f} standard deviations from "
        f"their winners', their spread is {found['spread_ratio']:.2f} times and their largest "
        f"value {found['largest_ratio']:.1f} times as large"
    )
    if found["normalised_differently"]:
        return (
            "The losers were normalised differently before they were encoded: "
            f"{facts}. Encode them again in the same way as the winners."
        )
    if found["verdict"] == audit.TOO_FEW:
        return (
            f"There are too few pairs to tell whether latents differ by more than chance: {facts}."
        )
    if found["verdict"] == audit.CLEAN:
        return f"Winners and losers were encoded alike: {facts}."
    return f"The latents of the two sides differ: {facts}."


def _numbers(latent: Latent, scale: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """[2, 3, C]: mean, log spread, log largest of each channel, for the first frame and for all."""
    import numpy as np

    rows = []
    for part in (latent[:, :1], latent):
        flat = part.reshape(len(part), -1).astype(np.float64)
        rows.append(
            [
                flat.mean(axis=1) / scale,
                np.log(flat.std(axis=1) + 1e-6),
                np.log(np.abs(flat).max(axis=1) + 1e-6),
            ]
        )
    return np.array(rows)[:, :, :_AT_MOST_CHANNELS]


def cached_latents(
    workspace: Workspace, rows: Sequence[PairRow]
) -> Iterator[tuple[Latent, list[Latent]]]:
    """Latents of the pairs whose sides are all cached, imported ones first, then training's."""
    known = _files(workspace)
    for row in rows:
        names = [row["win"], *row["lose"]]
        if all(name in known for name in names):
            win, *losers = (read_latent(known[name], row) for name in names)
            yield win, losers


def _files(workspace: Workspace) -> dict[str, Path]:
    """The latent file of each video by the video's file name."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    for path in sorted(workspace.step("latents").glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                video = (file.metadata() or {}).get("video")
        except SafetensorError:
            continue  # being written, or damaged: training makes it again
        if video:
            found[f"{video}.mp4"] = path
    for path in folder_of(workspace).glob("*.safetensors"):
        found[f"{path.stem}.mp4"] = path
    return found


def read_latent(path: Path, row: PairRow | None = None) -> Latent:
    """A video's latent as [C, F, H, W]. Raises UserError if the file holds no such tensor."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    tensor = next((t for t in tensors.values() if t.squeeze(0).ndim == 4), None)
    if tensor is None:
        raise UserError(f"{path} holds no tensor with four axes")
    tensor = tensor.squeeze(0).to(torch.float32)
    # training stores latents in the transformer's order of axes
    if path.parent.name == "latents" and frames_first(str((row or {}).get("scheduler"))):
        tensor = tensor.transpose(0, 1)
    return tensor.numpy()
