"""Wan 2.1 and 2.2, text-to-video and image-to-video.

Wan 2.2 14B has two transformers that share the schedule at `boundary_ratio`; one is trained at a
time, on its own part (`expert`). Wan 2.2 5B (`expand_timesteps`) has a timestep for every token
and takes its first frame as clean latents in place. Settings: the model cards of
Wan-AI/Wan2.*-Diffusers (50 steps, guidance 5, 16 frames a second; the 2.2 5B model 24).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits, picture

if TYPE_CHECKING:
    from torch import Tensor


class Wan(Family):
    NAME = "wan"
    TASKS: ClassVar = {"WanPipeline": "t2v", "WanImageToVideoPipeline": "i2v"}
    FLOAT32_PARTS = ("vae", "image_encoder")  # says the model card of Wan2.1-I2V

    @cached_property
    def traits(self) -> Traits:
        spec, dense = self.spec, self._per_token  # 2.2 5B: 1280x704, 24 frames a second
        patch = spec.transformer.get("patch_size") or (1, 2, 2)
        return Traits(
            task=self.task,
            size_step=spec.get("vae", "scale_factor_spatial", 8) * patch[1],
            frame_step=self._temporal,
            width=1280 if dense else 832,
            height=704 if dense else 480,
            frames=121 if dense else 81,
            fps=24 if dense else 16,
            steps=50,
            guidance=5.0,
        )

    @property
    def _temporal(self) -> int:
        return int(self.spec.get("vae", "scale_factor_temporal", 4))

    @property
    def _per_token(self) -> bool:
        """Whether every token has a timestep of its own."""
        return bool(self.spec.options.get("expand_timesteps"))

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.spec.transformer
        shapes: dict[str, tuple[int, ...]] = {"prompt_embeds": (512, config["text_dim"])}
        if config.get("image_dim"):
            shapes["image_embeds"] = (257, config["image_dim"])  # CLIP's: a class and 16 x 16
        return shapes

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        embeds, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=512
        )
        made = {"prompt_embeds": embeds[0]}
        if self.spec.transformer.get("image_dim") and image is not None:
            made["image_embeds"] = pipe.encode_image(picture(image), pipe.device)[0]
        return made

    def condition(self, vae: Any, image: Tensor, frames: int) -> dict[str, Tensor]:
        import torch

        first = image.unsqueeze(2)
        if self.clean_frames():
            return {"first_latent": self.encode(vae, first)}
        rest = first.new_zeros(*first.shape[:2], frames - 1, *first.shape[3:])
        latents = self.encode(vae, torch.cat([first, rest], dim=2))
        # One mask channel for each frame of a latent frame: the picture counts as a whole one.
        mask = latents.new_zeros(1, self._temporal, *latents.shape[2:])
        mask[:, :, 0] = 1
        return {"condition": torch.cat([mask, latents], dim=1)}

    def clean_frames(self) -> int:
        return 1 if self.task == "i2v" and self._per_token else 0

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        import torch

        image = inputs.get("image_embeds")
        if self.clean_frames():
            noisy = torch.cat([inputs["first_latent"].to(noisy.dtype), noisy[:, :, 1:]], dim=2)
        elif self.task == "i2v":
            noisy = torch.cat([noisy, inputs["condition"].to(noisy.dtype)], dim=1)
        if self._per_token:
            timestep = self._expanded(noisy, timestep)
        return transformer(  # type: ignore[no-any-return]
            hidden_states=noisy,
            timestep=timestep,
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            encoder_hidden_states_image=None if image is None else image.to(noisy.dtype),
            return_dict=False,
        )[0]

    def _expanded(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """A timestep for every token, [B, S]: zero for those of a given first frame."""
        _, patch_height, patch_width = self.spec.transformer["patch_size"]
        grid = noisy.new_ones(noisy.shape[2:], dtype=timestep.dtype)
        grid[: self.clean_frames()] = 0
        tokens = grid[:, ::patch_height, ::patch_width].flatten()
        return timestep.unsqueeze(1) * tokens.unsqueeze(0)
