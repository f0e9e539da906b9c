"""`realdpo curate decide | calibrate | report | inspect`: thresholds on stored scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.curate import app


@app.command(epilog="Example: realdpo curate decide -w work --set motion.subject_min=0.1")
def decide(
    workspace: options.Workspace,
    config: options.Config = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Keep or drop every clip anew by its stored scores; nothing is decoded.

    Thresholds are <group>.<name>_min and _max; "off" removes one. Those not named here are as
    `curate ingest` was told, else the defaults.
    """
    with cli.guard_command(json_):
        from realdpo.curate import decide as room
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        place.require(place.clips, "curate ingest FOOTAGE")  # else the lock makes the folder
        overrides = {**room.asked_of_ingest(place), **room.load_overrides(config, set_ or ())}
        if dry_run:
            result = room.decide_workspace(place, overrides, write=False)
        else:
            with place.lock("curate decide", sweeps=False):
                result = room.decide_workspace(place, overrides)
                place.save_config("curate decide", room.saved_toml(overrides))
        if json_:
            cli.print_json(result)
        else:
            print(room.describe_decision(result, dry_run))


@app.command(epilog="Example: realdpo curate calibrate -w work --keep 30% --to thresholds.toml")
def calibrate(
    workspace: options.Workspace,
    keep: Annotated[
        str | None, typer.Option(help="Wanted yield: a number of clips, or a share such as 30%.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Where the proposed thresholds go; config/calibrated.toml by default."),
    ] = None,
    config: options.Config = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Show what every threshold keeps, and propose thresholds for a wanted yield."""
    with cli.guard_command(json_):
        import dataclasses

        from realdpo.curate import calibrate as room
        from realdpo.curate import decide as decisions
        from realdpo.files import write_text
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        found = room.calibrate_thresholds(place, keep, decisions.load_overrides(config, set_ or ()))
        path = to or place.root / "config" / "calibrated.toml"
        if not dry_run:
            write_text(path, room.proposal_to_toml(found))
        if json_:
            cli.print_json({**dataclasses.asdict(found), "written": None if dry_run else str(path)})
        else:
            print(room.describe_calibration(found))
            if not dry_run:
                print(f"\nthresholds written; use them with:\n"
                      f"  realdpo curate decide -w {place.root} --config {path}")  # fmt: skip


@app.command(epilog="Example: realdpo curate report -w work")
def report(
    workspace: options.Workspace,
    to: Annotated[
        Path | None, typer.Option(help="Where the page goes; reports/curate.html by default.")
    ] = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Write one HTML page: funnel, scores with thresholds, kept and dropped clips, provenance."""
    with cli.guard_command(json_):
        from realdpo.curate import report as room
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        path = to or place.reports / "curate.html"
        if dry_run:
            place.require(place.clips, "curate ingest FOOTAGE")
        else:
            room.write_curate_report(place, path)
        if json_:
            cli.print_json({"report": str(path), "written": not dry_run})
        else:
            print(f"would write {path}" if dry_run else path)


@app.command(epilog="Example: realdpo curate inspect clip.mp4 --extra people --json")
def inspect(
    file: Annotated[Path, typer.Argument(help="A video file.")],
    extra: Annotated[
        list[str] | None,
        typer.Option("--extra", help="Also: people, text, nsfw; may be repeated."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="Finds people: a detector of transformers; BlazePose without.")
    ] = "",
    pose: Annotated[str, typer.Option(help="ViTPose of transformers, beside --detector.")] = "",
    config: options.Config = None,
    set_: options.Set = None,
    json_: options.Json = False,
) -> None:
    """Show what is seen in one file: facts, shots, scores, and the verdict with its reasons."""
    with cli.guard_command(json_):
        from realdpo.curate import decide as decisions
        from realdpo.curate import inspect as room
        from realdpo.curate.config import PeopleSettings

        overrides = decisions.load_overrides(config, set_ or ())
        models = PeopleSettings(detector, pose)
        found = room.inspect_file(file, overrides, tuple(extra or ()), models)
        if json_:
            cli.print_json(found)
        else:
            print(room.describe_inspection(found))
