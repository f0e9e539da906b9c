"""Videos from a pipeline by prompt and first frame: the one way of all that sample from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """Shape and sampling of a video: pixels, frames, frames a second, steps, guidance scale."""

    width: int
    height: int
    frames: int
    fps: float
    steps: int
    guidance: float
    negative_prompt: str = ""


def settings_for(pipe: Any, **changes: Any) -> GenerationSettings:
    """The settings a model's authors recommend, with `changes` (None changes nothing).

    Raises UserError with the nearest legal values when the model cannot make that shape.
    """
    return settings_from(family_of(spec_of_pipeline(pipe)).traits, **changes)


def settings_from(traits: Traits, **changes: Any) -> GenerationSettings:
    """As `settings_for`, from a model's traits alone."""
    defaults = {
        name: getattr(traits, name)
        for name in ("width", "height", "frames", "fps", "steps", "guidance")
    }
    given = {name: value for name, value in changes.items() if value is not None}
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
