"""HunyuanVideo, text-to-video and image-to-video. Latents [B, C, F, H, W].

Image-to-video comes in two kinds (`image_condition_type`): `token_replace` holds the first latent
frame clean and gives its tokens timestep zero, and no loss is taken on it; `latent_concat` has the
first frame and a mask as further channels. In both the text encoder sees the first frame too.
Guidance is an input of the distilled models.
"""

from __future__ import annotations

from typing import Any

import torch
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


def sampling(spec: Spec, fps: float, frames: int) -> dict[str, Any]:
    # The pipeline of the concatenating model cuts the first latent frame off what it made.
    extra = 4 if _kind(spec) == "latent_concat" else 0
    return {"num_frames": frames + extra}


def clean_frames(spec: Spec) -> int:
    return 1 if _kind(spec) == "token_replace" else 0


def embed(pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
    seen: dict[str, Any] = {}
    if image is not None:
        from torchvision.transforms.functional import to_pil_image

        seen["image"] = to_pil_image(((image + 1) * 127.5).round().byte())
        # as the pipeline chooses by kind: every so many tokens of the picture are kept
        seen["image_embed_interleave"] = 4 if _kind(spec) == "token_replace" else 2
    embeds, pooled, mask = pipe.encode_prompt(prompt=prompt, max_sequence_length=256, **seen)
    return {"prompt_embeds": embeds[0], "pooled": pooled[0], "prompt_mask": mask[0]}


def encode(vae: Any, spec: Spec, video: Tensor) -> Tensor:
    latents: Tensor = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    return latents * spec.vae["scaling_factor"]


def condition(vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
    return {"first_latent": encode(vae, spec, image.unsqueeze(2))}


def forward(
    transformer: Any, spec: Spec, noisy: Tensor, timestep: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    if _kind(spec) == "token_replace":
        noisy = torch.cat([inputs["first_latent"].to(noisy.dtype), noisy[:, :, 1:]], dim=2)
    elif _kind(spec) == "latent_concat":
        held = torch.zeros_like(noisy)
        held[:, :, :1] = inputs["first_latent"]
        mask = noisy.new_zeros(len(noisy), 1, *noisy.shape[2:])
        mask[:, :, 0] = 1
        noisy = torch.cat([noisy, held, mask], dim=1)
    guided = spec.transformer.get("guidance_embeds", True)
    return transformer(  # type: ignore[no-any-return]
        hidden_states=noisy,
        timestep=timestep,
        encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
        encoder_attention_mask=inputs["prompt_mask"].to(noisy.dtype),
        pooled_projections=inputs["pooled"].to(noisy.dtype),
        guidance=noisy.new_full((len(noisy),), GUIDANCE * 1000) if guided else None,
        return_dict=False,
    )[0]


def _kind(spec: Spec) -> str | None:
    return spec.transformer.get("image_condition_type")
