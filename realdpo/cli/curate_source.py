"""`realdpo curate source`: from words to a manifest of footage that may be used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.curate import app


@app.command(
    epilog="Examples: realdpo curate source commons archive -w work --per-action 10 "
    "--contact you@example.org | realdpo curate source commons -w work --action dancing "
    "--license CC0-1.0,CC-BY-4.0 | realdpo curate source table.parquet -w work "
    "--column url=content_loc"
)
@options.with_settings(
    "curate source",
    "words",
    "per_action",
    "hours",
    "min_height",
    "min_seconds",
    "max_seconds",
    "default_license",
    "private",
    "contact",
    "refresh",
    actions="--action",
    licenses="--license",
    columns="--column",
)
def source(
    given: options.Given,
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE...",
            help="commons, archive, pexels, pixabay; hf://datasets/OWNER/NAME; a .zip of films; "
            "a CSV, JSONL or Parquet table of addresses.",
        ),
    ],
    workspace: options.Workspace = options.WORK,
    to: Annotated[
        Path | None,
        typer.Option(help="The manifest, .jsonl, .csv or .parquet; WORKSPACE/source/ by default."),
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Find footage that you may use and write a manifest for `curate ingest`; downloads nothing.

    Look at reports/source.html before you download. Keys come from PEXELS_API_KEY and
    PIXABAY_API_KEY. Answers are stored: to continue a stopped run or to try other limits, run the
    command again; it repeats no request.
    """
    with cli.guard_command(as_json):
        from realdpo.config import settings_to_toml
        from realdpo.curate.source import run
        from realdpo.curate.source.config import SourceConfig
        from realdpo.workspace import Workspace

        licenses = ",".join(given.flags.get("licenses", ()))  # repeated, or with commas
        names = [name.strip() for name in licenses.split(",") if name.strip()]
        settings = given.resolve(SourceConfig, licenses=names or None)
        toml = settings_to_toml("source", settings)
        if dry_run:
            planned = run.plan_searches(where, settings)
            lines = run.describe_searches(planned, settings)
            cli.print_plan(toml, {"config": toml, "plan": planned}, lines, as_json)
            return
        place = Workspace(workspace)
        result = run.source_films(place, where, settings, to)
        place.save_config("curate source", toml)
        cli.print_result(result, as_json, run.source_table, run.sourcing_error(result))
