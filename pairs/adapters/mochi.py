"""Mochi 1, text-to-video; its schedule runs from noise at 0 to the video at 1.

Latents are [B, C, F, H, W], shifted and scaled by channel. Settings: the model card of
genmo/mochi-1-preview (64 steps, guidance 4.5, 30 frames a second, 6k+1 frames).
"""

from __future__ import annotations

from math import prod

from realdpo.pairs.adapters import (
    Facts,
    Traits,
    as_encoded,
    decode_by_channel,
    encode_by_channel,
    guided,
)

NAME = "mochi"
TASKS = {"MochiPipeline": "t2v"}
FRAME_AXIS = 2
arguments, encode, decode, pack = guided, encode_by_channel, decode_by_channel, as_encoded


def traits(facts: Facts) -> Traits:
    spatial = prod(facts.get("vae", "spatial_expansions", (2, 2, 2)))
    return Traits(
        task=TASKS[facts.pipeline],
        size_step=spatial * facts.get("transformer", "patch_size", 2),
        frame_step=prod(facts.get("vae", "temporal_expansions", (1, 2, 3))),
        width=848,
        height=480,
        frames=85,
        fps=30,
        steps=64,
        guidance=4.5,
    )
