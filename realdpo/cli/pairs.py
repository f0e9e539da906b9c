"""`realdpo pairs`: a model's own failures beside the real clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realdpo import cli
from realdpo.cli import options

app = typer.Typer(
    no_args_is_help=True, help="Pair every accepted clip with a video model's own failures."
)
cli.app.add_typer(app, name="pairs")

_OWN = "Unset: the model's own, which --dry-run shows."


@app.command(
    epilog="Example: [bold]realdpo pairs build -w work --model THUDM/CogVideoX-5b-I2V[/bold]"
)
def build(
    workspace: options.Workspace,
    model: Annotated[
        str | None, typer.Option("--model", help="tiny, a pipeline folder, or a Hub id.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or branch of the Hub id.")] = None,
    losers: Annotated[int | None, typer.Option(help="Generations a clip.")] = None,
    strategies: Annotated[
        str | None,
        typer.Option(metavar="NAME=WEIGHT,...", help="generate, renoise, local, mixed by weight."),
    ] = None,
    lora: Annotated[
        str | None, typer.Option(help="LoRA weights of an earlier round, loaded on the model.")
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="STRENGTH|negative", help="Guide the LoRA by its base; see realdpo sample."
        ),
    ] = None,
    round_: Annotated[int | None, typer.Option("--round", help="Which round this is.")] = None,
    steps: Annotated[int | None, typer.Option(help=f"Denoising steps. {_OWN}")] = None,
    guidance: Annotated[float | None, typer.Option(help=f"Guidance scale. {_OWN}")] = None,
    width: Annotated[int | None, typer.Option(help=f"Pixels. {_OWN}")] = None,
    height: Annotated[int | None, typer.Option(help=f"Pixels. {_OWN}")] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames a video. Unset: as many of the model's as the clip has."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help=f"Frames a second. {_OWN}")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help=f"What videos should not show. {_OWN}")
    ] = None,
    task: options.Task = None,
    roundtrip_win: Annotated[
        bool | None,
        typer.Option(
            "--roundtrip-win/--no-roundtrip-win",
            help="Pass real clips through the model's VAE, as generations are.",
        ),
    ] = None,
    keep_broken: Annotated[
        bool | None,
        typer.Option("--keep-broken", help="Pair NaN, black, blank and frozen videos too."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="auto, none, or diffusers' options joined by commas: model_cpu_offload, "
            "sequential_cpu_offload, vae_tiling, vae_slicing."
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16, float16 or float32.")] = None,
    devices: Annotated[
        str,
        typer.Option(
            "--devices", help="auto (every GPU), or names joined by commas; one worker each."
        ),
    ] = "auto",
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Make the I-th of N parts, on one shared folder.")
    ] = "1/1",
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Address of the Ray cluster.")] = "",
    apply_review: Annotated[
        Path | None,
        typer.Option(help="File of choices from `pairs report`; rejected pairs leave the shards."),
    ] = None,
    seed: options.Seed = None,
    show_settings: bool = options.settings_option("pairs build"),
    config: options.Config = None,
    sets: options.Set = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Generate losers for every accepted clip and write preference pairs as Parquet."""
    with cli.guard_command(as_json):
        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.pairs.config import BuildConfig, parse_strategies
        from realdpo.workspace import Workspace

        settings = resolve_settings(
            BuildConfig,
            section="pairs",
            file=config,
            sets=sets or (),
            flags={
                "model": model,
                "revision": revision,
                "losers": losers,
                "strategies": parse_strategies(strategies) if strategies else None,
                "lora": lora,
                "guide": guide,
                "round": round_,
                "steps": steps,
                "guidance": guidance,
                "width": width,
                "height": height,
                "frames": frames,
                "fps": fps,
                "negative_prompt": negative_prompt,
                "task": task,
                "roundtrip_win": roundtrip_win,
                "keep_broken": keep_broken,
                "memory": memory,
                "dtype": dtype,
                "seed": seed,
            },
        )
        place = Workspace(workspace)
        part = options.part_of(shard)
        from realdpo.pairs import building
        from realdpo.pairs.publish import apply_review as take_review

        if apply_review is not None and not dry_run:
            from realdpo.pairs import interchange

            take_review(place, apply_review)
            if interchange.are_imported(place):  # nothing to generate: they have no clips
                _emit(interchange.review_imported(place), as_json)
                return
        if dry_run:
            toml = settings_to_toml("pairs", settings)
            shown = building.preview_build(place, settings, part, devices)
            _emit({**shown, "config": toml} if as_json else shown, as_json, toml)
            return
        done = building.build_pairs(
            place,
            settings,
            shard=part,
            devices=devices,
            engine=engine,
            address=address,
        )
        _emit(done, as_json)


@app.command(epilog="Example: [bold]realdpo pairs audit -w work[/bold]")
def audit(
    workspace: options.Workspace,
    strong: Annotated[
        bool,
        typer.Option(
            "--strong",
            help="Also train a small network on one part of the sources and judge it on the others: "
            "an upper bound on what could be learned.",
        ),
    ] = False,
    network: Annotated[
        str,
        typer.Option(
            help="For --strong: a frozen open_clip model, MODEL:WEIGHTS or local-dir:/folder, in place of "
            "a few convolutions."
        ),
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Try to tell winners from losers without looking at motion.

    The verdict is clean, suspicious or shortcut, or that there are too few pairs to tell.
    """
    with cli.guard_command(as_json):
        from realdpo.pairs.audit import audit_workspace
        from realdpo.workspace import Workspace

        found = audit_workspace(Workspace(workspace), strong=strong, network=network)
        if as_json:
            cli.print_json(found)
            return
        told = {"too few": "too few pairs to tell"}.get(found["verdict"], found["verdict"])
        print(f"verdict     {told}")
        print(f"pairs       {found['pairs']} with {found['losers']} losers, {found['method']}")
        for name, what in (("", "all numbers"), ("preparation_", "preparation")):
            low, high, value = (found[f"{name}auc{end}"] for end in ("_low", "_high", ""))
            span = f", AUC {value:.3f} ({low:.3f} to {high:.3f})" if value is not None else ""
            print(f"{what:<12}p {found[f'{name}p']:.4f}{span}")
        for feature in found["features"][:5]:
            print(f"p {feature['p']:.4f}  {feature['name']:<18}{feature['words']}")
        for remedy in dict.fromkeys(f["remedy"] for f in found["features"] if f["remedy"]):
            print(f"to do       {remedy}")
        for name, missing in found["not_measured"].items():
            print(f"not judged  {name}, which {missing} pairs lack")
        print(f"first frames differ by {found['first_frame_difference']:.2f} of 255")
        print(f"motion      {found['motion']['words']}")
        if "strong" in found:
            print(f"strong      {found['strong']['words']}")
        if "latents" in found:
            print(f"latents     {found['latents']['summary']}")


@app.command(epilog="Example: [bold]realdpo pairs report -w work[/bold]")
def report(
    workspace: options.Workspace,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the page goes.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Pairs on the page, spread over all.")] = 60,
    as_json: options.Json = False,
) -> None:
    """One page with real and generated clips in step, and keys to accept, reject or flag."""
    with cli.guard_command(as_json):
        from realdpo.pairs.report import write_pairs_report
        from realdpo.workspace import Workspace

        _emit({"page": str(write_pairs_report(Workspace(workspace), output, limit))}, as_json)


_TASK = Annotated[
    str, typer.Option(help="i2v when both sides begin with the same picture, else t2v.")
]


@app.command(
    "import-realdpo", epilog="Example: [bold]realdpo pairs import-realdpo FOLDER -w work[/bold]"
)
def import_realdpo(
    folder: Annotated[Path, typer.Argument(help="Folder with prompt.txt and video.txt.")],
    workspace: options.Workspace,
    task: _TASK = "i2v",
    as_json: options.Json = False,
) -> None:
    """Take in pairs in the layout of the released RealDPO data, and audit them."""
    with cli.guard_command(as_json):
        from realdpo.pairs import interchange

        _take_in(interchange.from_realdpo(folder), workspace, "realdpo", task, as_json)


@app.command("import", epilog="Example: [bold]realdpo pairs import pairs.csv -w work[/bold]")
def import_csv(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with the columns prompt, win, lose; or SimpleTuner's JSON of data backends, or "
            "the folder that holds it."
        ),
    ],
    workspace: options.Workspace,
    task: _TASK = "t2v",
    as_json: options.Json = False,
) -> None:
    """Take in pairs that you have already, and audit them."""
    with cli.guard_command(as_json):
        from realdpo.pairs import interchange

        theirs = file.is_dir() or file.suffix == ".json"
        read = interchange.given_from_simpletuner if theirs else interchange.from_csv
        _take_in(read(file), workspace, "imported", task, as_json)


@app.command(epilog="Example: [bold]realdpo pairs export FOLDER -w work --format trl[/bold]")
def export(
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    workspace: options.Workspace,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="folder: RealDPO's layout; trl: Parquet with TRL's columns; simpletuner: two folders "
            "and the JSON of its Flow-DPO; musubi, diffusion-pipe: winners with captions.",
        ),
    ] = "folder",
    as_json: options.Json = False,
) -> None:
    """Write the accepted pairs for other programs."""
    with cli.guard_command(as_json):
        from realdpo.pairs import interchange
        from realdpo.workspace import Workspace

        _emit(interchange.export_pairs(Workspace(workspace), target, format_), as_json)


def _take_in(given: Any, workspace: Path, origin: str, task: str, as_json: bool) -> None:
    from realdpo.errors import UserError
    from realdpo.pairs import interchange
    from realdpo.workspace import Workspace

    if task not in ("i2v", "t2v"):
        raise UserError(f"--task {task}: i2v or t2v")
    _emit(interchange.take_in_pairs(Workspace(workspace), given, origin=origin, task=task), as_json)


def _emit(result: dict[str, Any], as_json: bool, before: str = "") -> None:
    if as_json:
        cli.print_json(result)
        return
    if before:
        print(before)
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        if isinstance(value, list):
            for item in value:
                print(f"{name:<12}{item}")
        elif value is not None:
            print(f"{name:<12}{value}")
