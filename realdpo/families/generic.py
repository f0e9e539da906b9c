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


# what names of pipeline classes begin with
KNOWN = {
    "Kandinsky6": "Kandinsky 6",
    "Cosmos3": "Cosmos3",
    "MiniMaxH3": "MiniMax H3",
    "MotifVideo": "Motif-Video",
    "Helios": "Helios",
    "SkyReelsV2DiffusionForcing": "SkyReels-V2's diffusion forcing",
}


class Generic(Family):
    NAME = "generic"
    TASKS: ClassVar = {}
    LATENTS_KNOWN = False

    def refusal(self) -> str | None:
        known = next(
            (n for begin, n in KNOWN.items() if self.spec.pipeline.startswith(begin)), None
        )
        return f"{known} is known and not trained here" if known else "it cannot be trained here"

    @property
    def task(self) -> str:
        names = ("ImageToVideo", "I2V", "Image2Video", "Video2World")
        own = "i2v" if any(name in self.spec.pipeline for name in names) else "t2v"
        if "image" in self._call and self._call["image"].default is inspect.Parameter.empty:
            own = "i2v"
        return self.spec.task or own

    def tasks(self) -> tuple[str, ...]:
        return ("t2v", "i2v") if "image" in self._call and self.task == "t2v" else (self.task,)

    @cached_property
    def traits(self) -> Traits:
        spec, call = self.spec, self._call
        for name in ("num_frames", "prompt"):
            if name not in call:
                raise UserError(
                    f"{spec.pipeline} does not make video from text: its call takes no {name}",
                    "choose a video pipeline of diffusers",
                )
        blocks = spec.get("vae", "block_out_channels") or (0, 0, 0, 0)
        spatial = self._of_vae("spatial") or 2 ** (len(blocks) - 1)
        patch = spec.get("transformer", "patch_size", 2)
        return Traits(
            task=self.task,
            size_step=spatial * (patch if isinstance(patch, int) else patch[-1]),
            frame_step=self._of_vae("temporal") or 1,
            width=self._default("width"),
            height=self._default("height"),
            frames=self._default("num_frames"),
            fps=self._default("frame_rate") or self._default("fps"),
            steps=self._default("num_inference_steps") or 50,
            guidance=float(self._default("guidance_scale") or 1),
            frames_guessed=True,  # Allegro makes 88, a multiple of four and nothing more
        )

    def arguments(self, settings: Any) -> dict[str, Any]:
        wanted = {
            "guidance_scale": settings.guidance,
            "frame_rate": float(settings.fps),
            "fps": int(settings.fps),
        }
        if settings.negative_prompt:  # some pipelines cannot take None for it
            wanted["negative_prompt"] = settings.negative_prompt
        return {name: value for name, value in wanted.items() if name in self._call}

    def _of_vae(self, kind: str) -> int | None:
        """A compression of the VAE, under either of the names that its classes use."""
        vae = self.spec.parts.get("vae", {})
        names = (f"{kind}_compression_ratio", f"scale_factor_{kind}")
        return next((int(vae[name]) for name in names if vae.get(name)), None)

    def _default(self, name: str) -> Any:
        """What the call takes when it is not told; None where it computes it, or has no such."""
        value = self._call[name].default if name in self._call else None
        return value if isinstance(value, (int, float)) else None

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
