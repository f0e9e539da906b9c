"""Checkpoints: all that a run needs to resume bit for bit, written completely or not at all.

A folder `checkpoints/step-NNNNNN` holds the weights as diffusers loads them, the optimizer's and
the reference's tensors as safetensors, and `state.json`. It is filled under another name and then
renamed, so a failure while it is written leaves the previous checkpoint intact.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from realdpo.errors import UserError
from realdpo.families import Spec
from realdpo.families.weights import read_start, read_weights, save_weights
from realdpo.files import replace_folder
from realdpo.train.log import plain_json
from realdpo.train.reference import Reference, let_go, whole_tensor


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    let_go(model)
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def whole_weights(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The trained weights by name, on the CPU. Sharded ones are gathered one by one.

    Every process must call this. A process that does not `keep` them gets an empty dict and never
    holds more than one of them.
    """
    return _gathered(((name, p.detach()) for name, p in trained_parameters(model)), keep)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    spec: Spec,
    optimizer: torch.optim.Optimizer,
    reference: Reference | None,
    state: Mapping[str, Any],
    main: bool = True,
    average: Reference | None = None,
) -> None:
    """Write `folder`, or replace it. Every process calls this, and `main` writes.

    Weights, moments and reference are gathered and written one after another, tensor by tensor. A
    device never holds more than one whole tensor of them, and the main memory of the writing
    process never more than the content of one file.

    Raises UserError if the disk is full. The previous content stays untouched.
    """
    unfinished = folder.parent / f".{folder.name}.unfinished"
    if main:
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if main:
            unfinished.mkdir(parents=True)
        weights = whole_weights(model, main)
        if main:
            save_weights(weights, model, spec, unfinished)
        del weights
        moments = _gathered(_moments(model, optimizer), main)
        if main:
            _save(moments, unfinished / "optimizer.safetensors")
        del moments
        for other, file in ((reference, "reference"), (average, "average")):
            if _has(other):
                averages = _gathered(other.weights.items(), main)  # type: ignore[union-attr]  # _has() has checked it
                if main:
                    _save(averages, unfinished / f"{file}.safetensors")
        if not main:
            return
        (unfinished / "state.json").write_text(
            json.dumps(plain_json(state), indent=1), encoding="utf-8"
        )
        _flush(unfinished)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # safetensors wraps the system's error in its own. Both texts name the cause.
        if isinstance(error, OSError) or "No space left" in str(error):
            raise UserError(
                f"cannot write the checkpoint {folder}: {error}",
                "free some space and run the same command again. It resumes from the previous "
                "checkpoint",
            ) from error
        raise
    replace_folder(unfinished, folder)


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    spec: Spec,
    optimizer: torch.optim.Optimizer,
    reference: Reference | None,
    average: Reference | None = None,
) -> dict[str, Any]:
    """Load a checkpoint into the model, optimizer, reference and average, and return its state.

    Tensors are read and distributed one after another. Raises UserError if the checkpoint is
    damaged or belongs to another model.
    """
    try:
        state = read_state(folder)
        weights = read_weights(model, spec, folder)
        _place(model, weights)
        parameters = dict(trained_parameters(model))
        with safe_open(folder / "optimizer.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dictionary
                name, kind = key.split("|")
                _fill_moment(optimizer, parameters[name], kind, file.get_tensor(key))
        for other, stored in ((reference, "reference"), (average, "average")):
            if other is not None and other.weights:
                with safe_open(folder / f"{stored}.safetensors", framework="pt") as file:
                    other.load(
                        {
                            n: _like(weight, file.get_tensor(n))
                            for n, weight in other.weights.items()
                        }
                    )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder} is damaged or belongs to another model: {error}",
            "delete that folder to resume from the previous checkpoint",
        ) from None
    except UserError:
        raise
    except Exception as error:  # safetensors raises its own type, which it does not export
        raise UserError(f"{folder} cannot be read: {error}", "delete that folder") from None
    return state


def begin_from(folder: Path, model: nn.Module, spec: Spec) -> None:
    """Load the weights that an earlier run handed over into the policy.

    Raises UserError if they are missing or do not fit this policy.
    """
    _place(model, read_start(model, spec, folder))


def policy_weights(folder: Path, model: nn.Module, spec: Spec) -> dict[str, Tensor]:
    """The weights that a checkpoint hands over: the average if there is one, else the weights."""
    average = folder / "average.safetensors"
    return load_file(average) if average.is_file() else read_weights(model, spec, folder)


def gather_weights(reference: Reference, main: bool) -> dict[str, Tensor]:
    """The whole weights of a reference or average, on the CPU of the main process."""
    return _gathered(reference.weights.items(), main)


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint. Raises UserError if it cannot be read."""
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is damaged: {error}",
            "delete that folder to resume from the previous checkpoint",
        ) from None
    return state


def bits_of(folder: Path) -> int:
    """Bits per weight of the frozen base with which a checkpoint was made."""
    return int((read_state(folder).get("identity") or {}).get("bits", 16))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`."""
    found = sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file())
    return found[-1] if found else None


def prune_checkpoints(folder: Path, keep: int, also: Iterable[str] = ()) -> None:
    """Remove all but the newest `keep` checkpoints and those named in `also`."""
    spared = set(also)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name not in spared:
            shutil.rmtree(old)


def _has(reference: Reference | None) -> bool:
    return reference is not None and bool(reference.weights)


def _gathered(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Each tensor, whole and on the CPU, if `keep`.

    Otherwise take part in gathering and drop it.
    """
    kept = {}
    for name, tensor in tensors:
        found = whole_tensor(tensor)
        if keep:
            kept[name] = found.detach().cpu().contiguous().clone()
        del found
    return kept


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(tensors), path)


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's tensors and counts by `<parameter>|<kind>`, still sharded."""
    for name, parameter in trained_parameters(model):
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, (Tensor, int)):
                yield f"{name}|{kind}", torch.as_tensor(value)


def _fill_moment(optimizer: Any, parameter: Tensor, kind: str, value: Tensor) -> None:
    if value.dim():
        entry: Tensor | int = _like(parameter, value)
    else:  # torch counts steps in a float tensor, bitsandbytes in an int
        entry = value if value.is_floating_point() else int(value)
    optimizer.state.setdefault(parameter, {})[kind] = entry


@torch.no_grad()
def _place(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy whole weights, by name, into the trained parameters."""
    for name, parameter in trained_parameters(model):
        parameter.copy_(_like(parameter, weights[name]))


def _like(tensor: Tensor, whole: Tensor) -> Tensor:
    """`whole` on the device of `tensor`, and sharded like it if the shapes agree."""
    if hasattr(tensor, "device_mesh") and whole.shape == tensor.shape:
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = tensor
        return distribute_tensor(whole.to(tensor.device), sharded.device_mesh, sharded.placements)
    return whole.to(tensor.device)


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
