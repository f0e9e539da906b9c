"""Any other video pipeline of diffusers, called with the arguments that it names.

Its shapes are guessed from the VAE's configuration; its latents are not known, so that winners
cannot pass through its VAE, only the strategy `generate` works, and it cannot be trained.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.errors import UserError
from realdpo.families.base import Family, Traits

if TYPE_CHECKING:
    from torch import Tensor


class Generic(Family):
    NAME = "generic"
    TASKS: ClassVar = {}

    @property
    def task(self) -> str:
        return "i2v" if "image" in self._call else "t2v"

    @cached_property
    def traits(self) -> Traits:
        spec, call = self.spec, self._call
        if "num_frames" not in call:
            raise UserError(
                f"{spec.pipeline} does not make video: its call takes no num_frames",
                "choose a video pipeline of diffusers",
            )
        blocks = spec.get("vae", "block_out_channels") or (0, 0, 0, 0)
        spatial = spec.get("vae", "spatial_compression_ratio", 2 ** (len(blocks) - 1))
        patch = spec.get("transformer", "patch_size", 2)
        return Traits(
            task=self.task,
            size_step=spatial * (patch if isinstance(patch, int) else patch[-1]),
            frame_step=spec.get("vae", "temporal_compression_ratio", 1),
            width=_number(call, "width", 512),
            height=_number(call, "height", 512),
            frames=_number(call, "num_frames", 17),
            fps=8,
            steps=_number(call, "num_inference_steps", 50),
            guidance=float(_number(call, "guidance_scale", 1)),
        )

    def arguments(self, settings: Any) -> dict[str, Any]:
        wanted = {
            **super().arguments(settings),
            "frame_rate": float(settings.fps),
            "fps": int(settings.fps),
        }
        return {name: value for name, value in wanted.items() if name in self._call}

    def encode(self, vae: Any, video: Tensor) -> Tensor:
        raise self._unknown()

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        raise self._unknown()

    @cached_property
    def _call(self) -> dict[str, inspect.Parameter]:
        import diffusers

        kind = getattr(diffusers, self.spec.pipeline, None)
        if kind is None:
            raise UserError(
                f"this diffusers ({diffusers.__version__}) has no pipeline {self.spec.pipeline}",
                "upgrade diffusers, or choose another model",
            )
        return dict(inspect.signature(kind.__call__).parameters)

    def _unknown(self) -> UserError:
        return UserError(
            f"the latents of {self.spec.pipeline} are not known",
            "use --strategies generate=1 and --no-roundtrip-win with this model",
        )


def _number(call: dict[str, inspect.Parameter], name: str, default: int) -> Any:
    value = call[name].default if name in call else default
    return value if isinstance(value, (int, float)) else default
