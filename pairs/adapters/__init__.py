"""One small file a model family: legal shapes, defaults, how to call it, how its latents look.

`of(facts)` gives the module that knows a pipeline's class, `generic` for any other. Every module
has the members of `Adapter`. Nothing here imports torch or diffusers until a video is made: the
facts are read from the pipeline's own JSON files, so that a plan needs no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from realdpo.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Facts:
    """What a pipeline folder says of itself: its class and the configuration of each part."""

    pipeline: str
    parts: Mapping[str, Mapping[str, Any]]

    def get(self, part: str, key: str, default: Any = None) -> Any:
        value = self.parts.get(part, {}).get(key)
        return default if value is None else value


@dataclass(frozen=True)
class Traits:
    """What a model can make and how it is best asked.

    task: "t2v" or "i2v". width, height: multiples of `size_step`. frames: a multiple of
    `frame_step` plus one. fixed: its positions were learned for `width` and `height`, and it makes
    no other size. The rest are the settings its authors recommend.
    """

    task: str
    size_step: int
    frame_step: int
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    guidance: float
    fixed: bool = False

    def legal_size(self, width: int, height: int) -> tuple[int, int]:
        """The largest legal (width, height) within the given one; (0, 0) when there is none."""
        if self.fixed:
            fits = width >= self.width and height >= self.height
            return (self.width, self.height) if fits else (0, 0)
        w, h = width - width % self.size_step, height - height % self.size_step
        return (w, h) if w and h else (0, 0)

    def legal_frames(self, frames: int) -> int:
        """The largest legal number of frames that is at most `frames`; 0 when there is none.

        One frame is legal for the network but is no video, so it does not count.
        """
        count = (frames - 1) // self.frame_step * self.frame_step + 1
        return count if count > 1 else 0

    def check(self, width: int, height: int, frames: int) -> None:
        """Raises UserError with the nearest legal values when the shape is not legal."""
        if self.fixed and (width, height) != (self.width, self.height):
            raise UserError(
                f"this model cannot make {width}x{height} video: its positions were learned for "
                "one size",
                f"the only legal size is {self.width}x{self.height}",
            )
        if width % self.size_step or height % self.size_step or width <= 0 or height <= 0:
            step = self.size_step
            near = [max(step, round(v / step) * step) for v in (width, height)]
            raise UserError(
                f"this model cannot make {width}x{height} video: sides are multiples of {step}",
                f"the nearest legal size is {near[0]}x{near[1]}",
            )
        if frames < 2 or (frames - 1) % self.frame_step:
            step = self.frame_step
            near_frames = max(1, round((frames - 1) / step)) * step + 1
            raise UserError(
                f"this model cannot make {frames} frames: their number is a multiple of "
                f"{step}, plus 1",
                f"the nearest legal number is {near_frames}",
            )


class Adapter(Protocol):
    """What each module of this package provides. FRAME_AXIS: of time in the latents of `encode`."""

    NAME: str
    FRAME_AXIS: int

    @staticmethod
    def traits(facts: Facts) -> Traits: ...

    @staticmethod
    def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
        """Arguments of the pipeline's call beyond prompt, size, frames, steps and generator."""

    @staticmethod
    def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
        """Video [1, 3, F, H, W] in -1..1 to latents as the scheduler sees them, unpacked."""

    @staticmethod
    def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
        """The way back: latents of `encode` to video [1, 3, F, H, W] in about -1..1."""

    @staticmethod
    def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
        """Latents of `encode` in the layout that the pipeline's `latents` argument takes."""


def of(facts: Facts) -> Adapter:
    """The adapter of a pipeline, chosen by its class name."""
    from realdpo.pairs.adapters import cogvideox, generic, hunyuan, ltx, mochi, wan

    for module in (cogvideox, wan, ltx, hunyuan, mochi):
        if facts.pipeline in module.TASKS:
            return cast(Adapter, module)
    return cast(Adapter, generic)


def facts_of_pipeline(pipe: Any) -> Facts:
    """The facts of a loaded pipeline; equal to those of its folder in all that adapters read."""
    parts = {
        name: dict(part.config) if not hasattr(part.config, "to_dict") else part.config.to_dict()
        for name, part in pipe.components.items()
        if hasattr(part, "config")
    }
    return Facts(type(pipe).__name__, {**parts, "pipeline": dict(pipe.config)})


def guided(facts: Facts, settings: Any) -> dict[str, Any]:
    """`Adapter.arguments` of a pipeline that runs twice, with the prompt and without."""
    return {
        "guidance_scale": settings.guidance,
        "negative_prompt": settings.negative_prompt or None,
    }


def encode_by_channel(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    """`Adapter.encode` of a VAE whose latents are shifted and scaled by channel."""
    config = pipe.vae.config
    latents = pipe.vae.encode(video).latent_dist.mode()
    return normal(latents, config.latents_mean, config.latents_std) * config.get(
        "scaling_factor", 1
    )


def decode_by_channel(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode_by_channel`."""
    config = pipe.vae.config
    latents = latents / config.get("scaling_factor", 1)
    return pipe.vae.decode(denormal(latents, config.latents_mean, config.latents_std)).sample


def as_encoded(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """`Adapter.pack` of a pipeline that takes latents as they are."""
    return latents


def normal(latents: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    """(latents - mean) / std by channel; latents [B, C, F, H, W]."""
    return (latents - _by_channel(mean, latents)) / _by_channel(std, latents)


def denormal(latents: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    """The inverse of `normal`."""
    return latents * _by_channel(std, latents) + _by_channel(mean, latents)


def _by_channel(values: Any, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.as_tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
