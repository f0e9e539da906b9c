"""The plan of a build, made from the clips, the settings and the model's JSON files alone.

Everything random about a pair follows from its id, and the id follows from the pair's ingredients.
So the same command plans the same pairs on every machine.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow.compute as pc

from realdpo import ids, tables
from realdpo.errors import UserError
from realdpo.families import Family, Traits, family_of
from realdpo.families.load import Model, dtype_on, locate_model
from realdpo.families.sample import GenerationSettings, settings_from
from realdpo.families.spec import spec_of_folder, with_task
from realdpo.families.weights import lora_id
from realdpo.pairs import conform
from realdpo.pairs.config import BuildConfig
from realdpo.pairs.conform import Form
from realdpo.regions import Region
from realdpo.rows import ClipRow
from realdpo.workspace import Workspace

_COLUMNS = [
    *("clip_id", "keep", "status", "path", "split", "prompt", "sha256"),
    *("width", "height", "frames", "fps"),
    *("source_id", "license", "author", "source_url", "title", "keywords", "retrieved_at"),
]
FORMAT = 2  # version of a pair's ingredients; if you raise it, every pair is made again


@dataclass(frozen=True)
class PairTask:
    """One pair to make. If `unfit` says why it cannot be made, `settings` is None."""

    pair_id: str
    clip: ClipRow
    settings: GenerationSettings | None
    unfit: str | None = None

    @property
    def form(self) -> Form:
        assert self.settings is not None
        s = self.settings
        return Form(s.width, s.height, s.frames, Fraction(s.fps).limit_denominator(1001))


@dataclass(frozen=True)
class BuildPlan:
    """The plan of a build: the model as found, and a task for every clip.

    scheduler: name of the diffusers class. dtype: number format of the weights, with `auto`
    resolved.
    """

    config: BuildConfig
    model: Model
    family: Family
    lora: str | None
    scheduler: str
    dtype: str
    tasks: tuple[PairTask, ...]

    @property
    def traits(self) -> Traits:
        return self.family.traits


def plan_pairs(workspace: Workspace, config: BuildConfig, device: str = "auto") -> BuildPlan:
    """Plan the pairs from the clips and the model's JSON files. Loads no weights.

    device: the device that will make them, which decides the dtype of `auto`. Raises UserError if
    there are no clips, if the model is missing, or if it cannot make the shape.
    """
    workspace.require(workspace.clips, "curate ingest FOOTAGE")
    model = locate_model(config.model, config.revision)
    spec = with_task(spec_of_folder(model.folder), config.task)
    family = family_of(spec)
    if not family.LATENTS_KNOWN and (
        config.roundtrip_win or any(config.strategies.get(s) for s in ("renoise", "local"))
    ):
        raise UserError(
            f"realdpo does not know the latents of {spec.pipeline}, so it cannot pass winners "
            "through the VAE or renoise clips",
            "use --strategies generate and --no-roundtrip-win with this model",
        )
    scheduler = str(spec.get("scheduler", "_class_name", "?"))
    for strategy, can, words in (
        ("renoise", family.TAKES_LATENTS, "cannot start from a noised clip"),
        ("local", family.KEEPS_REGIONS, "cannot keep a region between its steps"),
    ):
        if config.strategies.get(strategy) and not can:
            raise UserError(
                f"{spec.pipeline} {words}", f"leave {strategy} out of --strategies with this model"
            )
    dtype = dtype_on(config.dtype, device)
    found = BuildPlan(config, model, family, lora_id(config.lora), scheduler, dtype, ())
    clips = tables.read_table(workspace.clips, tables.CLIPS, _COLUMNS)
    chosen = clips.filter(
        pc.field("keep")
        & (pc.field("status") == "ok")
        & pc.field("path").is_valid()
        & pc.field("split").isin(list(config.splits))
    ).to_pylist()
    if not chosen:
        raise UserError(
            f"{workspace.clips} holds no accepted clip in {', '.join(config.splits)}",
            f"see why with: realdpo curate report -w {workspace.root}",
        )
    common = _common(found)
    shapes: dict[tuple[Any, ...], GenerationSettings | str] = {}
    tasks = sorted(
        (_task(found, common, shapes, clip) for clip in chosen), key=lambda task: task.pair_id
    )
    if not any(task.clip["prompt"] for task in tasks):
        raise UserError(
            f"none of the {len(tasks)} clips has a prompt",
            f"caption them: realdpo curate caption -w {workspace.root}, or take file names as "
            "prompts: realdpo curate ingest FOOTAGE --set captions.file_names=true",
        )
    if all(task.unfit for task in tasks):
        raise UserError(
            f"none of the {len(tasks)} clips fits {model.id}: {tasks[0].unfit}",
            "ingest with the --target of this model, or set the pairs' fps, frames, width and "
            "height (--set fps=8)",
        )
    return dataclasses.replace(found, tasks=tuple(tasks))


def _common(made_by: BuildPlan) -> str:
    """The part of a pair's id that all pairs of a build share."""
    config = made_by.config
    return ids.content_id(
        format=FORMAT,
        model=made_by.model.id,
        revision=made_by.model.revision,
        lora=made_by.lora,
        lora_scale=config.lora_scale if made_by.lora else None,
        round=config.round,
        strategies={k: v for k, v in sorted(config.strategies.items()) if v > 0},
        strength=list(config.strength),
        local_strength=list(config.local_strength),
        roundtrip=config.roundtrip_win,
        encoder=conform.pair_encoder(config.crf),
        seed=config.seed,
        task=config.task,
        dtype=made_by.dtype,
        quantization=config.quantization,
        **({"guide": config.guide} if config.guide else {}),
    )


def _task(
    made_by: BuildPlan,
    common: str,
    shapes: dict[tuple[Any, ...], GenerationSettings | str],
    clip: ClipRow,
) -> PairTask:
    """The task of a clip.

    `shapes` caches the settings for each shape of clip, or why it is unfit.
    """
    shape = (clip["width"], clip["height"], clip["frames"], clip["fps"])
    if shape not in shapes:
        try:
            shapes[shape] = _settings(made_by.config, made_by.family, clip)
        except conform.Unfit as error:
            shapes[shape] = str(error)
    made = shapes[shape] if clip["prompt"] else "the clip has no prompt"
    settings = None if isinstance(made, str) else made
    pair_id = ids.content_id(
        common=common,
        clip=clip["clip_id"],
        clip_bytes=clip["sha256"],
        prompt=clip["prompt"],
        settings=None if settings is None else settings.key(),
    )
    return PairTask(pair_id, clip, settings, made if isinstance(made, str) else None)


def _settings(config: BuildConfig, family: Family, clip: ClipRow) -> GenerationSettings:
    """Settings with the model's own shape, or the nearest legal one that the clip fills.

    Raises Unfit.
    """
    traits = family.traits
    own = traits.known(
        width=config.width, height=config.height, frames=config.frames, fps=config.fps
    )
    fps = Fraction(own["fps"]).limit_denominator(1001)
    available = len(conform.frames_at(clip["frames"], Fraction(clip["fps"]), fps))
    frames = config.frames or traits.legal_frames(min(own["frames"], available))
    width, height = traits.legal_size(
        min(clip["width"], own["width"]), min(clip["height"], own["height"])
    )
    width, height = config.width or width, config.height or height
    if frames < 2 or frames > available:
        raise conform.Unfit(
            f"the clip gives {available} frames at {float(fps):g} a second, but "
            f"{config.frames or traits.frame_step + 1} are needed"
        )
    if not width or not height or width > clip["width"] or height > clip["height"]:
        raise conform.Unfit(
            f"the clip is {clip['width']}x{clip['height']}, too small for this model"
            + (
                f", which makes only {traits.width}x{traits.height}"
                if len(traits.sizes) == 1
                else ""
            )
        )
    return settings_from(
        family,
        width=width,
        height=height,
        frames=frames,
        fps=float(fps),
        steps=config.steps,
        guidance=config.guidance,
        negative_prompt=config.negative_prompt,
        call=config.call,
        scheduler=config.scheduler,
    )


@dataclass(frozen=True)
class Loser:
    """How one loser is made. All of it follows from the pair's id and the settings."""

    seed: int
    strategy: str
    strength: float | None = None
    region: Region | None = None


def plan_loser(pair_id: str, k: int, config: BuildConfig) -> Loser:
    """The plan of a pair's k-th loser: the same on every machine and for any number of losers."""
    weights = {name: w for name, w in sorted(config.strategies.items()) if w > 0}
    at = ids.unit_interval(pair_id, k, "strategy") * sum(weights.values())
    strategy = list(weights)[-1]
    for name, weight in weights.items():
        if at < weight:
            strategy = name
            break
        at -= weight
    seed = ids.seed_of(pair_id, k, "seed")
    if strategy == "generate":
        return Loser(seed, strategy)
    low, high = config.strength if strategy == "renoise" else config.local_strength
    strength = low + (high - low) * ids.unit_interval(pair_id, k, "strength")
    if strategy == "renoise":
        return Loser(seed, strategy, strength)
    # A third to two thirds of each side, half to all of the time. A pair has one region, so a loss
    # can look at it on both sides and for every loser.
    sides = [_span(pair_id, name, 1 / 3, 2 / 3) for name in ("rows", "columns")]
    return Loser(seed, strategy, strength, Region(_span(pair_id, "time", 0.5, 1.0), *sides))


def _span(pair_id: str, name: str, low: float, high: float) -> tuple[float, float]:
    size = low + (high - low) * ids.unit_interval(pair_id, name, "size")
    start = (1 - size) * ids.unit_interval(pair_id, name, "start")
    return start, start + size
