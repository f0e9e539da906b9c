"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", "--out", help="Folder that holds the project's tables and files."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings; --set and flags win over it."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the settings and what would be done; do nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document; no progress bars.")]


def settings_option(command: str) -> Any:
    """The option `--settings`, which lists what `--set` can change in a command, and stops."""

    def show(wanted: bool) -> None:
        if wanted:
            from realdpo.settings_help import settings_text

            print(settings_text(command))
            raise typer.Exit

    text = "List every setting that --set takes, and stop."
    return typer.Option(False, "--settings", is_eager=True, callback=show, help=text)


Task = Annotated[
    str | None,
    typer.Option("--task", help="i2v or t2v, for a folder whose weights do both."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]


def part_of(text: str) -> tuple[int, int]:
    """(I, N) of a --shard I/N. Raises UserError for anything else."""
    from realdpo.errors import UserError

    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise UserError(f"--shard {text}: not of the form I/N", "for example --shard 1/4")
    return index, count
