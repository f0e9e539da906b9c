"""Settings of `realdpo pairs build`: one frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from realdpo.config import settings
from realdpo.errors import UserError
from realdpo.families.guide import Guide
from realdpo.families.memory import check_options
from realdpo.precision import Dtype, long_name

STRATEGIES = ("generate", "renoise", "local")


@settings
class BuildConfig:
    """Settings for making preference pairs. If you leave one unset, the model's own value is used.

    model: the bundled `tiny`, the folder of a diffusers pipeline, or a Hub id. revision: branch,
    tag or commit of the Hub id. task: i2v or t2v, for a folder whose weights do both.
    lora: LoRA weights of an earlier round: a file, a folder or a Hub id. lora_scale: how strongly
    the LoRA weights are applied. guide: how strongly the base guides the LoRA while sampling, or
    `negative` to use the base as the negative forward pass; 0 turns it off. round: number of this
    round, from 1.
    losers: videos to generate for each clip. strategies: how losers are made, by weight: `generate`
    (from prompt and first frame), `renoise` (the real clip noised and denoised), `local` (only a
    region and time span of it). strength: range of the noise share for `renoise`, from 0 (the
    clip) to 1 (only noise); DenseDPO uses 0.65 to 0.8. local_strength: range of the noise share
    for `local`.
    width: width in pixels. height: height in pixels. frames: frames of a video; unset takes as many
    as the model and the clip allow. fps: frames a second. steps: denoising steps. guidance:
    guidance scale. negative_prompt: what videos should not show. call: further arguments of the
    pipeline's call, such as call.guidance_scale_2. scheduler: settings of the pipeline's scheduler,
    such as scheduler.flow_shift.
    roundtrip_win: pass real clips through the model's VAE, as generated videos are. keep_broken:
    keep generated videos that are NaN, black, blank or frozen.
    splits: splits that get pairs. seed: seed of the generation; another seed gives new pairs
    beside the old ones. dtype: number format of the model; auto is bfloat16 on a GPU and float32
    on a CPU. memory: how memory is saved: auto, none, or diffusers' options joined by commas:
    model_cpu_offload, sequential_cpu_offload, vae_tiling, vae_slicing. quantization: diffusers'
    PipelineQuantizationConfig as a table with quant_backend, quant_kwargs and
    components_to_quantize. crf: H.264 quality of both sides; lower is better. shard_rows: pairs in
    a Parquet file.
    """

    model: str = "tiny"
    revision: str | None = None
    task: Literal["i2v", "t2v"] | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    guide: Guide = 0.0
    round: int = 1
    losers: int = 3
    strategies: Mapping[str, float] = field(default_factory=lambda: {"generate": 1.0})
    strength: tuple[float, float] = (0.65, 0.8)
    local_strength: tuple[float, float] = (0.8, 1.0)
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    roundtrip_win: bool = True
    keep_broken: bool = False
    splits: tuple[str, ...] = ("train", "validation", "test")
    seed: int = 0
    dtype: Dtype = "auto"
    memory: str = "auto"
    quantization: Mapping[str, Any] | None = None
    crf: int = 12
    shard_rows: int = 256

    def __post_init__(self) -> None:
        _require(1 <= self.losers <= 64, f"losers={self.losers}: it must be between 1 and 64")
        _require(self.round >= 1, f"round={self.round}: it must be at least 1")
        _require(self.shard_rows >= 1, f"shard_rows={self.shard_rows}: it must be at least 1")
        _require(0 <= self.crf <= 51, f"crf={self.crf}: it must be between 0 (lossless) and 51")
        for name, weight in self.strategies.items():
            if name not in STRATEGIES:
                raise UserError(
                    f"there is no strategy {name!r}", f"choose from {', '.join(STRATEGIES)}"
                )
            _require(weight >= 0, f"strategies.{name}={weight}: a weight must not be negative")
        _require(
            sum(self.strategies.values()) > 0, "strategies: at least one weight must be above 0"
        )
        for name, (low, high) in (
            ("strength", self.strength),
            ("local_strength", self.local_strength),
        ):
            _require(0 < low <= high <= 1, f"{name}={low},{high}: 0 < low <= high <= 1 must hold")
        if self.guide and not self.lora:
            raise UserError(
                f"guide={self.guide}: only a fine-tuned system has a base that can guide it",
                "give --lora",
            )
        _require(
            isinstance(self.guide, str) or self.guide >= 0,
            f"guide={self.guide}: it must be at least 0",
        )
        check_options(self.memory)
        object.__setattr__(self, "dtype", long_name(self.dtype))


def parse_strategies(text: str) -> dict[str, float]:
    """Read `generate=2,renoise=1` as weights. A name alone has weight 1. Raises UserError."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight) if weight else 1.0
        except ValueError:
            raise UserError(
                f"--strategies {text}: {weight!r} is not a number", "write generate=2,renoise=1"
            ) from None
    return weights


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(f"[pairs] {message}")
