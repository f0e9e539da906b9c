"""Wan 2.1 and 2.2, text-to-video and image-to-video.

Latents are [B, C, F, H, W], shifted and scaled by channel. Settings: the model cards of
Wan-AI/Wan2.*-Diffusers (50 steps, guidance 5, 16 frames a second; the 2.2 5B model 24).
"""

from __future__ import annotations

from realdpo.pairs.adapters import (
    Facts,
    Traits,
    as_encoded,
    decode_by_channel,
    encode_by_channel,
    guided,
)

NAME = "wan"
TASKS = {"WanPipeline": "t2v", "WanImageToVideoPipeline": "i2v"}
FRAME_AXIS = 2
arguments, encode, decode, pack = guided, encode_by_channel, decode_by_channel, as_encoded


def traits(facts: Facts) -> Traits:
    part = "transformer" if facts.parts.get("transformer") else "transformer_2"
    dense = bool(facts.get("pipeline", "expand_timesteps", False))  # 2.2 5B: 1280x704, 24 fps
    spatial = facts.get("vae", "scale_factor_spatial", 8)
    return Traits(
        task=TASKS[facts.pipeline],
        size_step=spatial * facts.get(part, "patch_size", (1, 2, 2))[1],
        frame_step=facts.get("vae", "scale_factor_temporal", 4),
        width=1280 if dense else 832,
        height=704 if dense else 480,
        frames=121 if dense else 81,
        fps=24 if dense else 16,
        steps=50,
        guidance=5.0,
    )
