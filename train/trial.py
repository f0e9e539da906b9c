"""What a run would cost: parameters, memory and time per step from two probe steps."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from realdpo.train import numbers
from realdpo.train.config import TrainConfig
from realdpo.train.loop import Trainer
from realdpo.workspace import Workspace

PROBES = 2


def estimate(workspace: Workspace, config: TrainConfig) -> dict[str, Any]:
    """Take two steps on a few pairs and throw the result away; nothing is written but latents.

    Raises UserError as a run would.
    """
    few = config.batch * config.accumulation * PROBES
    with tempfile.TemporaryDirectory() as folder:
        short = replace(config, held_out_pairs=0, trackers=(), name="probe", spike=0.0)
        trainer = Trainer(workspace, short, limit=few, runs=Path(folder))
        total = sum(p.numel() for p in trainer.inner.parameters())
        trainer.start_or_resume()
        seconds = [trainer.train_step()["seconds"] for _ in range(PROBES)][-1]
    pairs = len(trainer.pairs)
    return {
        "parameters": f"{total:,}",
        "trained": f"{trainer.parameters:,}",
        "device": str(trainer.device),
        "peak memory": f"{numbers.peak_memory(trainer.device):.2f} GB",
        "time per step": f"{seconds:.2f} s",
        "time in all": f"{seconds * config.steps / 3600:.2f} h for {config.steps} steps",
        "losers per step": len(trainer.batch(0).lose[0]),
        "latents": f"{pairs} of the pairs are encoded" if pairs == few else f"all {pairs} pairs",
    }
