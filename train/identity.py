"""What a run is: settings, pairs, base and how many pairs a step takes. A resumed run must be the same.

Nothing binds before the first checkpoint: a start that failed has learnt nothing. After that,
whatever would change what is learnt is refused, and what would not (another number of processes that
take as many pairs a step in all, another path of the same model) is at most said.
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
    """What is kept in each checkpoint's state and compared when a run goes on.

    pairs, watched: of the pairs trained on and held out, a digest of their ids and losers in order.
    base: of the frozen weights, a fingerprint of their files. pairs_a_step: over all processes.
    losers: "own" when each pair brings its own number, else the number that all are cut to. bits: of
    the frozen base's weights: a quantised base is another base.
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
    """Raise UserError when the run in `folder` would go on as another than it began.

    `stored`: the identity in its newest checkpoint.
    """
    require_same_settings(folder, config)
    if stored is None:
        return
    then = Identity(**stored)
    new_run = "another --name begins a new run"
    if then.base != now.base:
        raise UserError(
            f"the run {folder} was started on other weights than {config.model} holds now",
            f"give the model it began with, or {new_run}",
        )
    if then.bits != now.bits:
        rung = {16: "one-by-one or blocks", 8: "8bit", 4: "4bit"}[then.bits]
        raise UserError(
            f"the run {folder} was started on a base in {then.bits} bits and would now have {now.bits}",
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
                f"bring the pairs back that it began with, or {new_run}",
            )
    if then.losers != now.losers:
        raise UserError(
            f"the run {folder} took {_counted(then.losers)}, and would now take {_counted(now.losers)}",
            "use the batch and number of processes that it began with",
        )
    if then.pairs_a_step != now.pairs_a_step:
        raise UserError(
            f"the run {folder} took {then.pairs_a_step} pairs a step ({then.processes} processes) and "
            f"would now take {now.pairs_a_step} ({now.processes} processes)",
            f"make batch * accumulation * processes {then.pairs_a_step} again, as by --set accumulation=",
        )
    if then.processes != now.processes:
        progress.say(
            f"going on with {now.processes} processes instead of {then.processes}: as many pairs a step"
        )


def _counted(losers: str) -> str:
    return "of every pair its own losers" if losers == "own" else f"{losers} losers of every pair"


def require_same_settings(folder: Path, config: TrainConfig) -> None:
    """Raise UserError when the run in `folder` was started with settings that learn otherwise."""
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
            "use the same settings to go on, or another --name for a new run",
        )
