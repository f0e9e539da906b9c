"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
