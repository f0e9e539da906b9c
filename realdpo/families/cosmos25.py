"""Cosmos-Predict2.5, text-to-video and image-to-video, of one class and one folder for both.

A folder means text-to-video unless `--task i2v` is asked for. The transformer's clock is the level itself,
0 to 1, one for each latent frame; a given first frame is held clean and told 0.0001. Its pipeline does not
start without NVIDIA's guardrail (`pip install cosmos_guardrail`), which blurs faces in what it makes: losers
then differ from winners by more than motion, and the audit will say so; `contrast` needs no losers.
Settings: the call's defaults and diffusers' example (1280x704, 93 frames, 16 a second, 36 steps, guidance 7,
negative prompt, 512 tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 512
GIVEN = 0.0001  # `conditional_frame_timestep` of the call
NEGATIVE = (
    "The video captures a series of frames showing ugly scenes, static with no motion, motion blur, "
    "over-saturation, shaky footage, low resolution, grainy texture, pixelated images, poorly lit areas, "
    "underexposed and overexposed scenes, poor color balance, washed out colors, choppy sequences, "
    "jerky movements, low frame rate, artifacting, color banding, unnatural transitions, outdated special "
    "effects, fake elements, unconvincing visuals, poorly edited content, jump cuts, visual noise, and "
    "flickering. Overall, the video is of poor quality."
)


class Cosmos25(Family):
    NAME = "cosmos2.5"
    TASKS: ClassVar = {"Cosmos2_5_PredictBasePipeline": "t2v"}
    BOTH_TASKS = True
    HOLDS_FIRST = True
    FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
    ORIGINAL = (
        (r"transformer_blocks\.(\d+)\.attn1\.to_([qkv])", r"blocks.\1.self_attn.\2_proj"),
        (r"transformer_blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.self_attn.output_proj"),
        (r"transformer_blocks\.(\d+)\.attn2\.to_([qkv])", r"blocks.\1.cross_attn.\2_proj"),
        (r"transformer_blocks\.(\d+)\.attn2\.to_out\.0", r"blocks.\1.cross_attn.output_proj"),
        (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"blocks.\1.mlp.layer1"),
        (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"blocks.\1.mlp.layer2"),
    )

    @cached_property
    def traits(self) -> Traits:
        halvings = self.spec.get("vae", "temperal_downsample", (False, True, True))
        return Traits(
            task=self.task,
            size_step=self._spatial * self.spec.get("transformer", "patch_size", (1, 2, 2))[1],
            frame_step=2 ** sum(halvings),
            width=1280,
            height=704,
            frames=93,
            fps=16,
            steps=36,
            guidance=7.0,
            negative_prompt=NEGATIVE,
        )

    @property
    def _spatial(self) -> int:
        return int(2 ** len(self.spec.get("vae", "temperal_downsample", (False, True, True))))

    def arguments(self, settings: Any) -> dict[str, Any]:
        return {
            "guidance_scale": settings.guidance,
            "negative_prompt": settings.negative_prompt,  # None would be the pipeline's own
            "max_sequence_length": TOKENS,
        }

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"text": (TOKENS, self.spec.transformer["crossattn_proj_in_channels"])}

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        embeds, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=TOKENS
        )
        return {"text": embeds[0]}

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        # on its way through the guardrail the pipeline cuts values to bytes instead of rounding
        values = (super().decode(vae, latents).float() / 2 + 0.5).clamp(0, 1)
        return (values * 255).floor() / 255 * 2 - 1

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:

        batch, _, frames, height, width = noisy.shape
        level = (timestep.float() / 1000).view(-1, 1, 1, 1, 1).repeat(1, 1, frames, 1, 1)
        mask = noisy.new_zeros(batch, 1, frames, height, width)
        noisy = self.hold_first(noisy, inputs)
        if self.clean_frames():
            mask[:, :, 0] = 1
            level[:, :, 0] = GIVEN
        made: Tensor = transformer(
            hidden_states=noisy,
            condition_mask=mask,
            timestep=level,
            encoder_hidden_states=inputs["text"].to(noisy.dtype),
            padding_mask=noisy.new_zeros(1, 1, height * self._spatial, width * self._spatial),
            return_dict=False,
        )[0]
        return made
