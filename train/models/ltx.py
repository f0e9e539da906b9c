"""LTX-Video, text-to-video and image-to-video. Latents [B, C, F, H, W], packed for the transformer.

Image-to-video holds the first latent frame clean and tells its tokens timestep zero; no loss is
taken on it.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import LTXPipeline
from torch import Tensor

from realdpo.train.models import Spec

TIME_AXIS = 2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def factors(spec: Spec) -> tuple[int, int]:
    temporal, spatial = _ratios(spec)
    return temporal, spatial * int(spec.transformer["patch_size"])


def condition_noise(spec: Spec) -> tuple[float, float] | None:
    return None


def sampling(spec: Spec, fps: float, frames: int) -> dict[str, Any]:
    return {"frame_rate": fps}


def clean_frames(spec: Spec) -> int:
    return 1 if spec.image else 0


def embed(pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
    embeds, mask, *_ = pipe.encode_prompt(
        prompt, do_classifier_free_guidance=False, max_sequence_length=128
    )
    return {"prompt_embeds": embeds[0], "prompt_mask": mask[0]}


def encode(vae: Any, spec: Spec, video: Tensor) -> Tensor:
    latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    scale = spec.vae.get("scaling_factor", 1.0)
    return LTXPipeline._normalize_latents(latents, vae.latents_mean, vae.latents_std, scale)


def condition(vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
    return {"first_latent": encode(vae, spec, image.unsqueeze(2))}


def forward(
    transformer: Any, spec: Spec, noisy: Tensor, timestep: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    frames, height, width = noisy.shape[2:]
    patches = spec.transformer["patch_size"], spec.transformer["patch_size_t"]
    if spec.image:
        noisy = torch.cat([inputs["first_latent"].to(noisy.dtype), noisy[:, :, 1:]], dim=2)
        given = noisy.new_zeros(1, 1, frames, height, width, dtype=timestep.dtype)
        given[:, :, 0] = 1
        timestep = timestep.unsqueeze(1) * (1 - LTXPipeline._pack_latents(given, *patches)[..., 0])
    temporal, spatial = _ratios(spec)
    prediction = transformer(
        hidden_states=LTXPipeline._pack_latents(noisy, *patches),
        encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
        timestep=timestep,
        encoder_attention_mask=inputs["prompt_mask"],
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(temporal / float(inputs["fps"][0]), spatial, spatial),
        return_dict=False,
    )[0]
    return LTXPipeline._unpack_latents(prediction, frames, height, width, *patches)


def _ratios(spec: Spec) -> tuple[int, int]:
    """(temporal, spatial) compression of the VAE, counted as its class does."""
    vae = spec.vae
    temporal = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * 2 ** sum(
        vae["spatio_temporal_scaling"]
    )
    spatial = vae.get("spatial_compression_ratio") or vae["patch_size"] * 2 ** sum(
        vae["spatio_temporal_scaling"]
    )
    return int(temporal), int(spatial)
