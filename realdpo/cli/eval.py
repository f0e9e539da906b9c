"""`realdpo eval`: did motion get better?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options

app = typer.Typer(
    help="Compare systems on held-out prompts: metrics, a judge, people; with intervals."
)
cli.app.add_typer(app, name="eval")

Name = Annotated[str, typer.Option("--name", help="Folder of the evaluation under eval/.")]


@app.callback(
    invoke_without_command=True,
    epilog="Example: [bold]realdpo eval --system base=tiny --system dpo=dpo -w work[/bold]",
)
def evaluate(
    context: typer.Context,
    workspace: options.Workspace = Path("work"),
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WHAT",
            help="A run of this workspace, a model, MODEL+LORA, or a folder of finished videos. "
            "The first is the base; may be repeated.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Folder of the evaluation under eval/.")] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            help="Folder with prompts and first frames, instead of the workspace's split."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test.")] = None,
    prompts: Annotated[int | None, typer.Option(help="At most so many prompts; 0: all.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Videos a prompt and system.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    task: options.Task = None,
    clip: Annotated[
        str | None, typer.Option(metavar="ARCHITECTURE:WEIGHTS", help="open_clip model.")
    ] = None,
    frechet: Annotated[
        str | None, typer.Option(metavar="NETWORK:WEIGHTS", help="Feature network, by path.")
    ] = None,
    judge: Annotated[str | None, typer.Option(metavar="URL", help="Server of the judge.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge's model.")] = None,
    devices: Annotated[
        str, typer.Option(help="auto (every GPU), or names joined by commas; one worker each.")
    ] = "auto",
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Make the I-th of N parts of the videos.")
    ] = "1/1",
    seed: options.Seed = None,
    show_settings: bool = options.settings_option("eval"),
    config: options.Config = None,
    sets: options.Set = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Generate videos with paired seeds, measure them, and say what is better, worse or unknown."""
    if context.invoked_subcommand is not None:
        return
    with cli.guard_command(as_json):
        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.train.evaluate.commands import pairs_of, shard_of
        from realdpo.train.evaluate.config import EvalConfig
        from realdpo.workspace import Workspace

        settings = resolve_settings(
            EvalConfig,
            section="eval",
            file=config,
            sets=sets or (),
            flags={
                "systems": pairs_of(system),
                "name": name,
                "benchmark": None if benchmark is None else str(benchmark),
                "split": split,
                "prompts": prompts,
                "seeds": seeds,
                "steps": steps,
                "guidance": guidance,
                "task": task,
                "clip": clip,
                "frechet": frechet,
                "judge.url": judge,
                "judge.model": judge_model,
                "seed": seed,
            },
        )
        from realdpo.api import evaluate as evaluate_systems
        from realdpo.train.evaluate import commands

        place, toml = Workspace(workspace), settings_to_toml("eval", settings)
        if dry_run:
            found = commands.preview_evaluation(place, settings)
            if as_json:
                cli.print_json(found)
            else:
                print(toml)
                print(commands.preview_text(found))
            return
        made = evaluate_systems(
            place, config=settings, devices=devices, shard=shard_of(shard), progress=not as_json
        )
        if as_json:
            cli.print_json(made)
        elif made is not None:
            print(commands.closing_words(place, settings.name, made))


@app.command(epilog="Example: [bold]realdpo eval report -w work[/bold]")
def report(
    workspace: options.Workspace = Path("work"),
    name: Name = "eval",
    players: Annotated[int, typer.Option(help="Prompts whose videos are on the page.")] = 12,
    as_json: options.Json = False,
) -> None:
    """Write one page: verdicts, differences with intervals, videos in step, what was not run."""
    with cli.guard_command(as_json):
        from realdpo.train.evaluate import commands
        from realdpo.workspace import Workspace

        path, made = commands.write_eval_report(Workspace(workspace), name, players)
        cli.print_json(made) if as_json else print(path)


@app.command(epilog="Example: [bold]realdpo eval study -w work --port 8000[/bold]")
def study(
    workspace: options.Workspace = Path("work"),
    name: Name = "eval",
    host: Annotated[
        str, typer.Option(help="127.0.0.1: this machine only; 0.0.0.0: everyone who reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    systems: Annotated[
        str, typer.Option(help="Only these, joined by commas; `real` may be among them.")
    ] = "",
    results: Annotated[bool, typer.Option("--results", help="Print what the votes say.")] = False,
    as_json: options.Json = False,
) -> None:
    """Serve a page on which people compare videos blindly; votes go to votes.parquet."""
    with cli.guard_command(as_json):
        from realdpo.train.evaluate import commands
        from realdpo.workspace import Workspace

        place, chosen = Workspace(workspace), [s for s in systems.split(",") if s]
        if results:
            found = commands.study_results(place, name, chosen)
            cli.print_json(found) if as_json else print(commands.study_text(found))
        else:
            commands.serve_study(place, name, chosen, host, port)
