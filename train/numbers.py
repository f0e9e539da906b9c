"""The numbers that are logged for one step, over all its micro-batches and processes."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from realdpo.memory import GB
from realdpo.train import objective
from realdpo.train.objective import Objective
from realdpo.train.reference import Reference, whole_tensor
from realdpo.train.step import StepOutcome


def of_step(
    outcomes: Sequence[StepOutcome], us: Tensor, beta: float, accelerator: Any
) -> dict[str, float]:
    """Loss, errors and diagnostics of a step's micro-batches. `us` are their noise levels.

    Every process calls this and gets the same numbers. Each pair counts the same, however many
    losers it has. Without losers, the numbers of the preference are left out.
    """
    rows = [_of_micro_batch(outcome, beta) for outcome in outcomes]
    table = torch.tensor([list(row.values()) for row in rows], device=accelerator.device)
    means = accelerator.gather(table).mean(0).tolist()
    values = dict(zip(rows[0], means, strict=True))
    if not outcomes[0].errors.lose.shape[1]:
        return values
    won = torch.cat(
        [objective.accuracy(objective.margins(o.errors, beta)).mean(1) for o in outcomes]
    )
    won, us = (accelerator.gather(t.float().to(accelerator.device).contiguous()) for t in (won, us))
    return values | _by_level(won, us)


def _of_micro_batch(outcome: StepOutcome, beta: float) -> dict[str, float]:
    errors = outcome.errors
    values = {"loss": outcome.loss}
    if outcome.moved is not None:
        values["distance/prediction"] = float(outcome.moved.mean())
    if not errors.lose.shape[1]:
        return values | {"error/win": float(errors.win.mean())}
    values |= objective.diagnostics(errors, beta)
    values["loss/preference"] = float(objective.loss(errors, Objective(beta)))
    if outcome.loser_scale is not None:
        values["sdpo_scale"] = outcome.loser_scale
    return values


def measure_movement(
    model: nn.Module, reference: Reference | None, step: int, lora: bool
) -> dict[str, float]:
    """Measure how far the policy is from its start; also move the reference when it is due."""
    values: dict[str, float] = {}
    if lora:
        values["distance/base"] = adapter_size(model)
    if reference is not None:
        apart, moved = reference.distance(), reference.update(step)
        if apart is not None:
            values["distance/reference"] = apart
        if moved is not None:
            values["reference_update"] = moved
    return values


@torch.no_grad()
def adapter_size(model: nn.Module) -> float:
    """Root of the sum of |scale * B A|^2 over all adapters: the distance of LoRA from the base.

    |B A|^2 = tr((B^T B)(A A^T)), so no matrix of the base's size is built. Adapters of convolutions
    (Sana-Video's feed-forward layers) are products of matrices too, because the second is 1x1.
    """
    parts: list[
        Tensor
    ] = []  # summed on the device: fetching one number per layer would wait at every layer
    for module in model.modules():
        for name in getattr(module, "lora_A", {}):
            layer: Any = module
            a = whole_tensor(layer.lora_A[name].weight).float().flatten(1)
            b = whole_tensor(layer.lora_B[name].weight).float().flatten(1)
            parts.append(((b.T @ b) * (a @ a.T).T).sum() * layer.scaling[name] ** 2)
    return math.sqrt(max(float(torch.stack(parts).sum()), 0.0)) if parts else 0.0


def peak_memory(device: torch.device) -> float:
    """Peak memory in GB (10^9 bytes): of a GPU since its counter was reset, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / GB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def judged_value(values: Mapping[str, float]) -> float:
    """The number that must not diverge: the preference loss, or without losers the clip's error."""
    return values.get("loss/preference", values["error/win"])


def progress_note(values: Mapping[str, float]) -> str:
    """A few words about a step, for the progress bar."""
    text = f"loss {judged_value(values):.4f}"
    if "rewards/accuracy" in values:
        text += f" accuracy {values['rewards/accuracy']:.2f}"
    return text


def _by_level(won: Tensor, u: Tensor, bins: int = 5) -> dict[str, float]:
    """Accuracy for each noise level that this step drew. `won` and `u` are [pairs]."""
    values = {}
    for k in range(bins):
        rows = (u * bins).long().clamp_max(bins - 1) == k
        if rows.any():
            name = f"accuracy/t{k / bins:.1f}-{(k + 1) / bins:.1f}"
            values[name] = float(won[rows].mean())
    return values
