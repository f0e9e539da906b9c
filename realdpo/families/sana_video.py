"""Sana-Video, text-to-video and image-to-video, of one folder for both.

Linear attention over Wan's latents (480p) or LTX-2's (720p). Prompts are put behind the pipeline's own
instruction to the text encoder, in training too. Image-to-video holds the first latent frame clean and tells
its tokens timestep zero. Sizes are taken as asked, not through the pipeline's list of aspects. The authors end
prompts with a score such as " motion score: 30.", which is for captions to say. Settings: diffusers' page and
examples (832x480, 81 frames, 16 a second, 50 steps, guidance 6, negative prompt, VAE in float32).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits, denormalise_latents, normalise_latents

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 300
NEGATIVE = (
    "A chaotic sequence with misshapen, deformed limbs in heavy motion blur, sudden disappearance, jump cuts, "
    "jerky movements, rapid shot changes, frames out of sync, inconsistent character shapes, temporal artifacts, "
    "jitter, and ghosting effects, creating a disorienting visual experience."
)


class SanaVideo(Family):
    NAME = "sana-video"
    TASKS: ClassVar = {"SanaVideoPipeline": "t2v", "SanaImageToVideoPipeline": "i2v"}
    BOTH_TASKS = True
    HOLDS_FIRST = True
    FEED_FORWARD = ("conv_inverted", "conv_point")
    FLOAT32_PARTS = ("vae",)  # diffusers' page of the pipeline

    @cached_property
    def traits(self) -> Traits:
        spatial, temporal = self._ratios
        large = (
            self.spec.get("transformer", "sample_size", 30) == 22
        )  # as the pipeline tells them apart
        return Traits(
            task=self.task,
            size_step=max(32, spatial * self._patches[2]),
            frame_step=temporal * self._patches[0],
            width=1280 if large else 832,
            height=704 if large else 480,
            frames=81,
            fps=16,
            steps=50,
            guidance=6.0,
            negative_prompt=NEGATIVE,
        )

    @property
    def _ratios(self) -> tuple[int, int]:
        """(spatial, temporal) compression of the VAE, by the names of either class."""
        vae = self.spec.vae
        spatial = vae.get("scale_factor_spatial") or vae.get("spatial_compression_ratio") or 8
        temporal = vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio") or 4
        return int(spatial), int(temporal)

    @property
    def _patches(self) -> tuple[int, int, int]:
        frames, height, width = self.spec.get("transformer", "patch_size", (1, 2, 2))
        return frames, height, width

    def arguments(self, settings: Any) -> dict[str, Any]:
        return {
            "guidance_scale": settings.guidance,
            "negative_prompt": settings.negative_prompt,
            "frames": settings.frames,
            "use_resolution_binning": False,
            "max_sequence_length": TOKENS,
        }

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.spec.transformer["caption_channels"]
        return {"prompt_embeds": (TOKENS, width), "prompt_mask": (TOKENS,)}

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        call = inspect.signature(type(pipe).__call__).parameters
        embeds, mask, *_ = pipe.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=TOKENS,
            complex_human_instruction=call["complex_human_instruction"].default,
        )
        return {"prompt_embeds": embeds[0], "prompt_mask": mask[0]}

    def encode(self, vae: Any, video: Tensor) -> Tensor:
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        return normalise_latents(latents, *_statistics(vae))

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        made: Tensor = vae.decode(
            denormalise_latents(latents.float(), *_statistics(vae)).to(vae.dtype)
        ).sample
        return made

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:

        noisy = self.hold_first(noisy, inputs)
        if self.clean_frames():
            grid = [n // patch for n, patch in zip(noisy.shape[2:], self._patches, strict=True)]
            free = timestep.new_ones(1, 1, *grid)
            free[:, :, 0] = 0
            timestep = timestep.view(-1, 1, 1, 1, 1) * free
        made: Tensor = transformer(
            hidden_states=noisy,
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            encoder_attention_mask=inputs["prompt_mask"],
            timestep=timestep,
            return_dict=False,
        )[0]
        return made


def _statistics(vae: Any) -> tuple[Any, Any]:
    """(mean, std) of the latents: settings of Wan's VAE, buffers of LTX-2's."""
    owner = vae.config if vae.config.get("latents_mean") is not None else vae
    return owner.latents_mean, owner.latents_std
