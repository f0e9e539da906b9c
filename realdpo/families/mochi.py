"""Mochi 1, text-to-video; its clock runs from noise at 0 to the video at T.

Settings: the model card of genmo/mochi-1-preview (64 steps, guidance 4.5, 30 frames a second,
6k+1 frames).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits

if TYPE_CHECKING:
    from torch import Tensor


class Mochi(Family):
    NAME = "mochi"
    TASKS: ClassVar = {"MochiPipeline": "t2v"}
    ORIGINAL = (
        (r"transformer_blocks\.(\d+)\.attn1\.to_([qkv])", r"blocks.\1.attn.qkv_x#\2"),
        (r"transformer_blocks\.(\d+)\.attn1\.add_([qkv])_proj", r"blocks.\1.attn.qkv_y#\2"),
        (r"transformer_blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.attn.proj_x"),
        (r"transformer_blocks\.(\d+)\.attn1\.to_add_out", r"blocks.\1.attn.proj_y"),
        (r"time_embed\.pooler\.(to_q|to_kv|to_out)", r"t5_y_embedder.\1"),
        # the authors' gate comes first
        (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"blocks.\1.mlp_x.w1#halves"),
        (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"blocks.\1.mlp_x.w2"),
        (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"blocks.\1.mlp_y.w1#halves"),
        (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"blocks.\1.mlp_y.w2"),
    )

    @cached_property
    def traits(self) -> Traits:
        spec = self.spec
        spatial = prod(spec.get("vae", "spatial_expansions", (2, 2, 2)))
        return Traits(
            task=self.task,
            size_step=spatial * spec.get("transformer", "patch_size", 2),
            frame_step=prod(spec.get("vae", "temporal_expansions", (1, 2, 3))),
            width=848,
            height=480,
            frames=85,
            fps=30,
            steps=64,
            guidance=4.5,
        )

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (256, self.spec.transformer["text_embed_dim"]),
            "prompt_mask": (256,),
        }

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        embeds, mask, *_ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=256
        )
        return {"prompt_embeds": embeds[0], "prompt_mask": mask[0]}

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        made: Tensor = transformer(
            hidden_states=noisy,
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            timestep=timestep,
            encoder_attention_mask=inputs["prompt_mask"],
            return_dict=False,
        )[0]
        return made
