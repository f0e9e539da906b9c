"""Mochi, text-to-video. Latents [B, C, F, H, W]; its clock runs from noise at 0 to the video at T."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realdpo.train.models import Spec

TIME_AXIS = 2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def factors(spec: Spec) -> tuple[int, int]:
    # The pipeline itself holds these two as constants; the VAE's settings do not name them.
    return 6, 8 * int(spec.transformer["patch_size"])


def condition_noise(spec: Spec) -> tuple[float, float] | None:
    return None


def sampling(spec: Spec, fps: float, frames: int) -> dict[str, Any]:
    return {}


def clean_frames(spec: Spec) -> int:
    return 0


def embed(pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
    embeds, mask, *_ = pipe.encode_prompt(
        prompt, do_classifier_free_guidance=False, max_sequence_length=256
    )
    return {"prompt_embeds": embeds[0], "prompt_mask": mask[0]}


def encode(vae: Any, spec: Spec, video: Tensor) -> Tensor:
    latents: Tensor = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    scale = spec.vae.get("scaling_factor", 1.0)
    if spec.vae.get("latents_mean") is None:
        return latents * scale
    mean, std = (
        torch.tensor(spec.vae[name], device=latents.device, dtype=latents.dtype).view(
            1, -1, 1, 1, 1
        )
        for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) * scale / std


def condition(vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
    return {}


def forward(
    transformer: Any, spec: Spec, noisy: Tensor, timestep: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    return transformer(  # type: ignore[no-any-return]
        hidden_states=noisy,
        encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
        timestep=timestep,
        encoder_attention_mask=inputs["prompt_mask"],
        return_dict=False,
    )[0]
