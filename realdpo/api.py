"""The functions that Python users and the commands call: `train`, `sample` and `evaluate`.

`realdpo.curate` and `realdpo.pairs` have their own. `realdpo` shows how to use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from realdpo.workspace import Workspace

if TYPE_CHECKING:
    from realdpo.train.config import TrainConfig
    from realdpo.train.evaluate.config import EvalConfig
    from realdpo.train.runs import Run


def train(
    work: Workspace | str | Path,
    *,
    preset: str = "realdpo",
    config: TrainConfig | None = None,
    on_step: Callable[[Mapping[str, float]], None] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Fine-tune a model, or continue where a run of that name stopped. Returns the run.

    Args:
        work: the workspace, or its folder.
        preset: settings that yours override; see `realdpo.train.config.PRESETS`.
        config: whole settings, instead of a preset and single ones.
        on_step: function called after every step with its numbers (`loss`, `lr`, `grad_norm`, ...).
        progress: show a progress bar on stderr.
        settings: fields of `realdpo.train.config.TrainConfig`, such as `model` and `steps`.

    Raises:
        UserError: a setting is wrong, or the workspace has nothing to train on.
    """
    from realdpo.config import settings_to_toml
    from realdpo.progress import process_rank, show_progress
    from realdpo.train import loop
    from realdpo.train.runs import Run

    workspace = Workspace.of(work)
    chosen = config or _train_settings(preset, settings)
    if process_rank():  # one of several processes: only the first takes the lock and shows progress
        with show_progress(False):
            return Run(loop.run_training(workspace, chosen, on_step).folder)
    with show_progress(progress), workspace.lock("train"):
        workspace.save_config("train", settings_to_toml("train", chosen))
        return Run(loop.run_training(workspace, chosen, on_step).folder)


def run_rounds(
    work: Workspace | str | Path,
    count: int,
    *,
    reference: Literal["base", "last"] = "base",
    prompts: int = 8,
    keep_going: bool = False,
    preset: str = "realdpo",
    config: TrainConfig | None = None,
    processes: int = 1,
    devices: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Train in rounds, each from the last round's weights, until one no longer helps.

    Args:
        work: the workspace, or its folder.
        count: largest number of rounds.
        reference: the model that a round is contrasted with: the base, or the last round's.
        prompts: number of validation prompts for videos after each round; 0 makes none.
        keep_going: train all rounds, whether they help or not.
        preset, config, settings: settings of every round, as in `train`.
        processes: number of training processes on this machine, one per GPU.
        devices: devices for the videos: `auto` for every GPU, or names joined by commas.
        progress: show progress bars on stderr.

    Returns:
        `rounds`, the name of the `best` run (empty: the base), and `page`.

    Raises:
        UserError: a setting is wrong, or the workspace has nothing to train on.
    """
    from realdpo import rounds
    from realdpo.families.load import device_names
    from realdpo.progress import show_progress

    chosen = config or _train_settings(preset, settings)
    with show_progress(progress):
        return rounds.run_rounds(
            Workspace.of(work),
            chosen,
            count,
            against=reference,
            prompts=prompts,
            keep_going=keep_going,
            processes=processes,
            devices=device_names(devices),
        )


def evaluate(
    work: Workspace | str | Path,
    *,
    systems: Mapping[str, str | Path | Run] | None = None,
    config: EvalConfig | None = None,
    devices: str = "auto",
    shard: tuple[int, int] = (1, 1),
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any] | None:
    """Compare systems on the same prompts and seeds, and write a page with the evidence.

    Args:
        work: the workspace, or its folder.
        systems: name -> a `Run`, the name of one, a model, MODEL+LORA, or a folder of videos.
        config: whole settings, instead of `systems` and single ones.
        devices: `auto` for every GPU, or names joined by commas.
        shard: (i, n) makes the i-th of n parts of the videos, counting from 1.
        progress: show progress bars on stderr.
        settings: fields of `realdpo.train.evaluate.config.EvalConfig`, such as `prompts`.

    Returns:
        The summary that the page shows, or None if only a part of the videos was made.

    Raises:
        UserError: a setting is wrong, or a system is missing.
    """
    from realdpo.config import build_settings, settings_to_toml
    from realdpo.families.load import device_names
    from realdpo.progress import show_progress
    from realdpo.train.evaluate import commands
    from realdpo.train.evaluate.config import EvalConfig

    workspace = Workspace.of(work)
    named = {name: system_text(what, workspace) for name, what in (systems or {}).items()}
    chosen = config or build_settings(EvalConfig, {**settings, "systems": named}, "eval")
    with show_progress(progress), workspace.lock(f"eval --name {chosen.name}"):
        workspace.save_config("eval", settings_to_toml("eval", chosen))
        return commands.evaluate_and_report(workspace, chosen, device_names(devices), shard)


def sample(
    run: Run,
    *,
    prompts: Sequence[str] = (),
    images: Sequence[str | Path] = (),
    guide: float | Literal["negative"] | None = None,
    base: bool = True,
    limit: int = 4,
    devices: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Make videos with a run and its base, from the same prompts and seeds, on one page.

    Args:
        run: the result of `realdpo.train`.
        prompts: prompts of the videos; without any, those of the workspace's split.
        images: first frames for image-to-video, one per prompt or one for all.
        guide: also sample the run guided by its base, with this strength, or with the base as the
            `negative` forward.
        base: also make the videos of the base.
        limit: largest number of prompts from the split; 0 takes all.
        devices: `auto` for every GPU, or names joined by commas.
        progress: show progress bars on stderr.
        settings: fields of `realdpo.train.evaluate.config.SampleConfig`, such as `seeds`, `steps`.

    Returns:
        `videos` (system -> paths), `moved` (how far each system is from the base), and `page`.

    Raises:
        UserError: a setting is wrong, a picture cannot be read, or the run has no weights.
    """
    from realdpo.config import build_settings
    from realdpo.families.load import device_names
    from realdpo.progress import show_progress
    from realdpo.train.evaluate import samples
    from realdpo.train.evaluate.config import SampleConfig

    workspace = Workspace(run.folder.parent.parent)
    systems = samples.systems_for(workspace, [run.name], guide, None, base)
    given = {"name": f"of-{run.name}", "prompts": limit, **settings, "systems": systems}
    chosen = build_settings(SampleConfig, given, "sample")
    pictures = [Path(image) for image in images]
    with show_progress(progress):
        return samples.sample_prompts(
            workspace, chosen, prompts, None, pictures, device_names(devices)
        )


def _train_settings(preset: str, settings: Mapping[str, Any]) -> TrainConfig:
    from realdpo.config import build_settings
    from realdpo.train.config import TrainConfig, preset_settings

    return build_settings(TrainConfig, {**preset_settings(preset), **settings}, "train")


def system_text(what: str | Path | Run, workspace: Workspace) -> str:
    """`what` as it is written in `--system NAME=WHAT`."""
    if isinstance(what, (str, Path)):
        return str(what)
    if what.folder.resolve().parent == workspace.runs.resolve():
        return what.name
    return f"{what.model}+{what.weights}"
