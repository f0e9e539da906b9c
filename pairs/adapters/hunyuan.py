"""HunyuanVideo, text-to-video; guidance is an input of the network, not a second pass.

Latents are [B, C, F, H, W]. Settings: the model card of hunyuanvideo-community/HunyuanVideo
(50 steps, embedded guidance 6, 24 frames a second).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realdpo.pairs.adapters import Facts, Traits

if TYPE_CHECKING:
    import torch

NAME = "hunyuan"
TASKS = {"HunyuanVideoPipeline": "t2v"}


def traits(facts: Facts) -> Traits:
    spatial = facts.get("vae", "spatial_compression_ratio", 8)
    return Traits(
        task=TASKS[facts.pipeline],
        size_step=max(16, spatial * facts.get("transformer", "patch_size", 2)),
        frame_step=facts.get("vae", "temporal_compression_ratio", 4)
        * facts.get("transformer", "patch_size_t", 1),
        width=1280,
        height=720,
        frames=129,
        fps=24,
        steps=50,
        guidance=6.0,
    )


def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
    return {"guidance_scale": settings.guidance}


def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    return pipe.vae.encode(video).latent_dist.mode() * pipe.vae.config.scaling_factor


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents


def frame_axis() -> int:
    return 2
