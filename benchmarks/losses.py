"""Losses that the miniature tries beside the product's: relatives of the contrast, from the literature.

Each takes the noisy states that the product's losses take. e is the policy's error vector on the real
clip, d what it moved from the reference, by which all of them are written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from realdpo.train import step
from realdpo.train.config import TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.objective import Errors
from realdpo.train.reference import Reference

BETA = 200.0  # of the two logistic losses, on mean squared errors


def train_step(
    name: str,
    model: Any,
    task: step.TrainTask,
    batch: Batch,
    config: TrainConfig,
    anchor: Reference,
) -> step.StepOutcome:
    """Accumulate the gradient of the loss `name`."""
    loss, win = LOSSES[name](model, task, batch, config, anchor)
    loss.backward()
    win, nothing = win.detach(), win.new_zeros(len(win), 0)
    return step.StepOutcome(float(loss.detach()), Errors(win, nothing, win, nothing))


def _sides(
    model: Any, task: step.TrainTask, batch: Batch, anchor: Reference, clean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Errors [B], error vectors and those of the reference at the noisy states of `clean`."""
    with anchor.active(), torch.no_grad():
        before = step.branch_error(model, task, batch, clean)[1].clone()
    errors, residual = step.branch_error(model, task, batch, clean)
    return errors, residual, before


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _sigmoid(
    model: Any, task: step.TrainTask, batch: Batch, config: TrainConfig, anchor: Reference
) -> tuple[Tensor, Tensor]:
    """The contrast's pair under DPO's logistic loss: real clip against the reference's prediction."""
    win, residual, before = _sides(model, task, batch, anchor, batch.win)
    moved = _mean((residual - before).square())
    return softplus(BETA * (win - _mean(before.square()) - moved)).mean(), win


def _trusted(
    model: Any, task: step.TrainTask, batch: Batch, config: TrainConfig, anchor: Reference
) -> tuple[Tensor, Tensor]:
    """The contrast, and DiffusionNFT's negative branch on own samples: b |d|^2 + 2 d (t - v_ref)."""
    win, residual, before = _sides(model, task, batch, anchor, batch.win)
    gate = (batch.u > config.contrast_above).to(win)
    contrast = win - config.gamma * gate * _mean((residual - before).square())
    _, own, its = _sides(model, task, batch, anchor, batch.lose[:, 0])
    d = own - its
    trust = (1 - config.gamma) * _mean(d.square()) - 2 * _mean(d * its)
    return (contrast + trust).mean() * config.plain_weight, win


def _ddo(
    model: Any, task: step.TrainTask, batch: Batch, config: TrainConfig, anchor: Reference
) -> tuple[Tensor, Tensor]:
    """Direct discriminative optimisation (arXiv 2503.01103): two logistic terms, unpaired."""
    win, _, before = _sides(model, task, batch, anchor, batch.win)
    lose, _, its = _sides(model, task, batch, anchor, batch.lose[:, 0])
    real = softplus(BETA * (win - _mean(before.square())))
    return (real + softplus(BETA * (_mean(its.square()) - lose))).mean(), win


def keep_bands(d: Tensor, bands: Callable[[int], Tensor]) -> Tensor:
    """The parts of `d` [B, F, ...] in some temporal frequencies; bands: F -> a mask of its cosines."""
    count = d.shape[1]
    at = torch.arange(count, device=d.device, dtype=d.dtype)
    cosines = torch.cos(torch.pi * (at + 0.5) * at[:, None] / count) * (2 / count) ** 0.5
    cosines[0] /= 2**0.5  # orthonormal: row k has k half periods
    kept = cosines * bands(count).to(d)[:, None]
    return torch.einsum("kf,kg,bg...->bf...", cosines, kept, d)


def _banded(bands: Callable[[int], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The contrast of what moved in some temporal frequencies alone. Bounded as the contrast is."""

    def loss(
        model: Any, task: step.TrainTask, batch: Batch, config: TrainConfig, anchor: Reference
    ) -> tuple[Tensor, Tensor]:
        win, residual, before = _sides(model, task, batch, anchor, batch.win)
        gate = (batch.u > config.contrast_above).to(win)
        moved = _mean(keep_bands(residual - before, bands).square())
        return (win - config.gamma * gate * moved).mean() * config.plain_weight, win

    return loss


LOSSES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "sigmoid": _sigmoid,
    "trusted": _trusted,
    "ddo": _ddo,
    "fast": _banded(lambda count: torch.arange(count) > 2),
    "not-slow": _banded(lambda count: (torch.arange(count) == 0) | (torch.arange(count) > 2)),
}
FORWARDS = {"sigmoid": 4, "trusted": 8, "ddo": 8, "fast": 4, "not-slow": 4}
