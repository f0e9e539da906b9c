"""One run for both transformers of a model that splits the schedule between two (Wan 2.2 14B).

An adapter of one never sees a sample of the other, so it makes no difference whether you train them
together or one after the other. Here they are trained one after the other, and the idle one is not
loaded. Each is a run of its own in the run's folder, `high` and `low`, and continues where it
stopped.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from accelerate import PartialState

from realdpo import memory, progress
from realdpo.config import settings_to_toml
from realdpo.families.load import read_spec
from realdpo.families.weights import LORA_FILE, LOW_LORA_FILE
from realdpo.files import replace_folder, write_text
from realdpo.train import identity, log
from realdpo.train.config import TrainConfig
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    from realdpo.train.loop import RunSummary

EXPERTS: tuple[Literal["high", "low"], ...] = ("high", "low")


def run_both(
    workspace: Workspace,
    config: TrainConfig,
    on_step: Callable[[Mapping[str, float]], None] | None,
    run_one: Callable[..., RunSummary],
) -> RunSummary:
    """Train each expert for `steps` steps on its own noise levels, and hand both over together.

    run_one: the function that trains one of them (`loop.run_one`). Raises UserError when it does.
    """
    folder = workspace.runs / config.run_name
    # Raises if the model has only one transformer.
    read_spec(config.model, config.revision, config.expert, config.task)
    if (folder / "config.toml").is_file():
        identity.require_same_settings(folder, config)
    made: dict[str, RunSummary] = {}
    for expert in EXPERTS:
        progress.say(f"training the {expert}-noise transformer of {config.run_name}")
        one = replace(config, expert=expert, name=expert)
        made[expert] = run_one(workspace, one, on_step, runs=folder, last=expert == EXPERTS[-1])
        gc.collect()  # free the first model before the second is loaded
        memory.empty_cache()
    found = join(made, folder)
    if PartialState().is_main_process:
        write_together({expert: done.weights for expert, done in made.items()}, folder / "weights")
        write_text(folder / "config.toml", settings_to_toml("train", config))
        shown = asdict(found) | {"folder": folder.name, "weights": "weights"}
        for expert, part in shown["experts"].items():
            part |= {"folder": f"{folder.name}/{expert}", "weights": f"{expert}/weights"}
        write_text(folder / "summary.json", json.dumps(log.plain_json(shown), indent=1))
    return found


def join(made: Mapping[str, RunSummary], folder: Path) -> RunSummary:
    """One summary of both runs: sums and means where they make sense, the parts in `experts`."""
    parts = list(made.values())
    steps = sum(part.steps for part in parts)
    stopped = [f"{name}: {part.stopped}" for name, part in made.items() if part.stopped]
    better = [part.better_than_base for part in parts]
    further = [part.better_than_start for part in parts]
    return replace(
        parts[0],
        folder=folder,
        weights=folder / "weights",
        steps=steps,
        seconds_per_step=sum(p.seconds_per_step * p.steps for p in parts) / max(1, steps),
        trained_parameters=sum(part.trained_parameters for part in parts),
        before=None,
        after=None,
        stopped="; ".join(stopped) or None,
        handed_over="",
        better_than_base=None if None in better else all(better),
        better_than_start=None if None in further else all(further),
        experts=dict(made),
    )


def write_together(weights: Mapping[str, Path], target: Path) -> None:
    """Put both LoRA files into one folder. The metadata of each name its transformer."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for expert, name in zip(EXPERTS, (LORA_FILE, LOW_LORA_FILE), strict=True):
        shutil.copyfile(weights[expert] / LORA_FILE, unfinished / name)
    replace_folder(unfinished, target)
