"""Evaluate systems on prompts: generate with paired seeds, measure, compare.

Finished work is stored under eval/<name>/ by content: a video under the id of its system, prompt,
frame, seed and settings, and a measurement under the id of its video. The same command continues
where it stopped, and a changed setting never reads a stale result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from realdpo import engine, progress
from realdpo.errors import UserError
from realdpo.families.load import dtype_of_all
from realdpo.files import write_bytes, write_text
from realdpo.pairs import conform
from realdpo.train.evaluate import benchmark, measure, summary
from realdpo.train.evaluate.config import EvalConfig
from realdpo.train.evaluate.plan import EvalPlan, VideoTask, plan_evaluation
from realdpo.train.evaluate.systems import System, model_folder
from realdpo.workspace import Workspace


def run_evaluation(
    workspace: Workspace,
    config: EvalConfig,
    *,
    devices: Sequence[str] = ("cpu",),
    shard: tuple[int, int] = (1, 1),
) -> dict[str, Any] | None:
    """Generate, measure and compare. Returns the summary and writes it to eval/<name>/summary.json.

    With a shard (i, n), only the i-th part of the videos is made and nothing is compared: None.
    """
    config = replace(config, dtype=dtype_of_all(config.dtype, devices))
    planned = plan_evaluation(workspace, config)
    measure.check_measures(planned, workspace)
    generate_videos(planned, devices, shard)
    if shard[1] > 1 and any(not planned.video(t.key).is_file() for t in planned.tasks):
        progress.say("this shard is done. When all shards are, run without --shard to compare")
        return None
    rows, failures = measure.measure_videos(planned)
    extra = measure.add_with_weights(planned, workspace, rows, devices[0])
    made = summary.summarise_evaluation(planned, rows, failures, extra)
    prompts = {item.item_id: item.prompt for item in planned.items}
    write_text(planned.folder / "prompts.json", json.dumps(prompts, indent=1))
    write_text(planned.folder / "rows.json", json.dumps(summary.plain_values(rows), indent=1))
    write_text(planned.folder / "summary.json", json.dumps(made, indent=1))
    write_text(planned.folder / "table.md", summary.summary_markdown(made))
    return made


def generate_videos(planned: EvalPlan[Any], devices: Sequence[str], shard: tuple[int, int]) -> None:
    """Make the missing videos, with one worker per device. Raises UserError if one fails."""
    index, count = shard
    if not 1 <= index <= count:
        raise UserError(f"--shard {index}/{count}: the part must be between 1 and {count}")
    mine = planned.tasks[index - 1 :: count]
    missing = [t for t in mine if not planned.video(t.key).is_file()]
    if not missing:
        return
    with progress.progress_bar("videos", len(mine), "videos", len(mine) - len(missing)) as advance:
        for system in planned.systems:
            wanted = [t for t in missing if t.system == system.name]
            if not wanted:
                continue
            rows = [(device, wanted[k :: len(devices)]) for k, device in enumerate(devices)]
            model = model_folder(system, planned.folder / "models")
            work = partial(_generate, planned, model, system)
            if len(devices) == 1:
                work(rows[0], lambda: advance(note=system.name))  # noqa: B023 - called before the loop goes on
                continue
            for outcome in engine.run_rows(work, rows, workers=len(devices)):
                advance(len(outcome.row[1]))
                if outcome.error:
                    raise UserError(
                        f"{system.name} on {outcome.row[0]}: {outcome.error}",
                        "run the same command again to continue",
                    )


def _generate(
    planned: EvalPlan[Any],
    model: str,
    system: System,
    part: tuple[str, Sequence[VideoTask]],
    advance: Callable[[], None] = lambda: None,
) -> None:
    from realdpo.families import family_of
    from realdpo.families.load import load_pipeline
    from realdpo.families.sample import generate_video
    from realdpo.families.spec import spec_of_pipeline, with_task

    device, tasks = part
    if not tasks:
        return
    config, settings = planned.config, planned.settings
    assert settings is not None
    pipe = load_pipeline(
        model,
        config.dtype,
        device,
        system.lora,
        config.memory,
        task=system.task,
        revision=system.base_revision,
        lora_scale=system.scale,
        guide=system.guide,
        base=system.model if system.transformer else None,
    )
    family = family_of(with_task(spec_of_pipeline(pipe), system.task))
    for task in tasks:
        image = benchmark.load_picture(Path(task.image)) if task.image else None
        video = generate_video(pipe, family, task.prompt, image, task.seed, settings)
        write_bytes(planned.video(task.key), conform.encode_side(video, planned.form, config.crf))
        advance()
