"""LTX-2 and 2.3, text-to-video and image-to-video, of the one folder for both: video and sound in one model.

The video is trained and the sound is held: pairs have no sound, so in training no attention passes
between the two (`isolate_modalities`), as the authors' trainer does for videos without sound and as
their pipeline does in its modality guidance. The video's prediction is then the same whatever the
sound is. Adapters go on the layers of the video alone; all weights are trained but those of the sound
and of the attention between the two. Sampling makes both, and the sound is not kept.

The first frame is compressed by H.264 (CRF 33; 18 for 2.5) before the VAE, in training as in the
pipeline. Settings: the authors' `ltx_pipelines/utils/constants.py` (768x512, 121 frames, 24 a second,
guidance 3 and 7 for the sound, their negative prompt; 40 steps for 2, 30 for 2.3).
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

NEGATIVE = (
    "blurry, out of focus, overexposed, underexposed, low contrast, washed out colors, excessive noise, "
    "grainy texture, poor lighting, flickering, motion blur, distorted proportions, unnatural skin tones, "
    "deformed facial features, asymmetrical face, missing facial features, extra limbs, disfigured hands, "
    "wrong hand count, artifacts around text, inconsistent perspective, camera shake, incorrect depth of "
    "field, background too sharp, background clutter, distracting reflections, harsh shadows, inconsistent "
    "lighting direction, color banding, cartoonish rendering, 3D CGI look, unrealistic materials, uncanny "
    "valley effect, incorrect ethnicity, wrong gender, exaggerated expressions, wrong gaze direction, "
    "mismatched lip sync, silent or muted audio, distorted voice, robotic voice, echo, background noise, "
    "off-sync audio, incorrect dialogue, added dialogue, repetitive speech, jittery movement, awkward "
    "pauses, incorrect timing, unnatural transitions, inconsistent framing, tilted camera, flat lighting, "
    "inconsistent tone, cinematic oversaturation, stylized filters, or AI artifacts."
)


class LTX2(LTX):
    NAME = "ltx2"
    TOKENS = 1024
    TASKS: ClassVar = {"LTX2Pipeline": "t2v", "LTX2ImageToVideoPipeline": "i2v"}
    TARGETS = tuple(
        f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")
    )
    FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
    HELD = r"audio|av_cross_attn|a2v"
    ORIGINAL = (
        *LTX.ORIGINAL,
        (r"proj_in", r"patchify_proj"),
        (r"proj_out", r"proj_out"),
        (r"time_embed\.(.+)", r"adaln_single.\1"),
    )
    TAKES_LATENTS = False  # the sound would start from noise of another level than the video
    KEEPS_REGIONS = False

    @cached_property
    def traits(self) -> Traits:
        newer = bool(self.spec.transformer.get("cross_attn_mod"))  # 2.3
        own = replace(super().traits, steps=30 if newer else 40, negative_prompt=NEGATIVE)
        blocks = {"spatio_temporal_guidance_blocks": [28 if newer else 29]}
        return replace(own, call={"use_cross_timestep": newer, **blocks})

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        connectors = self.spec.parts.get("connectors", {})
        heads = connectors.get("video_connector_num_attention_heads", 30)
        width = heads * connectors.get("video_connector_attention_head_dim", 128)
        return {"prompt_embeds": (self.TOKENS, width), "prompt_mask": (self.TOKENS,)}

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        embeds, mask, *_ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self.TOKENS
        )
        text, _, mask = pipe.connectors(embeds, mask, padding_side=pipe.tokenizer.padding_side)
        return {"prompt_embeds": text[0], "prompt_mask": mask[0]}

    def condition(self, vae: Any, image: Tensor, frames: int) -> dict[str, Tensor]:
        return super().condition(vae, self._compressed(image), frames)

    def _compressed(self, image: Tensor) -> Tensor:
        """`image` [1, 3, H, W] in -1..1 as it looks after H.264."""
        import torch
        from diffusers.pipelines.ltx2 import utils
        from torch._subclasses.fake_tensor import FakeTensor

        if isinstance(image, FakeTensor):  # an estimate of memory: there are no pixels
            return image
        newest = "gemma4" in str(self.spec.get("text_encoder", "model_type", ""))
        crf = utils.LTX2_5_IMAGE_CRF if newest else utils.DEFAULT_IMAGE_CRF
        pixels = ((image[0].float() + 1) * 127.5).round().clamp(0, 255).byte()
        made = utils.apply_image_conditioning_crf(pixels.permute(1, 2, 0).cpu().numpy(), crf)
        return torch.from_numpy(made).permute(2, 0, 1)[None].to(image) / 127.5 - 1

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        from diffusers import LTX2Pipeline

        size, patches, config = noisy.shape[2:], self._patches, self.spec.transformer
        pack, clock = LTX2Pipeline._pack_latents, timestep
        noisy = self.hold_first(noisy, inputs)
        if self.clean_frames():
            given = noisy.new_zeros(1, 1, *size, dtype=timestep.dtype)
            given[:, :, 0] = 1
            clock = timestep.unsqueeze(1) * (1 - pack(given, *patches)[..., 0])
        coords = transformer.rope.prepare_video_coords(len(noisy), *size, noisy.device, fps=1.0)
        coords[:, 0] = coords[:, 0] / inputs["fps"].float().view(-1, 1, 1)
        text = inputs["prompt_embeds"].to(noisy.dtype)
        # one token of silence: isolated, it reaches nothing that is trained
        width = (
            config["caption_channels"]
            if config.get("use_prompt_embeddings", True)
            else (config["audio_num_attention_heads"] * config["audio_attention_head_dim"])
        )
        prediction, _ = transformer(
            hidden_states=pack(noisy, *patches),
            audio_hidden_states=noisy.new_zeros(len(noisy), 1, config["audio_in_channels"]),
            encoder_hidden_states=text,
            audio_encoder_hidden_states=noisy.new_zeros(len(noisy), 1, width),
            timestep=clock,
            audio_timestep=timestep,
            sigma=timestep,
            encoder_attention_mask=inputs["prompt_mask"],
            num_frames=size[0],
            height=size[1],
            width=size[2],
            audio_num_frames=1,
            video_coords=coords,
            isolate_modalities=True,
            use_cross_timestep=bool(config.get("cross_attn_mod")),
            return_dict=False,
        )
        made: Tensor = LTX2Pipeline._unpack_latents(prediction, *size, *patches)
        return made
