"""`realdpo sample`: videos of a run, beside its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.errors import UserError


@cli.app.command(
    epilog="Example: [bold]realdpo sample --run contrast --guide 2 -w work[/bold]; "
    '[bold]realdpo sample --run contrast --prompt "a person waves" --image first.png[/bold]'
)
@options.with_settings("sample", "name", "split", "seeds", "steps", "seed", prompts="--limit")
def sample(
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    run: Annotated[
        list[str] | None, typer.Option(help="Run of this workspace. May be repeated.")
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WHAT",
            help=(
                "A run, a model or MODEL+LORA. `dpo=dpo@guide=2` guides the run by its base, and "
                "`@scale=3` scales its adapters. May be repeated."
            ),
        ),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="STRENGTH|negative",
            help=(
                "Also sample every --run guided by its base: with this strength, or with the base "
                "as the negative forward, which costs nothing."
            ),
        ),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt. May be repeated.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file with one prompt per line, or a folder of pictures and prompts."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="First frame for the --prompt: one for each, or one for all."),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base/--no-base", help="Also sample the model before training.")
    ] = True,
    devices: options.Devices = "auto",
    as_json: options.Json = False,
) -> None:
    """Make videos with runs and their base from the same prompts and seeds, on one page."""
    with cli.guard_command(as_json):
        from realdpo.families.load import device_names
        from realdpo.train.evaluate import samples
        from realdpo.train.evaluate.config import SampleConfig
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        named = options.pairs_of(system or (), "--system")
        systems = samples.systems_for(place, run or (), _guide(guide), named, base)
        settings = given.resolve(SampleConfig, systems=systems)
        images = [image] if image else []
        done = samples.sample_prompts(
            place, settings, prompt or (), prompts, images, device_names(devices)
        )
        cli.print_result(done, as_json, samples.describe_samples)


def _guide(text: str | None) -> float | Literal["negative"] | None:
    from realdpo.families.guide import parse_guide

    try:
        return None if text is None else parse_guide(text)
    except ValueError:
        raise UserError(
            f"--guide {text} is not understood", "give a number such as 2, or negative"
        ) from None
