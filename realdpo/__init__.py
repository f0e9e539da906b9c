"""realdpo turns footage into a dataset, contrasts it with a video model, and fine-tunes the model.

    import realdpo

    work = realdpo.Workspace("work")
    realdpo.curate.ingest(work, ["footage"], target="wan2.1", caption="sidecar")
    realdpo.pairs.build(work, model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", losers=3)
    run = realdpo.train(work, model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", steps=500)
    realdpo.sample(run, prompts=["a person juggles three oranges"], guide=1.0)
    realdpo.evaluate(work, systems={"base": run.model, "ours": run})

These are the functions that the commands call. Their keyword arguments are the settings that
`--set` takes. They raise `UserError` for what you can put right, show progress bars unless you
pass `progress=False`, and print nothing else: what a command would say goes to the logger
`realdpo`. Importing realdpo loads none of its rooms.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = ["UserError", "Workspace", "curate", "evaluate", "pairs", "run_rounds", "sample", "train"]

_HOMES = {
    "UserError": "realdpo.errors",
    "Workspace": "realdpo.workspace",
    "evaluate": "realdpo.api",
    "run_rounds": "realdpo.api",
    "sample": "realdpo.api",
}

if TYPE_CHECKING:
    from realdpo import curate, pairs
    from realdpo.api import evaluate, run_rounds, sample, train
    from realdpo.errors import UserError
    from realdpo.workspace import Workspace


def __getattr__(name: str) -> Any:
    if name in ("curate", "pairs", "train"):  # rooms; the room `train` can be called
        return importlib.import_module(f"realdpo.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'realdpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
