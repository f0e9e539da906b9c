"""Kandinsky 5, text-to-video and image-to-video.

The transformer takes its latents channels last, beside them (`visual_cond`) zeros and a mask of the
first frame, and prompts without padding. Image-to-video holds the first latent frame clean; after
sampling its pipeline moves mean and spread of the first four latent frames towards those that follow,
so it needs five, winners pass the same step, and no region outlives it. Settings: diffusers' examples
and the authors' `configs/` (50 steps, guidance 5, 121 frames, 24 a second, 256 tokens, shift 10 in the
folder). Checkpoints with sparse attention (NABLA: 10 seconds, or high definition) are sampled only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 256
NEGATIVE = (
    "Static, 2D cartoon, cartoon, 2d animation, paintings, images, worst quality, low quality, ugly, "
    "deformed, walking backwards"
)


class Kandinsky5(Family):
    NAME = "kandinsky5"
    TASKS: ClassVar = {"Kandinsky5T2VPipeline": "t2v", "Kandinsky5I2VPipeline": "i2v"}
    HOLDS_FIRST = True
    TARGETS = (
        *("to_query", "to_key", "to_value"),
        *("self_attention.out_layer", "cross_attention.out_layer"),
    )
    FEED_FORWARD = ("feed_forward.in_layer", "feed_forward.out_layer")
    # the authors' names are diffusers' own here
    ORIGINAL = (
        (r"((?:text|visual)_transformer_blocks\.\d+\.\w+\.(?:to_\w+|in_layer|out_layer))", r"\1"),
    )

    @cached_property
    def traits(self) -> Traits:
        large = self._sparse and self.spec.get("transformer", "model_dim", 2048) > 2048
        return Traits(
            task=self.task,
            size_step=128 if self._sparse else 16,  # NABLA attends in squares of 8 patches
            frame_step=int(self.spec.get("vae", "temporal_compression_ratio", 4)),
            least_frames=17 if self.task == "i2v" else 2,
            width=1024 if large else 768,
            height=768 if large else 512,
            frames=241 if self._sparse and not large else 121,
            fps=24,
            steps=50,
            guidance=5.0,
            negative_prompt=NEGATIVE,
        )

    @property
    def _sparse(self) -> bool:
        return bool(self.spec.get("transformer", "attention_type", "regular") == "nabla")

    @property
    def KEEPS_REGIONS(self) -> bool:  # type: ignore[override]  # a fact of the checkpoint, not of the class
        return self.task == "t2v"

    def refusal(self) -> str | None:
        if self._sparse:
            return "its sparse attention (NABLA) is not trained here; the 5-second Lite ones are"
        return None

    def arguments(self, settings: Any) -> dict[str, Any]:
        return {
            "guidance_scale": settings.guidance,
            "negative_prompt": settings.negative_prompt,  # None would be the pipeline's own
            "max_sequence_length": TOKENS,
        }

    def prepare(self, pipe: Any, settings: Any) -> None:
        if self._sparse:
            pipe.transformer.set_attention_backend("flex")

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.spec.transformer
        return {"text": (TOKENS, config["in_text_dim"]), "pooled": (config["in_text_dim2"],)}

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        text, pooled, _ = pipe.encode_prompt(prompt, max_sequence_length=TOKENS)
        return {"text": text[0], "pooled": pooled[0]}

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        from diffusers import Kandinsky5I2VPipeline

        if self.task == "i2v":
            last = latents.float().permute(0, 2, 3, 4, 1)
            latents = Kandinsky5I2VPipeline.normalize_first_frame(Kandinsky5I2VPipeline, last)
            latents = latents.permute(0, 4, 1, 2, 3)
        return super().decode(vae, latents)

    def pack(self, pipe: Any, latents: Tensor) -> Tensor:
        return self._beside(latents)

    def _beside(self, latents: Tensor) -> Tensor:
        """Latents channels last, with the zeros and the mask that the transformer has beside them."""
        import torch

        last = latents.permute(0, 2, 3, 4, 1)
        if not self.spec.get("transformer", "visual_cond", False):
            return last
        mask = torch.zeros_like(last[..., :1])
        mask[:, : self.clean_frames()] = 1
        return torch.cat([last, torch.zeros_like(last), mask], dim=-1)

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        import torch
        from diffusers import Kandinsky5T2VPipeline

        noisy = self.hold_first(noisy, inputs)
        size = noisy.shape[2:]
        sides = [torch.arange(length, device=noisy.device) for length in size]
        prediction = transformer(
            hidden_states=self._beside(noisy),
            encoder_hidden_states=inputs["text"].to(noisy.dtype),
            pooled_projections=inputs["pooled"].to(noisy.dtype),
            timestep=timestep.to(noisy.dtype),
            visual_rope_pos=[sides[0], sides[1][: size[1] // 2], sides[2][: size[2] // 2]],
            text_rope_pos=torch.arange(inputs["text"].shape[1], device=noisy.device),
            scale_factor=Kandinsky5T2VPipeline._get_scale_factor(None, size[1] * 8, size[2] * 8),
            sparse_params=None,
            return_dict=True,
        ).sample
        made: Tensor = prediction.permute(0, 4, 1, 2, 3)
        return made
