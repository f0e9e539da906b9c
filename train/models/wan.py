"""Wan 2.1 and 2.2, text-to-video and image-to-video. Latents [B, C, F, H, W].

Wan 2.2 14B has two transformers that share the schedule at `boundary_ratio`; one is trained at a
time, on its own part (`expert`). Wan 2.2 5B (`expand_timesteps`) has a timestep for every token
and takes its first frame as clean latents in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from realdpo.train.models import Spec

TIME_AXIS = 2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def factors(spec: Spec) -> tuple[int, int]:
    spatial = int(spec.vae.get("scale_factor_spatial", 8))
    return int(spec.vae.get("scale_factor_temporal", 4)), spatial * spec.transformer["patch_size"][
        1
    ]


def condition_noise(spec: Spec) -> tuple[float, float] | None:
    return None


def sampling(spec: Spec, fps: float, frames: int) -> dict[str, Any]:
    return {"max_sequence_length": 512}


def clean_frames(spec: Spec) -> int:
    return 1 if _in_place(spec) else 0


def embed(pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
    embeds, _ = pipe.encode_prompt(
        prompt, do_classifier_free_guidance=False, max_sequence_length=512
    )
    made = {"prompt_embeds": embeds[0]}
    if spec.transformer.get("image_dim") and image is not None:
        from torchvision.transforms.functional import to_pil_image

        picture = to_pil_image(((image + 1) * 127.5).round().byte())
        made["image_embeds"] = pipe.encode_image(picture, pipe.device)[0]
    return made


def encode(vae: Any, spec: Spec, video: Tensor) -> Tensor:
    latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    mean, std = (
        torch.tensor(spec.vae[name], device=latents.device, dtype=latents.dtype).view(
            1, -1, 1, 1, 1
        )
        for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) / std


def condition(vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
    first = image.unsqueeze(2)
    if _in_place(spec):
        return {"first_latent": encode(vae, spec, first)}
    rest = first.new_zeros(*first.shape[:2], frames - 1, *first.shape[3:])
    latents = encode(vae, spec, torch.cat([first, rest], dim=2))
    # One mask channel for each frame of a latent frame: the given picture counts as a whole one.
    mask = latents.new_zeros(1, int(spec.vae.get("scale_factor_temporal", 4)), *latents.shape[2:])
    mask[:, :, 0] = 1
    return {"condition": torch.cat([mask, latents], dim=1)}


def forward(
    transformer: Any, spec: Spec, noisy: Tensor, timestep: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    image = inputs.get("image_embeds")
    if _in_place(spec):
        noisy = torch.cat([inputs["first_latent"].to(noisy.dtype), noisy[:, :, 1:]], dim=2)
    elif spec.image:
        noisy = torch.cat([noisy, inputs["condition"].to(noisy.dtype)], dim=1)
    if spec.options.get("expand_timesteps"):
        timestep = _per_token(spec, noisy, timestep)
    return transformer(  # type: ignore[no-any-return]
        hidden_states=noisy,
        timestep=timestep,
        encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
        encoder_hidden_states_image=None if image is None else image.to(noisy.dtype),
        return_dict=False,
    )[0]


def _in_place(spec: Spec) -> bool:
    return spec.image and bool(spec.options.get("expand_timesteps"))


def _per_token(spec: Spec, noisy: Tensor, timestep: Tensor) -> Tensor:
    """A timestep for every token, [B, S]: zero for those of a given first frame."""
    _, patch_height, patch_width = spec.transformer["patch_size"]
    grid = noisy.new_ones(noisy.shape[2:], dtype=timestep.dtype)
    grid[: clean_frames(spec)] = 0
    tokens = grid[:, ::patch_height, ::patch_width].flatten()
    return timestep.unsqueeze(1) * tokens.unsqueeze(0)
