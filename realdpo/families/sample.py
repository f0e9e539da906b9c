"""Videos from a pipeline by prompt and first frame: the one way of all that sample from a model."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families import family_of
from realdpo.families.base import Family
from realdpo.families.memory import memory_told
from realdpo.families.spec import spec_of_pipeline

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Video = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GenerationSettings:
    """Shape and sampling of a video: pixels, frames, frames a second, steps, guidance scale.

    call, scheduler: further arguments of the pipeline's call and settings of its scheduler.
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

    def key(self) -> dict[str, Any]:
        """All that changes the video, for ids; what is empty is left out."""
        return {k: v for k, v in asdict(self).items() if v or k not in ("call", "scheduler")}


def settings_for(pipe: Any, **changes: Any) -> GenerationSettings:
    """The settings a model's authors recommend, with `changes` (None changes nothing).

    Raises UserError with the nearest legal values when the model cannot make that shape.
    """
    return settings_from(family_of(spec_of_pipeline(pipe)), **changes)


def settings_from(family: Family, **changes: Any) -> GenerationSettings:
    """As `settings_for`, from a model's files alone.

    call and scheduler add to those of the authors. Raises UserError for a name that the
    pipeline's call or the scheduler does not know.
    """
    traits = family.traits
    names = ("steps", "guidance", "negative_prompt")
    given = {name: value for name, value in changes.items() if value is not None}
    call, scheduler = given.pop("call", {}), given.pop("scheduler", {})
    own = {name: getattr(traits, name) for name in names}
    settings = GenerationSettings(**{**own, **traits.known(**given), **given})
    traits.check(settings.width, settings.height, settings.frames)
    _require_known(family, call, scheduler)
    return replace(
        settings,
        call={**traits.call, **call},
        scheduler={**traits.scheduler, **family.scheduler(settings), **scheduler},
    )


def _require_known(family: Family, call: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    import diffusers

    if call:
        if own := sorted(call.keys() & _OWN.keys()):
            raise UserError(f"call.{own[0]} cannot be set: {_OWN[own[0]]}")
        kind = getattr(diffusers, family.spec.pipeline)
        known = set(inspect.signature(kind.__call__).parameters) - {"self", *_OWN}
        if unknown := sorted(set(call) - known):
            raise UserError(
                f"{family.spec.pipeline} has no argument {unknown[0]!r}",
                _nearest("call", unknown[0], known),
            )
    if scheduler:
        name = str(family.spec.get("scheduler", "_class_name"))
        kind = getattr(diffusers, name, None)
        known = set(inspect.signature(kind.__init__).parameters) - {"self"} if kind else set()
        if kind and (unknown := sorted(set(scheduler) - known)):
            raise UserError(
                f"{name} has no setting {unknown[0]!r}", _nearest("scheduler", unknown[0], known)
            )


# What is set for every video by itself; the rest of a call is anybody's to set.
_OWN = {
    "prompt": "it is the clip's own",
    "image": "it is the clip's first frame",
    "generator": "it is seeded by the video's id",
    "output_type": "it is always numpy",
    "latents": "they are the strategy's",
    "height": "set height instead",
    "width": "set width instead",
    "num_frames": "set frames instead",
    "num_inference_steps": "set steps instead",
    "guidance_scale": "set guidance instead",
    "negative_prompt": "set negative_prompt instead",
}


def _nearest(what: str, name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {what}.{close[0]}?" if close else f"it takes {', '.join(sorted(known))}"


@contextlib.contextmanager
def changed_scheduler(pipe: Any, settings: GenerationSettings) -> Iterator[None]:
    """The pipeline with the scheduler's settings changed as asked, for as long as it lasts.

    A guider that is changed meanwhile comes back as well.
    """
    own, guider = pipe.scheduler, getattr(pipe, "guider", None)
    if any(own.config.get(name) != value for name, value in settings.scheduler.items()):
        pipe.scheduler = type(own).from_config(own.config, **settings.scheduler)
    try:
        yield
    finally:
        pipe.scheduler = own
        if guider is not None:
            pipe.guider = guider


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
    NaN becomes 0; use `sample_frames` to see it. Raises OutOfMemory, which says what to try next.
    """
    return to_uint8(sample_frames(pipe, family, prompt, image, seed, settings))


def sample_frames(
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
    taken = inspect.signature(type(pipe).__call__).parameters
    # one that starts from a picture may take its size; another calls its frames otherwise
    for name in ("height", "width", "num_frames"):
        if name not in taken:
            del arguments[name]
    # some parts draw from the global generator; seeded and restored, it changes nothing else
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        memory_told(pipe),
        changed_scheduler(pipe, settings),
    ):
        torch.manual_seed(seed)
        family.prepare(pipe, settings)
        try:
            frames = pipe(**arguments).frames[0]
        except (UserError, RuntimeError, ValueError, MemoryError):
            raise
        except Exception as error:  # pipelines raise what they like; a failed video all the same
            raise RuntimeError(f"{type(pipe).__name__}: {type(error).__name__}: {error}") from error
    video = np.asarray(frames, dtype=np.float32)
    if video.shape != (settings.frames, settings.height, settings.width, 3):
        raise RuntimeError(
            f"{type(pipe).__name__} made {video.shape}, asked for {settings.frames} frames of "
            f"{settings.width}x{settings.height}"
        )
    return video


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
