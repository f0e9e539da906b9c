"""The miniature's arms: how each trains and samples, what it costs, how its videos are measured.

Every arm starts from the same base and sees the same true clips. A unit is one arm and seed:
trained, sampled on prompts that nothing was trained on, and measured. Base, losers and units are
files named by what they depend on, so that a killed run goes on.

Compute is counted in forwards of one clip: 1 for a forward, 3 for one with its backward.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import figures
import losses
import numpy as np
import small_model
import torch
import worlds
from safetensors.torch import load_file, save_file
from small_model import BasePlan, inputs_of, new_model, sample, task_of
from torch import Tensor

from realdpo import progress
from realdpo.families import weights as adapters
from realdpo.families.guide import guide_by_base
from realdpo.files import atomic_path, write_text
from realdpo.ids import content_id
from realdpo.regions import Region
from realdpo.train import noise, objective, setup, step
from realdpo.train.config import PRESETS, TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.evaluate import metrics
from realdpo.train.reference import Reference

# Raise when what is stored would come out otherwise: drawings, base, training, measuring.
VERSION = 1

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
HELD = 5  # true frames of nine that a continuation is given
FEED_FORWARD = ("net.0.proj", "net.2")


@dataclass(frozen=True)
class Plan:
    """Sizes of everything. All arms share clips and batch.

    length: factor on every arm's steps. prompt_seed: of the prompts that arms are judged on;
    CHOOSING is that of the prompts that settings are chosen on.
    """

    base: BasePlan = field(default_factory=BasePlan)
    pairs: int = 240
    losers: int = 3
    length: float = 1.0
    batch: int = 4
    seeds: int = 3
    prompts_seen: int = 80
    prompts_held_out: int = 32
    prompt_seed: int = 31
    sampling_steps: int = 10


CHOOSING = 21
QUICK = Plan(
    BasePlan(clips=1500, steps=300),
    pairs=40,
    length=0.03,
    seeds=1,
    prompts_seen=20,
    prompts_held_out=8,
    sampling_steps=6,
)
# A transformer of about 100 million parameters; for a GPU, where bfloat16 multiplies.
LARGE = Plan(
    BasePlan(clips=40000, steps=6000, batch=64, lr=4e-4, layers=16, heads=20),
    pairs=960,
    batch=16,
    seeds=1,
)


@dataclass(frozen=True)
class Arm:
    """One way of training or sampling.

    steps, lr: of its training. rank, layers: of adapters; rank 0 trains all weights. changes: of
    the training's settings. loss: of `losses`, in place of the product's. winner: the real clip, or
    `continued`, the base's continuation of its first HELD frames. of: the arm whose weights it
    samples otherwise (steps 0) or trains on from. follow: the reference is the model it trains on from, not the base. guide: strength of
    the guidance by the base. scale: factor on what training moved.
    """

    name: str
    note: str
    objective: str = "contrast"
    steps: int = 600
    lr: float = 3e-4
    rank: int = 0
    layers: tuple[str, ...] = ATTENTION
    changes: Mapping[str, Any] = field(default_factory=dict)
    loss: str = ""
    winner: str = "real"
    of: str = ""
    follow: bool = False
    guide: float = 0.0
    scale: float = 1.0

    @property
    def needs_losers(self) -> bool:
        return self.objective == "dpo" or self.loss in ("trusted", "ddo")

    @property
    def forwards(self) -> int:
        """Of one clip, a step."""
        if self.loss:
            return losses.FORWARDS[self.loss]
        if self.objective == "dpo":  # winner and losers, of reference and policy
            return 4 * (1 + self.changes.get("losers", 3))
        return {"sft": 3, "contrast": 4}[self.objective]


def sampled(name: str, note: str, of: str, guide: float = 0.0, scale: float = 1.0) -> Arm:
    return Arm(name, note, steps=0, of=of, guide=guide, scale=scale)


def arms() -> list[Arm]:
    """All arms, those that the others lean on first."""
    paper = {k: v for k, v in PRESETS["realdpo-paper"].items() if k not in ("objective", "targets")}
    released = {
        key: PRESETS["realdpo-released"][key]
        for key in (
            "beta",
            "sft_weight",
            "t_high",
            "reference",
            "ema_rate",
            "ema_every",
            "schedule",
            "policy_ema",
        )
    }
    both = (*ATTENTION, *FEED_FORWARD)
    return [
        Arm("sft", "plain fine-tuning at the rate of contrast, equal compute", "sft", 800),
        Arm("contrast", "contrast above u = 0.4, gamma 0.75", "contrast", 600),
        sampled("sft-guided", "sft, sampled with guidance 2 by the base", "sft", guide=2),
        sampled("contrast-guided", "contrast, sampled with guidance 1", "contrast", guide=1),
        sampled(
            "smooth-guided", "contrast-smooth, sampled with guidance 1", "contrast-smooth", guide=1
        ),
        sampled("sft-scaled", "sft, its move from the base doubled: free", "sft", scale=2),
        Arm("lora-sft", "sft, rank 16, attention and feed-forward", "sft", 800, 3e-3, 16, both),
        Arm(
            "lora-contrast",
            "the preset: contrast, the same adapters",
            "contrast",
            600,
            3e-3,
            16,
            both,
        ),
        sampled("lora-scaled", "lora-sft, adapters doubled", "lora-sft", scale=2),
        Arm(
            "lora-smooth",
            "contrast-smooth, the same adapters",
            "contrast",
            600,
            3e-3,
            16,
            both,
            changes=SMOOTH,
        ),
        Arm("lora-attention-sft", "sft, rank 16, attention alone", "sft", 800, 3e-3, 16),
        Arm("lora-attention", "contrast, attention alone", "contrast", 600, 3e-3, 16),
        Arm("contrast-all", "contrast at all levels", changes={"contrast_above": 0.0}),
        Arm("sft-steps", "sft, as many steps as contrast", "sft", 600),
        Arm("sft-fast", "sft at the rate that the sweep chose", "sft", 800, 1e-3),
        Arm("sft-fast-long", "sft at that rate, the compute of three rounds", "sft", 2400, 1e-3),
        sampled("sft-fast-guided", "sft-fast, sampled with guidance 2", "sft-fast", guide=2),
        Arm("contrast-fast", "contrast at the same rate", "contrast", 600, 1e-3),
        Arm("sft-long", "sft, twice the compute", "sft", 1600),
        Arm("paper", "preset realdpo-paper, equal compute", "dpo", 150, 1e-4, changes=paper),
        Arm(
            "released", "the published settings, equal compute", "dpo", 150, 1e-4, changes=released
        ),
        Arm(
            "spin",
            "DPO against own samples without SFT's term, as SPIN-Diffusion's first round",
            "dpo",
            150,
            1e-4,
            changes={**paper, "sft_weight": 0.0},
        ),
        Arm("ddo", "direct discriminative optimisation, one own sample", steps=300, loss="ddo"),
        Arm("contrast-smooth", "contrast at all levels, DiffusionNFT's weight", changes=SMOOTH),
        Arm("contrast-sigmoid", "contrast's pair under the logistic loss", loss="sigmoid"),
        Arm(
            "contrast-trusted",
            "contrast, and DiffusionNFT's negative branch on own samples",
            steps=300,
            loss="trusted",
        ),
        Arm("contrast-fast-band", "contrast of fast changes over time alone", loss="fast"),
        Arm("contrast-not-slow", "contrast of all but slow changes over time", loss="not-slow"),
        Arm(
            "continuation",
            "DPO of the base's continuation of five true frames against that of one",
            "dpo",
            300,
            1e-4,
            changes={**paper, "sft_weight": 0.0, "losers": 1},
            winner="continued",
        ),
        Arm("sft-contrast", "contrast from sft, reference the base", of="sft"),
        Arm("round-2", "contrast again from contrast, reference the base", of="contrast"),
        Arm("round-2-follow", "the same, reference the first round", of="contrast", follow=True),
        Arm("round-3", "once more from round-2", of="round-2"),
    ]


def sweep() -> list[Arm]:
    """Settings of every objective, to be judged on prompts for choosing."""
    sft = [
        Arm(f"sft-{steps}-{lr:g}", f"sft, {steps} steps at {lr:g}", "sft", steps, lr)
        for steps in (400, 800)
        for lr in (1e-4, 3e-4, 1e-3, 2e-3)
    ]
    contrast = [
        Arm(
            f"contrast-{lr:g}-{gamma:g}",
            f"contrast at {lr:g}, gamma {gamma:g}",
            lr=lr,
            changes={"gamma": gamma},
        )
        for lr, gamma in ((3e-4, 0.75), (3e-4, 0.85), (6e-4, 0.75), (1e-3, 0.75), (1e-3, 0.5))
    ]
    others = [
        dataclasses.replace(arm, name=f"{arm.name}-{lr:g}", note=f"{arm.note}; at {lr:g}", lr=lr)
        for arm in arms()
        if arm.name
        in (
            "spin",
            "ddo",
            "continuation",
            "contrast-smooth",
            "contrast-sigmoid",
            "contrast-trusted",
            "contrast-fast-band",
            "contrast-not-slow",
        )
        for lr in (1e-4, 3e-4, 1e-3)
    ]
    smooth = [
        Arm(
            f"contrast-smooth-{lr:g}-{gamma:g}",
            f"its smooth form at {lr:g}, gamma {gamma:g}",
            lr=lr,
            changes={**SMOOTH, "gamma": gamma},
        )
        for lr, gamma in ((3e-4, 0.85), (3e-4, 0.5), (6e-4, 0.75), (1e-3, 0.5))
    ]
    low_rank = [
        dataclasses.replace(arm, name=f"{arm.name}-{lr:g}", note=f"{arm.note}; at {lr:g}", lr=lr)
        for arm in arms()
        if arm.name in ("lora-sft", "lora-contrast", "lora-smooth")
        for lr in (1e-3, 3e-3, 1e-2)
    ]
    long = [
        Arm("sft-2400-0.001", "sft, the compute of three rounds", "sft", 2400, 1e-3),
        *(
            Arm(
                f"contrast-1800-{lr:g}-{gamma:g}",
                f"contrast of the same compute at {lr:g}",
                steps=1800,
                lr=lr,
                changes={"gamma": gamma},
            )
            for lr, gamma in ((3e-4, 0.75), (6e-4, 0.75), (1e-3, 0.5))
        ),
        Arm("contrast-smooth-1800", "its smooth form, the same", steps=1800, changes=SMOOTH),
    ]
    return [*sft, *contrast, *smooth, *others, *low_rank, *long]


# What the whole plan compares: with all of `arms()` it would take a day.
WHOLE = (
    "sft",
    "sft-fast",
    "contrast",
    "contrast-smooth",
    "lora-sft",
    "lora-contrast",
    "lora-smooth",
    "paper",
    "sft-fast-guided",
    "smooth-guided",
)
CORE = ("sft", "sft-fast", "contrast", "contrast-smooth")  # on a second base, and in a second world


SMOOTH = {"contrast_weight": "smooth"}
MADE = Region((HELD / figures.FRAMES, 1.0), (0.0, 1.0), (0.0, 1.0))


def settings_of(arm: Arm, plan: Plan) -> TrainConfig:
    """The product's settings of an arm's training."""
    steps = max(1, round(arm.steps * plan.length))
    settings = TrainConfig(
        objective=arm.objective,
        weights="lora" if arm.rank else "full",
        losers=3,
        lr=arm.lr,
        steps=steps,
        warmup=min(50, max(1, steps // 10)),
    )  # type: ignore[arg-type]  # an arm names its objective as text
    return dataclasses.replace(settings, **arm.changes)


def open_weights(model: Any, arm: Arm) -> list[torch.nn.Parameter]:
    """What the arm trains: adapters, which are added, or all weights."""
    if arm.rank:
        model.requires_grad_(False)
        adapters.add_lora(model, arm.rank, float(arm.rank), 0.0, arm.layers)
    return [p for p in model.parameters() if p.requires_grad]


def train_arm(
    plan: Plan,
    arm: Arm,
    seed: int,
    model: Any,
    win: Tensor,
    losers: Tensor | None,
    captions: Sequence[str],
    texts: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
) -> list[dict[str, float]]:
    """Fine-tune `model`; returns one line of diagnostics a step. It is left with its average.

    base: weights of the reference, where it is not the model as it comes.
    """
    config = settings_of(arm, plan)
    torch.manual_seed(seed)
    parameters = open_weights(model, arm)
    model.train()
    task, aim = task_of(model), step.aim_of(config)
    contrast = step.contrast_of_config(config)
    anchor = Reference(model, config.reference_mode, config.ema_rate, config.ema_every)
    if base and not arm.rank:
        anchor.load({name: base[name].to(w.device) for name, w in anchor.weights.items()})
    average = setup.make_average(config, model)
    optimizer = setup.make_optimizer(config, parameters)
    rng = np.random.default_rng([seed, 7])
    grain = torch.Generator().manual_seed(seed)
    lines = []
    for k in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * setup.learning_rate_factor(k, config)
        index = rng.integers(0, len(win), plan.batch)
        clean = win[index]
        u = noise.draw_positions(
            torch.rand(len(index), generator=grain), config.timesteps, config.t_low, config.t_high
        )
        lose = clean[:, None, :0] if losers is None else losers[index][:, : config.losers]
        # Both sides were given the same frames or true ones: what was made by both is compared.
        regions = (MADE,) * len(index) if arm.winner == "continued" else ()
        batch = Batch(
            clean,
            lose,
            torch.randn(clean.shape, generator=grain),
            u,
            inputs_of(clean, [captions[i] for i in index], texts),
            regions=regions,
        ).to(small_model.device())
        optimizer.zero_grad()
        if arm.loss:
            outcome = losses.train_step(arm.loss, model, task, batch, config, anchor)
        elif config.objective == "sft":
            outcome = step.sft_step(model, task, batch, backward, config.plain_weight)
        elif config.objective == "contrast":
            outcome = step.contrast_step(
                model, task, batch, contrast, anchor, backward, config.plain_weight
            )
        else:
            ref = step.reference_errors(model, task, batch, anchor, True, None)
            outcome = step.dpo_step(model, task, batch, aim, *ref, backward, together=True)
        line = {"loss": outcome.loss, "error/win": float(outcome.errors.win.mean())}
        if outcome.moved is not None:
            line["moved"] = float(outcome.moved.mean())
        if config.objective == "dpo":
            line |= objective.diagnostics(outcome.errors, aim.beta)
        lines.append(line)
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        anchor.update(k + 1)
        if average is not None:
            average.update(k + 1)
    if average is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in average.weights:
                    parameter.copy_(average.weights[name])
    model.eval()
    return lines


@torch.no_grad()
def place(model: Any, stored: Mapping[str, Tensor], scale: float = 1.0) -> None:
    """Put trained weights into a model that is the base, `scale` times as far from it."""
    for name, parameter in model.named_parameters():
        if name in stored:
            new = stored[name].to(parameter.device)
            old = torch.zeros_like(new) if "lora_" in name else parameter
            # Of an adapter's two factors one is scaled, so that their product is.
            by = 1.0 if "lora_A" in name else scale
            parameter.copy_(old + by * (new - old))


def backward(loss: Tensor) -> None:
    loss.backward()


METRICS: tuple[metrics.Metric, ...] = (
    metrics.Metric("true.roughness", -1, "ratio", "joint acceleration over speed"),
    metrics.Metric("true.bone", -1, "share", "change of bone lengths"),
    metrics.Metric("true.distance", -1, "px", "joints' distance from the true clip"),
    metrics.Metric("true.shared", -1, "px", "the same over the joints that both videos show"),
    metrics.Metric("true.lost", -1, "share", "joints not found"),
    metrics.Metric("true.path", 0, "px/frame", "amount of motion: speed of the joints"),
    metrics.Metric("true.action", 1, "share", "action recognised"),
    metrics.BY_NAME["smooth.residual"],
    metrics.BY_NAME["drift.sharpness"],
    metrics.BY_NAME["first.psnr"],
)


def measure(
    frames: np.ndarray, clip: figures.Clip, classifier: Any, world: worlds.World
) -> dict[str, float]:
    """True-motion metrics and those of `realdpo eval` for one video of a known clip."""
    joints = figures.read_joints(frames)
    seen = metrics.video_metrics(frames, figures.FPS, clip.frames[0])
    numbers = {m.name: seen[m.name] for m in METRICS if m.name in seen}
    numbers |= figures.true_motion(joints, world.bones)
    numbers["true.distance"] = figures.distance_to_truth(joints, clip.joints)
    told = classifier.predict([figures.classifier_features(joints)])[0]
    numbers["true.action"] = float(told == clip.action)
    return numbers


def fit_classifier(world: worlds.World, count: int) -> Any:
    """Which action the joints of a clip show, learnt from true clips."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    clips = figures.make_clips(5, count, world.actions, make=world.make_clip)
    rows = [figures.classifier_features(figures.read_joints(clip.frames)) for clip in clips]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return model.fit(rows, [clip.action for clip in clips])


class Bench:
    """The folder of finished units of one base, and what they share."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan, self.began = out, plan, time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self.world = world = worlds.BY_NAME[plan.base.world]
        base_key = content_id(base=plan.base, version=VERSION)
        self.base_file = out / f"base-{base_key[:12]}.safetensors"
        kept = {"pairs": plan.pairs, "sampling": plan.sampling_steps}
        losers_key = content_id(base=base_key, losers=plan.losers, **kept)
        self.losers_file = out / f"losers-{losers_key[:12]}.safetensors"
        key = content_id(plan=dataclasses.replace(plan, seeds=0), version=VERSION)
        self.units = out / key[:12]
        self.units.mkdir(exist_ok=True)
        clips = figures.make_clips(3, plan.pairs, world.seen, make=world.make_clip)
        self.captions = [clip.caption for clip in clips]
        self.code, self.texts = small_model.fit_code(clips), small_model.text_embeddings()
        self.win = self.code.encode(np.stack([clip.frames for clip in clips]))
        # Bodies, places and poses that nothing was trained on.
        self.test = self._prompts()
        # The same but for the tempo, which neither prompt nor first frame tells: what a model that
        # makes no mistake at all would be measured at.
        self.other_tempo = self._prompts(np.random.default_rng(plan.prompt_seed + 2))

    def _prompts(self, tempo: np.random.Generator | None = None) -> list[figures.Clip]:
        """Clips of the seen actions, then of those held out."""
        plan, world, make = self.plan, self.world, self.world.make_clip
        seed, count = plan.prompt_seed, plan.prompts_seen
        seen = figures.make_clips(seed, count, world.seen, make=make, tempo=tempo)
        seed, count = plan.prompt_seed + 1, plan.prompts_held_out
        return seen + figures.make_clips(seed, count, world.held_out, make=make, tempo=tempo)

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
        return model.to(small_model.device())

    def losers(self) -> Tensor:
        """The base's own videos of every true clip, [pairs, N, F, C, GRID, GRID]."""
        if not self.losers_file.exists():
            inputs = inputs_of(self.win, self.captions, self.texts)
            model, made = self.model(), []
            for number in range(self.plan.losers):
                latents = sample(model, inputs, 100 + number, self.plan.sampling_steps)
                # Losers pass through pixels as those of a real model do.
                made.append(self.code.encode(self.code.decode(latents)))
            with atomic_path(self.losers_file) as temporary:
                save_file({"latents": torch.stack(made, 1)}, temporary)
        return load_file(self.losers_file)["latents"]

    @functools.cached_property
    def continued(self) -> Tensor:
        """The base's continuation of the first HELD frames of every true clip, as `win`."""
        inputs = inputs_of(self.win, self.captions, self.texts)
        held = self.win[:, :HELD]
        made = sample(self.model(), inputs, 200, self.plan.sampling_steps, held=held)
        return self.code.encode(self.code.decode(made))

    def file(self, arm: Arm | None, seed: int) -> Path:
        """Where a unit's numbers are; its weights, and its videos of seed 0, lie beside them."""
        return self.units / f"{arm.name if arm else 'base'}-{seed}.json"

    @functools.cached_property
    def classifier(self) -> Any:
        return fit_classifier(self.world, 600)

    def joints_file(self, arm: Arm | None, seed: int) -> Path:
        """The joints of a unit's videos, [prompts, F, joints, 2]."""
        return self.file(arm, seed).with_suffix(".joints.npy")

    def is_made(self, arm: Arm | None, seed: int) -> bool:
        return self.file(arm, seed).exists() and self.joints_file(arm, seed).exists()

    def unit(self, arm: Arm | None, seed: int) -> None:
        """Train, sample and measure one arm (None: the base), once."""
        if self.is_made(arm, seed):
            return
        began = time.monotonic()
        model = self.model()
        lines = self._made(arm, seed, model) if arm else []
        trained = time.monotonic() - began
        first = self.code.encode(np.stack([clip.frames for clip in self.test]))
        inputs = inputs_of(first, [clip.caption for clip in self.test], self.texts)
        videos = self.code.decode(sample(model, inputs, 300 + seed, self.plan.sampling_steps))
        rows = [
            measure(v, c, self.classifier, self.world)
            for v, c in zip(videos, self.test, strict=True)
        ]
        joints = np.stack([figures.read_joints(video) for video in videos]).astype(np.float32)
        write_array(self.joints_file(arm, seed), joints)
        if seed == 0:
            write_array(self.file(arm, seed).with_suffix(".npy"), videos)
        done = {"rows": rows, "lines": lines, "train_seconds": trained}
        if not self.file(arm, seed).exists():  # else its training is told there
            write_text(self.file(arm, seed), json.dumps(done))
        self.say(f"{self.file(arm, seed).stem}: {time.monotonic() - began:.0f} s")

    def _made(self, arm: Arm, seed: int, model: Any) -> list[dict[str, float]]:
        """Turn the base `model` into the arm's; its weights are kept when it was trained."""
        start = {a.name: a for a in arms()}.get(arm.of)
        base = {name: value.clone() for name, value in model.state_dict().items()}
        if start is not None:
            self.unit(start, seed)
            if not arm.steps:
                open_weights(model, start)
            stored = load_file(self.file(start, seed).with_suffix(".safetensors"))
            place(model, stored, arm.scale)
        if arm.guide:
            bases = None if start and start.rank else {"transformer": self.model()}
            guide_by_base(SimpleNamespace(transformer=model), arm.guide, bases)
        if not arm.steps:
            return []
        weights = self.file(arm, seed).with_suffix(".safetensors")
        if weights.exists() and self.file(arm, seed).exists():  # its training is told
            open_weights(model, arm)
            place(model, load_file(weights))
            return []
        losers = self.losers() if arm.needs_losers else None
        reference = {} if arm.follow else base
        win = self.continued if arm.winner == "continued" else self.win
        lines = train_arm(
            self.plan, arm, seed, model, win, losers, self.captions, self.texts, reference
        )
        trained = {n: p.detach().cpu() for n, p in model.named_parameters() if p.requires_grad}
        with atomic_path(weights) as temporary:
            save_file(trained, temporary)
        return lines


def write_array(path: Path, values: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)
