"""Renoised losers, winners passed through the VAE, and the check for broken videos."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families import Family
from realdpo.families.memory import memory_told
from realdpo.families.sample import GenerationSettings, changed_scheduler, sample_frames, to_uint8
from realdpo.regions import Region

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Video = npt.NDArray[np.uint8]


NEAR = 0.1  # largest distance between the noise share of a schedule and the one asked for
_MOST_STEPS = 8  # factor by which the steps may be multiplied to reach it


@dataclass(frozen=True)
class Start:
    """Where denoising began. strength: share of noise there. steps: steps of the whole schedule."""

    strength: float
    steps: int


def regenerate_video(
    pipe: Any,
    family: Family,
    prompt: str,
    real: Video,
    seed: int,
    settings: GenerationSettings,
    strength: float,
    region: Region | None = None,
) -> tuple[npt.NDArray[np.float32], Start]:
    """The real clip noised to `strength` and denoised by the same model and scheduler.

    real: uint8 [F, H, W, 3] of the settings' shape. Its first frame conditions image-to-video.
    strength: share of noise in signal plus noise amplitude, in 0..1. For flow models that is sigma,
    for others the timestep with the same signal-to-noise ratio. If the steps are too few for a
    share within 0.1 of it, they are doubled, up to eight times as many. Raises UserError if that is
    not enough. With `region`, only the region changes: at every step the rest is put back at its
    own noise level (Lugmayr et al. 2022, RePaint, without the resampling). Returns float32 [F, H,
    W, 3] in 0..1, and the real start.
    """
    import torch

    with torch.no_grad(), memory_told(pipe), changed_scheduler(pipe, settings), _encoded_once(pipe):
        clean = family.encode(pipe.vae, to_tensor(pipe, real)).float()
        noise = torch.randn(
            clean.shape, generator=torch.Generator("cpu").manual_seed(seed ^ 0x5EED)
        ).to(clean)
        mask = None if region is None else _mask(region, clean, family.TIME_AXIS)

        given = _give_picture(pipe, family, clean, real)

        def at(level: tuple[float, float]) -> torch.Tensor:
            mixed = level[0] * clean + level[1] * noise
            mixed[:, :, :given] = clean[:, :, :given]  # the pipeline never noises the given frames
            return family.pack(pipe, mixed)

        def put_back(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            assert mask is not None
            latents = tensors["latents"]
            kept = at(scheduler_levels(pipe.scheduler)[step + 1]).to(latents)
            packed = family.pack(pipe, mask).to(latents)
            return {"latents": packed * latents + (1 - packed) * kept}

        settings, level = _within_reach(pipe, family, prompt, real, seed, settings, strength)
        with _late_start(pipe.scheduler, strength, corrector=mask is None):
            video = sample_frames(
                pipe,
                family,
                prompt,
                real[0],
                seed,
                settings,
                latents=at(level),
                **({} if mask is None else {"callback_on_step_end": put_back}),
            )
    return video, Start(_share(level), settings.steps)


def _share(level: tuple[float, float]) -> float:
    """The noise share of (signal, noise)."""
    signal, noise = level
    return noise / (noise + signal)


def _within_reach(
    pipe: Any,
    family: Family,
    prompt: str,
    real: Video,
    seed: int,
    settings: GenerationSettings,
    strength: float,
) -> tuple[GenerationSettings, tuple[float, float]]:
    """The settings with enough steps to begin near `strength`, and the level where they begin."""
    steps = settings.steps
    while True:
        level = _first_level(pipe, family, prompt, real, seed, settings, strength)
        if abs(_share(level) - strength) <= NEAR:
            return settings, level
        if 2 * settings.steps > _MOST_STEPS * steps:
            raise UserError(
                f"no schedule of {steps} to {settings.steps} steps reaches a strength of "
                f"{strength:.2g}: the nearest is {_share(level):.2g}",
                "use more --steps, or another strength",
            )
        settings = replace(settings, steps=2 * settings.steps)


@contextlib.contextmanager
def _encoded_once(pipe: Any) -> Iterator[None]:
    """The pipeline, which within this context encodes the same prompt and picture only once.

    The schedule is read from a call that is stopped early, and a text encoder may be large.
    """
    known: dict[str, Any] = {}

    def once(name: str) -> Callable[..., Any]:
        original = getattr(pipe, name)

        @functools.wraps(original)
        def encode(*args: Any, **kwargs: Any) -> Any:
            values = [*args, *(value for _, value in sorted(kwargs.items()))]
            told = [v for v in values if isinstance(v, (str, int, float, list, type(None)))]
            key = repr((name, told))
            if key not in known:
                known[key] = original(*args, **kwargs)
            return known[key]

        return encode

    names = [name for name in ("encode_prompt", "encode_image") if hasattr(pipe, name)]
    before = {name: vars(pipe).get(name) for name in names}
    for name in names:
        setattr(pipe, name, once(name))
    try:
        yield
    finally:
        for name, own in before.items():
            delattr(pipe, name)
            if own is not None:
                setattr(pipe, name, own)


def scheduler_levels(scheduler: Any) -> list[tuple[float, float]]:
    """(signal, noise) amplitudes before each step of the set timesteps, and after the last.

    Raises ValueError for a scheduler of an unknown kind.
    """
    config = scheduler.config
    if "FlowMatch" in type(scheduler).__name__ or getattr(config, "use_flow_sigmas", False):
        sigmas = [float(s) for s in scheduler.sigmas]
        if getattr(config, "invert_sigmas", False):
            sigmas = [1 - s for s in sigmas]
        return [(1 - s, s) for s in sigmas]
    if hasattr(scheduler, "alphas_cumprod"):
        alphas = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]
        return [(a**0.5, (1 - a) ** 0.5) for a in alphas] + [(1.0, 0.0)]
    raise ValueError(f"the noise levels of {type(scheduler).__name__} are not known")


def roundtrip_video(pipe: Any, family: Family, video: Video) -> Video:
    """`video`, encoded and decoded by the model's VAE. uint8 [F, H, W, 3] in and out."""
    import torch

    with torch.no_grad(), memory_told(pipe):
        latents = family.encode(pipe.vae, to_tensor(pipe, video))
        _give_picture(pipe, family, latents, video)
        decoded = family.decode(pipe.vae, latents)[0].float().permute(1, 2, 3, 0)
    pipe.maybe_free_model_hooks()
    return to_uint8((decoded / 2 + 0.5).clamp(0, 1).cpu().numpy())


def _give_picture(pipe: Any, family: Family, latents: torch.Tensor, video: Video) -> int:
    """Put the picture's own latent where the model keeps it. Returns its number of latent frames.

    Some VAEs normalise over all frames, so a clip's first frame gets another latent than the
    picture.
    """
    if given := family.clean_frames():
        first = to_tensor(pipe, video[:1])[:, :, 0]
        latents[:, :, :given] = family.condition(pipe.vae, first, len(video))["first_latent"]
    return given


def to_tensor(pipe: Any, video: Video) -> torch.Tensor:
    """uint8 [F, H, W, 3] to [1, 3, F, H, W] in -1..1, in the VAE's dtype and on its device."""
    import torch

    tensor = torch.from_numpy(video.copy()).permute(3, 0, 1, 2)[None]
    tensor = tensor.to(device=pipe._execution_device, dtype=torch.float32)
    return (tensor / 127.5 - 1).to(pipe.vae.dtype)


# A code value of 8-bit video is 1/255. Decoded H.264 of a still scene differs by less than a
# quarter of one on average. A picture whose brightest pixel is below 16 shows nothing.
_FROZEN, _BLANK, _BLACK = 0.25, 2.0, 16


def why_broken(video: npt.NDArray[Any]) -> str | None:
    """Why a generated video is broken and teaches nothing: nan, black, blank, frozen, or None.

    video: float in 0..1, or uint8, [F, H, W, 3].
    """
    import cv2
    import numpy as np

    if video.dtype != np.uint8 and not np.isfinite(video).all():
        return "nan"
    small = video[:, ::2, ::2]
    small = np.ascontiguousarray(small if video.dtype == np.uint8 else to_uint8(small))
    if int(np.quantile(small.max(axis=(1, 2, 3)), 0.5)) < _BLACK:
        return "black"
    if float(np.median([cv2.meanStdDev(frame)[1].max() for frame in small])) < _BLANK:
        return "blank"
    moves = [cv2.absdiff(a, b).mean() for a, b in itertools.pairwise(small)]
    if moves and max(moves) < _FROZEN:
        return "frozen"
    return None


def _first_level(
    pipe: Any,
    family: Family,
    prompt: str,
    real: Video,
    seed: int,
    settings: GenerationSettings,
    strength: float,
) -> tuple[float, float]:
    """The level at which the pipeline's own schedule, cut at `strength`, begins.

    Pipelines give their schedulers sigmas and shifts of their own. So the schedule is read from a
    call that is stopped as soon as the schedule is set.
    """

    class Stop(BaseException):  # no handler on the way catches it as a failure
        pass

    def stop() -> None:
        raise Stop

    with _late_start(pipe.scheduler, strength, after=stop), contextlib.suppress(Stop):
        sample_frames(pipe, family, prompt, real[0], seed, settings)
    return scheduler_levels(pipe.scheduler)[0]


@contextlib.contextmanager
def _late_start(
    scheduler: Any,
    strength: float,
    *,
    corrector: bool = True,
    after: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within this context, cut the steps noisier than `strength` from every schedule that is set.

    corrector: whether UniPC may redo a step from the previous sample, which would undo what was put
    back between steps. after: called when the schedule is set.
    """
    original = scheduler.set_timesteps

    @functools.wraps(original)  # pipelines inspect its signature
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        shares = [_share(level) for level in scheduler_levels(scheduler)]
        count = len(scheduler.timesteps)
        skip = next((k for k in range(count) if shares[k] <= strength + 1e-6), count - 1)
        scheduler.timesteps = scheduler.timesteps[skip:]
        if len(getattr(scheduler, "sigmas", ())) == count + 1:
            scheduler.sigmas = scheduler.sigmas[skip:]
        if not corrector and hasattr(scheduler, "disable_corrector"):
            scheduler.disable_corrector = list(range(count))
        after()

    disabled = getattr(scheduler, "disable_corrector", None)
    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        del scheduler.set_timesteps
        if disabled is not None:
            scheduler.disable_corrector = disabled


def _mask(region: Region, like: torch.Tensor, frame_axis: int) -> torch.Tensor:
    """1 inside the region and 0 outside. One channel would be enough, but packing needs all."""
    import torch

    mask = torch.zeros_like(like)
    spans = region.spans(like.shape[frame_axis], like.shape[3], like.shape[4])
    index: list[slice] = [slice(None)] * 5
    index[frame_axis], index[3], index[4] = spans
    mask[tuple(index)] = 1
    return mask
