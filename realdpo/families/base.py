"""What a pipeline folder says of itself, what a model can make, and what a family's file offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """Facts of a pipeline: its class, and the class and configuration of each part.

    parts: configurations by part; `pipeline` holds the options of the pipeline itself.
    classes: class names of the parts that are there. component: the transformer that is trained.
    task: "t2v" or "i2v" where a class does both and one was chosen.
    """

    pipeline: str
    parts: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()
    component: str = "transformer"
    task: str | None = None

    def get(self, part: str, key: str, default: Any = None) -> Any:
        """A part's setting, or `default` where it is unset or None."""
        value = self.parts.get(part, {}).get(key)
        return default if value is None else value

    @property
    def transformer(self) -> Mapping[str, Any]:
        """Of the transformer that is trained; of the other one when the folder has no such."""
        return self.parts.get(self.component) or self.parts.get("transformer_2", {})

    @property
    def vae(self) -> Mapping[str, Any]:
        return self.parts["vae"]

    @property
    def scheduler(self) -> Mapping[str, Any]:
        return self.parts["scheduler"]

    @property
    def options(self) -> Mapping[str, Any]:
        return self.parts.get("pipeline", {})


@dataclass(frozen=True)
class Traits:
    """What a model can make and how it is best asked.

    task: "t2v" or "i2v". width, height: multiples of `size_step`. frames: a multiple of
    `frame_step` plus one, `least_frames` at least. sizes: the only (width, height) that it makes,
    where these are few. The rest are the settings its authors recommend, None where they are not
    known; call, scheduler: further arguments of the pipeline's call and settings of its scheduler.
    frames_guessed: the frame step is read off the VAE, so a number that the user asks for is left
    to the pipeline, whose first video is counted.
    """

    task: str
    size_step: int
    frame_step: int
    width: int | None
    height: int | None
    frames: int | None
    fps: float | None
    steps: int
    guidance: float
    sizes: tuple[tuple[int, int], ...] = ()
    least_frames: int = 2
    negative_prompt: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    frames_guessed: bool = False

    def known(self, **given: Any) -> dict[str, Any]:
        """What is given of width, height, frames and fps, and the authors' for the rest.

        Raises UserError for what neither says.
        """
        names = ("width", "height", "frames", "fps")
        found = {name: given.get(name) or getattr(self, name) for name in names}
        if unknown := [name for name, value in found.items() if value is None]:
            raise UserError(
                f"the model's own {' and '.join(unknown)} cannot be read from its files",
                "say it as its authors do, e.g. "
                + " ".join(f"--set {name}={_EXAMPLES[name]}" for name in unknown),
            )
        return found

    def legal_size(self, width: int, height: int) -> tuple[int, int]:
        """The largest legal (width, height) within the given one; (0, 0) when there is none."""
        if self.sizes:
            within = [(w, h) for w, h in self.sizes if w <= width and h <= height]
            return max(within, key=lambda size: size[0] * size[1], default=(0, 0))
        w, h = width - width % self.size_step, height - height % self.size_step
        return (w, h) if w and h else (0, 0)

    def legal_frames(self, frames: int) -> int:
        """The largest legal number of frames that is at most `frames`; 0 when there is none.

        One frame is legal for the network but is no video, so it does not count.
        """
        count = (frames - 1) // self.frame_step * self.frame_step + 1
        return count if count >= self.least_frames else 0

    def check(self, width: int, height: int, frames: int) -> None:
        """Raises UserError with the nearest legal values when the shape is not legal."""
        if self.sizes and (width, height) not in self.sizes:
            near = min(self.sizes, key=lambda size: abs(size[0] - width) + abs(size[1] - height))
            only = "only" if len(self.sizes) == 1 else "nearest"
            raise UserError(
                f"this model cannot make {width}x{height} video: it makes {len(self.sizes)} "
                f"{'size' if len(self.sizes) == 1 else 'sizes'} only",
                f"the {only} legal size is {near[0]}x{near[1]}",
            )
        if width % self.size_step or height % self.size_step or width <= 0 or height <= 0:
            step = self.size_step
            w, h = (max(step, round(v / step) * step) for v in (width, height))
            raise UserError(
                f"this model cannot make {width}x{height} video: sides are multiples of {step}",
                f"the nearest legal size is {w}x{h}",
            )
        illegal = (frames - 1) % self.frame_step and not self.frames_guessed
        if frames < self.least_frames or illegal:
            step, least = self.frame_step, -(-(self.least_frames - 1) // self.frame_step)
            near_frames = max(least, round((frames - 1) / step)) * step + 1
            raise UserError(
                f"this model cannot make {frames} frames: their number is a multiple of "
                f"{step}, plus 1" + (f", {least * step + 1} at least" if least > 1 else ""),
                f"the nearest legal number is {near_frames}",
            )


_EXAMPLES = {"width": 1280, "height": 720, "frames": 81, "fps": 16}


class Family:
    """A model family, bound to the facts of one of its pipelines. Each has a file of its own.

    Latents are [B, C, F, H, W] (where TIME_AXIS says 1: [B, F, C, H, W]), normalised as the
    model's own pipeline does it. Videos are [B, 3, F, H, W] in -1..1. Inputs are the tensors that
    a forward needs beside the noisy latents. What most families do is done here; a family's class
    changes what it does differently.
    """

    NAME: ClassVar[str]
    TASKS: ClassVar[Mapping[str, str]]
    """The task ("t2v", "i2v") of each pipeline class."""
    TIME_AXIS: ClassVar[int] = 2
    TARGETS: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    FEED_FORWARD: ClassVar[tuple[str, ...]] = ("net.0.proj", "net.2")
    """Layers that get adapters unless the user names others."""
    FLOAT32_PARTS: ClassVar[tuple[str, ...]] = ()
    """Parts that lose detail below float32, as their authors say."""

    HELD: ClassVar[str] = ""
    """Pattern of the parameters that stay as they are when all weights are trained; "" for none."""

    ORIGINAL: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(pattern, replacement): what the authors' own code calls a linear module; see `names`."""
    COMFY: ClassVar[tuple[tuple[str, str], ...]] = ()
    """The same for ComfyUI where it has names of its own."""
    PREFIX: ClassVar[str] = "diffusion_model."
    """Before these names in files that ComfyUI reads."""
    LATENTS_KNOWN: ClassVar[bool] = True
    """Whether `encode` and `decode` are those of its pipeline."""
    TAKES_LATENTS: ClassVar[bool] = True
    """Whether its pipeline's call goes on from noised latents as given."""
    KEEPS_REGIONS: ClassVar[bool] = True
    """Whether its pipeline lets latents be put back between steps."""
    BOTH_TASKS: ClassVar[bool] = False
    """Whether one folder's weights do text-to-video and image-to-video."""
    HOLDS_FIRST: ClassVar[bool] = False
    """Whether image-to-video holds the first latent frame clean, with no loss on it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @property
    def task(self) -> str:
        """ "t2v", or "i2v" for a model that starts from an image."""
        return self.spec.task or self.TASKS[self.spec.pipeline]

    @cached_property
    def traits(self) -> Traits:
        """What the model can make, and its authors' settings."""
        raise NotImplementedError

    def refusal(self) -> str | None:
        """Why this one is not trained here; None when it is."""
        return None

    def tasks(self) -> tuple[str, ...]:
        """What the folder's weights can do; more than its own class says where one serves both."""
        return ("t2v", "i2v") if self.BOTH_TASKS else (self.task,)

    def arguments(self, settings: Any) -> dict[str, Any]:
        """Of the pipeline's call, beyond prompt, size, frames, steps and generator."""
        return {
            "guidance_scale": settings.guidance,
            "negative_prompt": settings.negative_prompt or None,
        }

    def told(self) -> dict[str, Any]:
        """Arguments of the call that this folder needs and the pipeline's defaults do not give."""
        return {}

    @classmethod
    def clear_caches(cls) -> None:
        """Forget what is kept between forwards."""

    def scheduler(self, settings: Any) -> dict[str, Any]:
        """Settings of the scheduler that its authors change with the shape of the video."""
        return {}

    def prepare(self, pipe: Any, settings: Any) -> None:
        """What a pipeline must be told before its call."""

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        """Inputs made of the prompt (and of `image` [3, H, W] in -1..1, for image encoders).

        Without batch axis.
        """
        raise NotImplementedError

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `embed` makes of the longest prompt, for an estimate of memory."""
        raise NotImplementedError

    def encode(self, vae: Any, video: Tensor) -> Tensor:
        """Latents of `video` [1, 3, F, H, W]: the posterior's mode, normalised; float32."""
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        config = vae.config
        if config.get("latents_mean") is not None:
            latents = normalise_latents(latents, config.latents_mean, config.latents_std)
        made: Tensor = latents * config.get("scaling_factor", 1)
        return made

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """The way back: latents of `encode` to video in about -1..1."""
        config = vae.config
        latents = latents.float() / config.get("scaling_factor", 1)
        if config.get("latents_mean") is not None:
            latents = denormalise_latents(latents, config.latents_mean, config.latents_std)
        made: Tensor = vae.decode(latents.to(vae.dtype)).sample
        return made

    def pack(self, pipe: Any, latents: Tensor) -> Tensor:
        """Latents of `encode` in the layout that the pipeline's `latents` argument takes."""
        return latents

    def padded(self, latents: Tensor) -> Tensor:
        """Latents of `encode` with what the transformer wants beside them."""
        return latents

    def condition(self, vae: Any, image: Tensor, frames: int) -> dict[str, Tensor]:
        """Inputs made of the first frame [1, 3, H, W] for a video of `frames` frames, [1, ...].

        Asked of image-to-video only: the frame's latent, unless the family takes it otherwise.
        """
        return {"first_latent": self.encode(vae, image.unsqueeze(2))}

    def condition_noise(self) -> tuple[float, float] | None:
        """(mean, std) of the log sigma with which the base saw its first frame noised, if so."""
        return None

    def clean_frames(self) -> int:
        """Latent frames at the start that the model is given, so that no loss is taken on them."""
        return int(self.HOLDS_FIRST and self.task == "i2v")

    def hold_first(self, noisy: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """`noisy` with the given first latent frame in its place, if the model is given one."""
        import torch

        if not self.clean_frames():
            return noisy
        return torch.cat([inputs["first_latent"].to(noisy.dtype), noisy[:, :, 1:]], dim=2)

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """The prediction for `noisy` [B, ...] at `timestep` [B], called as the pipeline does.

        inputs: of `embed` and `condition`, with batch axis, and `fps` [B].
        """
        raise NotImplementedError


def normalise_latents(latents: Tensor, mean: Any, std: Any) -> Tensor:
    """(latents - mean) / std by channel; latents [B, C, F, H, W]."""
    return (latents - _by_channel(mean, latents)) / _by_channel(std, latents)


def denormalise_latents(latents: Tensor, mean: Any, std: Any) -> Tensor:
    """The inverse of `normalise_latents`."""
    return latents * _by_channel(std, latents) + _by_channel(mean, latents)


def to_pil(image: Tensor) -> Any:
    """`image` [3, H, W] in -1..1 as a PIL image, as the pipelines' image processors take it."""
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(((image + 1) * 127.5).round().byte())


def _by_channel(values: Any, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.as_tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
