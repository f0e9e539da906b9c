"""`realdpo export-lora`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from realdpo import cli
from realdpo.cli import options


@cli.app.command(
    "export-lora", epilog="Example: [bold]realdpo export-lora dpo -w work --format comfyui[/bold]"
)
def export_lora(
    run: Annotated[str, typer.Argument(help="Training run whose LoRA is exported.")],
    workspace: options.Workspace = options.WORK,
    format_: Annotated[
        Literal["diffusers", "comfyui", "kohya"],
        typer.Option("--format", help="Tool whose layer names the file gets."),
    ] = "comfyui",
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], typer.Option(help="Number format in the file.")
    ] = "bfloat16",
    to: Annotated[
        Path | None,
        typer.Option("--to", "--out", help="File to write. Default: in runs/RUN/export/."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a run's LoRA under the names that ComfyUI, kohya's tools or diffusers read."""
    with cli.guard_command(as_json):
        from realdpo.families.export import export_run
        from realdpo.workspace import Workspace

        done = export_run(Workspace(workspace).runs, run, format_, dtype, to)
        cli.print_result(done, as_json, _lines)


def _lines(done: dict[str, Any]) -> str:
    return f"{', '.join(done['files'])}: {done['layers']} layers under {done['format']}'s names"
