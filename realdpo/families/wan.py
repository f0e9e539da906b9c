"""Wan 2.1 and 2.2, text-to-video and image-to-video.

Wan 2.2 14B has two transformers that share the schedule at `boundary_ratio`; one is trained at a
time, on its own part (`expert`). Wan 2.2 5B (`expand_timesteps`) has a timestep for every token
and takes its first frame as clean latents in place. Settings: the authors' wan/configs (2.1: 50
steps, guidance 5, 16 frames a second; 2.2 T2V 14B: 40 steps, guidance 4 for the high-noise expert
and 3 for the low; I2V 14B 3.5 for both; 5B: 50 steps, guidance 5, 24 frames a second).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits, to_pil

if TYPE_CHECKING:
    from torch import Tensor


# `sample_neg_prompt` of the authors' wan/configs/shared_config.py
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


class Wan(Family):
    NAME = "wan"
    TASKS: ClassVar = {"WanPipeline": "t2v", "WanImageToVideoPipeline": "i2v"}
    ORIGINAL = (
        (r"blocks\.(\d+)\.attn1\.to_([qkv])", r"blocks.\1.self_attn.\2"),
        (r"blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.self_attn.o"),
        (r"blocks\.(\d+)\.attn2\.to_([qkv])", r"blocks.\1.cross_attn.\2"),
        (r"blocks\.(\d+)\.attn2\.to_out\.0", r"blocks.\1.cross_attn.o"),
        (r"blocks\.(\d+)\.attn2\.add_([kv])_proj", r"blocks.\1.cross_attn.\2_img"),
        (r"blocks\.(\d+)\.ffn\.net\.0\.proj", r"blocks.\1.ffn.0"),
        (r"blocks\.(\d+)\.ffn\.net\.2", r"blocks.\1.ffn.2"),
        (r"condition_embedder\.time_proj", r"time_projection.1"),
        (r"condition_embedder\.(text|time)_embedder\.linear_1", r"\1_embedding.0"),
        (r"condition_embedder\.(text|time)_embedder\.linear_2", r"\1_embedding.2"),
        (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj", r"img_emb.proj.1"),
        (r"condition_embedder\.image_embedder\.ff\.net\.2", r"img_emb.proj.3"),
        (r"proj_out", r"head.head"),
    )
    FLOAT32_PARTS = ("vae", "image_encoder")  # says the model card of Wan2.1-I2V

    @cached_property
    def traits(self) -> Traits:
        spec, two = self.spec, self._two
        patch = spec.transformer.get("patch_size") or (1, 2, 2)
        # 2.2 14B and the 720P checkpoints of 2.1, which are known by their schedule
        large = two or (spec.get("scheduler", "flow_shift", 3.0) >= 5 and not self._per_token)
        size, guidance = (1280, 720) if large else (832, 480), 5.0
        if self._per_token:  # 2.2 5B
            size = (1280, 704)
        if two:
            guidance = 4.0 if self.task == "t2v" else 3.5
        return Traits(
            task=self.task,
            size_step=spec.get("vae", "scale_factor_spatial", 8) * patch[1],
            frame_step=self._temporal,
            width=size[0],
            height=size[1],
            frames=121 if self._per_token else 81,
            fps=24 if self._per_token else 16,
            steps=40 if two else 50,
            guidance=guidance,
            negative_prompt=NEGATIVE,
            call={"guidance_scale_2": 3.0 if self.task == "t2v" else 3.5} if two else {},
        )

    @property
    def _two(self) -> bool:
        """Whether there is a transformer for each part of the schedule."""
        return bool({"transformer", "transformer_2"} <= set(self.spec.classes)) or bool(
            self.spec.options.get("boundary_ratio")
        )

    def tasks(self) -> tuple[str, ...]:
        return ("t2v", "i2v") if self._per_token else (self.task,)

    def scheduler(self, settings: Any) -> dict[str, Any]:
        if self._two or self._per_token or "flow_shift" not in self.spec.scheduler:
            return {}
        # "5.0 for 720P, 3.0 for 480P" (diffusers' example of WanPipeline)
        return {"flow_shift": 5.0 if settings.width * settings.height > 832 * 624 else 3.0}

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
            made["image_embeds"] = pipe.encode_image(to_pil(image), pipe.device)[0]
        return made

    def condition(self, vae: Any, image: Tensor, frames: int) -> dict[str, Tensor]:
        import torch

        if self.clean_frames():
            return super().condition(vae, image, frames)
        first = image.unsqueeze(2)
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
        noisy = self.hold_first(noisy, inputs)
        if self.task == "i2v" and not self._per_token:
            noisy = torch.cat([noisy, inputs["condition"].to(noisy.dtype)], dim=1)
        if self._per_token:
            timestep = self._expanded(noisy, timestep)
        made: Tensor = transformer(
            hidden_states=noisy,
            timestep=timestep,
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            encoder_hidden_states_image=None if image is None else image.to(noisy.dtype),
            return_dict=False,
        )[0]
        return made

    def _expanded(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """A timestep for every token, [B, S]: zero for those of a given first frame."""
        _, patch_height, patch_width = self.spec.transformer["patch_size"]
        grid = noisy.new_ones(noisy.shape[2:], dtype=timestep.dtype)
        grid[: self.clean_frames()] = 0
        tokens = grid[:, ::patch_height, ::patch_width].flatten()
        return timestep.unsqueeze(1) * tokens.unsqueeze(0)
