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
    round_: Annotated[int | None, typer.Option("--round", help="Which round this is.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
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
    config: options.Config = None,
    sets: options.Set = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Generate losers for every accepted clip and write preference pairs as Parquet."""
    with cli.guard(as_json):
        from realdpo.config import resolve, to_toml
        from realdpo.pairs.config import BuildConfig, parse_strategies
        from realdpo.workspace import Workspace

        settings = resolve(
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
                "round": round_,
                "steps": steps,
                "guidance": guidance,
                "roundtrip_win": roundtrip_win,
                "keep_broken": keep_broken,
                "memory": memory,
                "dtype": dtype,
                "seed": seed,
            },
        )
        place = Workspace(workspace)
        part = _shard(shard)
        from realdpo.pairs import build as building

        if apply_review is not None:
            building.apply_review(place, apply_review)
        if dry_run:
            _emit(building.preview(place, settings, part), as_json, to_toml("pairs", settings))
            return
        place.save_config("pairs build", to_toml("pairs", settings))
        done = building.build(
            place,
            settings,
            shard=part,
            devices=devices,
            engine=engine,
            address=address,
        )
        _emit(done, as_json)


def _shard(text: str) -> tuple[int, int]:
    from realdpo.errors import UserError

    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise UserError(f"--shard {text}: not of the form I/N", "for example --shard 1/4")
    return index, count


def _emit(result: dict[str, Any], as_json: bool, before: str = "") -> None:
    if as_json:
        cli.emit(result)
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
