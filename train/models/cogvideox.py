"""CogVideoX 2B, 5B and 1.5, text-to-video and image-to-video. Latents [B, F, C, H, W]."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor

from realdpo.train.models import Spec

TIME_AXIS = 1
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def factors(spec: Spec) -> tuple[int, int]:
    spatial = 2 ** (len(spec.vae["block_out_channels"]) - 1)
    # The decoder treats a first frame apart only in an odd number of latent frames: 5 frames
    # become 2 latent frames, and those come back as 8 frames.
    per_two_latents = 2 * int(spec.vae["temporal_compression_ratio"])
    return per_two_latents, spatial * int(spec.transformer["patch_size"])


def condition_noise(spec: Spec) -> tuple[float, float] | None:
    # CogVideoX (arXiv 2408.06072, section on image-to-video) noised its first frames like this.
    return (-3.0, 0.5) if spec.image else None


def sampling(spec: Spec, fps: float, frames: int) -> dict[str, Any]:
    return {"max_sequence_length": spec.transformer["max_text_seq_length"]}


def clean_frames(spec: Spec) -> int:
    return 0  # the first frame comes as extra channels; the model denoises every frame


def embed(pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
    embeds, _ = pipe.encode_prompt(
        prompt,
        do_classifier_free_guidance=False,
        max_sequence_length=spec.transformer["max_text_seq_length"],
    )
    return {"prompt_embeds": embeds[0]}


def encode(vae: Any, spec: Spec, video: Tensor) -> Tensor:
    latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
    return _padded(latents.permute(0, 2, 1, 3, 4) * spec.vae["scaling_factor"], spec)


def condition(vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
    latents = vae.encode(image.to(vae.device, vae.dtype).unsqueeze(2)).latent_dist.mode()
    scale = spec.vae["scaling_factor"]
    # CogVideoX1.5 image-to-video was trained with the first frame scaled the wrong way round.
    scale = 1 / scale if spec.vae.get("invert_scale_latents") else scale
    return {"image_latents": latents[:, :, 0] * scale}


def forward(
    transformer: Any, spec: Spec, noisy: Tensor, timestep: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    _, frames, _, height, width = noisy.shape
    if spec.image:
        held = torch.zeros_like(noisy)
        held[:, 0] = inputs["image_latents"]
        noisy = torch.cat([noisy, held], dim=2)
    ofs = spec.transformer.get("ofs_embed_dim")
    return transformer(  # type: ignore[no-any-return]
        hidden_states=noisy,
        encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
        timestep=timestep,
        ofs=noisy.new_full((1,), 2.0) if ofs else None,
        image_rotary_emb=_rotary(spec, frames, height, width, noisy.device),
        return_dict=False,
    )[0]


def _padded(latents: Tensor, spec: Spec) -> Tensor:
    """CogVideoX1.5 takes frames in twos: repeat the first, which its pipeline cuts off again."""
    per_patch = spec.transformer.get("patch_size_t") or 1
    missing = -latents.shape[1] % per_patch
    return torch.cat([latents[:, :1].expand(-1, missing, -1, -1, -1), latents], dim=1)


def _rotary(spec: Spec, frames: int, height: int, width: int, device: torch.device) -> Any:
    """The rotary embedding of a latent grid. Without it a 5B model runs, and predicts nonsense."""
    config = spec.transformer
    if not config["use_rotary_positional_embeddings"]:
        return None
    patch = config["patch_size"]
    return _rotary_of(
        config["attention_head_dim"],
        (height // patch, width // patch),
        (config["sample_height"] // patch, config["sample_width"] // patch),
        frames,
        config.get("patch_size_t"),
        device,
    )


@lru_cache(maxsize=4)  # the same for every forward of a run, and made by one thread
def _rotary_of(
    head: int, grid: tuple[int, int], base: tuple[int, int], frames: int, per_patch: int | None,
    device: torch.device,
) -> Any:  # fmt: skip
    if per_patch is None:
        crop = get_resize_crop_region_for_grid(grid, base[1], base[0])
        return get_3d_rotary_pos_embed(head, crop, grid, frames, device=device)
    return get_3d_rotary_pos_embed(
        head, None, grid, -(-frames // per_patch), grid_type="slice", max_size=base, device=device
    )
