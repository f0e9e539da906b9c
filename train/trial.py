"""The cost of a run: time from two probe steps, and memory of a card from shapes alone."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from realdpo.errors import UserError
from realdpo.families import Spec, trainable_family
from realdpo.families.load import read_spec
from realdpo.memory import GB
from realdpo.train import estimate, numbers, setup
from realdpo.train.config import TrainConfig
from realdpo.train.loop import Trainer
from realdpo.workspace import Workspace

PROBES = 2


def try_steps(workspace: Workspace, config: TrainConfig) -> dict[str, Any]:
    """Take two steps on a few pairs and discard the result. Only latents are written.

    Raises UserError when a run would.
    """
    few = config.batch * config.accumulation * PROBES
    with tempfile.TemporaryDirectory() as folder:
        short = replace(config, held_out_pairs=0, trackers=(), name="probe", spike=0.0)
        trainer = Trainer(workspace, short, limit=few, runs=Path(folder))
        total = sum(p.numel() for p in trainer.inner.parameters())
        trainer.start_or_resume()
        seconds = [trainer.train_step()["seconds"] for _ in range(PROBES)][-1]
    pairs = len(trainer.pairs)
    steps = config.steps * (2 if config.expert == "both" else 1)
    return {
        "parameters": f"{total:,}",
        "trained": f"{trainer.parameters:,}",
        "device": str(trainer.device),
        "peak memory": f"{numbers.peak_memory(trainer.device):.2f} GB",
        "time per step": f"{seconds:.2f} s",
        "time in all": f"{seconds * steps / 3600:.2f} h for {steps} steps",
        "losers per step": len(trainer.batch(0).lose[0]),
        "latents": f"{pairs} of the pairs are encoded" if pairs == few else f"all {pairs} pairs",
    }


def memory_of(workspace: Workspace, config: TrainConfig, gigabytes: int | None) -> dict[str, Any]:
    """The need of each way of saving memory, against a card of that size or this machine's GPU.

    Nothing is loaded or encoded: the model's configuration and the size of the largest pair are
    enough. Without pairs, it takes the model's own size and three losers. Raises UserError for an
    unknown card.
    """
    spec = read_spec(config.model, config.revision, config.expert, config.task)
    if gigabytes is not None and gigabytes not in estimate.CARDS:
        known = ", ".join(str(size) for size in estimate.CARDS)
        raise UserError(
            f"--gpu {gigabytes}: no card of that size is known", f"choose one of {known}"
        )
    if gigabytes is not None:
        room, card = estimate.CARDS[gigabytes], f"a card of {gigabytes} GB"
    else:
        room, card = float(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    (width, height, frames), losers, what = _largest(workspace, spec, config)
    shapes = estimate.shapes_of(spec, width, height, frames)
    rungs = setup.allowed_rungs(config, sharded=False)
    found: dict[str, Any] = {"pair": f"{width}x{height}, {frames} frames, {losers} losers ({what})"}
    fits = None
    for entry in estimate.estimate_rungs(spec, config, shapes, losers, rungs):
        found[entry.rung] = entry.line
        if fits is None and entry.total <= room:
            fits = entry.rung
    found["encoding"] = (
        f"{shapes.encoding / GB:.1f} GB for the VAE, before the transformer is loaded"
    )
    found["fits"] = f"{fits or 'no way'} on {card}, {room / GB:.1f} GB"
    return found


def _largest(
    workspace: Workspace, spec: Spec, config: TrainConfig
) -> tuple[tuple[int, int, int], int, str]:
    """Width, height and frames of the largest pair, the most losers, and the origin of both."""
    rows: list[dict[str, Any]] = []
    for shard in sorted(workspace.pair_data.glob("*.parquet")):
        file = pq.ParquetFile(shard)
        paths = (file.schema.column(k).path for k in range(len(file.schema)))
        # read only the losers' paths, to count them without their videos
        counts = [path for path in paths if path.startswith("lose.") and path.endswith(".path")]
        rows += file.read(columns=["width", "height", "frames", *counts]).to_pylist()
    if not rows:
        traits = trainable_family(spec).traits
        if traits.width is None or traits.height is None or traits.frames is None:
            raise UserError("the size of the pairs is not known yet", "build some pairs first")
        own = (traits.width, traits.height, traits.frames)
        return own, config.losers or 3, "the model's own size"
    sizes = [(row["width"], row["height"], row["frames"]) for row in rows]
    losers = max(len(row["lose"]) for row in rows)
    return (
        max(sizes, key=math.prod),
        min(config.losers or losers, losers),
        "the largest of the pairs",
    )
