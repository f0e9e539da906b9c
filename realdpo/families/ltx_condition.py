"""LTX-Video 0.9.5 and newer, whose pipeline takes pictures as conditions.

One class does both tasks; a folder means text-to-video unless `--task i2v` is asked for. The first
latent frame is held clean and its tokens are told timestep zero, as in LTX's own image-to-video; the
pipeline noises it a little at inference (`image_cond_noise_scale` 0.15 times the squared level), which
training does not. Settings: diffusers' example (768x512, 161 frames, 24 a second, 40 steps; guidance 3 is
the call's default).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Traits
from realdpo.families.ltx import LTX

if TYPE_CHECKING:
    from torch import Tensor


class LTXCondition(LTX):
    NAME = "ltx-condition"
    TOKENS = 256
    TASKS: ClassVar = {"LTXConditionPipeline": "t2v"}
    TAKES_LATENTS = False  # its call noises given latents by itself
    KEEPS_REGIONS = False

    @cached_property
    def traits(self) -> Traits:
        return replace(super().traits, frames=161, steps=40)

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        import torch
        from diffusers import LTXConditionPipeline

        size, patches = noisy.shape[2:], self._patches
        patch, patch_t = patches
        temporal, spatial = self._ratios
        coords = LTXConditionPipeline._prepare_video_ids(
            len(noisy), *size, patch_size=patch, patch_size_t=patch_t, device=noisy.device
        )
        frame = coords[:, 0]
        coords = LTXConditionPipeline._scale_video_ids(
            coords,
            scale_factor=spatial,
            scale_factor_t=temporal,
            frame_index=0,
            device=noisy.device,
        ).float()
        coords[:, 0] = coords[:, 0] * (1.0 / inputs["fps"].float()).view(-1, 1)
        clock = timestep.unsqueeze(-1).float()
        noisy = self.hold_first(noisy, inputs)
        if self.clean_frames():
            clock = torch.where(frame == 0, 0.0, clock)
        prediction = transformer(
            hidden_states=LTXConditionPipeline._pack_latents(noisy, *patches),
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            timestep=clock,
            encoder_attention_mask=inputs["prompt_mask"],
            video_coords=coords,
            return_dict=False,
        )[0]
        made: Tensor = LTXConditionPipeline._unpack_latents(prediction, *size, *patches)
        return made
