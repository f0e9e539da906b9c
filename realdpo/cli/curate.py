"""`realdpo curate`: footage in, a dataset out. More commands register on `app` from beside."""

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
def ingest(
    workspace: options.Workspace,
    footage: Annotated[
        list[str],
        typer.Argument(
            metavar="FOOTAGE...",
            help="Files, folders, globs, URLs, or CSV, TSV, JSON, JSONL and Parquet manifests with "
            "a column `path` or `url`.",
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            help="What the clips are for: native, tiny, or the shape of a model: cogvideox, "
            "cogvideox1.5, wan2.1, wan2.2-5b, skyreels, ltx, ltx2, hunyuan, hunyuan15, mochi, "
            "kandinsky5, sana-video, cosmos2.5."
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            help="Who writes the prompts: sidecar (captions that came with the footage, else title "
            "and keywords; the default), keywords, or a model."
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(help="Scores of sampled frames: people, text, nsfw; may be repeated."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Where the steps run: local, serial or ray.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; as many as cores by default.")
    ] = None,
    require_license: Annotated[
        bool | None,
        typer.Option("--require-license", help="Drop clips whose licence is not known."),
    ] = None,
    license_: Annotated[
        list[str] | None,
        typer.Option(
            "--license",
            help="Allowed licence, such as CC-BY-4.0 or CC-BY; may be repeated. Others are dropped.",
        ),
    ] = None,
    per_action: Annotated[
        int | None, typer.Option(help="Keep at most so many clips of each action.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="parquet, webdataset or folder.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Also copy the dataset to this fsspec address, such as s3://bucket/set."),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Remove sources that are missing or not named, and their clips; says what, asks.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before pruning.")] = False,
    show_settings: bool = options.settings_option("curate ingest"),
    config: options.Config = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Find shots, score, decide, caption, cut and shard; goes on where an earlier run stopped.

    What earlier runs made stays, also when its footage is away or not named; --prune removes it.
    Ends with 3 when sources that were read before cannot be read now.
    """
    with cli.guard_command(json_):
        from dataclasses import fields, replace

        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.curate import ingest as curate_footage
        from realdpo.curate import ingestion as steps
        from realdpo.curate.config import IngestConfig
        from realdpo.curate.decide import load_overrides
        from realdpo.workspace import Workspace

        own, limits = _sorted_sets(set_ or (), {field.name for field in fields(IngestConfig)})
        flags = {
            "target": target,
            "caption": caption,
            "extras": extra or None,
            "engine": engine,
            "address": address,
            "workers": workers,
            "sources.require_license": require_license,
            "sources.licenses": license_ or None,
            "per_action": per_action,
            "shards.format": format_,
            "shards.to": to,
        }
        settings = resolve_settings(
            IngestConfig, section="ingest", file=config, sets=own, flags=flags
        )
        settings = replace(settings, decide={**settings.decide, **load_overrides(config, limits)})
        toml = settings_to_toml("ingest", settings)
        place = Workspace(workspace)
        if dry_run:
            planned = steps.plan(footage, place)
            steps.check(settings)
            if json_:
                cli.print_json({"config": toml, "sources": planned})
            else:
                print(toml)
                print(f"# {len(planned)} sources would be looked at; nothing was written")
            return
        agree = _agreement(yes, json_) if prune else None
        result = curate_footage(place, footage, config=settings, prune=agree, progress=not json_)
        failure = steps.nothing_read(place, result)
        if json_:
            told = {"error": failure.message, "hint": failure.hint} if failure else {}
            cli.print_json({**result, **told})
        else:
            print(steps.closing_table(result))
    if failure:
        with cli.guard_command():  # the one document on stdout says it already
            raise failure
    if result["missing"]:
        raise typer.Exit(cli.MISSING)


def _agreement(yes: bool, as_json: bool) -> Callable[[Sequence[str]], bool]:
    """Asks whether what the lines name may go. Raises UserError where nobody can answer."""

    def ask(lines: Sequence[str]) -> bool:
        import sys

        from realdpo.errors import UserError

        print("\n".join(lines), file=sys.stderr)
        if yes:
            return True
        if as_json or not sys.stdin.isatty():
            raise UserError("pruning needs a yes", "look at what would go, then add --yes")
        return typer.confirm("Remove this for good?", err=True)

    return ask


def _sorted_sets(sets: Sequence[str], names: set[str]) -> tuple[list[str], list[str]]:
    """Settings of ingest itself, and thresholds such as motion.subject_min=1.5."""
    own = [s for s in sets if s.partition("=")[0].strip().partition(".")[0] in names - {"decide"}]
    return own, [s for s in sets if s not in own]


for _name in ("curate_source", "curate_scores", "curate_caption", "curate_sets"):
    importlib.import_module(f"realdpo.cli.{_name}")
