"""Checkpoints: everything a run needs to go on bit for bit, written whole or not at all.

A folder `checkpoints/step-NNNNNN` holds the weights as diffusers loads them, the optimizer's and
the reference's tensors as safetensors, and `state.json`. It is filled under another name and then
renamed, so whatever happens while it is written, the one before still stands.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from realdpo.errors import UserError
from realdpo.families import Spec
from realdpo.families.weights import read_weights, save_weights
from realdpo.train import zero
from realdpo.train.reference import Reference, let_go


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    let_go(model)
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name, gathered if they are in shards: every process must call this."""
    return {name: whole(p).detach() for name, p in trained(model)}


def save(
    folder: Path,
    model: nn.Module,
    spec: Spec,
    optimizer: torch.optim.Optimizer,
    reference: Reference | None,
    state: Mapping[str, Any],
    main: bool = True,
) -> None:
    """Write `folder`, replacing one of that name. Every process calls this; `main` writes.

    Raises UserError when the disk is full; what was there before is untouched.
    """
    weights = whole_weights(model)
    moments = {
        f"{name}|{key}": whole(value) if isinstance(value, Tensor) else torch.tensor(value)
        for name, p in trained(model)
        for key, value in _moments(optimizer, p).items()
        if isinstance(value, (Tensor, int))
    }
    averages = {n: whole(w) for n, w in (reference.weights if reference else {}).items()}
    if not main:
        return
    unfinished = folder.parent / f".{folder.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        save_weights(weights, model, spec, unfinished)
        _save(moments, unfinished / "optimizer.safetensors")
        if averages:
            _save(averages, unfinished / "reference.safetensors")
        (unfinished / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        _flush(unfinished)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # safetensors wraps the system's error in its own; both say it in their text.
        if isinstance(error, OSError) or "No space left" in str(error):
            raise UserError(
                f"cannot write the checkpoint {folder}: {error}",
                "free some space and run the same command again; it goes on from the checkpoint "
                "before",
            ) from error
        raise
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def load(
    folder: Path,
    model: nn.Module,
    spec: Spec,
    optimizer: torch.optim.Optimizer,
    reference: Reference | None,
) -> dict[str, Any]:
    """Put a checkpoint into the model, optimizer and reference; returns its state.

    Raises UserError when it is damaged or of another model.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        weights = read_weights(model, spec, folder)
        moments = load_file(folder / "optimizer.safetensors")
        averages = load_file(folder / "reference.safetensors") if _has(reference) else {}
        with torch.no_grad():
            for name, parameter in trained(model):
                _fill(parameter, weights[name])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder} is damaged or of another model: {error}",
            "delete that folder to go on from the checkpoint before",
        ) from None
    except Exception as error:  # safetensors raises its own type, which it does not export
        raise UserError(f"{folder} cannot be read: {error}", "delete that folder") from None
    found: dict[str, dict[str, Tensor]] = {name: {} for name, _ in trained(model)}
    for key, value in moments.items():
        name, kind = key.split("|")
        found[name][kind] = value
    _fill_moments(optimizer, {p: found[name] for name, p in trained(model)})
    if reference is not None and averages:
        reference.load({n: _like(reference.weights[n], averages[n]) for n in reference.weights})
    return state


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint under `folder`."""
    found = sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file())
    return found[-1] if found else None


def prune(folder: Path, keep: int, also: Iterable[str] = ()) -> None:
    """Remove all but the newest `keep` checkpoints and those named in `also`."""
    spared = set(also)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name not in spared:
            shutil.rmtree(old)


def _has(reference: Reference | None) -> bool:
    return reference is not None and bool(reference.weights)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, path)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor (FSDP2, ZeRO 3) gathered from all processes; any other as it is."""
    if zero.sharded(tensor):
        return zero.whole(tensor)
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _moments(optimizer: Any, parameter: Tensor) -> Mapping[str, Any]:
    if zero.sharded(parameter):
        return zero.moments(optimizer, parameter)
    return dict(optimizer.state.get(parameter, {}))


def _scalar(value: Tensor) -> Tensor | int:
    # torch counts its steps in a float tensor, bitsandbytes in an int
    return value if value.is_floating_point() else int(value)


def _fill_moments(optimizer: Any, values: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    if any(zero.sharded(parameter) for parameter in values):
        zero.fill_moments(optimizer, values)
        return
    for parameter, entries in values.items():
        if entries:
            optimizer.state[parameter] = {
                key: _scalar(value) if value.dim() == 0 else _like(parameter, value)
                for key, value in entries.items()
            }


def _like(tensor: Tensor, whole: Tensor) -> Tensor:
    """`whole` on the device of `tensor`, and sharded as it is when the shapes agree."""
    if hasattr(tensor, "device_mesh") and whole.shape == tensor.shape:
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = tensor
        return distribute_tensor(whole.to(tensor.device), sharded.device_mesh, sharded.placements)
    return whole.to(tensor.device)


def _fill(tensor: Tensor, whole: Tensor) -> None:
    if zero.sharded(tensor):
        zero.fill(tensor, whole)
    else:
        tensor.copy_(_like(tensor, whole))


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
