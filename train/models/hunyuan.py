"""HunyuanVideo, text-to-video. Latents [B, C, F, H, W]; guidance is an input of the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realdpo.train.models import Spec

TIME_AXIS = 2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
GUIDANCE = 6.0  # the released model's default; it was distilled with guidance as an input


def factors(spec: Spec) -> tuple[int, int]:
    spatial = int(spec.vae.get("spatial_compression_ratio", 8))
    temporal = int(spec.vae.get("temporal_compression_ratio", 4))
    return temporal, spatial * int(spec.transformer["patch_size"])


def condition_noise(spec: Spec) -> tuple[float, float] | None:
    return None


def sampling(spec: Spec, fps: float) -> dict[str, Any]:
    return {}


def clean_frames(spec: Spec) -> int:
    return 0


def embed(pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
    embeds, pooled, mask = pipe.encode_prompt(prompt, max_sequence_length=256)
    return {"prompt_embeds": embeds[0], "pooled": pooled[0], "prompt_mask": mask[0]}


def encode(vae: Any, spec: Spec, video: Tensor) -> Tensor:
    latents: Tensor = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    return latents * spec.vae["scaling_factor"]


def condition(vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
    return {}


def forward(
    transformer: Any, spec: Spec, noisy: Tensor, timestep: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    return transformer(  # type: ignore[no-any-return]
        hidden_states=noisy,
        timestep=timestep,
        encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
        encoder_attention_mask=inputs["prompt_mask"].to(noisy.dtype),
        pooled_projections=inputs["pooled"].to(noisy.dtype),
        guidance=noisy.new_full((len(noisy),), GUIDANCE * 1000),
        return_dict=False,
    )[0]
