"""The held-out check: the effect of training on unseen pairs, measured in the same way every time.

Every pair is noised at a fixed grid of levels with a fixed noise of its own. The global random
state is neither read nor changed, so a measurement has no side effects and repeats bit for bit.
Errors are compared with those of the base model, which are measured once before the first step. A
moving reference would shift the comparison. The control pairs every winner with a loser of another
prompt. A model that learns only how generated video looks wins those just as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realdpo.ids import seed_of, unit_interval
from realdpo.train import draws, latents, step
from realdpo.train.config import TrainConfig
from realdpo.train.draws import Choice
from realdpo.train.latents import Pair
from realdpo.train.objective import Errors, accuracy, margins
from realdpo.train.reference import Reference
from realdpo.train.step import TrainTask


@dataclass(frozen=True)
class Table:
    """Errors of P pairs at K levels: `win` [P, K], `lose` [P, K, N], `control` [P, K].

    `control` is NaN if no pair of another prompt has the same shape. `moved` [P, K] is the squared
    distance of the winner's prediction from the reference's, or 0 if it was not asked for.
    """

    win: Tensor
    lose: Tensor
    control: Tensor
    moved: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"win": self.win, "lose": self.lose, "control": self.control, "moved": self.moved}


def held_out_levels(config: TrainConfig) -> list[float]:
    """The fixed noise levels: the centres of equal parts of the whole schedule."""
    count = config.held_out_levels
    return [(k + 0.5) / count for k in range(count)]


def measure_held_out(
    model: Any,
    task: TrainTask,
    pairs: Sequence[Pair],
    config: TrainConfig,
    device: torch.device,
    together: bool,
    only: Sequence[int] | None = None,
    reference: Reference | None = None,
) -> Table:
    """Errors of `model`, as it is now, on `pairs`, or only on those at the indices `only`.

    With a `reference`, also the distance of winners' predictions from its own.
    """
    rows = [
        _row(model, task, pairs, index, config, device, together, reference)
        for index in (range(len(pairs)) if only is None else only)
    ]
    return Table(*(torch.stack(part) for part in zip(*rows, strict=True)))


def measure_shared(
    model: Any,
    task: TrainTask,
    pairs: Sequence[Pair],
    config: TrainConfig,
    together: bool,
    accelerator: Any,
    reference: Reference | None = None,
) -> Table:
    """`measure_held_out`, with the pairs shared among the processes. All get the whole table."""
    world, rank, count = accelerator.num_processes, accelerator.process_index, len(pairs)
    share = -(-count // world)
    # Every process runs the same number of forwards (sharded weights need that). Extra ones are
    # dropped.
    mine = [min(rank + k * world, count - 1) for k in range(share)]
    table = measure_held_out(
        model, task, pairs, config, accelerator.device, together, mine, reference
    )
    if world == 1:
        return table
    rows = {n: t.to(accelerator.device) for n, t in table.tensors().items()}
    every = {n: accelerator.gather(t.contiguous()).cpu() for n, t in rows.items()}
    # Gathered are the rows of process 0, then of process 1 and so on: pair p is row p // world of p
    # % world.
    order = torch.tensor([p % world * share + p // world for p in range(count)])
    return Table(**{n: t[order] for n, t in every.items()})


def split_held_out(found: dict[str, list[Pair]], count: int) -> tuple[list[Pair], list[Pair], str]:
    """(pairs to train on, pairs to measure on, the rule of the split).

    Without a validation split, a tenth of the clips (at least one) is held out by a hash of their
    id. With a single clip, nothing can be held out.
    """
    train, watched = found["train"], found.get("validation", [])
    if watched or not count:
        return train, watched[:count], "the validation split"
    clips = sorted({p.clip_id for p in train}, key=lambda clip: unit_interval("held out", clip))
    held = set(clips[: max(1, len(clips) // 10)]) if len(clips) > 1 else set()
    kept = [p for p in train if p.clip_id not in held]
    return kept, [p for p in train if p.clip_id in held][:count], "clip, for want of a split"


def summarise_held_out(now: Table, base: Table, config: TrainConfig) -> dict[str, Any]:
    """The changes from `base` to `now`. Without losers, numbers that depend on them are left out.

    `accuracy`: share of (pair, loser) whose margin, averaged over the grid, favours the winner. It
    is 0.5 by definition before the first step. `winner_change`: relative change of the winner's
    error, which must not rise. `control_accuracy`: the accuracy with losers of other prompts.
    """
    result: dict[str, Any] = {
        "winner_error": float(now.win.mean()),
        "winner_error_base": float(base.win.mean()),
        "winner_change": float(now.win.mean() / base.win.mean() - 1),
        "winner_change_by_level": (now.win.mean(0) / base.win.mean(0) - 1).tolist(),
        "pairs": len(now.win),
    }
    method = config.method
    by_pair = method.lowered(now, base)
    result |= method.figures(by_pair, now, base)
    if now.lose.shape[2]:
        result |= _against_losers(now, base, config.beta)
    result["by_pair"] = by_pair.tolist()
    return result


def margins_of(now: Table, base: Table, beta: float) -> Tensor:
    """Reward margins of `now` against `base`, [P, K, N]."""
    return margins(_errors(now, base), beta).view(*now.lose.shape)


def _against_losers(now: Table, base: Table, beta: float) -> dict[str, Any]:
    z = margins_of(now, base, beta)
    worse = (now.win - base.win).mean(1, keepdim=True) > 0
    result: dict[str, Any] = {
        "accuracy": float(accuracy(z.mean(1)).mean()),
        "accuracy_by_level": accuracy(z).mean((0, 2)).tolist(),
        "margin": float(z.mean()),
        "loser_error": float(now.lose.mean()),
        "loser_change": float(now.lose.mean() / base.lose.mean() - 1),
        "loser_dominant_ratio": float(((z.mean(1) > 0) & worse).float().mean()),
    }
    has = ~torch.isnan(now.control[:, 0])
    if has.any():
        z = margins(_errors(_swapped(now, has), _swapped(base, has)), beta)
        result["control_accuracy"] = float(accuracy(z.view(int(has.sum()), -1).mean(1)).mean())
    return result


def _swapped(table: Table, rows: Tensor) -> Table:
    """The pairs at `rows`, with their control in place of the losers."""
    control = table.control[rows]
    return Table(table.win[rows], control.unsqueeze(2), control, table.moved[rows])


def _row(
    model: Any,
    task: TrainTask,
    pairs: Sequence[Pair],
    index: int,
    config: TrainConfig,
    device: torch.device,
    together: bool,
    reference: Reference | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Errors of one pair: winner [K], losers [K, N], control [K]; distance from the reference [K]."""
    pair = pairs[index]
    sample = latents.load_sample(pair, range(draws.losers_used(pairs, config)))
    other = _stranger(pairs, index) if pair.lose else None
    if other is not None:
        foreign = latents.load_sample(other, [0]).lose
        sample = latents.Sample(
            sample.win, torch.cat([sample.lose, foreign]), sample.inputs, sample.images
        )
    rows, moved = [], []
    for number, u in enumerate(held_out_levels(config)):
        random = torch.Generator().manual_seed(seed_of("held out", pair.pair_id, number))
        grain = torch.randn(pair.shape, generator=random)
        choice = Choice(tuple(range(len(sample.lose))), 0, u, grain)
        batch = draws.collate_samples([(sample, choice)]).to(device)
        win, lose = step.branch_errors(model, task, batch, together)
        rows.append(torch.cat([win, lose[0]]).double().cpu())
        if reference is None:
            moved.append(0.0)
        else:
            moved.append(step.distance_moved(model, task, batch, reference))
    table, apart = torch.stack(rows), torch.tensor(moved, dtype=torch.float64)
    if other is None:
        return table[:, 0], table[:, 1:], torch.full_like(table[:, 0], torch.nan), apart
    return table[:, 0], table[:, 1:-1], table[:, -1], apart


def _stranger(pairs: Sequence[Pair], index: int) -> Pair | None:
    """The next pair of another clip and prompt whose latents have the same shape."""
    here = pairs[index]
    for offset in range(1, len(pairs)):
        there = pairs[(index + offset) % len(pairs)]
        if (
            there.lose
            and there.shape == here.shape
            and there.clip_id != here.clip_id
            and there.prompt != here.prompt
        ):
            return there
    return None


def _errors(now: Table, base: Table) -> Errors:
    return Errors(
        now.win.flatten(), now.lose.flatten(0, 1), base.win.flatten(), base.lose.flatten(0, 1)
    )
