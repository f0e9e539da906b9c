"""HunyuanVideo, text-to-video and image-to-video; guidance is an input of the distilled models.

Image-to-video comes in two kinds (`image_condition_type`): `token_replace` holds the first latent
frame clean and gives its tokens timestep zero, and no loss is taken on it; `latent_concat` has the
first frame and a mask as further channels. In both the text encoder sees the first frame too.

Settings: the model cards of hunyuanvideo-community/HunyuanVideo and HunyuanVideo-I2V (50 steps,
embedded guidance 6, 24 frames a second; the image-to-video model that gets the picture in further
channels was not distilled for guidance: 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits, to_pil

if TYPE_CHECKING:
    from torch import Tensor

GUIDANCE = 6.0  # the released model's default; it was distilled with guidance as an input


class Hunyuan(Family):
    NAME = "hunyuan"
    TASKS: ClassVar = {"HunyuanVideoPipeline": "t2v", "HunyuanVideoImageToVideoPipeline": "i2v"}

    PREFIX = "transformer."
    ORIGINAL = (
        (r"transformer_blocks\.(\d+)\.attn\.to_([qkv])", r"double_blocks.\1.img_attn_qkv#\2"),
        (r"transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj", r"double_blocks.\1.txt_attn_qkv#\2"),
        (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn_proj"),
        (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn_proj"),
        (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.fc1"),
        (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"double_blocks.\1.img_mlp.fc2"),
        (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.fc1"),
        (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.fc2"),
        (r"single_transformer_blocks\.(\d+)\.attn\.to_([qkv])", r"single_blocks.\1.linear1#\2"),
        (r"single_transformer_blocks\.(\d+)\.proj_mlp", r"single_blocks.\1.linear1#mlp"),
        (r"single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
        # the prompt's refiner; its three projections are fused too
        (
            r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\.attn\.to_([qkv])",
            r"txt_in.individual_token_refiner.blocks.\1.self_attn_qkv#\2",
        ),
        (
            r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\.attn\.to_out\.0",
            r"txt_in.individual_token_refiner.blocks.\1.self_attn_proj",
        ),
    )

    @cached_property
    def traits(self) -> Traits:
        spec = self.spec
        spatial = spec.get("vae", "spatial_compression_ratio", 8)
        return Traits(
            task=self.task,
            size_step=max(16, spatial * spec.get("transformer", "patch_size", 2)),
            frame_step=self._temporal * spec.get("transformer", "patch_size_t", 1),
            width=1280,
            height=720,
            frames=129,
            fps=24,
            steps=50,
            guidance=GUIDANCE if self._guided else 1.0,
        )

    @property
    def _kind(self) -> str | None:
        return self.spec.transformer.get("image_condition_type")

    @property
    def _guided(self) -> bool:
        return bool(self.spec.get("transformer", "guidance_embeds", True))

    @property
    def _temporal(self) -> int:
        return int(self.spec.get("vae", "temporal_compression_ratio", 4))

    def arguments(self, settings: Any) -> dict[str, Any]:
        # the pipeline that joins the picture as channels cuts the first latent frame's worth of
        # frames off what it has decoded
        surplus = self._temporal if self._kind == "latent_concat" else 0
        return {"guidance_scale": settings.guidance, "num_frames": settings.frames + surplus}

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.spec.transformer
        # a picture's tokens, every so many kept of 576, come before the prompt's
        seen = {"t2v": 0, "i2v": 576 // (4 if self._kind == "token_replace" else 2)}[self.task]
        return {
            "prompt_embeds": (256 + seen, config["text_embed_dim"]),
            "pooled": (config["pooled_projection_dim"],),
            "prompt_mask": (256 + seen,),
        }

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        seen: dict[str, Any] = {}
        if image is not None:
            seen["image"] = to_pil(image)
            # as the pipeline chooses by kind: every so many tokens of the picture are kept
            seen["image_embed_interleave"] = 4 if self._kind == "token_replace" else 2
        embeds, pooled, mask = pipe.encode_prompt(prompt=prompt, max_sequence_length=256, **seen)
        return {"prompt_embeds": embeds[0], "pooled": pooled[0], "prompt_mask": mask[0]}

    def pack(self, pipe: Any, latents: Tensor) -> Tensor:
        import torch

        if self._kind != "latent_concat":
            return latents
        return torch.cat([latents[:, :, :1], latents], dim=2)  # what is cut off, see `arguments`

    def clean_frames(self) -> int:
        return 1 if self._kind == "token_replace" else 0

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        import torch

        noisy = self.hold_first(noisy, inputs)
        if self._kind == "latent_concat":
            held = torch.zeros_like(noisy)
            held[:, :, :1] = inputs["first_latent"]
            mask = noisy.new_zeros(len(noisy), 1, *noisy.shape[2:])
            mask[:, :, 0] = 1
            noisy = torch.cat([noisy, held, mask], dim=1)
        made: Tensor = transformer(
            hidden_states=noisy,
            timestep=timestep,
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            encoder_attention_mask=inputs["prompt_mask"].to(noisy.dtype),
            pooled_projections=inputs["pooled"].to(noisy.dtype),
            guidance=noisy.new_full((len(noisy),), GUIDANCE * 1000) if self._guided else None,
            return_dict=False,
        )[0]
        return made
