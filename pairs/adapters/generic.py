"""Any other video pipeline of diffusers, called with the arguments that it names.

Its shapes are guessed from the VAE's configuration; its latents are not known, so that winners
cannot pass through its VAE and only the strategy `generate` works.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.pairs.adapters import Facts, Traits

if TYPE_CHECKING:
    import torch

NAME = "generic"
FRAME_AXIS = 2


def traits(facts: Facts) -> Traits:
    call = _call(facts)
    if "num_frames" not in call:
        raise UserError(
            f"{facts.pipeline} does not make video: its call takes no num_frames",
            "choose a video pipeline of diffusers",
        )
    image = call.get("image")
    blocks = facts.get("vae", "block_out_channels") or (0, 0, 0, 0)
    spatial = facts.get("vae", "spatial_compression_ratio", 2 ** (len(blocks) - 1))
    patch = facts.get("transformer", "patch_size", 2)
    return Traits(
        task="i2v" if image is not None else "t2v",
        size_step=spatial * (patch if isinstance(patch, int) else patch[-1]),
        frame_step=facts.get("vae", "temporal_compression_ratio", 1),
        width=_number(call, "width", 512),
        height=_number(call, "height", 512),
        frames=_number(call, "num_frames", 17),
        fps=8,
        steps=_number(call, "num_inference_steps", 50),
        guidance=float(_number(call, "guidance_scale", 1)),
    )


def arguments(facts: Facts, settings: Any) -> dict[str, Any]:
    call = _call(facts)
    wanted = {
        "guidance_scale": settings.guidance,
        "negative_prompt": settings.negative_prompt or None,
        "frame_rate": float(settings.fps),
        "fps": int(settings.fps),
    }
    return {name: value for name, value in wanted.items() if name in call}


def encode(pipe: Any, video: torch.Tensor) -> torch.Tensor:
    raise _unknown(type(pipe).__name__)


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    raise _unknown(type(pipe).__name__)


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    raise _unknown(type(pipe).__name__)


def _call(facts: Facts) -> dict[str, inspect.Parameter]:
    import diffusers

    kind = getattr(diffusers, facts.pipeline, None)
    if kind is None:
        raise UserError(
            f"this diffusers ({diffusers.__version__}) has no pipeline {facts.pipeline}",
            "upgrade diffusers, or choose another model",
        )
    return dict(inspect.signature(kind.__call__).parameters)


def _number(call: dict[str, inspect.Parameter], name: str, default: int) -> Any:
    value = call[name].default if name in call else default
    return value if isinstance(value, (int, float)) else default


def _unknown(pipeline: str) -> UserError:
    return UserError(
        f"the latents of {pipeline} are not known",
        "use --strategies generate=1 and --no-roundtrip-win with this model",
    )
