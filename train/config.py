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
        "Weights to train on from: a run of this workspace, or the folder that a run wrote; empty: "
        "the model as it is.",
    )
    weights: Literal["lora", "full"] = _set("lora", "Train low-rank adapters or all weights.")
    rank: int = _set(32, "Rank of the adapters.")
    alpha: float = _set(32.0, "Adapters are scaled by alpha / rank.")
    targets: tuple[str, ...] = _set(
        ("attention", "feed-forward"),
        "The layers that get adapters: attention, feed-forward, or names of linear layers.",
    )
    lora_dropout: float = _set(0.0, "Dropout before the adapters.")
    task: Literal["i2v", "t2v"] | None = _set(
        None, "i2v or t2v, for a folder whose weights do both (LTX-Video, Wan 2.2 5B)."
    )
    expert: Literal["high", "low", "both"] = _set(
        "high",
        "Wan 2.2 14B: which of its two transformers, by noise level; both: one after the other, each "
        "for `steps` steps.",
    )

    # Objective
    objective: Literal["contrast", "dpo", "sft"] = _set(
        "contrast",
        "contrast: real clips against the reference's own prediction, without generated losers; "
        "dpo: against generated losers; sft: plain fine-tuning.",
    )
    data: Literal["auto", "clips", "pairs"] = _set(
        "auto",
        "What is trained on: the dataset's clips, or pairs. auto: pairs for dpo, and for the "
        "others clips where there are some.",
    )
    gamma: float = _set(
        0.75, "Strength of the contrast, below 1: the optimum is 1 / (1 - gamma) times as far."
    )
    contrast_above: float = _set(
        0.4,
        "With contrast_weight = gate, the contrast acts above this share of the noise schedule.",
    )
    contrast_weight: Literal["gate", "smooth"] = _set(
        "gate",
        "gate: the contrast acts at the higher noise levels, and each counts the same; smooth: it "
        "acts at all, weighted as in DiffusionNFT by the level over the clip's own error.",
    )
    beta: float = _set(
        2000.0, "Logit = -beta/2 * (winner's gap - loser's gap), errors per element."
    )
    sft_weight: float = _set(
        500.0,
        "Weight of the winner's own error in the loss; beta / 4 is its share of the preference.",
    )
    sdpo_mu: float | None = _set(
        None, "Diffusion-SDPO safety margin in [0, 1]; scales the loser's gradient. Unset: off."
    )
    losers: int = _set(0, "Losers of a pair used in a step, at most; 0: all that it has.")

    # Timesteps
    timesteps: Literal["uniform", "logit-normal"] = _set(
        "uniform", "Distribution of noise levels over the model's schedule."
    )
    flow_shift: float | None = _set(
        None,
        "Shift of a flow-matching schedule in training: above 1 draws more noise. Unset: that of the "
        "model's own schedule, by which it is sampled.",
    )
    t_low: float = _set(0.0, "Lowest noise level, as a share of the schedule (0 = clean).")
    t_high: float = _set(1.0, "Highest noise level, as a share of the schedule (1 = noise).")
    logit_mean: float = _set(0.0, "Mean of the logit-normal distribution.")
    logit_std: float = _set(1.0, "Standard deviation of the logit-normal distribution.")
    condition_draws: int = _set(
        4, "Noised copies of a first frame to choose from, where the base was trained so; 0: clean."
    )

    # Reference
    reference: Literal["auto", "adapter-off", "frozen", "ema"] = _set(
        "auto",
        "auto: the base. frozen and ema begin where the run does, which `start` moves from the base.",
    )
    ema_rate: float = _set(0.999, "Share of the old reference kept at an update.")
    ema_every: int = _set(100, "Steps between updates of the moving reference.")
    reference_bank: int = _set(
        0, "Fixed noise draws per pair whose reference errors are kept on disk; 0: off."
    )

    # Optimisation
    policy_ema: float = _set(
        0.99,
        "Share kept at each step of the moving average of the trained weights, which is what is "
        "evaluated and handed over; 0: the weights as they are.",
    )
    steps: int = _set(1000, "Optimiser steps.")
    batch: int = _set(1, "Pairs in one forward, per process.")
    accumulation: int = _set(1, "Forwards before an optimiser step.")
    optimizer: Literal["adamw", "adamw8bit"] = _set("adamw", "adamw8bit needs bitsandbytes.")
    lr: float = _set(1e-4, "Peak learning rate.")
    schedule: Literal["constant", "cosine", "linear"] = _set("cosine", "Rate after the warm-up.")
    warmup: int = _set(20, "Steps of linear warm-up.")
    adam_beta1: float = _set(0.9, "Decay of the gradient's average.")
    adam_beta2: float = _set(0.95, "Decay of the squared gradient's average.")
    adam_eps: float = _set(1e-8, "Added to the root of the squared gradient's average.")
    weight_decay: float = _set(1e-4, "Decoupled weight decay.")
    clip: float = _set(1.0, "Largest norm of the gradient.")
    seed: int = _set(0, "Seed of every random choice.")

    # Speed and memory
    precision: Dtype = _set("auto", "Autocast dtype; auto: bf16 on a GPU, fp32 on a CPU.")
    memory: Literal[
        "auto", "side-by-side", "checkpointing", "one-by-one", "8bit", "4bit", "blocks"
    ] = _set(
        "auto",
        "How memory is saved, from the fastest to the leanest; auto: the first way that fits the GPU.",
    )
    deterministic: bool = _set(
        False,
        "Ask PyTorch for deterministic kernels: a resumed run repeats bit for bit on a GPU too; slower.",
    )
    vae_tiling: bool = _set(False, "Encode videos in tiles: less memory, seams in the latents.")

    # Safety and evidence
    stop_on_win_gap: float | None = _set(
        None, "Stop when the winner's held-out error is this share above the base's, e.g. 0.02."
    )
    spike: float = _set(200.0, "Stop when a step's loss is this many times the usual; 0: never.")
    checkpoint_every: int = _set(100, "Steps between checkpoints.")
    keep_checkpoints: int = _set(2, "Checkpoints kept, beside the best.")
    held_out_every: int = _set(50, "Steps between held-out measurements; 0: only first and last.")
    held_out_pairs: int = _set(32, "Pairs of the validation split that are measured.")
    held_out_levels: int = _set(5, "Fixed noise levels a pair is measured at.")
    validation_videos: int = _set(
        0, "Held-out prompts to generate at fixed seeds, base beside tuned."
    )
    validation_every: int = _set(0, "Steps between generated videos; 0: only at the end.")
    validation_steps: int | None = _set(
        None, "Denoising steps of generated videos; None: as the model's authors."
    )
    validation_guidance: float | None = _set(
        None, "Guidance of generated videos; None: as the model's authors."
    )
    trackers: tuple[str, ...] = _set((), "Beside CSV: tensorboard, wandb.")
    allow_shortcut: bool = _set(False, "Train although the audit can tell the sides apart.")
    allow_other_model: bool = _set(
        False, "Train on pairs that were made for another task or by another model."
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
        """Of the gradient of plain training: what the preference weighs the winner's by at first.

        So the gradient meets `clip` alike, and SFT differs from DPO by what is minimised alone.
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

# Settings of earlier versions that nothing spoke for, with the value that a run may still have.
REMOVED: Mapping[str, Any] = {
    "loss": "sigmoid",
    "label_smoothing": 0.0,
    "weighting": "uniform",
    "timestep_bins": 8,
}


def read_stored(values: Mapping[str, Any], where: str) -> TrainConfig:
    """Settings that a run was started with, by this version or an earlier one."""
    kept = {
        name: value
        for name, value in values.items()
        if name not in REMOVED or value != REMOVED[name]
    }
    return build_settings(TrainConfig, kept, where)


def preset_settings(name: str) -> Mapping[str, Any]:
    """The settings of a preset. Raises UserError for a name that is none."""
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}", f"presets: {', '.join(PRESETS)}")
    return PRESETS[name]


# What may differ when a run is resumed: how long it goes, what is watched and how memory is saved,
# never what is learnt. Model and pairs a step are compared by what they are (see `identity`).
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
