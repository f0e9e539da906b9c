"""`realdpo pairs`: real clips as winners, a model's own videos as losers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from realdpo import cli
from realdpo.cli import options

if TYPE_CHECKING:
    from realdpo.pairs.interchange import Given

app = typer.Typer(
    no_args_is_help=True,
    help="Pair every accepted clip with a video model's own videos of the same prompt.",
)
cli.app.add_typer(app, name="pairs")


@app.command(
    epilog="Example: [bold]realdpo pairs build -w work --model THUDM/CogVideoX-5b-I2V[/bold]"
)
@options.with_settings(
    "pairs build",
    "model",
    "revision",
    "losers",
    "lora",
    "guide",
    "round",
    "steps",
    "guidance",
    "width",
    "height",
    "frames",
    "fps",
    "negative_prompt",
    "task",
    "roundtrip_win",
    "keep_broken",
    "memory",
    "dtype",
    "seed",
)
def build(
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    strategies: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="How losers are made: generate, renoise and local, mixed by weight.",
        ),
    ] = None,
    devices: options.Devices = "auto",
    shard: options.Shard = "1/1",
    engine: options.Engine = "local",
    address: options.Address = "",
    apply_review: Annotated[
        Path | None,
        typer.Option(help="File of choices from `pairs report`. Rejected pairs leave the shards."),
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Generate losers for every accepted clip and write preference pairs as Parquet.

    If you leave out width, rate or steps, the model's own values are used. --dry-run shows them.
    """
    with cli.guard_command(as_json):
        from realdpo import pairs
        from realdpo.config import settings_to_toml
        from realdpo.pairs.config import BuildConfig, parse_strategies
        from realdpo.workspace import Workspace

        mixed = parse_strategies(strategies) if strategies else None
        settings = given.resolve(BuildConfig, strategies=mixed)
        part = options.part_of(shard)
        if dry_run:
            from realdpo.pairs import building

            toml = settings_to_toml("pairs", settings)
            planned = building.preview_build(Workspace(workspace), settings, part, devices)
            cli.print_plan(toml, {**planned, "config": toml}, _lines(planned), as_json)
            return
        done = pairs.build(
            workspace,
            config=settings,
            shard=part,
            devices=devices,
            engine=engine,
            address=address,
            apply_review=apply_review,
            progress=not as_json,
        )
        cli.print_result(done, as_json, _lines)


@app.command(epilog="Example: [bold]realdpo pairs audit -w work[/bold]")
def audit(
    workspace: options.Workspace = options.WORK,
    strong: Annotated[
        bool,
        typer.Option(
            "--strong",
            help=(
                "Also train a small network on one part of the sources and judge it on the others, "
                "as an upper bound on what training could learn."
            ),
        ),
    ] = False,
    network: Annotated[
        str,
        typer.Option(
            help=(
                "For --strong: a frozen open_clip model instead of a few convolutions, as "
                "MODEL:WEIGHTS or local-dir:/folder."
            )
        ),
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Try to tell winners from losers without looking at motion.

    The verdict is clean, suspicious, shortcut, or too few pairs to tell.
    """
    with cli.guard_command(as_json):
        from realdpo.pairs.audit import audit_workspace
        from realdpo.workspace import Workspace

        found = audit_workspace(Workspace(workspace), strong=strong, network=network)
        cli.print_result(found, as_json, _verdict)


@app.command(epilog="Example: [bold]realdpo pairs report -w work[/bold]")
def report(
    workspace: options.Workspace = options.WORK,
    to: options.Page = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Number of pairs on the page, spread over all.")
    ] = 60,
    as_json: options.Json = False,
) -> None:
    """Make a page with real and generated clips in step, and keys to accept, reject or flag."""
    with cli.guard_command(as_json):
        from realdpo.pairs.report import write_pairs_report
        from realdpo.workspace import Workspace

        page = write_pairs_report(Workspace(workspace), to, limit)
        cli.print_result({"page": str(page)}, as_json, _lines)


_Task = Annotated[
    Literal["i2v", "t2v"],
    typer.Option("--task", help="i2v if both sides begin with the same picture, else t2v."),
]


@app.command(
    "import-realdpo", epilog="Example: [bold]realdpo pairs import-realdpo FOLDER -w work[/bold]"
)
def import_realdpo(
    folder: Annotated[Path, typer.Argument(help="Folder with prompt.txt and video.txt.")],
    workspace: options.Workspace = options.WORK,
    task: _Task = "i2v",
    as_json: options.Json = False,
) -> None:
    """Import pairs in the layout of the released RealDPO data, and audit them."""
    with cli.guard_command(as_json):
        from realdpo.pairs import interchange

        _take_in(interchange.from_realdpo(folder), workspace, "realdpo", task, as_json)


@app.command("import", epilog="Example: [bold]realdpo pairs import pairs.csv -w work[/bold]")
def import_pairs(
    file: Annotated[
        Path,
        typer.Argument(
            help=(
                "CSV with the columns prompt, win, lose, or SimpleTuner's JSON of data backends, "
                "or the folder that holds it."
            )
        ),
    ],
    workspace: options.Workspace = options.WORK,
    task: _Task = "t2v",
    as_json: options.Json = False,
) -> None:
    """Import pairs that you already have, and audit them."""
    with cli.guard_command(as_json):
        from realdpo.pairs import interchange

        theirs = file.is_dir() or file.suffix == ".json"
        read = interchange.given_from_simpletuner if theirs else interchange.from_csv
        _take_in(read(file), workspace, "imported", task, as_json)


@app.command(epilog="Example: [bold]realdpo pairs export FOLDER -w work --format trl[/bold]")
def export(
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    workspace: options.Workspace = options.WORK,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help=(
                "folder: RealDPO's layout. trl: Parquet with TRL's columns. simpletuner: two "
                "folders and the JSON for its Flow-DPO. musubi, diffusion-pipe: winners with "
                "captions."
            ),
        ),
    ] = "folder",
    as_json: options.Json = False,
) -> None:
    """Write the accepted pairs for other tools."""
    with cli.guard_command(as_json):
        from realdpo.pairs import interchange
        from realdpo.workspace import Workspace

        done = interchange.export_pairs(Workspace(workspace), target, format_)
        cli.print_result(done, as_json, _lines)


def _take_in(read: list[Given], workspace: Path, origin: str, task: str, as_json: bool) -> None:
    from realdpo.pairs import interchange
    from realdpo.workspace import Workspace

    done = interchange.take_in_pairs(Workspace(workspace), read, origin=origin, task=task)
    cli.print_result(done, as_json, _lines)


def _lines(result: dict[str, Any]) -> str:
    """Names and values, one per line. A list takes one line per item."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        items = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{name:<12}{item}" for item in items]
    return "\n".join(lines)


def _verdict(found: dict[str, Any]) -> str:
    verdict = {"too few": "too few pairs to tell"}.get(found["verdict"], found["verdict"])
    lines = [
        f"verdict     {verdict}",
        f"pairs       {found['pairs']} with {found['losers']} losers, {found['method']}",
    ]
    for name, what in (("", "all numbers"), ("preparation_", "preparation")):
        low, high, value = (found[f"{name}auc{end}"] for end in ("_low", "_high", ""))
        span = f", AUC {value:.3f} ({low:.3f} to {high:.3f})" if value is not None else ""
        lines.append(f"{what:<12}p {found[f'{name}p']:.4f}{span}")
    for feature in found["features"][:5]:
        lines.append(f"p {feature['p']:.4f}  {feature['name']:<18}{feature['words']}")
    remedies = dict.fromkeys(f["remedy"] for f in found["features"] if f["remedy"])
    lines += [f"to do       {remedy}" for remedy in remedies]
    for name, missing in found["not_measured"].items():
        lines.append(f"not judged  {name}, because {missing} pairs lack it")
    lines.append(f"first frames differ by {found['first_frame_difference']:.2f} of 255")
    lines.append(f"motion      {found['motion']['words']}")
    if "strong" in found:
        lines.append(f"strong      {found['strong']['words']}")
    if "latents" in found:
        lines.append(f"latents     {found['latents']['summary']}")
    return "\n".join(lines)
