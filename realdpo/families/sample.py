"""Videos from a pipeline by prompt and first frame: the one way of all that sample from a model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families import family_of
from realdpo.families.base import Family, Traits
from realdpo.families.load import spec_of_pipeline
from realdpo.families.memory import memory_told

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Video = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GenerationSettings:
    """Shape and sampling of a video: pixels, frames, frames a second, steps, guidance scale.

    call: further arguments of the pipeline's call, by name. scheduler: settings of its scheduler
    that differ from the folder's.
    """

    width: int
    height: int
    frames: int
    fps: float
    steps: int
    guidance: float
    negative_prompt: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)


def settings_for(pipe: Any, **changes: Any) -> GenerationSettings:
    """The settings a model's authors recommend, with `changes` (None changes nothing).

    Raises UserError with the nearest legal values when the model cannot make that shape.
    """
    return settings_from(family_of(spec_of_pipeline(pipe)).traits, **changes)


def settings_from(traits: Traits, **changes: Any) -> GenerationSettings:
    """As `settings_for`, from a model's traits alone; `call` and `scheduler` add to its own."""
    names = ("width", "height", "frames", "fps", "steps", "guidance", "negative_prompt")
    defaults = {name: getattr(traits, name) for name in names}
    given = {name: value for name, value in changes.items() if value is not None}
    for name in ("call", "scheduler"):
        given[name] = {**getattr(traits, name), **given.get(name, {})}
    settings = GenerationSettings(**{**defaults, **given})
    traits.check(settings.width, settings.height, settings.frames)
    return settings


def generate_video(
    pipe: Any,
    family: Family,
    prompt: str,
    image: Video | None,
    seed: int,
    settings: GenerationSettings,
) -> Video:
    """A video for `prompt`: uint8 [F, H, W, 3], the same for the same seed on the same device.

    image: uint8 [H, W, 3], the first frame, for image-to-video models and None for others.
    NaN becomes 0; use `sample` to see it. Raises OutOfMemory, which says what to try next.
    """
    return to_uint8(sample(pipe, family, prompt, image, seed, settings))


def sample(
    pipe: Any,
    family: Family,
    prompt: str,
    image: Video | None,
    seed: int,
    settings: GenerationSettings,
    **more: Any,
) -> npt.NDArray[np.float32]:
    """As `generate_video`, but float32 in 0..1 with whatever NaN the model made.

    `more` goes to the pipeline's call.
    """
    import numpy as np
    import torch
    from PIL import Image

    set_scheduler(pipe, settings.scheduler)
    arguments: dict[str, Any] = {
        "prompt": prompt,
        "height": settings.height,
        "width": settings.width,
        "num_frames": settings.frames,
        "num_inference_steps": settings.steps,
        # on the CPU, so that the noise does not depend on the kind of GPU
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "np",
        **family.arguments(settings),
        **settings.call,
        **more,
    }
    if family.task == "i2v":
        if image is None:
            raise ValueError("an image-to-video model needs the first frame")
        arguments["image"] = Image.fromarray(image)
    # some parts draw from the global generator; seeded and restored, it changes nothing else
    with torch.random.fork_rng(devices=[]), torch.no_grad(), memory_told(pipe):
        torch.manual_seed(seed)
        frames = pipe(**arguments).frames[0]
    video = np.asarray(frames, dtype=np.float32)
    if video.shape != (settings.frames, settings.height, settings.width, 3):
        raise RuntimeError(
            f"{type(pipe).__name__} made {video.shape}, asked for {settings.frames} frames of "
            f"{settings.width}x{settings.height}"
        )
    return video


def set_scheduler(pipe: Any, changes: Mapping[str, Any]) -> None:
    """Give the pipeline its scheduler with these settings; one that has them stays as it is.

    Raises UserError for a setting that the scheduler does not take.
    """
    kind, config = type(pipe.scheduler), pipe.scheduler.config
    if all(name in config and config[name] == value for name, value in changes.items()):
        return
    check_names("scheduler", kind.__name__, changes, inspect.signature(kind.__init__).parameters)
    pipe.scheduler = kind.from_config(config, **changes)


def check_settings(pipeline: str, scheduler: str, settings: GenerationSettings) -> None:
    """Raises UserError for a `call` or `scheduler` setting that diffusers' classes do not take."""
    if not (settings.call or settings.scheduler):
        return
    import diffusers

    for what, kind, names in (
        ("call", pipeline, settings.call),
        ("scheduler", scheduler, settings.scheduler),
    ):
        found = getattr(diffusers, kind, None)
        if found is not None:
            method = found.__call__ if what == "call" else found.__init__
            check_names(what, kind, names, inspect.signature(method).parameters)


# What is set for every video by itself; the rest of a call is anybody's to set.
_OWN = {
    "prompt": "the clip's own",
    "image": "the clip's first frame",
    "generator": "seeded by the pair's id",
    "output_type": "always numpy",
    "latents": "of the strategy",
    "height": "set height instead",
    "width": "set width instead",
    "num_frames": "set frames instead",
    "num_inference_steps": "set steps instead",
    "guidance_scale": "set guidance instead",
    "negative_prompt": "set negative_prompt instead",
}


def check_names(what: str, kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError for a name that is not known, with those that are close to it."""
    names = [name for name in known if name != "self" and not (what == "call" and name in _OWN)]
    for name in given:
        if what == "call" and name in _OWN:
            raise UserError(f"{what}.{name} cannot be set: {_OWN[name]}")
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise UserError(
                f"{kind} takes no {what} setting {name!r}",
                f"did you mean {what}.{close[0]}?" if close else f"it takes {', '.join(names)}",
            )


def to_uint8(video: npt.NDArray[np.float32]) -> Video:
    """Values in 0..1 to bytes, rounded; NaN becomes 0."""
    import numpy as np

    given = video.reshape(-1)
    made = np.empty(given.shape, np.uint8)
    for start in range(0, given.size, _BLOCK):  # in pieces that stay in the cache
        part = slice(start, start + _BLOCK)
        made[part] = np.round(np.nan_to_num(given[part]).clip(0, 1) * 255)
    return made.reshape(video.shape)


_BLOCK = 1 << 16
