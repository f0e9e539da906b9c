"""The method's claim in miniature: does preference training on real clips mend motion?

    python benchmarks/miniature.py --out miniature            about 40 minutes on two cores
    python benchmarks/miniature.py --out miniature --quick    about 5, too short for verdicts

A small CogVideoX image-to-video transformer is trained on drawn figures whose motion is mostly
damaged (trembling, freezes, lost order, limbs that change length), so that it fails as large
models do. Then every arm gets the same true clips and the same number of steps: plain
fine-tuning (SFT), preference training (RealDPO), its published settings, and ablations.
Because the figures are drawn, joints are known, and motion is judged by them beside the metrics
that `realdpo eval` has. Latents are a linear code of pixel blocks fitted in closed form: no VAE
stands between what the transformer makes and what is measured.

Finished units (base model, losers, each arm and seed) are kept in --out; the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

sys.path.insert(0, str(Path(__file__).parent))
import figures

from realdpo.files import atomic_path, write_text
from realdpo.ids import content_id, file_hash
from realdpo.train import noise, step
from realdpo.train.config import PRESETS, TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.evaluate import metrics, statistics
from realdpo.train.models import Spec, cogvideox
from realdpo.train.reference import Reference

BLOCK, CHANNELS = 6, 24
GRID = figures.SIZE // BLOCK
SEEN = tuple(a for a in figures.ACTIONS if a not in figures.HELD_OUT)
WORDS = sorted({w for text in figures.ACTIONS.values() for w in f"a person {text}".split()})
TOKENS = 8


@dataclass(frozen=True)
class Plan:
    """Sizes of everything. All arms share pairs, batch and steps."""

    pretrain_clips: int = 3000
    pretrain_steps: int = 3000
    pretrain_batch: int = 16
    pretrain_lr: float = 1e-3
    damaged: float = 0.75
    pairs: int = 240
    losers: int = 5
    steps: int = 60
    batch: int = 4
    lr: float = 1e-4
    seeds: int = 3
    prompts_seen: int = 40
    prompts_held_out: int = 16
    sampling_steps: int = 10
    layers: int = 4
    heads: int = 4


QUICK = Plan(
    pretrain_clips=600, pretrain_steps=400, pairs=40, steps=10, seeds=1,
    prompts_seen=10, prompts_held_out=4, sampling_steps=8,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way of training: what it is called and how it departs from the recommended settings."""

    name: str
    note: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    losers: str = "generate"  # generate | renoise | shortcut
    copies: int = 1  # times the batch, for SFT at equal compute


def arms(plan: Plan) -> list[Arm]:
    """All arms. Settings not named are those of TrainConfig, full weights, N = 3, frozen reference."""
    released = {
        key: PRESETS["realdpo-released"][key]
        for key in ("beta", "t_high", "reference", "ema_rate", "ema_every")
    }
    return [
        Arm("sft", "plain fine-tuning on the same true clips", {"objective": "sft"}),
        Arm(
            "sft-compute",
            "SFT given DPO's forwards: 4 times the clips",
            {"objective": "sft"},
            copies=4,
        ),
        Arm("realdpo", "preference training, recommended settings"),
        Arm("released", "published settings, learning rate as here", released),
        Arm("released-lr", "published settings, published learning rate", {**released, "lr": 1e-6}),
        Arm("n1", "one loser", {"losers": 1}),
        Arm("n5", "five losers", {"losers": 5}),
        Arm("beta-low", "beta / 10", {"beta": TrainConfig.beta / 10}),
        Arm("beta-high", "beta x 10", {"beta": TrainConfig.beta * 10}),
        Arm(
            "ema",
            "reference follows quickly",
            {"reference": "ema", "ema_rate": 0.9, "ema_every": 5},
        ),
        Arm("low-half", "low half of the timesteps", {"t_high": 0.5}),
        Arm("sft-term", "winner's error added", {"sft_weight": TrainConfig.beta / 4}),
        Arm("sdpo", "loser gradient scaled (SDPO)", {"sdpo_mu": 0.5}),
        Arm("renoise", "losers: the true clip noised and denoised", losers="renoise"),
        Arm("shortcut", "losers normalised otherwise, as in the release", losers="shortcut"),
    ]


@dataclass(frozen=True)
class Code:
    """Linear code of 6x6 pixel blocks: the first principal axes of true clips, one scale."""

    mean: np.ndarray  # [108]
    axes: np.ndarray  # [108, CHANNELS]
    scale: np.ndarray  # [CHANNELS]

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 [..., F, 48, 48, 3] to latents [..., F, C, 8, 8]."""
        *lead, _, _, _ = frames.shape
        blocks = frames.reshape(*lead, GRID, BLOCK, GRID, BLOCK, 3).astype(np.float32) / 127.5 - 1
        blocks = np.moveaxis(blocks, -4, -3).reshape(*lead, GRID, GRID, -1)
        latents = (blocks - self.mean) @ self.axes / self.scale
        return torch.from_numpy(np.moveaxis(latents, -1, -3).astype(np.float32).copy())

    def decode(self, latents: Tensor) -> np.ndarray:
        """The way back: latents [..., F, C, 8, 8] to uint8 frames."""
        values = np.moveaxis(latents.numpy(), -3, -1) * self.scale @ self.axes.T + self.mean
        *lead, _, _, _ = values.shape
        blocks = np.moveaxis(values.reshape(*lead, GRID, GRID, BLOCK, BLOCK, 3), -3, -4)
        pixels = (blocks.reshape(*lead, figures.SIZE, figures.SIZE, 3) + 1) * 127.5
        return pixels.round().clip(0, 255).astype(np.uint8)


def fit_code(clips: Sequence[figures.Clip]) -> Code:
    frames = np.concatenate([clip.frames[::3] for clip in clips])
    blocks = frames.reshape(-1, GRID, BLOCK, GRID, BLOCK, 3).astype(np.float64) / 127.5 - 1
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, BLOCK * BLOCK * 3)
    mean = blocks.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(blocks.T))
    axes = vectors[:, ::-1][:, :CHANNELS]
    spread = ((blocks - mean) @ axes).std(axis=0)
    # Between one scale for all channels (detail drowns in noise) and whitening (noise is all
    # that is learnt): the square root of the spread, then one factor to unit variance.
    scale = np.sqrt(spread)
    return Code(mean, axes, scale * np.sqrt(np.mean((spread / scale) ** 2)))


def text_embeddings() -> dict[str, Tensor]:
    """Caption -> [TOKENS, 32] by a frozen T5 encoder of random weights: words stay apart."""
    torch.manual_seed(0)
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(WORDS) + 1, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    ).eval()
    found = {}
    for text in figures.ACTIONS.values():
        caption = f"a person {text}"
        ids = [WORDS.index(w) + 1 for w in caption.split()][:TOKENS]
        ids += [0] * (TOKENS - len(ids))
        with torch.no_grad():
            found[caption] = encoder(torch.tensor([ids])).last_hidden_state[0]
    return found


def new_model(plan: Plan, seed: int = 0) -> CogVideoXTransformer3DModel:
    torch.manual_seed(seed)
    return CogVideoXTransformer3DModel(
        num_attention_heads=plan.heads, attention_head_dim=32, in_channels=2 * CHANNELS,
        out_channels=CHANNELS, time_embed_dim=64, text_embed_dim=32, num_layers=plan.layers,
        sample_width=GRID, sample_height=GRID, sample_frames=figures.FRAMES, patch_size=2,
        temporal_compression_ratio=1, max_text_seq_length=TOKENS, dropout=0.0,
        use_rotary_positional_embeddings=True,
    )  # fmt: skip


def scheduler() -> CogVideoXDDIMScheduler:
    """The settings of CogVideoX-5B: v-prediction, zero terminal SNR, trailing timesteps."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", snr_shift_scale=1.0,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        clip_sample=False, set_alpha_to_one=True,
    )  # fmt: skip


def task_of(model: Any) -> step.Task:
    config = dict(scheduler().config)
    spec = Spec(Path(), "CogVideoXImageToVideoPipeline", {}, dict(model.config), {}, config)
    return step.Task(cogvideox, spec, noise.from_scheduler(config))


def inputs_of(
    latents: Tensor, captions: Sequence[str], texts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {
        "image_latents": latents[:, 0],
        "prompt_embeds": torch.stack([texts[caption] for caption in captions]),
    }


@torch.no_grad()
def sample(
    model: Any, inputs: Mapping[str, Tensor], seed: int, steps: int,
    start: Tensor | None = None, strength: float = 1.0,
) -> Tensor:  # fmt: skip
    """Latents [B, F, C, 8, 8]. With `start`, those latents noised to `strength` and denoised.

    Sample k's noise depends on the seed and k alone, so every model gets the same.
    """
    task, process = task_of(model), scheduler()
    process.set_timesteps(steps)
    timesteps = process.timesteps[round((1 - strength) * steps) :]
    count = len(inputs["image_latents"])
    shape = (figures.FRAMES, CHANNELS, GRID, GRID)
    grain = torch.stack(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + k))
            for k in range(count)
        ]
    )
    made = []
    for low in range(0, count, 16):
        part = {name: tensor[low : low + 16] for name, tensor in inputs.items()}
        x = grain[low : low + 16]
        if start is not None:
            x = process.add_noise(start[low : low + 16], x, timesteps[:1].repeat(len(x)))
        for t in timesteps:
            v = cogvideox.forward(model, task.spec, x, t.repeat(len(x)), dict(part))
            x = process.step(v, int(t), x, return_dict=False)[0]
        made.append(x)
    return torch.cat(made)


def pretrain(
    plan: Plan, code: Code, texts: Mapping[str, Tensor], say: Any
) -> tuple[Any, list[float]]:
    """The base model: mostly damaged motion of all actions, held-out ones included."""
    clips = figures.make_clips(1, plan.pretrain_clips, tuple(figures.ACTIONS), plan.damaged)
    latents = code.encode(np.stack([clip.frames for clip in clips]))
    model = new_model(plan)
    task = task_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.pretrain_lr, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.pretrain_lr, total_steps=plan.pretrain_steps, pct_start=0.05
    )
    rng, curve = np.random.default_rng(2), []
    for k in range(plan.pretrain_steps):
        index = rng.integers(0, len(clips), plan.pretrain_batch)
        clean = latents[index]
        batch = Batch(
            clean, clean[:, None, :0], torch.randn(clean.shape), torch.rand(len(index)).double(),
            inputs_of(clean, [clips[i].caption for i in index], texts),
        )  # fmt: skip
        optimizer.zero_grad()
        outcome = step.sft(model, task, batch, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        curve.append(outcome.loss)
        if k % 100 == 99:
            say(f"base: step {k + 1} of {plan.pretrain_steps}, error {np.mean(curve[-100:]):.4f}")
    return model.eval(), curve


def planted_shortcut(lose: Tensor, reference: Tensor) -> Tensor:
    """Losers as an encoder fed with another normalisation makes them.

    The released RealDPO caches differ from winners by a shift of about two deviations in the
    first channel and a spread 1.17 times as large.
    """
    shifted = 1.17 * lose
    shifted[..., 0, :, :] += 2 * reference[..., 0, :, :].std()
    return shifted


def train_arm(
    plan: Plan, arm: Arm, seed: int, base: Mapping[str, Tensor], win: Tensor,
    losers: Mapping[str, Tensor], captions: Sequence[str], texts: Mapping[str, Tensor],
) -> tuple[Any, list[dict[str, float]]]:  # fmt: skip
    """Fine-tune a copy of the base; returns it and one line of diagnostics a step."""
    from realdpo.train import objective

    config = dataclasses.replace(
        TrainConfig(weights="full", reference="frozen", losers=3, lr=plan.lr, steps=plan.steps),
        **arm.changes,
    )
    model = new_model(plan)
    model.load_state_dict(base)
    task, aim = task_of(model), step.aim_of(config)
    reference = Reference(model, config.reference_mode, config.ema_rate, config.ema_every)
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
            outcome = step.sft(model, task, batch, lambda loss: loss.backward())
            lines.append({"loss": outcome.loss})
        else:
            ref = step.reference_errors(model, task, batch, reference, True, None)
            outcome = step.dpo(
                model, task, batch, aim, *ref, lambda loss: loss.backward(), together=True
            )
            lines.append({"loss": outcome.loss, **objective.diagnostics(outcome.errors, aim.beta)})
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        reference.update(k + 1)
    return model.eval(), lines


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


def held_out_clips(plan: Plan) -> list[figures.Clip]:
    """True clips with bodies, places and poses that nothing was trained on."""
    return figures.make_clips(11, plan.prompts_seen, SEEN) + figures.make_clips(
        12, plan.prompts_held_out, figures.HELD_OUT
    )


class Bench:
    """The folder of finished units, and what they share."""

    def __init__(self, out: Path, plan: Plan) -> None:
        here = Path(__file__).parent
        self.key = content_id(
            plan=plan,
            miniature=file_hash(here / "miniature.py"),
            figures=file_hash(here / "figures.py"),
        )
        self.folder, self.plan, self.began = out / self.key[:12], plan, time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        clips = figures.make_clips(3, plan.pairs, SEEN)
        self.captions = [clip.caption for clip in clips]
        self.code, self.texts = fit_code(clips), text_embeddings()
        self.win = self.code.encode(np.stack([clip.frames for clip in clips]))
        self.test = held_out_clips(plan)
        self.classifier = fit_classifier(600)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.0f} s] {text}", file=sys.stderr, flush=True)

    def base(self) -> dict[str, Tensor]:
        path = self.folder / "base.safetensors"
        if not path.exists():
            began = time.monotonic()
            model, curve = pretrain(self.plan, self.code, self.texts, self.say)
            write_text(
                self.folder / "base.json",
                json.dumps({"error": curve, "seconds": time.monotonic() - began}),
            )
            with atomic_path(path) as temporary:
                save_file(model.state_dict(), temporary)
        return load_file(path)

    def losers(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losers [pairs, N, F, C, 8, 8] of every kind."""
        path = self.folder / "losers.safetensors"
        if not path.exists():
            model = new_model(self.plan).eval()
            model.load_state_dict(base)
            inputs = inputs_of(self.win, self.captions, self.texts)
            made: dict[str, list[Tensor]] = {"generate": [], "renoise": []}
            for k in range(self.plan.losers):
                self.say(f"losers: {k + 1} of {self.plan.losers}")
                made["generate"].append(sample(model, inputs, 100 + k, self.plan.sampling_steps))
                made["renoise"].append(
                    sample(model, inputs, 200 + k, self.plan.sampling_steps, self.win, 0.7)
                )
            with atomic_path(path) as temporary:
                save_file({name: torch.stack(v, 1) for name, v in made.items()}, temporary)
        found = load_file(path)
        # Losers pass through pixels as real ones do; a shortcut is planted after that.
        found = {name: self.code.encode(self.code.decode(t)) for name, t in found.items()}
        return {**found, "shortcut": planted_shortcut(found["generate"].clone(), self.win)}

    def unit(self, arm: Arm | None, seed: int, base: Any, losers: Any) -> dict[str, Any]:
        """Numbers of one arm (None: the base) and seed; trained and measured once, then read."""
        name = f"{arm.name if arm else 'base'}-{seed}"
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        began = time.monotonic()
        model, lines = new_model(self.plan).eval(), []
        model.load_state_dict(base)
        if arm:
            model, lines = train_arm(
                self.plan, arm, seed, base, self.win, losers, self.captions, self.texts
            )
        trained = time.monotonic() - began
        first = self.code.encode(np.stack([clip.frames for clip in self.test]))
        inputs = inputs_of(first, [clip.caption for clip in self.test], self.texts)
        videos = self.code.decode(sample(model, inputs, 300 + seed, self.plan.sampling_steps))
        rows = [measure(v, c, self.classifier) for v, c in zip(videos, self.test, strict=True)]
        if seed == 0:
            with (
                atomic_path(self.folder / f"{name}.npy") as temporary,
                open(temporary, "wb") as file,
            ):
                np.save(file, videos)
        done = {
            "rows": rows, "lines": lines, "train_seconds": trained,
            "seconds": time.monotonic() - began,
        }  # fmt: skip
        write_text(path, json.dumps(done))
        self.say(f"{name}: {done['seconds']:.0f} s")
        return done


def values_of(units: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray:
    """[prompts, seeds]"""
    return np.array([[row.get(metric, np.nan) for row in unit["rows"]] for unit in units]).T


def analyse(bench: Bench, results: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means, paired differences to base and to SFT with intervals and verdicts, by metric."""
    n = bench.plan.prompts_seen
    groups = {"seen": slice(0, n), "held-out": slice(n, None)}
    summary: dict[str, Any] = {"plan": dataclasses.asdict(bench.plan), "means": {}, "against": {}}
    truth = [measure(clip.frames, clip, bench.classifier) for clip in bench.test]
    everything = {"true clips": [{"rows": truth}], **results}
    for name, units in everything.items():
        summary["means"][name] = {
            group: {m.name: _mean(values_of(units, m.name)[part]) for m in METRICS}
            for group, part in groups.items()
        }
    for other in ("base", "sft"):
        table: dict[str, Any] = {}
        for name, units in results.items():
            if name in ("base", other):
                continue
            table[name] = {}
            for group, part in groups.items():
                family = [
                    (
                        m.name,
                        statistics.paired(
                            values_of(units, m.name)[part], values_of(results[other], m.name)[part]
                        ),
                        m.direction,
                    )
                    for m in METRICS
                ]
                compared = statistics.compare(family)
                table[name][group] = {
                    m.name: {
                        **dataclasses.asdict(c),
                        "by_seed": _by_seed(units, results[other], m.name, part),
                    }
                    for m, c in zip(METRICS, compared, strict=True)
                }
        summary["against"][other] = table
    last = {k: [u["lines"][-10:] for u in v if u["lines"]] for k, v in results.items()}
    summary["training"] = {
        name: {
            key: float(np.mean([line[key] for lines in unit for line in lines]))
            for key in ("loss", "rewards/accuracy", "win_gap", "lose_gap", "loser_dominant_ratio")
            if key in unit[0][0]
        }
        for name, unit in last.items()
        if unit
    }
    summary["seconds"] = {
        name: float(np.mean([u["train_seconds"] for u in units])) for name, units in results.items()
    }
    return summary


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _by_seed(units: Any, others: Any, metric: str, part: slice) -> list[float]:
    difference = values_of(units, metric)[part] - values_of(others, metric)[part]
    return [_mean(column) for column in difference.T]


def markdown(summary: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """The one table: held-out prompts of seen actions, difference to base with interval."""
    shown = [m for m in METRICS if m.name.startswith("true.") or m.name == "smooth.residual"]
    lines = [
        "| arm | " + " | ".join(m.name for m in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for name, groups in summary["means"].items():
        cells = []
        for m in shown:
            text = f"{groups['seen'][m.name]:.3g}"
            compared = summary["against"]["base"].get(name, {}).get("seen", {}).get(m.name)
            if compared:
                d = compared["difference"]
                mark = {"better": " ▲", "worse": " ▼"}.get(compared["verdict"], "")
                text += f" ({d['estimate']:+.2g} [{d['low']:.2g}, {d['high']:.2g}]){mark}"
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {name}: {note}" for name, note in notes.items())]
    return "\n".join(lines) + "\n"


def page(bench: Bench, summary: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Everything on one page: table, differences, training, clips in step."""
    from realdpo import report
    from realdpo.media.encode import encode

    notes = {arm.name: arm.note for arm in arms(bench.plan)}
    sections = [
        report.Section(
            "Means over prompts",
            report.table(
                [
                    {"arm": name, "prompts": group, **numbers}
                    for name, groups in summary["means"].items()
                    for group, numbers in groups.items()
                ]
            ),
        )
    ]
    for other, table in summary["against"].items():
        rows = [
            {
                "arm": name, "what": notes.get(name, ""), "prompts": group, "metric": metric,
                "difference": c["difference"]["estimate"], "low": c["difference"]["low"],
                "high": c["difference"]["high"], "win rate": c["win_rate"]["estimate"],
                "p (Holm)": c["p_adjusted"], "verdict": c["verdict"],
                "prompts needed": c["prompts_needed"],
                "by seed": ", ".join(f"{v:+.3g}" for v in c["by_seed"]),
            }
            for name, groups in table.items()
            for group, by_metric in groups.items()
            for metric, c in by_metric.items()
        ]  # fmt: skip
        sections.append(report.Section(f"Paired differences to {other}", report.table(rows)))
    sections.append(
        report.Section(
            "Training, mean of the last ten steps",
            report.table(
                [
                    {"arm": k, **v, "seconds": summary["seconds"][k]}
                    for k, v in summary["training"].items()
                ]
            ),
        )
    )
    gaps = {
        name: (range(len(units[0]["lines"])), [line["win_gap"] for line in units[0]["lines"]])
        for name, units in results.items()
        if units[0]["lines"] and "win_gap" in units[0]["lines"][0]
    }
    sections.append(
        report.Section(
            "Winner's error above the reference", report.lines(gaps, x="step", y="win_gap")
        )
    )
    shown = [n for n in ("base", "sft", "realdpo", "released", "shortcut") if n in results]
    videos = {name: np.load(bench.folder / f"{name}-0.npy") for name in shown}
    for k in range(0, len(bench.test), max(1, len(bench.test) // 8)):
        clip = bench.test[k]
        large = [("true", clip.frames), *((name, videos[name][k]) for name in shown)]
        players = [
            (label, encode(frames.repeat(4, axis=1).repeat(4, axis=2), figures.FPS))
            for label, frames in large
        ]
        sections.append(report.Section(clip.caption, report.in_step(players, figures.FPS)))
    return report.page("The claim in miniature", sections, subtitle=f"{bench.plan}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("miniature"))
    parser.add_argument("--quick", action="store_true", help="a few minutes; plumbing, no verdicts")
    parser.add_argument("--arms", help="only these, separated by commas")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the plan"
    )
    given = parser.parse_args()
    plan = QUICK if given.quick else Plan()
    changes = dict(text.split("=", 1) for text in given.set)
    plan = dataclasses.replace(
        plan, **{k: type(getattr(plan, k))(float(v)) for k, v in changes.items()}
    )
    bench = Bench(given.out, plan)
    chosen = [a for a in arms(plan) if not given.arms or a.name in given.arms.split(",")]
    base = bench.base()
    losers = bench.losers(base)
    results = {"base": [bench.unit(None, s, base, losers) for s in range(plan.seeds)]}
    for arm in chosen:
        results[arm.name] = [bench.unit(arm, s, base, losers) for s in range(plan.seeds)]
    summary = analyse(bench, results)
    summary["total_seconds"] = time.monotonic() - bench.began
    write_text(given.out / "miniature.json", json.dumps(summary, indent=1))
    table = markdown(summary, {arm.name: arm.note for arm in chosen})
    write_text(given.out / "miniature.md", table)
    write_text(given.out / "miniature.html", page(bench, summary, results))
    print(table)
    print(f"page: {given.out / 'miniature.html'}")


if __name__ == "__main__":
    main()
