"""`realdpo export-lora`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from realdpo.cli import app, guard_command, print_json
from realdpo.cli.options import Json, Workspace


class Format(str, Enum):
    diffusers = "diffusers"
    comfyui = "comfyui"
    kohya = "kohya"


class Dtype(str, Enum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


@app.command(
    "export-lora",
    epilog="Example: [bold]realdpo export-lora dpo -w work --format comfyui[/bold]",
)
def export_lora(
    run: Annotated[str, typer.Argument(help="Training run whose LoRA is meant.")],
    workspace: Workspace = Path("work"),
    format_: Annotated[
        Format, typer.Option("--format", help="Whose layer names the file has.")
    ] = Format.comfyui,
    dtype: Annotated[Dtype, typer.Option(help="Of the numbers in the file.")] = Dtype.bfloat16,
    out: Annotated[
        Path | None, typer.Option(help="The file; runs/RUN/export/ when left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's LoRA under the names that ComfyUI, kohya's tools or diffusers read."""
    with guard_command(as_json):
        from realdpo import workspace as places
        from realdpo.families.export import export_run

        runs = places.Workspace(workspace).runs
        made = export_run(runs, run, format_.value, dtype.value, out)  # type: ignore[arg-type]
        if as_json:
            print_json(made)
        else:
            print(
                f"{', '.join(made['files'])}: {made['layers']} layers by {made['format']}'s names"
            )
