"""LTX-Video, text-to-video and image-to-video.

Latents are [B, C, F, H, W], normalised by the VAE's own buffers and packed into tokens for the
transformer. Settings: the model card of Lightricks/LTX-Video (50 steps, guidance 3, 24 frames a
second, 8k+1 frames).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realdpo.pairs.adapters import Facts, Traits, denormal, guided, normal

if TYPE_CHECKING:
    import torch

NAME = "ltx"
TASKS = {"LTXPipeline": "t2v", "LTXImageToVideoPipeline": "i2v"}
FRAME_AXIS = 2


def traits(facts: Facts) -> Traits:
    scalings = sum(bool(s) for s in facts.get("vae", "spatio_temporal_scaling"))
    spatial = facts.get(
        "vae", "spatial_compression_ratio", facts.get("vae", "patch_size") * 2**scalings
    )
    temporal = facts.get(
        "vae", "temporal_compression_ratio", facts.get("vae", "patch_size_t") * 2**scalings
    )
    return Traits(
        task=TASKS[facts.pipeline],
        size_step=max(32, spatial * facts.get("transformer", "patch_size", 1)),
        frame_step=temporal * facts.get("transformer", "patch_size_t", 1),
        width=768,
        height=512,
        frames=121,
        fps=24,
        steps=50,
        guidance=3.0,
    )


def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
    conditioned = bool(facts.get("vae", "timestep_conditioning", False))  # decoders since 0.9.1
    return {
        **guided(facts, settings),
        "frame_rate": float(settings.fps),
        **({"decode_timestep": 0.05, "decode_noise_scale": 0.025} if conditioned else {}),
    }


def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    latents = pipe.vae.encode(video).latent_dist.mode()
    scale = pipe.vae.config.scaling_factor
    return normal(latents, pipe.vae.latents_mean, pipe.vae.latents_std) * scale


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    import torch

    scale = pipe.vae.config.scaling_factor
    latents = denormal(latents / scale, pipe.vae.latents_mean, pipe.vae.latents_std)
    timestep = None
    if pipe.vae.config.timestep_conditioning:
        timestep = torch.zeros(1, device=latents.device, dtype=latents.dtype)
    return pipe.vae.decode(latents, timestep).sample


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return pipe._pack_latents(
        latents, pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
    )
