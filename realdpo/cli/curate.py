"""`realdpo curate`: from footage to a dataset. Other modules register more commands on `app`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options

app = typer.Typer(no_args_is_help=True, help="Turn footage into a curated dataset.")
cli.app.add_typer(app, name="curate")


@app.command(
    epilog="Example: realdpo curate ingest FOOTAGE -w work --target cogvideox --caption keywords"
)
@options.with_settings(
    "curate ingest",
    "target",
    "caption",
    "engine",
    "address",
    "workers",
    "per_action",
    extras="--extra",
    sources__require_license="--require-license",
    sources__licenses="--license",
    shards__format="--format",
    shards__to="--to",
)
def ingest(
    given: options.Given,
    footage: Annotated[
        list[str],
        typer.Argument(
            metavar="FOOTAGE...",
            help="Files, folders, globs, URLs, or CSV, TSV, JSON, JSONL and Parquet manifests with "
            "a column `path` or `url`.",
        ),
    ],
    workspace: options.Workspace = options.WORK,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help=(
                "Remove sources that are missing or not named, and their clips. Lists them and "
                "asks first."
            ),
        ),
    ] = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Find shots, score, decide, caption, cut and shard. Continues where an earlier run stopped.

    Results of earlier runs stay, even if their footage is missing or not named. --prune removes
    them. --set also takes thresholds, such as motion.subject_min=0.1. The exit code is 3 if sources
    that were read before cannot be read now.
    """
    with cli.guard_command(as_json):
        from dataclasses import fields, replace

        from realdpo import curate
        from realdpo.config import settings_to_toml
        from realdpo.curate import ingestion
        from realdpo.curate.config import IngestConfig
        from realdpo.curate.decide import load_overrides
        from realdpo.workspace import Workspace

        own = {field.name for field in fields(IngestConfig)} - {"decide"}
        thresholds = [text for text in given.sets if _first_name(text) not in own]
        sets = [text for text in given.sets if _first_name(text) in own]
        settings = replace(given, sets=sets).resolve(IngestConfig)
        limits = {**settings.decide, **load_overrides(given.file, thresholds)}
        settings = replace(settings, decide=limits)
        place = Workspace(workspace)
        if dry_run:
            planned = ingestion.plan_footage(footage, place)
            ingestion.check_settings(settings)
            toml = settings_to_toml("ingest", settings)
            lines = f"# {len(planned)} sources would be processed; nothing was written"
            cli.print_plan(toml, {"config": toml, "sources": planned}, lines, as_json)
            return
        agree = _agreement(yes, as_json) if prune else None
        result = curate.ingest(place, footage, config=settings, prune=agree, progress=not as_json)
        failure = ingestion.nothing_read(place, result)
        cli.print_result(result, as_json, ingestion.funnel_table, failure)
    if result["missing"]:
        raise typer.Exit(cli.MISSING)


def _first_name(text: str) -> str:
    """`clips` of `clips.crop=centre`."""
    return text.partition("=")[0].strip().partition(".")[0]


def _agreement(yes: bool, as_json: bool) -> Callable[[Sequence[str]], bool]:
    """Ask whether to remove what the lines name. Raises UserError if nobody can answer."""

    def ask(lines: Sequence[str]) -> bool:
        import sys

        from realdpo.errors import UserError

        print("\n".join(lines), file=sys.stderr)
        if yes:
            return True
        if as_json or not sys.stdin.isatty():
            raise UserError(
                "pruning needs your confirmation", "check what would be removed, then add --yes"
            )
        return typer.confirm("Remove this for good?", err=True)

    return ask


for _name in ("curate_source", "curate_scores", "curate_caption", "curate_sets"):
    importlib.import_module(f"realdpo.cli.{_name}")
