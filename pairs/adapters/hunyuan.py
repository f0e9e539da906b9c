"""HunyuanVideo, text-to-video and image-to-video; guidance is an input of the network.

Latents are [B, C, F, H, W]. Settings: the model cards of hunyuanvideo-community/HunyuanVideo and
HunyuanVideo-I2V (50 steps, embedded guidance 6, 24 frames a second; the image-to-video model that
gets the picture in further channels was not distilled for guidance: 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realdpo.pairs.adapters import Facts, Traits

if TYPE_CHECKING:
    import torch

NAME = "hunyuan"
TASKS = {"HunyuanVideoPipeline": "t2v", "HunyuanVideoImageToVideoPipeline": "i2v"}
FRAME_AXIS = 2


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
        guidance=6.0 if facts.get("transformer", "guidance_embeds", True) else 1.0,
    )


def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
    # the pipeline that joins the picture as channels cuts the first latent frame's worth of
    # frames off what it has decoded
    joined = facts.get("transformer", "image_condition_type") == "latent_concat"
    surplus = facts.get("vae", "temporal_compression_ratio", 4) if joined else 0
    return {"guidance_scale": settings.guidance, "num_frames": settings.frames + surplus}


def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    return pipe.vae.encode(video).latent_dist.mode() * pipe.vae.config.scaling_factor


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    import torch

    if pipe.transformer.config.image_condition_type != "latent_concat":
        return latents
    return torch.cat([latents[:, :, :1], latents], dim=2)  # what is cut off, see `arguments`
