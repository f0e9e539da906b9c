"""The identity of a run: settings, pairs, base and pairs per step. A resumed run must keep it.

Before the first checkpoint nothing is compared, because a failed start has learnt nothing. Later, a
run refuses every change that would alter the result. Other changes are allowed, and at most logged:
another number of processes that together take as many pairs per step, or another path of the same
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from realdpo import progress
from realdpo.config import load_toml
from realdpo.errors import UserError
from realdpo.ids import content_id
from realdpo.train.config import FREE_ON_RESUME, TrainConfig, read_stored
from realdpo.train.latents import Pair


@dataclass(frozen=True)
class Identity:
    """The part of a checkpoint's state that is compared when a run resumes.

    pairs, watched: digests of the ids and losers, in order, of the training and the held-out pairs.
    base: fingerprint of the files of the frozen weights. pairs_a_step: pairs per step over all
    processes. losers: "own" if each pair keeps its own number of losers, else the number to which
    all are cut. bits: bits per weight of the frozen base, because a quantised base is another base.
    """

    pairs: str
    pair_count: int
    watched: str
    watched_count: int
    base: str
    pairs_a_step: int
    processes: int
    losers: str
    bits: int = 16

    def state(self) -> dict[str, Any]:
        return asdict(self)


def digest_pairs(pairs: Sequence[Pair]) -> str:
    """32 hex digits of the ids and losers of `pairs`, in order."""
    return content_id(pairs=[[pair.pair_id, len(pair.lose)] for pair in pairs])


def refuse_other(
    folder: Path, config: TrainConfig, now: Identity, stored: dict[str, Any] | None
) -> None:
    """Raise UserError if the run in `folder` would resume with another identity.

    stored: the identity in its newest checkpoint.
    """
    require_same_settings(folder, config)
    if stored is None:
        return
    then = Identity(**stored)
    new_run = "start a new run with another --name"
    if then.base != now.base:
        raise UserError(
            f"the run {folder} was started on weights that differ from those of {config.model} now",
            f"give the model that it was started with, or {new_run}",
        )
    if then.bits != now.bits:
        rung = {16: "one-by-one or blocks", 8: "8bit", 4: "4bit"}[then.bits]
        raise UserError(
            f"the run {folder} was started on a base of {then.bits} bits and would now get one of "
            f"{now.bits}",
            f"use --memory {rung}, or {new_run}",
        )
    for kind, count, was, had in (
        ("pairs", now.pair_count, then.pair_count, then.pairs != now.pairs),
        ("held-out pairs", now.watched_count, then.watched_count, then.watched != now.watched),
    ):
        if had:
            raise UserError(
                f"the run {folder} was started on {was} {kind}, and the workspace now has "
                + (f"{count}" if count != was else "as many others"),
                f"bring back the pairs that it was started with, or {new_run}",
            )
    if then.losers != now.losers:
        raise UserError(
            f"the run {folder} took {_counted(then.losers)}, and would now take "
            f"{_counted(now.losers)}",
            "use the batch and the number of processes that it was started with",
        )
    if then.pairs_a_step != now.pairs_a_step:
        raise UserError(
            f"the run {folder} took {then.pairs_a_step} pairs per step ({then.processes} "
            f"processes) and would now take {now.pairs_a_step} ({now.processes} processes)",
            f"make batch * accumulation * processes equal {then.pairs_a_step} again, for example "
            "with --set accumulation=",
        )
    if then.processes != now.processes:
        progress.say(
            f"resuming with {now.processes} processes instead of {then.processes}; the number of "
            "pairs per step stays"
        )


def _counted(losers: str) -> str:
    return (
        "each pair's own number of losers" if losers == "own" else f"{losers} losers of each pair"
    )


def require_same_settings(folder: Path, config: TrainConfig) -> None:
    """Raise UserError if the run in `folder` was started with settings that give another result."""
    path = folder / "config.toml"
    if not path.is_file():
        return
    kept = read_stored(load_toml(path).get("train", {}), str(path))
    free = FREE_ON_RESUME - ({"steps"} if config.schedule != "constant" else set())
    other = [
        f.name
        for f in fields(TrainConfig)
        if f.name not in free and getattr(kept, f.name) != getattr(config, f.name)
    ]
    if other:
        was = ", ".join(f"{n} = {getattr(kept, n)!r}" for n in other)
        raise UserError(
            f"the run {folder} was started with {was}",
            "use the same settings to resume, or another --name for a new run",
        )
