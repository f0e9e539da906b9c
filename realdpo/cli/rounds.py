"""`realdpo rounds`: iterative self-correction, one round of training after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from realdpo import cli
from realdpo.cli import options


@cli.app.command(
    epilog="Example: [bold]realdpo rounds 3 -w work --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers[/bold]"
)
@options.with_settings("train", "model", "task", "name", "steps", "lr", "seed")
def rounds(
    given: options.Given,
    count: Annotated[int, typer.Argument(help="Largest number of rounds.")],
    workspace: options.Workspace = options.WORK,
    preset: options.Preset = "realdpo",
    reference: Annotated[
        Literal["base", "last"],
        typer.Option(
            help="Model that a round is contrasted with: base, or last (the last round's model)."
        ),
    ] = "base",
    prompts: Annotated[
        int,
        typer.Option(
            help="Number of validation prompts for videos after each round; 0 makes none."
        ),
    ] = 8,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Train all rounds, whether they help or not.")
    ] = False,
    processes: options.Processes = 1,
    devices: options.Devices = "auto",
    as_json: options.Json = False,
) -> None:
    """Train in rounds, each from the last round's weights, until one no longer helps.

    A round helps if the value that training lowers falls on held-out clips: the interval of the
    change must lie below zero, and the gain must be at least a tenth of the first round's. One page
    shows all rounds. If you stop them, run the same command again to continue.
    """
    with cli.guard_command(as_json):
        import realdpo
        from realdpo.train.config import TrainConfig, preset_settings

        done = realdpo.run_rounds(
            workspace,
            count,
            config=given.resolve(TrainConfig, base=preset_settings(preset)),
            reference=reference,
            prompts=prompts,
            keep_going=keep_going,
            processes=processes,
            devices=devices,
            progress=not as_json,
        )
        cli.print_result(done, as_json, _best_lines)


def _best_lines(done: Mapping[str, Any]) -> str:
    best = done["best"] or "the base: no round was better"
    if done["best"] and any(one["helped"] is None for one in done["rounds"]):
        best += ", by the mean alone: too few clips to tell"
    return f"best       {best}\npage       {done['page']}"
