"""Training from pairs to weights, readable from top to bottom: `run` is the whole of it."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from realdpo import config as configs
from realdpo import progress
from realdpo.errors import UserError
from realdpo.files import atomic_path, write_text
from realdpo.ids import content_id, seed_of, unit_interval
from realdpo.train import (
    checkpoint,
    draws,
    held_out,
    latents,
    log,
    models,
    noise,
    objective,
    setup,
    step,
)
from realdpo.train.config import FREE_ON_RESUME, TrainConfig
from realdpo.train.latents import Pair
from realdpo.train.objective import Errors
from realdpo.train.reference import Reference
from realdpo.train.step import Bank, Outcome, Task
from realdpo.workspace import Workspace


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `before` and `after` are held-out summaries (see `held_out.summary`)."""

    folder: Path
    weights: Path
    steps: int
    seconds_per_step: float
    trained_parameters: int
    train_pairs: int
    held_out_pairs: int
    held_out_by: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    stopped: str | None = None


def run(workspace: Workspace, config: TrainConfig) -> RunSummary:
    """Train on the workspace's pairs, or go on where an earlier run of that name stopped.

    Raises UserError for anything the user can mend, KeyboardInterrupt after saving on Ctrl-C.
    """
    trainer = Trainer(workspace, config)
    trainer.start_or_resume()
    stopped = None
    with _interrupts() as interrupted, trainer.bar() as advance:
        while trainer.step < config.steps and not stopped:
            values = trainer.train_step()
            advance(note=_note(values))
            stopped = trainer.after_step(values)
            if trainer.agree(bool(interrupted)):
                trainer.save()
                raise KeyboardInterrupt
    return trainer.finish(stopped)


class Trainer:
    """Everything of a run that lives from step to step."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainConfig,
        limit: int | None = None,
        runs: Path | None = None,
    ) -> None:
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        self.config = config
        self.folder = (runs or workspace.runs) / config.run_name
        self.accelerator = setup.accelerator(config, self.folder)
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        torch.manual_seed(seed_of(config.seed, "weights"))

        spec = models.read_spec(config.model, config.revision, config.expert)
        family = models.family_of(spec)
        cpu = self.device.type == "cpu"
        with self.accelerator.main_process_first():
            found = latents.prepare(
                workspace,
                spec,
                config,
                self.device,
                torch.float32 if cpu else torch.bfloat16,
                limit,
            )
        self.pairs, self.watched, self.watched_by = split_pairs(found, config.held_out_pairs)
        if config.batch > 1 and len({pair.shape for pair in self.pairs}) > 1:
            raise UserError(
                "pairs of different sizes cannot share a batch",
                "use --set batch=1 and as much accumulation",
            )
        tokens = math.prod(self.pairs[0].shape) // _channels(self.pairs[0].shape, family)
        process = noise.from_scheduler(spec.scheduler, tokens)
        if boundary := spec.options.get("boundary_ratio"):
            process = noise.restrict(process, boundary, above=spec.component == "transformer")
        self.task = Task(family, spec, process, config.weighting)
        self.aim = step.aim_of(config)

        model = setup.policy(config, spec, self.device)
        self.parameters = sum(p.numel() for _, p in checkpoint.trained(model))
        optimizer = setup.optimizer(config, [p for _, p in checkpoint.trained(model)])
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.inner = self.accelerator.unwrap_model(self.model)
        self.reference = None
        if config.objective == "dpo":
            self.reference = Reference(
                self.inner, config.reference_mode, config.ema_rate, config.ema_every
            )
        self.bank = None
        if config.reference_bank and config.objective == "dpo":
            self.bank = Bank(workspace.step("reference") / self._bank_id())
        self.together = config.branches != "one-by-one"
        self.step = 0
        self.best: tuple[list[float], str] | None = None
        self.recent: list[float] = []
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None
        self.base: held_out.Table | None = None

    # The way through a run

    def start_or_resume(self) -> None:
        """Take the newest checkpoint, or measure the base and check that the reference is the policy."""
        self._same_settings()
        newest = checkpoint.latest(self.folder / "checkpoints")
        base_file = self.folder / "base.safetensors"
        if newest and (base_file.is_file() or not self.watched):
            state = checkpoint.load(
                newest, self.inner, self.task.spec, self.optimizer.optimizer, self.reference
            )
            self.step, self.recent = state["step"], state["recent"]
            self.best = tuple(state["best"]) if state["best"] else None  # type: ignore[assignment]
            self.before, self.after = state["before"], state["after"]
            self.together = state["together"]
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            if self.watched:
                self.base = held_out.Table(**load_file(base_file))
            progress.say(f"going on from {newest}")
        self.log = log.Log(self.folder, self.step, self.main, self.accelerator)
        if self.step == 0:
            self._choose_branches()
            self._check_reference()
            if self.watched:
                self.base = self._measure()
                if self.main:
                    with atomic_path(base_file) as temporary:
                        save_file(self.base.tensors(), temporary)
                self.before = self.after = self._held_out(self.base)
        self.accelerator.wait_for_everyone()

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns its numbers, averaged over all processes."""
        config, begin = self.config, time.perf_counter()
        # Nothing but dropout reads the global state; seeded here, a resumed run reads the same.
        torch.manual_seed(seed_of(config.seed, "step", self.step, self.accelerator.process_index))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * rate(self.step, config)
        outcomes, us = [], []
        for micro in range(config.accumulation):
            batch = self.batch(micro).to(self.device)
            us.append(batch.u)
            last = micro == config.accumulation - 1
            apart = contextlib.nullcontext if last else self._apart
            with apart():
                outcomes.append(self._backward(batch))
        norm = self.accelerator.clip_grad_norm_(
            [p for _, p in checkpoint.trained(self.inner)], config.clip
        )
        values = self._values(outcomes, torch.cat(us))
        values |= {"step": self.step + 1, "lr": self.optimizer.param_groups[0]["lr"]}
        values["grad_norm"] = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        self._refuse_nonsense(values)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        values |= self._movement()
        values["seconds"] = time.perf_counter() - begin
        values["pairs_per_second"] = config.batch * config.accumulation / values["seconds"]
        values["pairs_per_second"] *= self.accelerator.num_processes
        if self.device.type == "cuda":
            values["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        return values

    def after_step(self, values: dict[str, float]) -> str | None:
        """Log, measure and save what is due. Returns why the run should stop, if it should."""
        config, stopped = self.config, None
        self.log.step(values)
        self.recent = [*self.recent[-49:], _judged(values)]
        final = self.step == config.steps
        due = bool(config.held_out_every) and self.step % config.held_out_every == 0
        if self.watched and (due or final):
            self.after = self._held_out(self._measure())
            stopped = self._win_gap_reason()
        best = self.best is not None and self.best[1] == f"step-{self.step:06d}"
        if self.step % config.checkpoint_every == 0 or best or final or stopped:
            self.save()
        if config.validation_every and self.step % config.validation_every == 0:
            self._videos(f"step-{self.step:06d}")
        return stopped

    def finish(self, stopped: str | None) -> RunSummary:
        """Write the final weights where diffusers loads them, and the run's summary."""
        if checkpoint.latest(self.folder / "checkpoints") is None:
            self.save()
        weights = {n: checkpoint.whole(p.detach()) for n, p in checkpoint.trained(self.inner)}
        target = self.folder / "weights"
        if self.main:
            models.save_weights(weights, self.inner, self.task.spec, target)
        if self.config.validation_videos:
            self._videos(f"step-{self.step:06d}")
        times = [row["seconds"] for row in log.read(self.folder / "log.jsonl")]
        summary = RunSummary(
            self.folder, target, self.step, statistics.median(times or [0.0]), self.parameters, len(self.pairs),
            len(self.watched), self.watched_by, self.before, self.after, stopped,
        )  # fmt: skip
        if self.main:
            shown = asdict(summary) | {"folder": self.folder.name, "weights": "weights"}
            write_text(self.folder / "summary.json", json.dumps(shown, indent=1))
            self.log.write_csv()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()  # ends the trackers, and the group of processes
        return summary

    def save(self) -> None:
        """Write a checkpoint of the present step and drop the old ones."""
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "recent": self.recent,
            "best": self.best,
            "before": self.before,
            "after": self.after,
            "together": self.together,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        folder = self.folder / "checkpoints"
        checkpoint.save(
            folder / f"step-{self.step:06d}", self.inner, self.task.spec,
            self.optimizer.optimizer, self.reference, state, self.main,
        )  # fmt: skip
        if self.main:
            self.log.write_csv()
            best = {self.best[1]} if self.best else set()
            checkpoint.prune(folder, self.config.keep_checkpoints, best)
        self.accelerator.wait_for_everyone()

    def agree(self, flag: bool) -> bool:
        """True on every process when it is true on any."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = self.accelerator.gather(torch.tensor([int(flag)], device=self.device))
        return bool(flags.any())

    @contextlib.contextmanager
    def bar(self) -> Iterator[Callable[..., None]]:
        """The progress bar, on the main process only."""
        if not self.main:
            yield lambda n=1, note="": None
            return
        title = f"train {self.config.objective}"
        with progress.bar(title, self.config.steps, "steps", done=self.step) as advance:
            yield advance

    # One micro-batch

    def batch(self, micro: int) -> draws.Batch:
        """The present step's micro-batch `micro` of this process, on the CPU."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        numbers = draws.numbers(self.step, micro, rank, world, self.config)
        return draws.batch(self.pairs, numbers, self.config)

    def _backward(self, batch: draws.Batch) -> Outcome:
        def backward(loss: Tensor) -> None:
            self.accelerator.backward(loss / self.config.accumulation)

        if self.reference is None:
            return step.sft(self.model, self.task, batch, backward)
        ref_win, ref_lose = step.reference_errors(
            self.model, self.task, batch, self.reference, self.together, self.bank
        )
        return step.dpo(
            self.model, self.task, batch, self.aim, ref_win, ref_lose, backward,
            together=self.together, apart=self._apart,
        )  # fmt: skip

    def _apart(self) -> contextlib.AbstractContextManager[Any]:
        """Keep gradients on this process: they are exchanged at the last backward of a step."""
        return self.accelerator.no_sync(self.model)

    def _values(self, outcomes: Sequence[Outcome], us: Tensor) -> dict[str, float]:
        """The numbers of a step, over all micro-batches and processes."""
        parts = [torch.cat([getattr(o.errors, f.name) for o in outcomes]) for f in fields(Errors)]
        loss = torch.tensor([o.loss for o in outcomes], device=self.device).mean().view(1)
        *parts, us, loss = (
            self.accelerator.gather(t.contiguous())
            for t in (*parts, us.float().to(self.device), loss)
        )
        errors = Errors(*parts)
        values = {"loss": float(loss.mean())}
        if self.reference is None:
            return values | {"error/win": float(errors.win.mean())}
        values |= objective.diagnostics(errors, self.config.beta)
        values["loss/preference"] = float(objective.loss(errors, replace(self.aim, sft_weight=0.0)))
        scales = [o.loser_scale for o in outcomes if o.loser_scale is not None]
        if scales:
            values["sdpo_scale"] = statistics.fmean(scales)
        return values | _by_level(objective.margins(errors, self.config.beta), us)

    def _movement(self) -> dict[str, float]:
        """How far the policy is from where it began, and how far the reference moved."""
        values: dict[str, float] = {}
        if self.config.weights == "lora":
            values["distance/base"] = adapter_size(self.inner)
        if self.reference is not None:
            apart, moved = self.reference.distance(), self.reference.update(self.step)
            if apart is not None:
                values["distance/reference"] = apart
            if moved is not None:
                values["reference_update"] = moved
        return values

    # Checks and measurements

    def _choose_branches(self) -> None:
        """`auto`: side by side, unless a trial step runs out of the GPU's memory."""
        if self.config.branches != "auto" or self.device.type != "cuda":
            return
        try:
            self._backward(self.batch(0).to(self.device))
        except torch.cuda.OutOfMemoryError:
            self.together = False
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self.together = not self.agree(not self.together)
        if not self.together:
            progress.say("branches one by one: side by side they do not fit into memory")

    def _check_reference(self) -> None:
        """Before the first step policy and reference are one model: the loss must be ln 2."""
        if self.reference is None:
            return
        batch = self.batch(0).to(self.device)
        self.model.train()
        with self.reference.active():
            ref_win, ref_lose = step.branch_errors(self.model, self.task, batch, self.together)
        win, lose = step.branch_errors(self.model, self.task, batch, self.together)
        z = objective.margins(Errors(win, lose, ref_win, ref_lose), self.config.beta)
        found = float(-torch.nn.functional.logsigmoid(z).mean())
        if abs(found - math.log(2)) < 1e-4 and z.abs().max() < 1e-3:
            return
        noisy = [n for n, m in self.inner.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
        cause = (
            f"dropout is active in {noisy[0]}" if noisy else "policy and reference compute apart"
        )
        raise UserError(
            f"the first loss is {found:.6f} and not ln 2 = 0.693147, so policy and reference "
            f"differ before training: {cause}",
            "use --set lora_dropout=0.0"
            if noisy
            else "try --set compile=false, --set precision=fp32 or deterministic attention kernels",
        )

    def _measure(self) -> held_out.Table:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = len(self.watched)
        share = -(-count // world)
        # Every process runs as many forwards (sharded weights need that); the surplus is dropped.
        mine = [min(rank + k * world, count - 1) for k in range(share)]
        self.model.eval()
        table = held_out.measure(
            self.model, self.task, self.watched, self.config, self.device, self.together, mine
        )
        if world == 1:
            return table
        rows = {n: t.to(self.device) for n, t in table.tensors().items()}
        every = {n: self.accelerator.gather(t.contiguous()).cpu() for n, t in rows.items()}
        # Gathered as process 0's rows, then process 1's ...: pair p is row p // world of p % world.
        order = torch.tensor([p % world * share + p // world for p in range(count)])
        return held_out.Table(**{n: t[order] for n, t in every.items()})

    def _held_out(self, now: held_out.Table) -> dict[str, Any]:
        assert self.base is not None
        found = held_out.summary(now, self.base, self.config.beta)
        self.log.held_out(self.step, found)
        # Best is the highest accuracy among those that did not make the winner's error worse.
        key = [float(found["winner_change"] > 0), -found["accuracy"], found["winner_error"]]
        if self.reference is None:
            key = [found["winner_error"]]
        if self.step and (self.best is None or key < self.best[0]):
            self.best = (key, f"step-{self.step:06d}")
        return found

    def _win_gap_reason(self) -> str | None:
        limit = self.config.stop_on_win_gap
        if limit is None or self.after is None or self.after["winner_change"] <= limit:
            return None
        return (
            f"the winner's held-out error is {self.after['winner_change']:+.1%} against the base, "
            f"above stop_on_win_gap = {limit:.1%}; the best checkpoint is "
            f"{self.best[1] if self.best else 'the first'}"
        )

    def _refuse_nonsense(self, values: dict[str, float]) -> None:
        """Stop before a step that would ruin the weights; the checkpoint before it stands."""
        newest = checkpoint.latest(self.folder / "checkpoints")
        stands = f"{newest} stands" if newest else "nothing was saved yet"
        way_out = "lower lr or beta, add sft_weight or sdpo_mu, and run again under another --name"
        loss, norm = values["loss"], values["grad_norm"]
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips the step by itself
        if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
            raise UserError(
                f"step {self.step + 1}: the loss is {loss} and the gradient's norm {norm}; {stands}",
                way_out,
            )
        if self.config.spike and len(self.recent) >= 10:
            floor = 0.0 if self.reference is None else math.log(2)
            usual = max(statistics.median(self.recent), floor)
            found = _judged(values)
            if found > self.config.spike * usual:
                raise UserError(
                    f"step {self.step + 1}: the loss is {found:.4g}, {found / usual:.0f} times the "
                    f"usual; {stands}",
                    way_out + ", or allow it with --set spike=0",
                )

    # Setting up

    def _same_settings(self) -> None:
        """A run's settings are kept with it; raises UserError when it is resumed with others."""
        path = self.folder / "config.toml"
        if path.is_file():
            kept = configs.build(TrainConfig, configs.load_toml(path).get("train", {}), str(path))
            free = FREE_ON_RESUME - ({"steps"} if self.config.schedule != "constant" else set())
            other = [
                f.name
                for f in fields(TrainConfig)
                if f.name not in free and getattr(kept, f.name) != getattr(self.config, f.name)
            ]
            if other:
                was = ", ".join(f"{n} = {getattr(kept, n)!r}" for n in other)
                raise UserError(
                    f"the run {self.folder} was started with {was}",
                    "use the same settings to go on, or another --name for a new run",
                )
        if self.main:
            write_text(path, configs.to_toml("train", self.config))

    def _bank_id(self) -> str:
        c = self.config
        draw = (c.seed, c.timesteps, c.t_low, c.t_high, c.logit_mean, c.logit_std, c.timestep_bins)
        return content_id(
            model=models.fingerprint(self.task.spec, self.task.spec.component),
            draw=list(draw), losers=draws.losers_used(self.pairs, c), weighting=c.weighting,
            precision=setup.precision(c, self.device), condition=c.condition_draws,
            latents=[p.win.name for p in self.pairs] + [f.name for p in self.pairs for f in p.lose],
        )  # fmt: skip

    def _videos(self, name: str) -> None:
        from realdpo.train import videos

        if self.main:
            chosen = self.watched[: self.config.validation_videos]
            videos.generate(self.inner, self.task.spec, chosen, self.config, self.folder, name)
        self.accelerator.wait_for_everyone()


def split_pairs(found: dict[str, list[Pair]], count: int) -> tuple[list[Pair], list[Pair], str]:
    """(pairs to train on, pairs to measure on, how they were parted).

    Without a validation split, a tenth of the clips (at least one) is held back by a hash of their
    id; with a single clip nothing can be.
    """
    train, watched = found["train"], found.get("validation", [])
    if watched or not count:
        return train, watched[:count], "the validation split"
    clips = sorted({p.clip_id for p in train}, key=lambda clip: unit_interval("held out", clip))
    held = set(clips[: max(1, len(clips) // 10)]) if len(clips) > 1 else set()
    kept = [p for p in train if p.clip_id not in held]
    return kept, [p for p in train if p.clip_id in held][:count], "clip, for want of a split"


def rate(at: int, config: TrainConfig) -> float:
    """Factor on the learning rate at step `at` (from 0)."""
    if at < config.warmup:
        return (at + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = (at - config.warmup) / max(1, config.steps - config.warmup)
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def adapter_size(model: nn.Module) -> float:
    """Root of the sum of |scale * B A|^2 over all adapters: how far LoRA is from the base.

    |B A|^2 = tr((B^T B)(A A^T)), so no matrix of the base's size is built.
    """
    total = 0.0
    for module in model.modules():
        for name in getattr(module, "lora_A", {}):
            layer: Any = module
            a = checkpoint.whole(layer.lora_A[name].weight).float()
            b = checkpoint.whole(layer.lora_B[name].weight).float()
            total += float(((b.T @ b) * (a @ a.T).T).sum()) * layer.scaling[name] ** 2
    return math.sqrt(max(total, 0.0))


def _by_level(z: Tensor, u: Tensor, bins: int = 5) -> dict[str, float]:
    """Accuracy by noise level, for the levels that this step drew."""
    values = {}
    for k in range(bins):
        rows = (u * bins).long().clamp_max(bins - 1) == k
        if rows.any():
            name = f"accuracy/t{k / bins:.1f}-{(k + 1) / bins:.1f}"
            values[name] = float(objective.accuracy(z[rows]).mean())
    return values


def _channels(shape: tuple[int, ...], family: Any) -> int:
    return shape[1] if family.TIME_AXIS == 1 else shape[0]


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second one kills."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(number: Any, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: whoever called keeps the signals
        pass
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _judged(values: dict[str, float]) -> float:
    """The part of the loss that can run away: the preference, or the error in plain training."""
    return values.get("loss/preference", values["loss"])


def _note(values: dict[str, float]) -> str:
    note = f"loss {_judged(values):.4f}"
    if "rewards/accuracy" in values:
        note += f" accuracy {values['rewards/accuracy']:.2f}"
    return note
