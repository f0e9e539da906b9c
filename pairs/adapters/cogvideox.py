"""CogVideoX 2B and 5B, 5B image-to-video, and both of 1.5.

Latents are [B, F, C, H, W]. Settings: the model cards of THUDM/CogVideoX-* (50 steps, guidance 6,
8 frames a second; 16 for 1.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realdpo.pairs.adapters import Facts, Traits, guided

if TYPE_CHECKING:
    import torch

NAME = "cogvideox"
TASKS = {"CogVideoXPipeline": "t2v", "CogVideoXImageToVideoPipeline": "i2v"}
FRAME_AXIS = 1


def traits(facts: Facts) -> Traits:
    factor = 2 ** (len(facts.get("vae", "block_out_channels")) - 1)
    transformer = facts.parts["transformer"]
    version15 = transformer.get("patch_size_t") is not None
    return Traits(
        task=TASKS[facts.pipeline],
        # the pipeline checks the VAE's factor only, but the transformer cuts patches as well
        size_step=factor * transformer["patch_size"],
        # an even number of latent frames decodes to whole groups, one group's tail too many
        frame_step=2 * int(facts.get("vae", "temporal_compression_ratio")),
        width=transformer["sample_width"] * factor,
        height=transformer["sample_height"] * factor,
        frames=transformer["sample_frames"],
        fps=16 if version15 else 8,
        steps=50,
        guidance=6.0,
        fixed=bool(transformer.get("use_learned_positional_embeddings")),
    )


def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
    return {
        **guided(facts, settings),
        # learned positions exist for exactly this many tokens
        "max_sequence_length": facts.get("transformer", "max_text_seq_length", 226),
    }


def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    latents = pipe.vae.encode(video).latent_dist.mode()
    return latents.permute(0, 2, 1, 3, 4) * pipe.vae.config.scaling_factor


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return pipe.vae.decode(latents.permute(0, 2, 1, 3, 4) / pipe.vae.config.scaling_factor).sample


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    import torch

    # 1.5 cuts patches over time: the pipeline wants an even number of latent frames and drops
    # the surplus from the front when it decodes
    step = pipe.transformer.config.patch_size_t or 1
    surplus = -latents.shape[1] % step
    packed = torch.cat([latents[:, :1]] * surplus + [latents], dim=1)
    return packed.to(pipe.transformer.dtype)  # this pipeline does not cast what it is given
