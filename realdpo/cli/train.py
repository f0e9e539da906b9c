"""`realdpo train`: fine-tune on clips or pairs. `realdpo train report`: the page of a run."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.processes import quiet_peer, worker_process
from realdpo.progress import process_rank

if TYPE_CHECKING:
    from realdpo.train.config import TrainConfig

app = typer.Typer(
    epilog="Example: [bold]realdpo train -w work --model tiny --steps 200[/bold]",
    rich_markup_mode="rich",
)
cli.app.add_typer(app, name="train")


@app.callback(invoke_without_command=True)
@options.with_settings(
    "train",
    "model",
    "task",
    "objective",
    "name",
    "steps",
    "lr",
    "beta",
    "memory",
    "reference_bank",
    "seed",
)
def train(
    context: typer.Context,
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    preset: options.Preset = "realdpo",
    processes: options.Processes = 1,
    gpu: Annotated[
        int | None,
        typer.Option(
            "--gpu",
            help="With --dry-run: show the memory by part on a card of 24, 40, 80 or 141 GB.",
        ),
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a video model on the clips or pairs of a workspace.

    If you stop a run, run the same command again to continue it.
    """
    if context.invoked_subcommand:
        return
    with worker_process(), cli.guard_command(as_json), quiet_peer():
        import realdpo
        from realdpo.train.config import TrainConfig, preset_settings

        settings = given.resolve(TrainConfig, base=preset_settings(preset))
        if processes > 1 and "RANK" not in os.environ:
            raise typer.Exit(_launch(processes))
        if dry_run:
            _preview(workspace, settings, gpu, as_json)
            return
        run = realdpo.train(workspace, config=settings, progress=not as_json)
        if process_rank() == 0:  # only this process prints messages
            places = {"folder": str(run.folder), "weights": str(run.weights)}
            cli.print_result(run.summary | places, as_json, _summary_lines)


def _preview(workspace: Path, settings: TrainConfig, gpu: int | None, as_json: bool) -> None:
    from realdpo.config import settings_to_toml
    from realdpo.train import trial
    from realdpo.workspace import Workspace

    found: dict[str, Any] = {} if gpu else trial.try_steps(Workspace(workspace), settings)
    if gpu or "cuda" in str(found["device"]):
        found |= {"memory": trial.memory_of(Workspace(workspace), settings, gpu)}
    if process_rank() == 0:
        plan = {"settings": dataclasses.asdict(settings), "estimate": found}
        flat = {**found, **found.get("memory", {})}
        lines = [f"{key:<24}{value}" for key, value in flat.items() if key != "memory"]
        cli.print_plan(settings_to_toml("train", settings), plan, "\n".join(lines), as_json)


@app.command(
    epilog="Example: [bold]realdpo train encode -w work --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers "
    "--shard 1/8[/bold]"
)
@options.with_settings("train", "model", "task")
def encode(
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    shard: options.Shard = "1/1",
    as_json: options.Json = False,
) -> None:
    """Encode latents, prompts and first frames ahead of training, which then loads no VAE.

    You can encode in parts. `realdpo train` encodes the rest.
    """
    with cli.guard_command(as_json):
        import torch

        from realdpo import memory
        from realdpo.families.load import read_spec
        from realdpo.train import latents
        from realdpo.train.config import TrainConfig
        from realdpo.workspace import Workspace

        settings = given.resolve(TrainConfig)
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
        cli.print_result(
            found,
            as_json,
            lambda found: "{encoded} of {pairs} are encoded in {folder}".format(**found),
        )


@app.command(epilog="Example: [bold]realdpo train report contrast -w work[/bold]")
def report(
    run: Annotated[str, typer.Argument(help="Name of the run under runs/.")],
    workspace: options.Workspace = options.WORK,
    to: options.Page = None,
    as_json: options.Json = False,
) -> None:
    """Make the page of a run: curves, warnings, and videos side by side."""
    with cli.guard_command(as_json):
        from realdpo.train.report import write_train_report
        from realdpo.workspace import Workspace

        path, warnings = write_train_report(Workspace(workspace), run, to)
        lines = [*(f"warning: {text}" for text in warnings), str(path)]
        found = {"page": str(path), "warnings": warnings}
        cli.print_result(found, as_json, lambda _: "\n".join(lines))


def _launch(processes: int) -> int:
    """Run this same command in several processes that torch connects."""
    torchrun = "from realdpo.cli.processes import main; main()"
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with tempfile.TemporaryDirectory() as logs:  # torch would leave its own folder behind
        command = [sys.executable, "-c", torchrun, "--standalone", "--log-dir", logs]
        # After Ctrl-C, a step and a checkpoint of a large model can take minutes.
        command += ["--shutdown-timeout", "3600"]
        command += ["--nproc-per-node", str(processes), "-m", "realdpo", *sys.argv[1:]]
        # In a session of their own, the workers get Ctrl-C once, from torch, and not also from the
        # terminal. The first one makes them save, and a second one would kill them.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda caught, frame: child.send_signal(caught))
        return child.wait()


def _summary_lines(summary: Mapping[str, Any]) -> str:
    from realdpo.train.runs import held_out_lines

    lines = [
        f"run        {summary['folder']}",
        f"weights    {summary['weights']}",
        f"steps      {summary['steps']} at {summary['seconds_per_step']:.2f} s",
        f"trained    {summary['trained_parameters']:,} parameters",
    ]
    if summary["before"] and summary["after"]:
        lines += held_out_lines(summary["before"], summary["after"], summary["held_out_by"])
    for expert, part in (summary["experts"] or {}).items():
        if part["before"] and part["after"]:
            lines.append(f"the {expert}-noise transformer, on its own noise levels:")
            lines += held_out_lines(part["before"], part["after"], part["held_out_by"])
    if summary["stopped"]:
        lines.append(f"stopped    {summary['stopped']}")
    return "\n".join(lines)
