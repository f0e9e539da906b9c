"""`realdpo eval`: did motion get better?"""

from __future__ import annotations

from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options

app = typer.Typer(rich_markup_mode="rich")
cli.app.add_typer(app, name="eval")

Name = Annotated[
    str, typer.Option("--name", help="Name of the evaluation: its folder under eval/.")
]


@app.callback(
    invoke_without_command=True,
    epilog="Example: [bold]realdpo eval --system base=tiny --system dpo=dpo -w work[/bold]",
)
@options.with_settings(
    "eval",
    "name",
    "benchmark",
    "split",
    "prompts",
    "seeds",
    "steps",
    "guidance",
    "task",
    "clip",
    "frechet",
    "seed",
    systems="--system",
    judge__url="--judge",
    judge__model="--judge-model",
)
def evaluate(
    context: typer.Context,
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    devices: options.Devices = "auto",
    shard: options.Shard = "1/1",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compare systems on held-out prompts by metrics, a judge and people, with intervals.

    Every system makes videos with the same prompts and seeds. The page says what is better, what is
    worse, and where there is no evidence.
    """
    if context.invoked_subcommand is not None:
        return
    with cli.guard_command(as_json):
        import realdpo
        from realdpo.config import settings_to_toml
        from realdpo.train.evaluate import commands
        from realdpo.train.evaluate.config import EvalConfig
        from realdpo.workspace import Workspace

        place, settings = Workspace(workspace), given.resolve(EvalConfig)
        if dry_run:
            plan = commands.preview_evaluation(place, settings)
            cli.print_plan(
                settings_to_toml("eval", settings), plan, commands.preview_text(plan), as_json
            )
            return
        part = options.part_of(shard)
        done = realdpo.evaluate(
            place, config=settings, devices=devices, shard=part, progress=not as_json
        )
        if done is not None or as_json:  # a part of the videos has no result yet
            cli.print_result(
                done, as_json, lambda done: commands.closing_words(place, settings.name, done)
            )


@app.command(epilog="Example: [bold]realdpo eval report -w work[/bold]")
def report(
    workspace: options.Workspace = options.WORK,
    name: Name = "eval",
    players: Annotated[
        int, typer.Option(help="Number of prompts whose videos are on the page.")
    ] = 12,
    to: options.Page = None,
    as_json: options.Json = False,
) -> None:
    """Write the page again: verdicts, differences with intervals, videos in step, parts not run."""
    with cli.guard_command(as_json):
        from realdpo.train.evaluate import commands
        from realdpo.workspace import Workspace

        path, summary = commands.write_eval_report(Workspace(workspace), name, players, to)
        cli.print_result(summary, as_json, lambda _: path)


@app.command(epilog="Example: [bold]realdpo eval study -w work --port 8000[/bold]")
def study(
    workspace: options.Workspace = options.WORK,
    name: Name = "eval",
    host: Annotated[
        str,
        typer.Option(
            help=(
                "Address to serve on. 127.0.0.1: only this machine. 0.0.0.0: everyone who can "
                "reach it."
            )
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes any free one.")] = 8000,
    systems: Annotated[
        str,
        typer.Option(
            help="Systems to show, joined by commas; `real` may be one of them. Default: all."
        ),
    ] = "",
    results: Annotated[
        bool, typer.Option("--results", help="Print the results of the votes.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Serve a page on which people compare videos blindly. Votes go to votes.parquet."""
    with cli.guard_command(as_json):
        from realdpo.train.evaluate import commands
        from realdpo.workspace import Workspace

        place, chosen = Workspace(workspace), [s for s in systems.split(",") if s]
        if results:
            found = commands.study_results(place, name, chosen)
            cli.print_result(found, as_json, commands.study_text)
        else:
            commands.serve_study(place, name, chosen, host, port)
