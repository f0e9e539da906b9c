"""`realdpo train`: fine-tune on the pairs, and `realdpo train report`: a page about a run."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.processes import process_rank, quiet_peer, worker_process

app = typer.Typer(
    help="Fine-tune a video model on the pairs; `report` makes a page about a run.",
    epilog="Example: [bold]realdpo train -w work --model tiny --steps 200[/bold]",
    rich_markup_mode="rich",
)
cli.app.add_typer(app, name="train")

_WORK = Path("work")


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    workspace: options.Workspace = _WORK,
    model: Annotated[
        str | None, typer.Option("--model", help="tiny, a pipeline folder, or a Hub id.")
    ] = None,
    task: options.Task = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="realdpo; realdpo-paper: with generated losers; realdpo-released: as published.",
        ),
    ] = "realdpo",
    objective: Annotated[
        str | None, typer.Option("--objective", help="contrast (no losers needed), dpo, or sft.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", help="Strength of the preference.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="How memory is saved: auto, side-by-side, checkpointing, one-by-one, 8bit, 4bit or "
            "blocks.",
        ),
    ] = None,
    reference_bank: Annotated[
        int | None, typer.Option("--reference-bank", help="Fixed draws per pair kept on disk.")
    ] = None,
    processes: Annotated[
        int, typer.Option("--num-processes", help="Processes on this machine (one per GPU).")
    ] = 1,
    gpu: Annotated[
        int | None,
        typer.Option(
            "--gpu", help="With --dry-run: memory by part on a card of 24, 40, 80 or 141 GB."
        ),
    ] = None,
    seed: options.Seed = None,
    show_settings: bool = options.settings_option("train"),
    config: options.Config = None,
    sets: options.Set = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a video model on the pairs of a workspace; `report` makes a page about a run.

    Stopped runs go on when the same command is given again.
    """
    if context.invoked_subcommand:
        return
    with worker_process(), cli.guard_command(as_json), quiet_peer():
        from realdpo import config as configs
        from realdpo.train.config import TrainConfig, preset_settings
        from realdpo.workspace import Workspace

        flags = {
            "model": model, "task": task, "objective": objective, "name": name, "steps": steps, "lr": lr,
            "beta": beta, "memory": memory, "reference_bank": reference_bank, "seed": seed,
        }  # fmt: skip
        settings = configs.resolve_settings(
            TrainConfig, section="train", base=preset_settings(preset), file=config, sets=sets or (),
            flags=flags,
        )  # fmt: skip
        place = Workspace(workspace)
        if processes > 1 and "RANK" not in os.environ:
            raise typer.Exit(_launch(processes))
        peer = process_rank() > 0  # process 0 holds the lock and does the talking
        if peer:
            from realdpo.progress import quiet

            quiet.set(True)
        if dry_run:
            from realdpo.train import trial

            found = {}
            if gpu is None:
                found = trial.try_steps(place, settings)
            if gpu is not None or "cuda" in str(found["device"]):
                found |= {"memory": trial.memory_of(place, settings, gpu)}
            if peer:
                return
            if as_json:
                cli.print_json({"settings": dataclasses.asdict(settings), "estimate": found})
                return
            print(configs.settings_to_toml("train", settings))
            for key, value in (found | found.pop("memory", {})).items():
                print(f"{key:<24}{value}")
            return
        from realdpo.train import loop

        if peer:
            loop.run_training(place, settings)
            return
        with place.lock("train"):
            place.save_config("train", configs.settings_to_toml("train", settings))
            summary = loop.run_training(place, settings)
        if as_json:
            cli.print_json(dataclasses.asdict(summary))
        else:
            print(_told(summary))


@app.command(
    epilog="Example: [bold]realdpo train encode -w work --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers "
    "--shard 1/8[/bold]"
)
def encode(
    workspace: options.Workspace = _WORK,
    model: Annotated[
        str | None, typer.Option("--model", help="tiny, a pipeline folder, or a Hub id.")
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Encode the I-th of N parts only.")
    ] = "1/1",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Encode latents, prompts and first frames, so that training loads no VAE; may be in parts.

    Run it again to go on. `realdpo train` reads what is here and encodes what is missing.
    """
    with cli.guard_command(as_json):
        import torch

        from realdpo import config as configs
        from realdpo import memory
        from realdpo.families.load import read_spec
        from realdpo.train import latents
        from realdpo.train.config import TrainConfig
        from realdpo.workspace import Workspace

        settings = configs.resolve_settings(
            TrainConfig, section="train", file=config, sets=sets or (), flags={"model": model}
        )
        number, count = options.part_of(shard)
        place = Workspace(workspace)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        spec = read_spec(settings.model, settings.revision, settings.expert, settings.task)
        rows = latents.rows_of(place, settings)
        with memory.explain_out_of_memory(
            lambda: "encoding the pairs", latents.leaner_settings(settings)
        ):
            cache = latents.encode_pairs(place, spec, settings, device, rows, (number - 1, count))
        done = sum(cache.known(row) is not None for row in rows)
        found = {"pairs": len(rows), "encoded": done, "folder": str(cache.folder)}
        if as_json:
            cli.print_json(found)
        else:
            print(f"{done} of {len(rows)} pairs are encoded in {cache.folder}")


@app.command(epilog="Example: [bold]realdpo train report dpo -w work[/bold]")
def report(
    run: Annotated[str, typer.Argument(help="Name of the run under runs/.")],
    workspace: options.Workspace = _WORK,
    as_json: options.Json = False,
) -> None:
    """Make a page about a run: curves, warnings in plain words, videos side by side."""
    with cli.guard_command(as_json):
        from realdpo.train import report as reports
        from realdpo.workspace import Workspace

        path, warnings = reports.write_train_report(Workspace(workspace), run)
        if as_json:
            cli.print_json({"page": str(path), "warnings": warnings})
        else:
            print("\n".join([*(f"warning: {text}" for text in warnings), str(path)]))


def _launch(processes: int) -> int:
    """Run this very command in several processes that torch connects."""
    torchrun = "from realdpo.cli.processes import main; main()"
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with tempfile.TemporaryDirectory() as logs:  # a folder of torch's own would be left behind
        command = [sys.executable, "-c", torchrun, "--standalone", "--log-dir", logs]
        # After a Ctrl-C a step and a checkpoint of a large model may well take minutes.
        command += ["--shutdown-timeout", "3600"]
        command += ["--nproc-per-node", str(processes), "-m", "realdpo", *sys.argv[1:]]
        # In a session of their own the workers get a Ctrl-C once, from torch, and not from the
        # terminal as well: the first one saves, a second would kill.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda caught, frame: child.send_signal(caught))
        return child.wait()


def _told(summary: Any) -> str:
    from realdpo.train.runs import held_out_lines

    lines = [f"run        {summary.folder}", f"weights    {summary.weights}"]
    lines.append(f"steps      {summary.steps} at {summary.seconds_per_step:.2f} s")
    lines.append(f"trained    {summary.trained_parameters:,} parameters")
    before, after = summary.before, summary.after
    if before and after:
        lines += held_out_lines(before, after, summary.held_out_by)
    for expert, part in (summary.experts or {}).items():
        if part.before and part.after:
            lines.append(f"the {expert}-noise expert, on its own noise levels:")
            lines += held_out_lines(part.before, part.after, part.held_out_by)
    if summary.stopped:
        lines.append(f"stopped    {summary.stopped}")
    return "\n".join(lines)
