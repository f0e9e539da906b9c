"""Every random choice of training as a pure function of the seed and the sample's number.

Sample s of a run (counted over steps, micro-batches and processes) always gets the same pair,
losers, noise level and noise. So nothing random needs saving for an exact resume, and how a batch
is split (two processes, or one with two micro-batches) changes nothing but the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realdpo.errors import UserError
from realdpo.ids import seed_of
from realdpo.regions import Region
from realdpo.train import latents, noise
from realdpo.train.config import TrainConfig
from realdpo.train.latents import Pair


@dataclass(frozen=True)
class Batch:
    """B samples: `win`, `noise` [B, ...], `lose` [B, N, ...], `u` [B] float64, inputs [B, ...].

    `keys` name each sample's (pair, draw) when the draw is one of a fixed bank, else are empty.
    `regions`: of each sample the part of the video in which its sides differ, None where that is
    all of it; empty when it is for every sample.
    """

    win: Tensor
    lose: Tensor
    noise: Tensor
    u: Tensor
    inputs: dict[str, Tensor]
    keys: tuple[str, ...] = ()
    regions: tuple[Region | None, ...] = ()

    def to(self, device: torch.device) -> Batch:
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        win, lose, grain = (t.to(device) for t in (self.win, self.lose, self.noise))
        return Batch(win, lose, grain, self.u.to(device), inputs, self.keys, self.regions)


@dataclass(frozen=True)
class Choice:
    """One sample's draw: which losers and image copy, which noise level, and the noise itself."""

    losers: tuple[int, ...]
    image: int
    u: float
    noise: Tensor


def sample_numbers(step: int, micro: int, rank: int, world: int, config: TrainConfig) -> range:
    """Numbers of the samples that process `rank` of `world` takes in micro-batch `micro`."""
    before = (step * config.accumulation + micro) * world + rank
    return range(before * config.batch, (before + 1) * config.batch)


def make_batch(
    pairs: Sequence[Pair], sample_numbers: Sequence[int], config: TrainConfig, even: bool = False
) -> Batch:
    """The batch of these samples, on the CPU.

    Each pair brings its own losers, at most `config.losers`; in a batch of several, and when `even`
    is asked for, as many as every pair has.
    """
    even = even or config.batch > 1
    fewest = losers_used(pairs, config)
    chosen, keys = [], []
    for number in sample_numbers:
        epoch, place = divmod(number, len(pairs))
        pair = pairs[int(_order(len(pairs), epoch, config.seed)[place])]
        parts: tuple[str | int, ...] = (config.seed, "sample", number)
        if config.reference_bank:
            bank = epoch % config.reference_bank
            parts = (config.seed, "bank", pair.pair_id, bank)
            keys.append(f"{pair.pair_id}/{bank}")
        losers = fewest if even else losers_of(pair, config)
        if not config.method.needs_losers:
            losers = 0  # whatever the pair has
        choice = draw_choice(pair, seed_of(*parts), losers, config)
        chosen.append((latents.load_sample(pair, choice.losers), choice))
    return collate_samples(chosen, tuple(keys))


def draw_choice(pair: Pair, seed: int, losers: int, config: TrainConfig) -> Choice:
    """The choice that `seed` makes for a pair."""
    random = torch.Generator().manual_seed(seed)
    uniform, image = torch.rand(2, generator=random, dtype=torch.float64)
    order = torch.randperm(len(pair.lose), generator=random)[:losers]
    u = noise.draw_positions(
        uniform.view(1),
        config.timesteps,
        config.t_low,
        config.t_high,
        mean=config.logit_mean,
        std=config.logit_std,
    )
    # Copy 0 of a first frame is the clean one; training takes one of the noised, if there are any.
    draws = config.condition_draws
    copy = 1 + int(image * draws) if draws else 0
    grain = torch.randn(pair.shape, generator=random)
    return Choice(tuple(order.tolist()), copy, float(u), grain)


def collate_samples(
    chosen: Sequence[tuple[latents.Sample, Choice]], keys: tuple[str, ...] = ()
) -> Batch:
    """Stack samples and their choices."""
    inputs = [
        {**s.inputs, **{name: t[min(c.image, len(t) - 1)] for name, t in s.images.items()}}
        for s, c in chosen
    ]
    return Batch(
        torch.stack([s.win for s, _ in chosen]),
        torch.stack([s.lose for s, _ in chosen]),
        torch.stack([c.noise for _, c in chosen]),
        torch.tensor([c.u for _, c in chosen], dtype=torch.float64),
        {name: _stacked([made[name] for made in inputs]) for name in inputs[0]},
        keys,
        regions if any(regions := tuple(_region(s) for s, _ in chosen)) else (),
    )


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Raises UserError for prompts of a family that does not pad them."""
    if len({tensor.shape for tensor in tensors}) > 1:
        raise UserError(
            "this model takes prompts of their own length, so pairs cannot share a forward",
            "set batch=1 and raise accumulation",
        )
    return torch.stack(tensors)


def _region(sample: latents.Sample) -> Region | None:
    """The region that all losers of a sample were made anew in; None if they have not one."""
    found = set(sample.regions)
    return found.pop() if len(found) == 1 else None


def losers_of(pair: Pair, config: TrainConfig) -> int:
    """Losers that a pair brings to a step: those asked for, at most as many as it has."""
    return min(config.losers or len(pair.lose), len(pair.lose))


def losers_used(pairs: Sequence[Pair], config: TrainConfig) -> int:
    """The losers that every one of `pairs` can bring."""
    return min(losers_of(pair, config) for pair in pairs)


def tell_uneven(pairs: Sequence[Pair], config: TrainConfig, even: bool) -> str | None:
    """A line about pairs that have fewer losers than the others or than asked for, if there are."""
    most = config.losers or max(len(pair.lose) for pair in pairs)
    short = [pair for pair in pairs if len(pair.lose) < most]
    if not short:
        return None
    worst = min(short, key=lambda pair: len(pair.lose))
    line = (
        f"{len(short)} of {len(pairs)} pairs have fewer than {most} losers (pair {worst.pair_id} has "
        f"{len(worst.lose)})"
    )
    if even:
        return f"{line}; a batch needs as many of each, so every step uses {len(worst.lose)}"
    return f"{line}; each brings what it has"


def _order(count: int, epoch: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(count, generator=random)
