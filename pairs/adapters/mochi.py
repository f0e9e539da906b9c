"""Mochi 1, text-to-video; its schedule runs from noise at 0 to the video at 1.

Latents are [B, C, F, H, W], shifted and scaled by channel. Settings: the model card of
genmo/mochi-1-preview (64 steps, guidance 4.5, 30 frames a second, 6k+1 frames).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from realdpo.pairs.adapters import Facts, Traits, denormal, normal

if TYPE_CHECKING:
    import torch

NAME = "mochi"
TASKS = {"MochiPipeline": "t2v"}


def traits(facts: Facts) -> Traits:
    spatial = prod(facts.get("vae", "spatial_expansions", (2, 2, 2)))
    return Traits(
        task=TASKS[facts.pipeline],
        size_step=spatial * facts.get("transformer", "patch_size", 2),
        frame_step=prod(facts.get("vae", "temporal_expansions", (1, 2, 3))),
        width=848,
        height=480,
        frames=85,
        fps=30,
        steps=64,
        guidance=4.5,
    )


def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
    return {
        "guidance_scale": settings.guidance,
        "negative_prompt": settings.negative_prompt or None,
    }


def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    latents = pipe.vae.encode(video).latent_dist.mode()
    return normal(latents, config.latents_mean, config.latents_std) * config.scaling_factor


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    latents = denormal(latents / config.scaling_factor, config.latents_mean, config.latents_std)
    return pipe.vae.decode(latents).sample


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents


def frame_axis() -> int:
    return 2
