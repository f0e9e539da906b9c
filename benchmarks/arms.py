"""The miniature's arms: what each trains with, its losers, and how its videos are measured.

Every arm starts from the same base, sees the same true clips and takes the same number of steps. A
unit is one arm and seed: trained, sampled on prompts that nothing was trained on, and measured.
Base, losers and units are files named by what they depend on, so that a killed run goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import figures
import numpy as np
import small_model
import torch
from safetensors.torch import load_file, save_file
from small_model import BasePlan, inputs_of, new_model, sample, task_of
from torch import Tensor

from realdpo import progress
from realdpo.files import atomic_path, write_text
from realdpo.ids import content_id, file_hash
from realdpo.train import noise, objective, reference, step
from realdpo.train.config import PRESETS, TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.evaluate import metrics

RENOISE = 0.7
SEEN = tuple(a for a in figures.ACTIONS if a not in figures.HELD_OUT)


@dataclass(frozen=True)
class Plan:
    """Sizes of everything. All arms share pairs, batch and steps.

    prompt_seed: of the prompts that arms are measured on; learning rates were chosen on others.
    """

    base: BasePlan = field(default_factory=BasePlan)
    pairs: int = 240
    losers: int = 5
    steps: int = 100
    batch: int = 4
    lr: float = 1e-4
    seeds: int = 3
    prompts_seen: int = 40
    prompts_held_out: int = 16
    prompt_seed: int = 11
    sampling_steps: int = 10


QUICK = Plan(
    BasePlan(clips=2000, steps=700), pairs=40, steps=10, seeds=1, prompts_seen=10,
    prompts_held_out=4, sampling_steps=8,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way of training: what it is called and how it departs from the recommended settings."""

    name: str
    note: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    losers: str = "generate"  # generate | renoise | shortcut
    copies: int = 1  # times the batch, for SFT at equal compute


def arms() -> list[Arm]:
    """All arms. Settings not named are TrainConfig's; full weights, N = 3, a frozen reference."""
    released = {
        key: PRESETS["realdpo-released"][key]
        for key in ("beta", "sft_weight", "t_high", "reference", "ema_rate", "ema_every")
    }
    beta, weight = TrainConfig.beta, TrainConfig.sft_weight
    return [
        Arm("sft", "plain fine-tuning on the same true clips", {"objective": "sft"}),
        Arm(
            "sft-compute",
            "SFT given DPO's forwards: 5 times the clips",
            {"objective": "sft"},
            copies=5,
        ),
        Arm("realdpo", "preference training, recommended settings"),
        Arm("no-sft-term", "the preference alone", {"sft_weight": 0.0}),
        Arm(
            "no-sft-term-beta-low",
            "the preference alone, beta / 10",
            {"sft_weight": 0.0, "beta": beta / 10},
        ),
        Arm(
            "sdpo",
            "the loser's gradient scaled (SDPO) instead of the winner's term",
            {"sft_weight": 0.0, "sdpo_mu": 0.5},
        ),
        Arm("released", "published settings, learning rate as here", released),
        Arm("released-lr", "published settings, published learning rate", {**released, "lr": 1e-6}),
        Arm("n1", "one loser", {"losers": 1}),
        Arm("n5", "five losers", {"losers": 5}),
        Arm(
            "beta-low",
            "beta / 10, and the winner's term with it",
            {"beta": beta / 10, "sft_weight": weight / 10},
        ),
        Arm("beta-low-only", "beta / 10, the winner's term as it is", {"beta": beta / 10}),
        Arm(
            "beta-lowest",
            "beta / 100, and the winner's term with it",
            {"beta": beta / 100, "sft_weight": weight / 100},
        ),
        Arm(
            "beta-high",
            "beta x 10, and the winner's term with it",
            {"beta": beta * 10, "sft_weight": weight * 10},
        ),
        Arm(
            "ema",
            "the reference follows quickly",
            {"reference": "ema", "ema_rate": 0.9, "ema_every": 5},
        ),
        Arm("low-half", "low half of the noise levels", {"t_high": 0.5}),
        Arm("renoise", "losers: the true clip noised and denoised", losers="renoise"),
        Arm("shortcut", "losers normalised otherwise, as in the release", losers="shortcut"),
    ]


def planted_shortcut(lose: Tensor, reference: Tensor) -> Tensor:
    """Losers as an encoder fed with another normalisation makes them.

    The released RealDPO caches differ from winners by a shift of about two deviations in the
    first channel and a spread 1.17 times as large.
    """
    shifted = 1.17 * lose
    shifted[..., 0, :, :] += 2 * reference[..., 0, :, :].std()
    return shifted


def train_arm(
    plan: Plan, arm: Arm, seed: int, model: Any, win: Tensor, losers: Mapping[str, Tensor],
    captions: Sequence[str], texts: Mapping[str, Tensor],
) -> list[dict[str, float]]:  # fmt: skip
    """Fine-tune `model`, which comes as the base; returns one line of diagnostics a step."""
    config = dataclasses.replace(
        TrainConfig(
            objective="dpo",
            weights="full",
            reference="frozen",
            losers=3,
            lr=plan.lr,
            steps=plan.steps,
        ),
        **arm.changes,
    )
    model.train()
    task, aim = task_of(model), step.aim_of(config)
    anchor = reference.Reference(model, config.reference_mode, config.ema_rate, config.ema_every)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )  # fmt: skip
    rng = np.random.default_rng([seed, 7])
    grain = torch.Generator().manual_seed(seed)
    lines = []
    for k in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (k + 1) / max(1, plan.steps // 10))
        index = rng.integers(0, len(win), plan.batch * arm.copies)
        clean = win[index]
        chosen = rng.permutation(plan.losers)[: config.losers]
        u = noise.positions(
            torch.rand(len(index), generator=grain), config.timesteps, config.t_low, config.t_high
        )
        batch = Batch(
            clean, losers[arm.losers][index][:, chosen], torch.randn(clean.shape, generator=grain),
            u, inputs_of(clean, [captions[i] for i in index], texts),
        )  # fmt: skip
        optimizer.zero_grad()
        if config.objective == "sft":
            outcome = step.sft(
                model, task, batch, lambda loss: loss.backward(), config.plain_weight
            )
            lines.append({"loss": outcome.loss})
        else:
            ref = step.reference_errors(model, task, batch, anchor, True, None)
            outcome = step.dpo(
                model, task, batch, aim, *ref, lambda loss: loss.backward(), together=True
            )
            lines.append({"loss": outcome.loss, **objective.diagnostics(outcome.errors, aim.beta)})
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        anchor.update(k + 1)
    model.eval()
    return lines


METRICS: tuple[metrics.Metric, ...] = (
    metrics.Metric("true.path", 0, "px/frame", "speed of the joints"),
    metrics.Metric("true.roughness", -1, "ratio", "joint acceleration over speed"),
    metrics.Metric("true.bone", -1, "share", "change of bone lengths"),
    metrics.Metric("true.lost", -1, "share", "joints not found"),
    metrics.Metric("true.distance", -1, "px", "joints' distance from the true clip"),
    metrics.Metric("true.action", 1, "share", "action recognised"),
    metrics.BY_NAME["motion.difference"],
    metrics.BY_NAME["smooth.residual"],
    metrics.BY_NAME["smooth.jerk"],
    metrics.BY_NAME["drift.sharpness"],
    metrics.BY_NAME["first.psnr"],
)


def measure(frames: np.ndarray, clip: figures.Clip, classifier: Any) -> dict[str, float]:
    """True-motion metrics and those of `realdpo eval` for one video of a known clip."""
    joints = figures.read_joints(frames)
    seen = metrics.video_metrics(frames, figures.FPS, clip.frames[0])
    numbers = {m.name: seen[m.name] for m in METRICS if m.name in seen}
    numbers |= figures.true_motion(joints)
    numbers["true.distance"] = figures.distance_to_truth(joints, clip.joints)
    told = classifier.predict([figures.classifier_features(joints)])[0]
    numbers["true.action"] = float(told == clip.action)
    return numbers


def fit_classifier(count: int) -> Any:
    """Which action the joints of a clip show, learnt from true clips."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    clips = figures.make_clips(5, count, tuple(figures.ACTIONS))
    rows = [figures.classifier_features(figures.read_joints(clip.frames)) for clip in clips]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return model.fit(rows, [clip.action for clip in clips])


class Bench:
    """The folder of finished units, and what they share."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan, self.began = out, plan, time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self.codes = code_hashes()
        base_key = content_id(base=plan.base, code=self.codes[:-1])
        self.base_file = out / f"base-{base_key[:12]}.safetensors"
        losers_key = content_id(
            base=base_key, pairs=plan.pairs, losers=plan.losers, sampling=plan.sampling_steps,
            renoise=RENOISE,
        )  # fmt: skip
        self.losers_folder = out / f"losers-{losers_key[:12]}"
        self.units = out / content_id(plan=dataclasses.replace(plan, seeds=0), code=self.codes)[:12]
        self.units.mkdir(exist_ok=True)
        clips = figures.make_clips(3, plan.pairs, SEEN)
        self.captions = [clip.caption for clip in clips]
        self.code, self.texts = small_model.fit_code(clips), small_model.text_embeddings()
        self.win = self.code.encode(np.stack([clip.frames for clip in clips]))
        # Bodies, places and poses that nothing was trained on.
        self.test = figures.make_clips(plan.prompt_seed, plan.prompts_seen, SEEN)
        self.test += figures.make_clips(
            plan.prompt_seed + 1, plan.prompts_held_out, figures.HELD_OUT
        )

    def say(self, text: str) -> None:
        progress.say(f"[{time.monotonic() - self.began:5.0f} s] {text}")

    def base(self) -> dict[str, Tensor]:
        if not self.base_file.exists():
            weights = small_model.pretrain(self.plan.base, self.code, self.texts, self.say)
            with atomic_path(self.base_file) as temporary:
                save_file(weights, temporary)
        return load_file(self.base_file)

    def model(self) -> Any:
        """The base, ready to sample from."""
        model = new_model(self.plan.base).eval()
        model.load_state_dict(self.base())
        return model

    def make_losers(self, kind: str, number: int) -> None:
        """The base's own videos for every pair, one a pair: from noise, or from the true clip."""
        path = self.losers_folder / f"{kind}-{number}.safetensors"
        if path.exists():
            return
        began, real = time.monotonic(), {"generate": None, "renoise": self.win}[kind]
        inputs = inputs_of(self.win, self.captions, self.texts)
        seed = (100 if real is None else 200) + number
        made = sample(self.model(), inputs, seed, self.plan.sampling_steps, real, RENOISE)
        # Losers pass through pixels as those of a real model do.
        with atomic_path(path) as temporary:
            save_file({"latents": self.code.encode(self.code.decode(made))}, temporary)
        self.say(f"{path.stem}: {time.monotonic() - began:.0f} s")

    def losers(self) -> dict[str, Tensor]:
        """Losers [pairs, N, F, C, GRID, GRID] of every kind; all must have been made."""
        found = {
            kind: torch.stack(
                [
                    load_file(self.losers_folder / f"{kind}-{k}.safetensors")["latents"]
                    for k in range(self.plan.losers)
                ],
                1,
            )
            for kind in ("generate", "renoise")
        }
        return {**found, "shortcut": planted_shortcut(found["generate"].clone(), self.win)}

    def file(self, arm: Arm | None, seed: int) -> Path:
        """Where a unit's numbers are; its videos, of seed 0 only, lie beside them."""
        return self.units / f"{arm.name if arm else 'base'}-{seed}.json"

    @functools.cached_property
    def shared(self) -> tuple[dict[str, Tensor], Any]:
        """What all units need: the losers and the classifier of actions."""
        return self.losers(), fit_classifier(600)

    def unit(self, arm: Arm | None, seed: int) -> None:
        """Train, sample and measure one arm (None: the base), once."""
        if self.file(arm, seed).exists():
            return
        began = time.monotonic()
        losers, classifier = self.shared
        model, lines = self.model(), []
        if arm:
            lines = train_arm(
                self.plan, arm, seed, model, self.win, losers, self.captions, self.texts
            )
        trained = time.monotonic() - began
        first = self.code.encode(np.stack([clip.frames for clip in self.test]))
        inputs = inputs_of(first, [clip.caption for clip in self.test], self.texts)
        videos = self.code.decode(sample(model, inputs, 300 + seed, self.plan.sampling_steps))
        rows = [measure(v, c, classifier) for v, c in zip(videos, self.test, strict=True)]
        if seed == 0:
            path = self.file(arm, seed).with_suffix(".npy")
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, videos)
        done = {"rows": rows, "lines": lines, "train_seconds": trained}
        write_text(self.file(arm, seed), json.dumps(done))
        self.say(f"{self.file(arm, seed).stem}: {time.monotonic() - began:.0f} s")


def code_hashes() -> list[str]:
    """Of everything that what is stored depends on; this file, the last, does not make the base."""
    parts = [figures, small_model, noise, objective, reference, step]
    files = [*(str(part.__file__) for part in parts), __file__]
    return [file_hash(Path(file)) for file in files]
