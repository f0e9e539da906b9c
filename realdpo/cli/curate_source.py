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
def source(
    workspace: options.Workspace,
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE...",
            help="commons, archive, pexels, pixabay; hf://datasets/OWNER/NAME; a .zip of films; "
            "a CSV, JSONL or Parquet table of addresses.",
        ),
    ],
    action: Annotated[
        list[str] | None,
        typer.Option(help="An action of the taxonomy; may be repeated. All of them by default."),
    ] = None,
    words: Annotated[
        list[str] | None, typer.Option(help="A search of your own; may be repeated.")
    ] = None,
    per_action: Annotated[
        int | None, typer.Option(help="Films of each action or search; 20 by default.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Of footage in all, at most.")] = None,
    min_height: Annotated[
        int | None, typer.Option(help="Pixels of the shorter side, at least; 480 by default.")
    ] = None,
    min_seconds: Annotated[float | None, typer.Option(help="Shortest film; 2 by default.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longest film; 600 by default.")] = None,
    license_: Annotated[
        list[str] | None,
        typer.Option("--license", help="SPDX ids, comma-separated or repeated; others stay out."),
    ] = None,
    default_license: Annotated[
        str | None, typer.Option(help="Licence of films that state none, on your word.")
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private", help="Also films that may not be passed on: for training here only."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="A table's own name of a column; repeatable."),
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(help="Mail or web address for the servers' owners; or REALDPO_CONTACT."),
    ] = None,
    refresh: Annotated[
        bool | None, typer.Option("--refresh", help="Ask again what was asked before.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="The manifest, .jsonl, .csv or .parquet; WORKSPACE/source/ by default."),
    ] = None,
    config: options.Config = None,
    set_: options.Set = None,
    show_settings: bool = options.settings_option("curate source"),
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Find footage that may be used and write a manifest for `curate ingest`; downloads nothing.

    Look at reports/source.html before you download. Keys come from PEXELS_API_KEY and
    PIXABAY_API_KEY. Answers are kept, so a stopped run goes on and other limits ask nobody anew.
    """
    with cli.guard_command(json_):
        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.curate.source import run
        from realdpo.curate.source.config import SourceConfig
        from realdpo.errors import UserError
        from realdpo.workspace import Workspace

        columns = {}
        for text in column or ():
            ours, separator, theirs = text.partition("=")
            if not separator or not theirs:
                raise UserError(f"--column {text}: not of the form OURS=THEIRS")
            columns[ours.strip()] = theirs.strip()
        flags = {
            "actions": action or None,
            "words": words or None,
            "per_action": per_action,
            "hours": hours,
            "min_height": min_height,
            "min_seconds": min_seconds,
            "max_seconds": max_seconds,
            "licenses": [n.strip() for text in license_ or () for n in text.split(",") if n.strip()]
            or None,
            "default_license": default_license,
            "private": private,
            "columns": columns or None,
            "contact": contact,
            "refresh": refresh,
        }
        settings = resolve_settings(
            SourceConfig, section="source", file=config, sets=set_ or (), flags=flags
        )
        toml = settings_to_toml("source", settings)
        if dry_run:
            planned = run.plan_searches(where, settings)
            if json_:
                cli.print_json({"config": toml, "plan": planned})
                return
            print(toml)
            for group in planned:
                print(f"# {group['group']}: {', '.join(group['queries'])}")
            searches = sum(len(g["queries"]) * len(g["providers"]) for g in planned)
            print(
                f"# {searches} searches at most, of {settings.pages} pages at most; nobody was asked"
            )
            return
        place = Workspace(workspace)
        result = run.source_films(place, where, settings, to)
        place.save_config("curate source", toml)
        failure = run.sourcing_error(result)
        if json_:
            told = {"error": failure.message, "hint": failure.hint} if failure else {}
            cli.print_json({**result, **told})
        else:
            print(run.source_table(result))
    if failure:
        with cli.guard_command():  # the one document on stdout says it already
            raise failure
