"""LTX-Video, text-to-video and image-to-video.

Latents are normalised by the VAE's own buffers and packed into tokens for the transformer.
Image-to-video holds the first latent frame clean and tells its tokens timestep zero; no loss is
taken on it. Settings: the model card of Lightricks/LTX-Video (50 steps, guidance 3, 24 frames a
second, 8k+1 frames).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits, denormalise_latents, normalise_latents

if TYPE_CHECKING:
    from torch import Tensor


DECODE_TIMESTEP, DECODE_NOISE = 0.05, 0.025  # the examples of the model card, for 0.9.1 and newer
NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted"  # diffusers' example


class LTX(Family):
    NAME = "ltx"
    TOKENS: ClassVar[int] = 128
    TASKS: ClassVar = {"LTXPipeline": "t2v", "LTXImageToVideoPipeline": "i2v"}
    BOTH_TASKS = True
    HOLDS_FIRST = True

    # the authors' names are diffusers' own here
    ORIGINAL: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(transformer_blocks\.\d+\.attn[12]\.to_(?:q|k|v|out\.0))", r"\1"),
        (r"(transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2))", r"\1"),
    )

    @cached_property
    def traits(self) -> Traits:
        temporal, spatial = self._ratios
        patch, patch_t = self._patches
        return Traits(
            task=self.task,
            size_step=max(32, spatial * patch),
            frame_step=temporal * patch_t,
            width=768,
            height=512,
            frames=121,
            fps=24,
            steps=50,
            guidance=3.0,
            negative_prompt=NEGATIVE,
        )

    @property
    def _ratios(self) -> tuple[int, int]:
        """(temporal, spatial) compression of the VAE, counted as its class does."""
        vae = self.spec.vae
        scale = 2 ** sum(bool(s) for s in vae["spatio_temporal_scaling"])
        temporal = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * scale
        spatial = vae.get("spatial_compression_ratio") or vae["patch_size"] * scale
        return int(temporal), int(spatial)

    @property
    def _patches(self) -> tuple[int, int]:
        transformer = self.spec.transformer
        return int(transformer.get("patch_size") or 1), int(transformer.get("patch_size_t") or 1)

    def arguments(self, settings: Any) -> dict[str, Any]:
        conditioned = bool(self.spec.vae.get("timestep_conditioning"))  # decoders since 0.9.1
        return {
            **super().arguments(settings),
            "frame_rate": float(settings.fps),
            **(
                {"decode_timestep": DECODE_TIMESTEP, "decode_noise_scale": DECODE_NOISE}
                if conditioned
                else {}
            ),
        }

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (self.TOKENS, self.spec.transformer["caption_channels"]),
            "prompt_mask": (self.TOKENS,),
        }

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        embeds, mask, *_ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self.TOKENS
        )
        return {"prompt_embeds": embeds[0], "prompt_mask": mask[0]}

    def encode(self, vae: Any, video: Tensor) -> Tensor:
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        made: Tensor = (
            normalise_latents(latents, vae.latents_mean, vae.latents_std)
            * vae.config.scaling_factor
        )
        return made

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        import torch

        latents = latents.float() / vae.config.scaling_factor
        latents = denormalise_latents(latents, vae.latents_mean, vae.latents_std)
        timestep = None
        if vae.config.timestep_conditioning:  # as `arguments` asks of the pipeline
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
            latents = torch.lerp(latents, noise.to(latents), DECODE_NOISE)
            timestep = torch.tensor([DECODE_TIMESTEP], device=latents.device, dtype=vae.dtype)
        made: Tensor = vae.decode(latents.to(vae.dtype), timestep).sample
        return made

    def pack(self, pipe: Any, latents: Tensor) -> Tensor:
        made: Tensor = pipe._pack_latents(latents, *self._patches)
        return made

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        from diffusers import LTXPipeline

        frames, height, width = noisy.shape[2:]
        pack, unpack = LTXPipeline._pack_latents, LTXPipeline._unpack_latents
        noisy = self.hold_first(noisy, inputs)
        if self.clean_frames():
            given = noisy.new_zeros(1, 1, frames, height, width, dtype=timestep.dtype)
            given[:, :, 0] = 1
            timestep = timestep.unsqueeze(1) * (1 - pack(given, *self._patches)[..., 0])
        temporal, spatial = self._ratios
        prediction = transformer(
            hidden_states=pack(noisy, *self._patches),
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            timestep=timestep,
            encoder_attention_mask=inputs["prompt_mask"],
            num_frames=frames,
            height=height,
            width=width,
            # of every sample its own frame rate; broadcast over the grid [B, 1, F, H, W]
            rope_interpolation_scale=(
                temporal / inputs["fps"].float().view(-1, 1, 1, 1, 1),
                spatial,
                spatial,
            ),
            return_dict=False,
        )[0]
        made: Tensor = unpack(prediction, frames, height, width, *self._patches)
        return made
