"""The plan of an evaluation: systems, prompts with first frames, one form, videos to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from realdpo import progress, report
from realdpo.errors import UserError
from realdpo.families import family_of
from realdpo.families.load import dtype_on
from realdpo.families.sample import GenerationSettings, settings_from
from realdpo.files import write_bytes
from realdpo.ids import content_id, file_hash, seed_of
from realdpo.media import MediaError
from realdpo.media.decode import read_clip
from realdpo.pairs import conform
from realdpo.train.evaluate import benchmark
from realdpo.train.evaluate.benchmark import Item
from realdpo.train.evaluate.config import SampleConfig
from realdpo.train.evaluate.systems import NEUTRAL, System, resolve_system, spec_of_system
from realdpo.workspace import Workspace

VERSION = 1  # raise if the same weights, settings and seed give another video


@dataclass(frozen=True)
class VideoTask:
    """One video to make.

    key: the name of its file. image: the file of the conformed first frame.
    """

    key: str
    system: str
    item: str
    prompt: str
    number: int
    seed: int
    image: str | None


Chosen = TypeVar("Chosen", bound=SampleConfig)


@dataclass(frozen=True)
class EvalPlan(Generic[Chosen]):
    """Systems, items, sampling and form of videos, and the videos to make.

    settings: None if every system is a folder of finished videos. Then their form is taken.
    """

    folder: Path
    config: Chosen
    systems: tuple[System, ...]
    items: tuple[Item, ...]
    settings: GenerationSettings | None
    form: conform.Form
    tasks: tuple[VideoTask, ...] = ()

    def video(self, key: str) -> Path:
        return self.folder / "videos" / f"{key}.mp4"


def plan_evaluation(
    workspace: Workspace, config: Chosen, folder: Path | None = None
) -> EvalPlan[Chosen]:
    """Resolve systems, items and form, and write first frames and real clips in that form.

    Raises UserError if a system, the benchmark or a shape is wrong.
    """
    systems = systems_of(workspace, config)
    settings = _settings(systems, config)
    items = items_of(workspace, config, settings.width / settings.height if settings else 1.5)
    form = _form(settings, systems, items, config.seeds)
    folder = folder or workspace.evaluations / config.name
    planned = EvalPlan(folder, config, systems, (), settings, form)
    fitting = [fit for item in items if (fit := _conformed(planned, item)) is not None]
    if not fitting:
        raise UserError(
            f"none of the {len(items)} clips is large and long enough for the form of the videos",
            "choose a smaller --set width/height/frames/fps, or longer clips",
        )
    if needs_picture := _needs_picture(systems):
        lacking = [item for item in fitting if item.image is None]
        if lacking:
            raise UserError(
                f"{needs_picture} starts from a first frame, and {len(lacking)} prompts have none",
                "use a benchmark with first frames, or text-to-video models",
            )
    elif settings is not None:  # text-to-video models get no first frame, so none is compared
        fitting = [replace(item, image=None) for item in fitting]
    planned = replace(planned, items=tuple(fitting))
    tasks = [
        _task(planned, system, item, number)
        for item in planned.items
        for number in range(config.seeds)
        for system in systems
        if not system.videos
    ]
    return replace(planned, tasks=tuple(tasks))


def systems_of(workspace: Workspace, config: SampleConfig) -> tuple[System, ...]:
    """The systems that the user named. Raises UserError if there is none, or if one is unknown."""
    if not config.systems:
        raise UserError("no system to evaluate", "give --system base=MODEL --system dpo=RUN")
    return tuple(
        resolve_system(workspace, name, text, config.task) for name, text in config.systems.items()
    )


def items_of(workspace: Workspace, config: SampleConfig, aspect: float = 1.5) -> list[Item]:
    """The prompts of the benchmark's folder, or else of the workspace's split."""
    if config.benchmark:
        items = benchmark.read_benchmark(Path(config.benchmark), aspect)
    else:
        items = benchmark.of_workspace(workspace, config.split)
    return items[: config.prompts or None]


def _settings(systems: Sequence[System], config: SampleConfig) -> GenerationSettings | None:
    """The form and sampling of all systems: those of the base model, with the user's changes."""
    models = [s for s in systems if not s.videos]
    models.sort(key=lambda s: s.name != config.base_name)
    names = [
        *("width", "height", "frames", "fps", "steps", "guidance"),
        *("negative_prompt", "call", "scheduler"),
    ]
    changes = {name: getattr(config, name) for name in names}
    settings = None
    for system in models:
        family = family_of(spec_of_system(system))
        if settings is None:
            settings = settings_from(family, **changes)
        else:
            family.traits.check(settings.width, settings.height, settings.frames)
    return settings


def _needs_picture(systems: Sequence[System]) -> str:
    """The name of a system that starts from a first frame, or an empty string."""
    for system in systems:
        if system.videos:
            continue
        if family_of(spec_of_system(system)).task == "i2v":
            return system.name
    return ""


def _form(
    settings: GenerationSettings | None,
    systems: Sequence[System],
    items: Sequence[Item],
    seeds: int,
) -> conform.Form:
    """The form of every video: as asked of the models, or else as the first finished video has it.

    Raises UserError for a folder in which no video has a prompt's name.
    """
    found = None
    for system in systems:
        if not system.videos:
            continue
        folder = Path(system.videos)
        files = (benchmark.find_video(folder, i, k) for i in items for k in range(seeds))
        present = [path for path in files if path is not None]
        if not present:
            raise UserError(
                f"{system.name}: no video in {folder} has the name of one of the {len(items)} "
                "prompts",
                f"name them like {items[0].names[0]}-0.mp4, where 0 is the number of the seed",
            )
        found = found or _form_of(present)
    if settings is not None:
        fps = Fraction(settings.fps).limit_denominator()
        return conform.Form(settings.width, settings.height, settings.frames, fps)
    if found is None:
        raise UserError("no finished video can be read", "check that the folders hold videos")
    return found


def _form_of(paths: Sequence[Path]) -> conform.Form | None:
    for path in paths:
        try:
            video, fps = read_clip(path)
        except MediaError:  # reported later, when every file is measured
            continue
        return conform.Form(video.shape[2], video.shape[1], len(video), Fraction(fps))
    return None


def _conformed(planned: EvalPlan[Any], item: Item) -> Item | None:
    """The item with its first frame (PNG) and real clip in the videos' form, stored in the folder.

    If videos are to be made, a clip that is too short or too small gives None. Finished videos are
    measured without it.
    """
    form = planned.form
    key = content_id(
        item=item.item_id,
        form=asdict(form),
        files=[file_hash(p) for p in (item.image, item.clip) if p],
    )
    image, clip = (planned.folder / "inputs" / f"{key}{end}" for end in (".png", ".mp4"))
    if item.clip is not None and not clip.is_file():
        try:
            video, fps = read_clip(item.clip)
            video = conform.conform_real(video, fps, form)
        except MediaError as error:
            raise UserError(f"the clip {item.clip} cannot be read: {error}") from None
        except conform.Unfit as error:
            progress.say(f"left out {item.item_id}: {error}")
            if planned.settings is not None:
                return None
            return _conformed(planned, replace(item, clip=None))
        _write_picture(image, video[0])
        write_bytes(clip, conform.encode_side(video, form, planned.config.crf))
    elif item.clip is None and item.image is not None and not image.is_file():
        picture = benchmark.load_picture(item.image)
        _write_picture(image, benchmark.crop_and_scale(picture, form.width, form.height))
    has_image = item.image is not None or item.clip is not None
    return replace(item, image=image if has_image else None, clip=clip if item.clip else None)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    write_bytes(path, report.encode_png(Image.fromarray(picture)))


def _task(planned: EvalPlan[Any], system: System, item: Item, number: int) -> VideoTask:
    seed = seed_of(planned.config.seed, item.item_id, number)
    assert planned.settings is not None
    key = content_id(
        revision=system.revision,
        prompt=item.prompt,
        image=file_hash(item.image) if item.image else None,
        seed=seed,
        settings=planned.settings.key(),
        crf=planned.config.crf,
        dtype=dtype_on(planned.config.dtype, "auto"),
        version=VERSION,
        **{k: how for k, v in NEUTRAL.items() if (how := getattr(system, k)) != v},
    )
    image = str(item.image) if item.image else None
    return VideoTask(key, system.name, item.item_id, item.prompt, number, seed, image)
