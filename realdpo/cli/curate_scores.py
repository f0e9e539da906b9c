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
    workspace: options.Workspace = options.WORK,
    config: options.Config = None,
    sets: options.Sets = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Keep or drop every clip again by its stored scores. Nothing is decoded.

    Thresholds are <group>.<name>_min and _max, and "off" removes one. Thresholds that you do not
    name are those given to `curate ingest`, or else the defaults.
    """
    with cli.guard_command(as_json):
        from realdpo.curate.decide import apply_overrides, describe_decision, load_overrides
        from realdpo.workspace import Workspace

        chosen = load_overrides(config, sets or ())
        result = apply_overrides(Workspace(workspace), chosen, write=not dry_run)
        cli.print_result(result, as_json, lambda result: describe_decision(result, dry_run))


@app.command(epilog="Example: realdpo curate calibrate -w work --keep 30% --to thresholds.toml")
def calibrate(
    workspace: options.Workspace = options.WORK,
    keep: Annotated[
        str | None, typer.Option(help="Yield you want: a number of clips, or a share such as 30%.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="File for the proposed thresholds. Default: config/calibrated.toml."),
    ] = None,
    config: options.Config = None,
    sets: options.Sets = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Show how many clips every threshold keeps, and propose thresholds for the yield you want."""
    with cli.guard_command(as_json):
        import dataclasses

        from realdpo.curate.calibrate import (
            calibrate_thresholds,
            describe_calibration,
            proposal_to_toml,
        )
        from realdpo.curate.decide import load_overrides
        from realdpo.files import write_text
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        found = calibrate_thresholds(place, keep, load_overrides(config, sets or ()))
        path = to or place.root / "config" / "calibrated.toml"
        text = describe_calibration(found)
        if not dry_run:
            write_text(path, proposal_to_toml(found))
            text += (
                "\n\nthresholds written; use them with:\n"
                f"  realdpo curate decide -w {place.root} --config {path}"
            )
        result = {**dataclasses.asdict(found), "written": None if dry_run else str(path)}
        cli.print_result(result, as_json, lambda _: text)


@app.command(epilog="Example: realdpo curate report -w work")
def report(
    workspace: options.Workspace = options.WORK,
    to: options.Page = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write one HTML page: funnel, scores with thresholds, kept and dropped clips, provenance."""
    with cli.guard_command(as_json):
        from realdpo.curate.report import write_curate_report
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        path = to or place.reports / "curate.html"
        if dry_run:
            place.require(place.clips, "curate ingest FOOTAGE")
        else:
            write_curate_report(place, path)
        result = {"report": str(path), "written": not dry_run}
        cli.print_result(result, as_json, lambda _: f"would write {path}" if dry_run else path)


@app.command(epilog="Example: realdpo curate inspect clip.mp4 --extra people --json")
def inspect(
    file: Annotated[Path, typer.Argument(help="A video file.")],
    extra: options.Extras = None,
    detector: Annotated[
        str,
        typer.Option(
            help="Model that finds people: a detector of transformers. Default: BlazePose."
        ),
    ] = "",
    pose: Annotated[
        str, typer.Option(help="Pose model for --detector: ViTPose of transformers.")
    ] = "",
    config: options.Config = None,
    sets: options.Sets = None,
    as_json: options.Json = False,
) -> None:
    """Show the analysis of one file: facts, shots, scores, and the verdict with its reasons."""
    with cli.guard_command(as_json):
        from realdpo.curate.config import PeopleSettings
        from realdpo.curate.decide import load_overrides
        from realdpo.curate.inspect import describe_inspection, inspect_file

        overrides = load_overrides(config, sets or ())
        models = PeopleSettings(detector, pose)
        found = inspect_file(file, overrides, tuple(extra or ()), models)
        cli.print_result(found, as_json, describe_inspection)
