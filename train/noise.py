"""The noising process of a model and its prediction: v (CogVideoX), flow matching, epsilon.

A position u in [0, 1) on the model's own training schedule (0 clean, 1 pure noise) gives the
levels: x_t = signal * x + sigma * noise. Every schedule is computed in float64 from the scheduler
configuration that came with the model, because the class defaults (epsilon, no zero-SNR) are wrong
for real models. Noise is mixed in float32, whatever the model's dtype, because mixing in bfloat16
errs by 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from realdpo.errors import UserError

Prediction = Literal["v", "epsilon", "flow"]
Spread = Literal["uniform", "logit-normal"]


@dataclass(frozen=True)
class Process:
    """The noising process of one model.

    `alphas_bar` is the float64 table [T] of a variance-preserving model (v, epsilon); flow models
    have none and use `shift`. `reverse` marks flow models whose clock runs from noise to clean and
    whose velocity points that way (Mochi). `low` and `high` bound the part of the schedule that the
    transformer serves (Wan 2.2 has a transformer for each part). u covers that part.
    """

    prediction: Prediction
    alphas_bar: Tensor | None = None
    shift: float = 1.0
    steps: int = 1000
    reverse: bool = False
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Levels:
    """Noise levels of a batch, each [B] float64. The model receives `timestep`."""

    signal: Tensor
    sigma: Tensor
    timestep: Tensor


def from_scheduler(config: Mapping[str, Any], sequence_length: int = 0) -> Process:
    """The process of a scheduler configuration, such as `pipe.scheduler.config`.

    `sequence_length` is the number of video tokens. Only schedulers with dynamic shifting need it.
    Raises UserError for a prediction type that training does not know.
    """
    steps = int(config.get("num_train_timesteps", 1000))
    kind = config.get("prediction_type", "flow_prediction")
    if "beta_start" not in config or config.get("use_flow_sigmas") or kind == "flow_prediction":
        shift = float(config.get("flow_shift", config.get("shift", 1.0)))
        if config.get("use_dynamic_shifting"):
            shift = math.exp(_dynamic_shift(config, sequence_length))
        return Process("flow", None, shift, steps, bool(config.get("invert_sigmas")))
    names: dict[str, Prediction] = {"v_prediction": "v", "epsilon": "epsilon"}
    if kind not in names:
        raise UserError(
            f"the model's scheduler predicts {kind!r}, and training knows only v, epsilon and flow"
        )
    return Process(names[kind], alphas_bar(config), steps=steps)


def shift_process(process: Process, shift: float) -> Process:
    """The flow process with another shift. Raises UserError for a model without a shift."""
    if process.prediction != "flow":
        raise UserError(
            f"flow_shift: the schedule of this model ({process.prediction} prediction) has no "
            "shift",
            "leave it out, and choose the noise levels with t_low, t_high and timesteps",
        )
    if shift <= 0:
        raise UserError(f"flow_shift = {shift:g}: it must be above 0")
    return replace(process, shift=shift)


def tell_levels(
    process: Process, spread: Spread, low: float, high: float, mean: float, std: float
) -> str:
    """One line that says where the noise levels of training lie.

    Levels are drawn over the schedule by which the model is sampled. A shift crowds it at the noisy
    end: with LTX's shift at 768x512, 64 % of all steps lie above sigma 0.9.
    """
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    u = draw_positions(uniform, spread, low, high, mean=mean, std=std)
    sigma = noise_levels(process, u).sigma
    shift = f", shift {process.shift:.3g}" if process.prediction == "flow" else ""
    return (
        f"noise levels: {spread}{shift}; median sigma {float(sigma.median()):.2f}, "
        f"{float((sigma > 0.9).double().mean()):.0%} of steps above 0.9"
    )


def restrict_process(process: Process, boundary: float, above: bool) -> Process:
    """The part of a flow process on one side of the timestep `boundary` (a share of T)."""
    # Solve boundary = shift * u / (1 + (shift - 1) * u) for u.
    u = boundary / (process.shift - (process.shift - 1) * boundary)
    return replace(process, low=u) if above else replace(process, high=u)


def alphas_bar(config: Mapping[str, Any]) -> Tensor:
    """The cumulative signal power of a discrete schedule, [T] float64, from its configuration.

    Applies the beta schedule, the SNR shift and the zero-terminal-SNR rescaling (arXiv 2305.08891)
    in the order of the CogVideoX schedulers. Raises UserError for an unknown beta schedule.
    """
    steps, kind = int(config["num_train_timesteps"]), config["beta_schedule"]
    start, end = float(config["beta_start"]), float(config["beta_end"])
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    elif kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:
        raise UserError(f"the model's scheduler has the unknown beta schedule {kind!r}")
    bar = torch.cumprod(1 - betas, 0)
    shift = float(config.get("snr_shift_scale", 1.0))
    bar = bar / (shift + (1 - shift) * bar)
    if config.get("rescale_betas_zero_snr"):
        root = bar.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bar = root.square()
    return bar


def noise_levels(process: Process, u: Tensor) -> Levels:
    """Noise levels at positions `u` in [0, 1), [B]."""
    u = process.low + (process.high - process.low) * u.double()
    if process.alphas_bar is not None:
        timestep = (u * process.steps).long().clamp_max(process.steps - 1)
        bar = process.alphas_bar.to(u.device)[timestep]
        return Levels(bar.sqrt(), (1 - bar).sqrt(), timestep)
    # The schedules of flow models start at 1/T and never hold a sample without noise.
    u = u.clamp_min(1 / process.steps)
    sigma = process.shift * u / (1 + (process.shift - 1) * u)
    clock = 1 - sigma if process.reverse else sigma
    return Levels(1 - sigma, sigma, clock * process.steps)


def mix_noise(clean: Tensor, noise: Tensor, level: Levels) -> Tensor:
    """Noisy samples, [B, ...], in float32 or wider."""
    wide = torch.promote_types(clean.dtype, torch.float32)
    signal, sigma = (_as(v, clean, wide) for v in (level.signal, level.sigma))
    return signal * clean.to(wide) + sigma * noise.to(wide)


def prediction_target(process: Process, clean: Tensor, noise: Tensor, level: Levels) -> Tensor:
    """The prediction wanted for `mix_noise(clean, noise, level)`, [B, ...], float32 or wider."""
    wide = torch.promote_types(clean.dtype, torch.float32)
    clean, noise = clean.to(wide), noise.to(wide)
    if process.prediction == "epsilon":
        return noise
    if process.prediction == "flow":
        return clean - noise if process.reverse else noise - clean
    signal, sigma = (_as(v, clean, wide) for v in (level.signal, level.sigma))
    return signal * noise - sigma * clean


def draw_positions(
    uniform: Tensor,
    spread: Spread,
    low: float = 0.0,
    high: float = 1.0,
    *,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Turn uniform numbers in [0, 1), [B], into positions in [low, high).

    `logit-normal` favours the middle of the schedule (Stable Diffusion 3).
    """
    uniform = uniform.double()
    if spread == "logit-normal":
        normal = math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-12, 1 - 1e-12))
        uniform = torch.sigmoid(mean + std * normal)
    return (low + (high - low) * uniform).clamp_max(math.nextafter(1.0, 0.0))


def _dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """The log shift for a sequence length, on the line through the scheduler's two anchors."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    value: float = low + (high - low) * (tokens - few) / (many - few)
    return value


def _as(value: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(like.device, dtype).view(-1, *[1] * (like.dim() - 1))
