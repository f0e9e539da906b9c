"""HunyuanVideo-1.5, text-to-video and image-to-video; guidance is a part of the pipeline.

The first frame and a mask are further channels in both tasks, all zero for text-to-video; SigLIP
sees the picture too. The image-to-video pipeline chooses its size from a list by the picture's
aspect. Settings: the model card of tencent/HunyuanVideo-1.5 (50 steps, guidance 6, 121 frames, 24 a
second; the shift is in each checkpoint's scheduler), sizes by `target_size` (640: 480p, 960: 720p).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits, to_pil

if TYPE_CHECKING:
    from torch import Tensor

_REFINER = r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\."
_REFINER_NAME = r"txt_in.individual_token_refiner.blocks.\1."
TOKENS, GLYPHS = 1000, 256  # the pipeline's `tokenizer_max_length` and `tokenizer_2_max_length`
PICTURE_TOKENS = 729  # `vision_num_semantic_tokens` of the pipeline

# Linear layers: diffusers' name; the authors', as diffusers' scripts/convert_hunyuan_video1_5_to_diffusers.py
# maps it; ComfyUI's, which fuses q, k and v (musubi-tuner's convert_hunyuan_video_1_5_lora_to_comfy.py).
_NAMES = (
    (
        r"transformer_blocks\.(\d+)\.attn\.to_([qkv])",
        r"double_blocks.\1.img_attn_\2",
        r"double_blocks.\1.img_attn.qkv#\2",
    ),
    (
        r"transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj",
        r"double_blocks.\1.txt_attn_\2",
        r"double_blocks.\1.txt_attn.qkv#\2",
    ),
    (
        r"transformer_blocks\.(\d+)\.attn\.to_out\.0",
        r"double_blocks.\1.img_attn_proj",
        r"double_blocks.\1.img_attn.proj",
    ),
    (
        r"transformer_blocks\.(\d+)\.attn\.to_add_out",
        r"double_blocks.\1.txt_attn_proj",
        r"double_blocks.\1.txt_attn.proj",
    ),
    (
        r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj",
        r"double_blocks.\1.img_mlp.fc1",
        r"double_blocks.\1.img_mlp.0",
    ),
    (
        r"transformer_blocks\.(\d+)\.ff\.net\.2",
        r"double_blocks.\1.img_mlp.fc2",
        r"double_blocks.\1.img_mlp.2",
    ),
    (
        r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj",
        r"double_blocks.\1.txt_mlp.fc1",
        r"double_blocks.\1.txt_mlp.0",
    ),
    (
        r"transformer_blocks\.(\d+)\.ff_context\.net\.2",
        r"double_blocks.\1.txt_mlp.fc2",
        r"double_blocks.\1.txt_mlp.2",
    ),
    (
        _REFINER + r"attn\.to_([qkv])",
        _REFINER_NAME + r"self_attn_qkv#\2",
        _REFINER_NAME + r"self_attn.qkv#\2",
    ),
    (
        _REFINER + r"attn\.to_out\.0",
        _REFINER_NAME + "self_attn_proj",
        _REFINER_NAME + "self_attn.proj",
    ),
    (_REFINER + r"ff\.net\.0\.proj", _REFINER_NAME + "mlp.fc1", _REFINER_NAME + "mlp.0"),
    (_REFINER + r"ff\.net\.2", _REFINER_NAME + "mlp.fc2", _REFINER_NAME + "mlp.2"),
)


class Hunyuan15(Family):
    NAME = "hunyuan15"
    TASKS: ClassVar = {"HunyuanVideo15Pipeline": "t2v", "HunyuanVideo15ImageToVideoPipeline": "i2v"}
    KEEPS_REGIONS = False
    ORIGINAL = tuple((ours, authors) for ours, authors, _ in _NAMES)
    COMFY = tuple((ours, comfy) for ours, _, comfy in _NAMES)

    @cached_property
    def traits(self) -> Traits:
        spec = self.spec
        step = int(spec.get("vae", "spatial_compression_ratio", 16))
        large = spec.get("transformer", "target_size", 640) > 640
        return Traits(
            task=self.task,
            size_step=step * spec.get("transformer", "patch_size", 1),
            frame_step=int(spec.get("vae", "temporal_compression_ratio", 4)),
            width=1280 if large else 848,
            height=720 if large else 480,
            frames=121,
            fps=24,
            steps=50,
            guidance=float(spec.get("guider", "guidance_scale", 6.0)),
            sizes=self._sizes(step) if self.task == "i2v" else (),
        )

    def _sizes(self, step: int) -> tuple[tuple[int, int], ...]:
        """(width, height) of the pipeline's list: as many patches as fit the target's square."""
        many = round((self.spec.get("transformer", "target_size", 640) / step) ** 2)
        found = []
        wide, high = many, 1
        while wide > 0:
            if max(wide, high) / min(wide, high) <= 4:
                found.append((wide * step, high * step))
            if (high + 1) * wide <= many:
                high += 1
            else:
                wide -= 1
        return tuple(found)

    def refusal(self) -> str | None:
        if self.spec.transformer.get("use_meanflow"):
            return "a step-distilled HunyuanVideo-1.5 is not trained here"
        return None

    def arguments(self, settings: Any) -> dict[str, Any]:
        return {"negative_prompt": settings.negative_prompt or None}

    def prepare(self, pipe: Any, settings: Any) -> None:
        pipe.guider = pipe.guider.new(guidance_scale=settings.guidance)

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.spec.transformer
        shapes: dict[str, tuple[int, ...]] = {
            "text": (TOKENS, width["text_embed_dim"]),
            "mask": (TOKENS,),
            "glyphs": (GLYPHS, width["text_embed_2_dim"]),
            "glyph_mask": (GLYPHS,),
        }
        if self.task == "i2v":
            shapes["image_embeds"] = (PICTURE_TOKENS, width["image_embed_dim"])
        return shapes

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        text, mask, glyphs, glyph_mask = pipe.encode_prompt(prompt=prompt, batch_size=1)
        made = {"text": text[0], "mask": mask[0], "glyphs": glyphs[0], "glyph_mask": glyph_mask[0]}
        if image is not None:
            shown = pipe.encode_image(to_pil(image), 1, pipe._execution_device, text.dtype)
            made["image_embeds"] = shown[0]
        return made

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        import torch

        held = torch.zeros_like(noisy)
        mask = noisy.new_zeros(len(noisy), 1, *noisy.shape[2:])
        width = self.spec.get("transformer", "image_embed_dim", 1152)
        shown = noisy.new_zeros(len(noisy), PICTURE_TOKENS, width)
        if self.task == "i2v":
            held[:, :, :1] = inputs["first_latent"]
            mask[:, :, 0] = 1
            shown = inputs["image_embeds"]
        text = {
            name: inputs[name].to(noisy.dtype) for name in ("text", "mask", "glyphs", "glyph_mask")
        }
        made: Tensor = transformer(
            hidden_states=torch.cat([noisy, held, mask], dim=1),
            timestep=timestep,
            encoder_hidden_states=text["text"],
            encoder_attention_mask=text["mask"],
            encoder_hidden_states_2=text["glyphs"],
            encoder_attention_mask_2=text["glyph_mask"],
            image_embeds=shown.to(noisy.dtype),
            return_dict=False,
        )[0]
        return made
