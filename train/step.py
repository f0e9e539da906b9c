"""One step: noise a batch, run reference and policy, and accumulate the gradient.

Together, winner and losers of a batch go through the model in one forward. That is 2 (1 + N)
forwards, against 4 N if the winner is run again for every loser. One by one, only the activations
of a single branch are held: first the winner's error without gradient, then each loser forward and
backward with its closed-form slope, then the winner with the sum of slopes. That takes one forward
more. Both ways give the same gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from realdpo.families import Family
from realdpo.train import noise, objective
from realdpo.train.config import TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.objective import Contrast, Errors, Objective
from realdpo.train.reference import Reference


@dataclass(frozen=True)
class TrainTask:
    """The constants of a run: facts of the model, and the noise process."""

    family: Family
    process: noise.Process


@dataclass(frozen=True)
class StepOutcome:
    """The result of one micro-batch: loss, errors (detached), and the mean SDPO scale, if used."""

    loss: float
    errors: Errors
    loser_scale: float | None = None
    moved: Tensor | None = None  # [B], distance of the prediction from the reference's


def aim_of(config: TrainConfig) -> Objective:
    return Objective(config.beta, config.sft_weight, config.sdpo_mu)


def contrast_of_config(config: TrainConfig) -> Contrast:
    return Contrast(config.gamma, config.contrast_above, config.contrast_weight == "smooth")


def branch_error(model: Any, task: TrainTask, batch: Batch, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Error [B] and residual [B, ...] (prediction - target, float32) of `clean` [B, ...].

    `clean` may also hold several branches of the batch one after another, [K * B, ...]. Noise,
    level and inputs are repeated, so the branches can be compared.
    """
    prediction, target = _predict(model, task, batch, clean)
    wide = torch.promote_types(prediction.dtype, target.dtype)
    residual = prediction.to(wide) - target
    if not batch.regions:
        return objective.error(prediction, target), residual
    where = _repeat(_within(task, batch, clean), len(clean) // len(batch.u))
    return objective.error(prediction, target, where), residual * where


def _predict(model: Any, task: TrainTask, batch: Batch, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction and target [B, ...], without the given frames."""
    copies = len(clean) // len(batch.u)
    u, grain = batch.u.repeat(copies), _repeat(batch.noise, copies)
    level = noise.noise_levels(task.process, u)
    noisy = noise.mix_noise(clean, grain, level)
    inputs = {name: _repeat(tensor, copies) for name, tensor in batch.inputs.items()}
    timestep = level.timestep.to(noisy.device)
    if timestep.is_floating_point():
        timestep = timestep.float()
    prediction = task.family.forward(model, noisy.to(_dtype(model)), timestep, inputs)
    target = noise.prediction_target(task.process, clean, grain, level)
    skip = task.family.clean_frames()
    axis, length = task.family.TIME_AXIS, clean.shape[task.family.TIME_AXIS] - skip
    return prediction.narrow(axis, skip, length), target.narrow(axis, skip, length)


def _within(task: TrainTask, batch: Batch, like: Tensor) -> Tensor:
    """1 at latent positions where a sample's losers were generated, else 0; [B, ...].

    Outside the region of a local loser, both sides are the same, and an error there would only add
    noise to the comparison. Samples without a region are 1 everywhere.
    """
    axis, skip = task.family.TIME_AXIS, task.family.clean_frames()
    frames, rows, columns = like.shape[axis], *like.shape[3:5]
    where = torch.zeros(len(batch.u), frames, rows, columns, device=like.device)
    for k, region in enumerate(batch.regions):
        spans = region.spans(frames, rows, columns) if region else (slice(None),) * 3
        where[k][spans] = 1.0
    where = where[:, skip:]
    # if a region lies only in given frames, nothing of it is left, so all positions count
    nothing = where.flatten(1).sum(1) == 0
    where[nothing] = 1.0
    return where.unsqueeze(3 - axis)


def branch_errors(
    model: Any, task: TrainTask, batch: Batch, together: bool
) -> tuple[Tensor, Tensor]:
    """Errors of winner [B] and losers [B, N], without gradient."""
    with torch.no_grad():
        if together:
            errors, _ = branch_error(model, task, batch, _side_by_side(batch))
            win, *lose = errors.view(-1, len(batch.u))
        else:
            win, *lose = (branch_error(model, task, batch, clean)[0] for clean in _branches(batch))
        return win, torch.stack(lose, 1) if lose else win.new_zeros(len(win), 0)


def dpo_step(
    model: Any,
    task: TrainTask,
    batch: Batch,
    aim: Objective,
    ref_win: Tensor,
    ref_lose: Tensor,
    backward: Callable[[Tensor], None],
    *,
    together: bool,
    apart: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> StepOutcome:
    """Accumulate the gradient of the preference loss. Returns its parts.

    `backward` takes a scalar. `apart` is entered around every backward but the last, so several
    processes exchange gradients only once.
    """
    way = _together if together else _one_by_one
    return way(model, task, batch, aim, ref_win, ref_lose, backward, apart)


def sft_step(
    model: Any,
    task: TrainTask,
    batch: Batch,
    backward: Callable[[Tensor], None],
    weight: float = 1.0,
) -> StepOutcome:
    """Accumulate the gradient of the winner's own error: plain training, the control for DPO.

    weight: factor on the gradient. The reported loss is the error itself.
    """
    win, _ = branch_error(model, task, replace(batch, regions=()), batch.win)
    loss = win.mean()
    backward(weight * loss)
    nothing = win.new_zeros(len(win), 0)
    return StepOutcome(float(loss.detach()), Errors(win.detach(), nothing, win.detach(), nothing))


def contrast_step(
    model: Any,
    task: TrainTask,
    batch: Batch,
    settings: Contrast,
    reference: Reference,
    backward: Callable[[Tensor], None],
    weight: float = 1.0,
) -> StepOutcome:
    """Accumulate the gradient of `objective.contrast` on the batch's winners.

    This takes one forward of the reference without gradient, and one of the policy with gradient.
    weight: factor on the gradient, which the reported loss does not have.
    """
    before = reference_prediction(model, task, batch, reference)
    loss, win, moved = contrast_of(model, task, batch, settings, before)
    backward(weight * loss.mean())
    nothing = win.new_zeros(len(win), 0)
    errors = Errors(win.detach(), nothing, win.detach(), nothing)
    return StepOutcome(float(loss.detach().mean()), errors, moved=moved.detach())


def reference_prediction(model: Any, task: TrainTask, batch: Batch, reference: Reference) -> Tensor:
    """The reference's prediction for the batch's noisy winners, [B, ...]."""
    with reference.active():
        return _predict(model, task, batch, batch.win)[0].clone()


def contrast_of(
    model: Any, task: TrainTask, batch: Batch, settings: Contrast, before: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`objective.contrast` of the current policy, with the reference's prediction `before`."""
    prediction, target = _predict(model, task, batch, batch.win)
    return objective.contrast(prediction, before, target, batch.u, settings)


@torch.no_grad()
def distance_moved(model: Any, task: TrainTask, batch: Batch, reference: Reference) -> float:
    """Mean squared distance of the winners' predictions from the reference's."""
    before = reference_prediction(model, task, batch, reference)
    return float(objective.error(_predict(model, task, batch, batch.win)[0], before).mean())


def _together(
    model: Any,
    task: TrainTask,
    batch: Batch,
    aim: Objective,
    ref_win: Tensor,
    ref_lose: Tensor,
    backward: Callable[[Tensor], None],
    apart: Any,
) -> StepOutcome:
    errors, residuals = branch_error(model, task, batch, _side_by_side(batch))
    win, *lose = errors.view(-1, len(batch.u))
    scales = []
    if aim.sdpo_mu is not None:
        first, *others = residuals.detach().unflatten(0, (-1, len(batch.u)))
        scales = [objective.loser_scale(first, other, aim.sdpo_mu) for other in others]
        lose = [objective.scale_gradient(e, s) for e, s in zip(lose, scales, strict=True)]
    made = Errors(win, torch.stack(lose, 1), ref_win, ref_lose)
    loss = objective.loss(made, aim)
    backward(loss)
    return _outcome(loss, made, scales)


def _one_by_one(
    model: Any,
    task: TrainTask,
    batch: Batch,
    aim: Objective,
    ref_win: Tensor,
    ref_lose: Tensor,
    backward: Callable[[Tensor], None],
    apart: Any,
) -> StepOutcome:
    winner, *losers = _branches(batch)
    with torch.no_grad():
        win, win_residual = branch_error(model, task, batch, winner)
    lose, scales = [], []
    for index, clean in enumerate(losers):
        with apart():
            error, residual = branch_error(model, task, batch, clean)
            lose.append(error.detach())
            pair = Errors(win, lose[-1][:, None], ref_win, ref_lose[:, index : index + 1])
            slope = objective.slopes(pair, aim)[1][:, 0] / len(losers)
            if aim.sdpo_mu is not None:
                scales.append(objective.loser_scale(win_residual, residual.detach(), aim.sdpo_mu))
                slope = slope * scales[-1]
            backward((slope * error).sum())
    made = Errors(win, torch.stack(lose, 1), ref_win, ref_lose)
    slope, _ = objective.slopes(made, aim)
    again, _ = branch_error(model, task, batch, winner)
    backward((slope * again).sum())
    return _outcome(objective.loss(made, aim), made, scales)


class Bank:
    """Reference errors of fixed draws, stored on disk, so later epochs need no reference forward.

    There is one JSON file per (pair, draw), in a folder named by everything that the errors depend
    on.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def get(self, key: str) -> list[float] | None:
        """The winner's error, then the losers' in the order of the draw. None if not stored."""
        import json

        path = self._path(key)
        return json.loads(path.read_text()) if path.is_file() else None

    def put(self, key: str, errors: list[float]) -> None:
        import json

        from realdpo.files import write_text

        write_text(self._path(key), json.dumps(errors))

    def _path(self, key: str) -> Any:
        pair, draw = key.split("/")
        return self.folder / f"{pair}-{draw}.json"


def reference_errors(
    model: Any,
    task: TrainTask,
    batch: Batch,
    reference: Reference,
    together: bool,
    bank: Bank | None,
) -> tuple[Tensor, Tensor]:
    """Reference errors of winner [B] and losers [B, N], from the bank if it has all of them."""
    if bank is not None:
        stored = [bank.get(key) for key in batch.keys]
        if all(stored):
            table = torch.tensor(stored, dtype=torch.float32, device=batch.win.device)
            return table[:, 0], table[:, 1:]
    with reference.active():
        win, lose = branch_errors(model, task, batch, together)
    if bank is not None:
        for key, row in zip(batch.keys, torch.cat([win[:, None], lose], 1).tolist(), strict=True):
            bank.put(key, row)
    return win, lose


def _outcome(loss: Tensor, made: Errors, scales: list[Tensor]) -> StepOutcome:
    parts = (made.win, made.lose, made.ref_win, made.ref_lose)
    mean = float(torch.stack(scales).mean()) if scales else None
    return StepOutcome(float(loss.detach()), Errors(*(e.detach() for e in parts)), mean)


def _branches(batch: Batch) -> list[Tensor]:
    """Winner and losers, each [B, ...]."""
    return [batch.win, *batch.lose.unbind(1)]


def _side_by_side(batch: Batch) -> Tensor:
    """Winner and losers in one tensor, [(1 + N) * B, ...]."""
    return torch.cat(_branches(batch))


def _repeat(tensor: Tensor, copies: int) -> Tensor:
    return tensor.repeat(copies, *[1] * (tensor.dim() - 1))


def _dtype(model: Any) -> torch.dtype:
    # A wrapped model (DDP) has no dtype, and adapters are float32 on bfloat16 weights: ask the
    # base.
    inner = getattr(model, "module", model)
    found: torch.dtype = next(p.dtype for n, p in inner.named_parameters() if "lora_" not in n)
    return found
