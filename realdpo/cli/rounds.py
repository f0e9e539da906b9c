"""`realdpo rounds`: iterative self-correction, one round of training after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options


@cli.app.command(
    epilog="Example: [bold]realdpo rounds 3 -w work --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers[/bold]"
)
def rounds(
    count: Annotated[int, typer.Argument(help="Rounds at most.")],
    workspace: options.Workspace = Path("work"),
    model: Annotated[
        str | None, typer.Option("--model", help="tiny, a pipeline folder, or a Hub id.")
    ] = None,
    task: options.Task = None,
    preset: Annotated[str, typer.Option(help="Settings to begin with, as in `train`.")] = "realdpo",
    reference: Annotated[
        str,
        typer.Option(
            help="What a round is contrasted with: base, or last (the last round's model)."
        ),
    ] = "base",
    name: Annotated[
        str | None, typer.Option(help="The runs are called NAME-round-1 and so on.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of a round.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    prompts: Annotated[
        int,
        typer.Option(help="Validation prompts to make videos of after each round; 0: none."),
    ] = 8,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Train all rounds, whether they help or not.")
    ] = False,
    processes: Annotated[
        int, typer.Option("--num-processes", help="Processes of training (one per GPU).")
    ] = 1,
    devices: Annotated[
        str, typer.Option(help="For the videos: auto (every GPU), or names joined by commas.")
    ] = "auto",
    seed: options.Seed = None,
    show_settings: bool = options.settings_option("train"),
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Train in rounds, each from the last round's weights, until one no longer helps.

    A round helps when what training lowers falls on held-out clips, with an interval below zero
    and by at least a tenth of what the first round gained.
    One page shows all rounds. Interrupt it at any time; the same command goes on.
    """
    with cli.guard_command(as_json):
        from realdpo.config import resolve_settings
        from realdpo.families.load import device_names
        from realdpo.rounds import run_rounds
        from realdpo.train.config import TrainConfig, preset_settings
        from realdpo.workspace import Workspace

        settings = resolve_settings(
            TrainConfig, section="train", base=preset_settings(preset), file=config, sets=sets or (),
            flags={
                "model": model, "task": task, "name": name, "steps": steps, "lr": lr, "seed": seed
            },
        )  # fmt: skip
        made = run_rounds(
            Workspace(workspace), settings, count, against=reference, prompts=prompts,  # type: ignore[arg-type]
            keep_going=keep_going, processes=processes, devices=device_names(devices),
        )  # fmt: skip
        if as_json:
            cli.print_json(made)
        else:
            told = made["best"] or "the base: no round was better"
            if made["best"] and any(done["helped"] is None for done in made["rounds"]):
                told += ", by the mean of too few clips to tell"
            print(f"best       {told}\npage       {made['page']}")
