"""Settings of a training run: one frozen dataclass, every field with its help, and two presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, TypeVar

from realdpo.config import build_settings, settings
from realdpo.errors import UserError
from realdpo.precision import Dtype, short_name
from realdpo.train.methods import METHODS, Method

T = TypeVar("T")


def _set(default: T, text: str) -> T:
    return field(default=default, metadata={"help": text})


@settings
class TrainConfig:
    """The settings of `realdpo train`. Defaults are the preset `realdpo`."""

    # What is trained
    model: str = _set("tiny", "tiny, a diffusers pipeline folder, or a Hub id.")
    revision: str | None = _set(None, "Branch, tag or commit of a Hub model.")
    name: str = _set("", "Name of the run under runs/; the objective's name when empty.")
    start: str = _set(
        "",
        "Weights to continue from: a run of this workspace, or the folder that a run wrote. Empty "
        "starts from the model itself.",
    )
    weights: Literal["lora", "full"] = _set(
        "lora", "Train low-rank adapters (LoRA), or all weights."
    )
    rank: int = _set(32, "Rank of the adapters.")
    alpha: float = _set(32.0, "The adapters' output is multiplied by alpha / rank.")
    targets: tuple[str, ...] = _set(
        ("attention", "feed-forward"),
        "The layers that get adapters: attention, feed-forward, or names of linear layers.",
    )
    lora_dropout: float = _set(0.0, "Dropout before the adapters.")
    task: Literal["i2v", "t2v"] | None = _set(
        None, "i2v or t2v, for a model that can do both (LTX-Video, Wan 2.2 5B)."
    )
    expert: Literal["high", "low", "both"] = _set(
        "high",
        "Wan 2.2 14B has two transformers, for high and for low noise. Train one, or both, one "
        "after "
        "the other, `steps` steps each.",
    )

    # Objective
    objective: Literal["contrast", "dpo", "sft"] = _set(
        "contrast",
        "contrast compares real clips with the reference's own prediction and needs no generated "
        "losers; dpo compares them with generated losers; sft is plain fine-tuning.",
    )
    data: Literal["auto", "clips", "pairs"] = _set(
        "auto",
        "Train on the dataset's clips, or on pairs. auto takes pairs for dpo; for the others it "
        "takes clips if there are any.",
    )
    gamma: float = _set(
        0.75,
        "Strength of the contrast, at least 0 and below 1. The optimum is 1 / (1 - gamma) times as "
        "far from the reference as that of sft.",
    )
    contrast_above: float = _set(
        0.4,
        "With contrast_weight = gate, the contrast acts above this noise level (0 clean, 1 noise).",
    )
    contrast_weight: Literal["gate", "smooth"] = _set(
        "gate",
        "gate: the contrast acts at high noise levels, which all count the same. smooth: it acts "
        "at "
        "all levels, weighted as in DiffusionNFT by the level over the clip's own error.",
    )
    beta: float = _set(
        2000.0, "With dpo, the logit is -beta/2 * (winner's gap - loser's gap), errors per element."
    )
    sft_weight: float = _set(
        500.0,
        "With dpo, the weight of the winner's own error in the loss. The preference itself weighs "
        "it by beta / 4 at the first step.",
    )
    sdpo_mu: float | None = _set(
        None,
        "Safety margin of Diffusion-SDPO in [0, 1], which scales the loser's gradient. Unset: off.",
    )
    losers: int = _set(0, "Most losers of a pair in one step; 0 takes all.")

    # Timesteps
    timesteps: Literal["uniform", "logit-normal"] = _set(
        "uniform", "Distribution of the noise levels over the model's schedule."
    )
    flow_shift: float | None = _set(
        None,
        "Shift of a flow-matching schedule in training; above 1 draws more noise. Unset takes the "
        "shift with which the model is sampled.",
    )
    t_low: float = _set(0.0, "Lowest noise level, as a share of the schedule (0 = clean).")
    t_high: float = _set(1.0, "Highest noise level, as a share of the schedule (1 = noise).")
    logit_mean: float = _set(0.0, "Mean of the logit-normal distribution.")
    logit_std: float = _set(1.0, "Standard deviation of the logit-normal distribution.")
    condition_draws: int = _set(
        4,
        "Noised copies of each first frame, for models that were trained with noised first frames; "
        "0 takes the clean one.",
    )

    # Reference
    reference: Literal["auto", "adapter-off", "frozen", "ema"] = _set(
        "auto",
        "auto takes the base. frozen and ema begin with the weights that the run starts from, "
        "which "
        "differ from the base if you set `start`.",
    )
    ema_rate: float = _set(0.999, "Share of the old reference that an update keeps.")
    ema_every: int = _set(100, "Steps between updates of the moving reference.")
    reference_bank: int = _set(
        0,
        "Noise draws of each pair whose reference errors are stored on disk and used again; 0: "
        "off.",
    )

    # Optimisation
    policy_ema: float = _set(
        0.99,
        "Decay of the moving average of the trained weights, at each step. The average is "
        "evaluated "
        "and handed over. 0 hands over the weights themselves.",
    )
    steps: int = _set(1000, "Optimiser steps.")
    batch: int = _set(1, "Clips or pairs in one forward pass, in each process.")
    accumulation: int = _set(1, "Forward passes before each optimiser step.")
    optimizer: Literal["adamw", "adamw8bit"] = _set(
        "adamw", "Optimiser; adamw8bit needs bitsandbytes."
    )
    lr: float = _set(1e-4, "Peak learning rate.")
    schedule: Literal["constant", "cosine", "linear"] = _set(
        "cosine", "Learning rate after the warm-up."
    )
    warmup: int = _set(20, "Steps in which the learning rate rises to its peak.")
    adam_beta1: float = _set(0.9, "AdamW's decay of the gradient's average.")
    adam_beta2: float = _set(0.95, "AdamW's decay of the squared gradient's average.")
    adam_eps: float = _set(1e-8, "Constant in AdamW's denominator.")
    weight_decay: float = _set(1e-4, "AdamW's weight decay.")
    clip: float = _set(1.0, "Largest norm of the gradient.")
    seed: int = _set(0, "Seed of all random choices.")

    # Speed and memory
    precision: Dtype = _set("auto", "Autocast dtype; auto: bf16 on a GPU, fp32 on a CPU.")
    memory: Literal[
        "auto", "side-by-side", "checkpointing", "one-by-one", "8bit", "4bit", "blocks"
    ] = _set(
        "auto",
        "How to save memory, from the fastest way to the leanest; auto takes the first that fits "
        "the GPU.",
    )
    deterministic: bool = _set(
        False,
        "Ask PyTorch for deterministic kernels, so that a resumed run repeats bit for bit on a GPU "
        "too; slower.",
    )
    vae_tiling: bool = _set(
        False, "Encode videos in tiles, which takes less memory and leaves seams in the latents."
    )

    # Safety and evidence
    stop_on_win_gap: float | None = _set(
        None,
        "Stop when the winner's held-out error is this share above the base's, for example 0.02.",
    )
    spike: float = _set(
        200.0, "Stop when a step's loss is this many times the median of the last steps; 0: never."
    )
    checkpoint_every: int = _set(100, "Steps between checkpoints.")
    keep_checkpoints: int = _set(2, "Checkpoints to keep beside the best one.")
    held_out_every: int = _set(
        50,
        "Steps between held-out measurements; 0 measures only before the first and after the last.",
    )
    held_out_pairs: int = _set(32, "Clips or pairs of the validation split to measure.")
    held_out_levels: int = _set(5, "Noise levels at which each of them is measured.")
    validation_videos: int = _set(
        0, "Validation prompts for which base and tuned model generate a video with the same seed."
    )
    validation_every: int = _set(0, "Steps between such videos; 0 makes them only at the end.")
    validation_steps: int | None = _set(
        None, "Denoising steps of such videos; unset takes what the model's authors recommend."
    )
    validation_guidance: float | None = _set(
        None, "Guidance of such videos; unset takes what the model's authors recommend."
    )
    trackers: tuple[str, ...] = _set((), "Trackers beside the CSV file: tensorboard, wandb.")
    allow_shortcut: bool = _set(False, "Train although the audit can tell winners from losers.")
    allow_other_model: bool = _set(
        False, "Train on pairs that another model made, or that were made for another task."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", short_name(self.precision))
        checks = {
            "rank must be at least 1": self.rank >= 1,
            "beta must be above 0": self.beta > 0,
            "gamma must be in [0, 1)": 0 <= self.gamma < 1,
            "contrast_above must be in [0, 1]": 0 <= self.contrast_above <= 1,
            "only dpo has a reference_bank": not self.reference_bank or self.method.needs_losers,
            "dpo needs data = pairs": not (self.method.needs_losers and self.data == "clips"),
            "sdpo_mu must be in [0, 1]": self.sdpo_mu is None or 0 <= self.sdpo_mu <= 1,
            "0 <= t_low < t_high <= 1 must hold": 0 <= self.t_low < self.t_high <= 1,
            "ema_rate must be in [0, 1)": 0 <= self.ema_rate < 1,
            "policy_ema must be in [0, 1)": 0 <= self.policy_ema < 1,
            "steps, batch, accumulation, ema_every, checkpoint_every, "
            "keep_checkpoints and held_out_levels must be at least 1": min(
                self.steps,
                self.batch,
                self.accumulation,
                self.ema_every,
                self.checkpoint_every,
                self.keep_checkpoints,
                self.held_out_levels,
            )
            >= 1,
            "losers, reference_bank, condition_draws, warmup, held_out_every and held_out_pairs "
            "must not be negative": min(
                self.losers,
                self.reference_bank,
                self.condition_draws,
                self.warmup,
                self.held_out_every,
                self.held_out_pairs,
            )
            >= 0,
            "lr and clip must be above 0": self.lr > 0 and self.clip > 0,
            "a moving reference changes what a bank has stored: reference_bank needs frozen or "
            "adapter-off": not (self.reference == "ema" and self.reference_bank),
            "memory = 8bit, 4bit and blocks need weights = lora": not (
                self.weights == "full" and self.memory in ("8bit", "4bit", "blocks")
            ),
            "expert = both needs weights = lora": not (
                self.expert == "both" and self.weights == "full"
            ),
            "adapter-off needs weights = lora": not (
                self.reference == "adapter-off" and self.weights == "full"
            ),
        }
        for rule, holds in checks.items():
            if not holds:
                raise UserError(f"[train] {rule}")

    @property
    def method(self) -> Method:
        """The objective, with all that training needs to know of it."""
        return METHODS[self.objective](self)

    @property
    def run_name(self) -> str:
        return self.name or self.objective

    @property
    def reference_mode(self) -> Literal["adapter-off", "frozen", "ema"]:
        if self.reference == "auto":
            return "adapter-off" if self.weights == "lora" else "frozen"
        return self.reference

    @property
    def plain_weight(self) -> float:
        """Factor on the gradient of plain training: the weight of the winner in `dpo` at first.

        So `clip` acts on all gradients alike, and SFT differs from DPO only in the objective.
        """
        return self.beta / 4


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "realdpo": {},
    # RealDPO's objective with settings of our own: generated losers, and an SFT term beside them.
    "realdpo-paper": {
        "objective": "dpo",
        "targets": ("attention",),
        "schedule": "constant",
        "policy_ema": 0.0,
    },
    # RealDPO's released script; docs/training.md lists what its code did beyond these settings.
    "realdpo-released": {
        "objective": "dpo",
        "schedule": "constant",
        "policy_ema": 0.0,
        "weights": "full",
        "beta": 5000.0,
        "sft_weight": 0.0,
        "t_high": 0.5,
        "reference": "ema",
        "ema_rate": 0.999,
        "ema_every": 100,
        "losers": 3,
        "lr": 1e-6,
        "warmup": 100,
        "weight_decay": 1e-4,
        "accumulation": 4,
    },
}

# Settings of earlier versions that had no benefit, with the value that a run may still have.
REMOVED: Mapping[str, Any] = {
    "loss": "sigmoid",
    "label_smoothing": 0.0,
    "weighting": "uniform",
    "timestep_bins": 8,
}


def read_stored(values: Mapping[str, Any], where: str) -> TrainConfig:
    """The settings of a run that this version or an earlier one started."""
    kept = {
        name: value
        for name, value in values.items()
        if name not in REMOVED or value != REMOVED[name]
    }
    return build_settings(TrainConfig, kept, where)


def preset_settings(name: str) -> Mapping[str, Any]:
    """The settings of a preset. Raises UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}", f"presets: {', '.join(PRESETS)}")
    return PRESETS[name]


# Settings that may differ when a run is resumed: its length, what is measured, and how memory is
# saved, but nothing that changes the result. `identity` compares the model and the pairs per step.
FREE_ON_RESUME = frozenset(
    {
        "steps",
        "checkpoint_every",
        "keep_checkpoints",
        "held_out_every",
        "trackers",
        "validation_videos",
        "validation_every",
        "validation_steps",
        "validation_guidance",
        "stop_on_win_gap",
        "spike",
        "allow_shortcut",
        "allow_other_model",
        "name",
        "model",
        "revision",
        "batch",
        "accumulation",
        "memory",
        "vae_tiling",
        "deterministic",
    }
)
