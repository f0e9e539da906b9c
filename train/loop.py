"""Training from clips or pairs to weights. `run_training` calls the methods of `Trainer` in order.

`step` has the gradient of a step, `stops` the rules that stop a run, `numbers` the numbers that are
logged for a step, and `held_out` the measurements on held-out pairs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdpo import memory, progress
from realdpo.config import settings_to_toml
from realdpo.errors import UserError
from realdpo.families import load
from realdpo.families.weights import save_weights
from realdpo.files import replace_folder, write_text
from realdpo.ids import seed_of
from realdpo.memory import Rung
from realdpo.train import (
    checkpoint,
    draws,
    estimate,
    experts,
    held_out,
    identity,
    latents,
    log,
    noise,
    numbers,
    objective,
    setup,
    step,
    stops,
)
from realdpo.train.config import TrainConfig
from realdpo.train.methods import StepContext
from realdpo.train.objective import Errors
from realdpo.train.reference import whole_tensor
from realdpo.train.runs import weights_of
from realdpo.train.step import StepOutcome
from realdpo.workspace import Workspace


@dataclass(frozen=True)
class RunSummary:
    """The result of a run. `before` and `after` are summaries of `held_out.summarise_held_out`.

    handed_over: the checkpoint whose policy `weights` holds, the best on held-out clips.
    better_than_base: whether it was better there than the base model. better_than_start: whether it
    was better than the weights that the run started from (`start`). Both are None if nothing was
    held out, if there was no other start, or if another reference makes the two incomparable.
    experts: for a run of two transformers, the result of each, which has the held-out figures.
    """

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
    handed_over: str = ""
    better_than_base: bool | None = None
    better_than_start: bool | None = None
    experts: Mapping[str, RunSummary] | None = None


def run_training(
    workspace: Workspace,
    config: TrainConfig,
    on_step: Callable[[Mapping[str, float]], None] | None = None,
) -> RunSummary:
    """Train on the workspace's clips or pairs, or continue an earlier run of that name.

    `on_step` gets the numbers of every step, on every process.

    Raises UserError for anything that the user can correct, and KeyboardInterrupt on Ctrl-C, after
    saving.
    """
    if config.expert == "both":
        return experts.run_both(workspace, config, on_step, run_one)
    return run_one(workspace, config, on_step)


def run_one(
    workspace: Workspace,
    config: TrainConfig,
    on_step: Callable[[Mapping[str, float]], None] | None = None,
    *,
    runs: Path | None = None,
    last: bool = True,
) -> RunSummary:
    """`run_training` for one transformer. runs: folder to use instead of the workspace's `runs`.

    last: whether these processes train nothing after it.
    """
    with setup.deterministic_kernels(config.deterministic):
        return _train(Trainer(workspace, config, runs=runs), config, on_step, last)


def _train(
    trainer: Trainer,
    config: TrainConfig,
    on_step: Callable[[Mapping[str, float]], None] | None,
    last: bool,
) -> RunSummary:
    trainer.start_or_resume()
    stopped = None
    with stops.collect_interrupts() as interrupted, trainer.bar() as advance:
        while trainer.step < config.steps and not stopped:
            values = trainer.train_step()
            advance(note=numbers.progress_note(values))
            stopped = trainer.after_step(values)
            if on_step is not None:
                on_step(values)
            if trainer.agree(bool(interrupted)):
                trainer.save()
                raise KeyboardInterrupt
    return trainer.finish(stopped, last)


class Trainer:
    """The state of a run that lasts from step to step."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainConfig,
        limit: int | None = None,
        runs: Path | None = None,
    ) -> None:
        """Prepare the processes, the cached pairs, the policy and its reference.

        limit: use only that many pairs of a split. runs: folder to use instead of the workspace's.
        """
        self.workspace, self.config = workspace, config
        if config.start:  # fails before anything large is loaded
            weights_of(workspace, config.start)
        self.folder = (runs or workspace.runs) / config.run_name
        self.accelerator = setup.make_accelerator(config, self.folder)
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        torch.manual_seed(seed_of(config.seed, "weights"))

        spec = load.read_spec(config.model, config.revision, config.expert, config.task)
        if config.flow_shift is not None:  # fails before anything is encoded
            noise.shift_process(noise.from_scheduler(spec.scheduler), config.flow_shift)
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        with memory.explain_out_of_memory(
            lambda: "encoding the pairs", latents.leaner_settings(config)
        ):
            found = latents.prepare_pairs(workspace, spec, config, self.device, limit, share)
        self.pairs, self.watched, self.watched_by = held_out.split_held_out(
            found, config.held_out_pairs
        )
        self.task = setup.make_task(spec, self.pairs, config)
        if self.main:
            progress.say(
                noise.tell_levels(
                    self.task.process,
                    config.timesteps,
                    config.t_low,
                    config.t_high,
                    config.logit_mean,
                    config.logit_std,
                )
            )
        # With shards, processes with different numbers of losers would wait for each other's
        # forwards.
        self.even = config.batch > 1 or self.accelerator.distributed_type == "FSDP"
        # by the number of values in all branches together
        self.largest = max(self.pairs, key=lambda p: math.prod(p.shape) * (1 + len(p.lose)))
        self.method = config.method
        if self.method.needs_losers and (line := draws.tell_uneven(self.pairs, config, self.even)):
            progress.say(line)

        self.sharded = self.accelerator.distributed_type == "FSDP"
        self.rungs = setup.allowed_rungs(config, self.sharded)
        newest = checkpoint.latest_checkpoint(self.folder / "checkpoints")
        if newest and config.memory == "auto":  # a base with other bits would be another base
            bits = checkpoint.bits_of(newest)
            self.rungs = [rung for rung in self.rungs if rung.bits == bits]
        self._build(self._choose_rung())
        self.bank = setup.open_bank(workspace, self.task, self.pairs, config, self.device)
        self.step = 0
        self.best: tuple[list[float], str] | None = None  # (key of `Method.rank`, checkpoint)
        self.recent: list[float] = []
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None
        self.base: held_out.Table | None = None

    # Memory

    def _choose_rung(self) -> Rung:
        """The way of saving memory: the one asked for, or else the first that is estimated to fit.

        Every process takes the leanest way that any of them needs.
        """
        config = self.config
        if config.memory != "auto":
            rung = memory.rung_of(config.memory)
            if rung not in self.rungs:
                names = ", ".join(other.name for other in self.rungs)
                raise UserError(f"memory = {rung.name} cannot be had here", f"choose of {names}")
            return rung
        if self.device.type != "cuda":
            return self.rungs[0]
        room = float(torch.cuda.mem_get_info(self.device)[0])
        shapes = estimate.shapes_of_pair(self.largest)
        found = estimate.first_that_fits(
            self.task.family.spec,
            config,
            shapes,
            draws.losers_of(self.largest, config),
            self.rungs,
            room,
            processes=self.accelerator.num_processes,
            sharded=self.sharded,
        )
        place = self.agree_on(self.rungs.index(memory.rung_of(found.rung)))
        rung = self.rungs[place]
        progress.say(f"memory: {rung.words}: about {found.line} of {room / memory.GB:.1f} GB free")
        return rung

    def _build(self, rung: Rung) -> None:
        """Load the policy for `rung`, with its optimizer and reference."""
        config, spec = self.config, self.task.family.spec
        torch.manual_seed(seed_of(config.seed, "weights"))
        self.rung = rung
        with self._told("loading the model"):
            model = setup.make_policy(config, spec, self.device, rung)
            self.parameters = sum(p.numel() for _, p in checkpoint.trained_parameters(model))
            if rung.blocks:
                memory.move_rest(model, self.device)
            if self.sharded:
                setup.compute_in(model, config, self.device)
            optimizer = setup.make_optimizer(
                config, [p for _, p in checkpoint.trained_parameters(model)]
            )
            placed = [not rung.blocks, True]
            self.model, self.optimizer = self.accelerator.prepare(
                model, optimizer, device_placement=None if not rung.blocks else placed
            )
            self.inner = getattr(self.model, "module", self.model)
            self.reference = setup.make_reference(config, self.inner)
            self.average = setup.make_average(config, self.inner)

    @property
    def together(self) -> bool:
        """Whether winner and losers go through the model in one batch."""
        return self.rung.together

    def _try_rung(self, newest: Path | None) -> None:
        """Take a step's gradient on the largest pair, with ever leaner ways until one fits.

        The processes do not exchange anything, so they can agree afterwards, whatever happens to
        one. With shards every forward is an exchange, so there the estimate must be enough.
        """
        if not self._tries():
            return
        while self.agree(not self._fits()):
            following = memory.next_rung(self.rung, self.rungs)
            if following is None or self.config.memory != "auto":
                raise memory.OutOfMemory(
                    f"memory ran out in the trial step with --memory {self.rung.name}",
                    self._leaner(),
                )
            progress.say(f"memory: {self.rung.name} does not fit; now {following.words}")
            same = (following.bits, following.blocks) == (self.rung.bits, self.rung.blocks)
            if same:
                self.rung = following
                if following.checkpointing:
                    self.inner.enable_gradient_checkpointing()
                continue
            del self.model, self.inner, self.optimizer, self.reference, self.average
            self.accelerator.free_memory()
            memory.empty_cache()
            self._build(following)
            if newest:
                self._take(newest)

    def _tries(self) -> bool:
        return self.device.type == "cuda" and not self.sharded

    def _fits(self) -> bool:
        """Whether a gradient on the largest pair fits beside all that the optimizer will hold."""
        wanted = range(self.config.batch)
        batch = draws.make_batch([self.largest], wanted, self.config, self.even)
        self.model.train()
        bank, self.bank = self.bank, None  # a trial's draws are not draws of the run
        held = bool(self.optimizer.optimizer.state)  # a resumed run already has its moments
        later = 0 if held else setup.moment_bytes(self.inner, self.config)
        try:
            with memory.reserve_memory(later, self.device):
                self._backward(batch.to(self.device), self.inner)
            return True
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            return False
        finally:
            self.bank = bank
            self.optimizer.zero_grad(set_to_none=True)
            memory.empty_cache()

    def _told(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """If memory runs out within, raise one line that names the next rung."""
        return memory.explain_out_of_memory(
            lambda: f"{doing} with --memory {self.rung.name}", self._leaner
        )

    def _leaner(self) -> str:
        following = memory.next_rung(self.rung, self.rungs)
        if following is not None:
            return (
                f"run again with --memory {following.name}; it goes on from the newest checkpoint"
            )
        return (
            "this is the leanest way: build pairs of smaller or shorter videos, or shard by FSDP2"
        )

    # The way through a run

    def start_or_resume(self) -> None:
        """Load the newest checkpoint, or measure the base and check policy against reference."""
        newest = checkpoint.latest_checkpoint(self.folder / "checkpoints")
        if newest:
            if self.main:
                stored = checkpoint.read_state(newest).get("identity")
                identity.refuse_other(self.folder, self.config, self.identity, stored)
            self._take(newest)
            progress.say(f"going on from {newest}")
        self.log = log.Log(self.folder, self.step, self.main, self.accelerator, self.config)
        self._try_rung(newest)
        if self.step == 0:
            with self._told("making the start-up check"):
                self._check_reference()
            if self.watched:
                self.base = self._measure()
            if self.config.start:
                self._begin_from_start()
            if self.base is not None:
                began = self._measure() if self.config.start else self.base
                self.before = self.after = self._held_out(began)
        if self.main:  # only now, so that a failed start does not fix the settings
            write_text(self.folder / "config.toml", settings_to_toml("train", self.config))
        self.accelerator.wait_for_everyone()

    def _begin_from_start(self) -> None:
        """Load the weights of `start`. Until here, the policy was the base."""
        folder = weights_of(self.workspace, self.config.start)
        checkpoint.begin_from(folder, self.inner, self.task.family.spec)
        if self.reference is not None and self.config.reference in ("frozen", "ema"):
            self.reference.restart()
        if self.average is not None:
            self.average.restart()
        progress.say(f"training on from {folder}")

    def train_step(self) -> dict[str, float]:
        """Take one optimiser step. Returns its numbers, averaged over all processes."""
        with self._told(f"taking step {self.step + 1}"):
            return self._train_step()

    def _train_step(self) -> dict[str, float]:
        config, begin = self.config, time.perf_counter()
        # Only dropout reads the global random state. It is seeded here, so a resumed run repeats
        # it.
        torch.manual_seed(seed_of(config.seed, "step", self.step, self.accelerator.process_index))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * setup.learning_rate_factor(self.step, config)
        outcomes, us = [], []
        for micro in range(config.accumulation):
            batch = self.batch(micro).to(self.device)
            us.append(batch.u)
            last = micro == config.accumulation - 1
            apart = contextlib.nullcontext if last else self._apart
            with apart():
                outcomes.append(self._backward(batch))
        norm = self.accelerator.clip_grad_norm_(
            [p for _, p in checkpoint.trained_parameters(self.inner)], config.clip
        )
        values = numbers.of_step(outcomes, torch.cat(us), config.beta, self.accelerator)
        values |= {"step": self.step + 1, "lr": self.optimizer.param_groups[0]["lr"]}
        values["grad_norm"] = float(whole_tensor(norm))
        newest = checkpoint.latest_checkpoint(self.folder / "checkpoints")
        stops.stop_on_nonsense(
            values, self.recent, config, newest, self.accelerator.scaler is not None
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        values |= numbers.measure_movement(
            self.inner, self.reference, self.step, config.weights == "lora"
        )
        values["seconds"] = time.perf_counter() - begin
        pairs = config.batch * config.accumulation * self.accelerator.num_processes
        values["pairs_per_second"] = pairs / values["seconds"]
        values["peak_memory_gb"] = numbers.peak_memory(self.device)
        return values

    def after_step(self, values: dict[str, float]) -> str | None:
        """Log, and measure and save if due. Returns the reason to stop, if there is one."""
        config, stopped, name = self.config, None, f"step-{self.step:06d}"
        self.log.step(values)
        self.recent = [*self.recent[-49:], numbers.judged_value(values)]
        final = self.step == config.steps
        due = bool(config.held_out_every) and self.step % config.held_out_every == 0
        if self.watched and (due or final):
            self.after = self._held_out(self._measure())
            stopped = stops.win_gap(config, self.after, self.best and self.best[1])
        best = self.best is not None and self.best[1] == name
        if self.step % config.checkpoint_every == 0 or best or final or stopped:
            self.save()
        if config.validation_every and self.step % config.validation_every == 0:
            self._videos(name)
        return stopped

    def finish(self, stopped: str | None, last: bool = True) -> RunSummary:
        """Write the final weights in a form that diffusers loads, and the run's summary.

        last: whether the processes separate afterwards.
        """
        if checkpoint.latest_checkpoint(self.folder / "checkpoints") is None:
            self.save()
        checkpoints, spec = self.folder / "checkpoints", self.task.family.spec
        chosen = checkpoint.latest_checkpoint(checkpoints)
        if self.best and (checkpoints / self.best[1]).is_dir():
            chosen = checkpoints / self.best[1]
        assert chosen is not None
        target = self.folder / "weights"
        better, further = self._compete()
        if better is False or further is False:
            progress.say(
                "warning: on held-out clips no step was better than "
                f"{'the base' if better is False else self.config.start}; the weights are those of "
                f"{chosen.name}, the least bad: do not use them"
            )
        if self.main:
            weights = checkpoint.policy_weights(chosen, self.inner, spec)
            unfinished = self.folder / ".weights.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            save_weights(weights, self.inner, spec, unfinished)
            replace_folder(unfinished, target)
        if self.config.validation_videos:
            self._videos(chosen.name, chosen)
        times = [row["seconds"] for row in log.read_log(self.folder / "log.jsonl")]
        summary = RunSummary(
            self.folder,
            target,
            self.step,
            statistics.median(times or [0.0]),
            self.parameters,
            len(self.pairs),
            len(self.watched),
            self.watched_by,
            self.before,
            self.after,
            stopped,
            chosen.name,
            better,
            further,
        )
        if self.main:
            shown = asdict(summary) | {"folder": self.folder.name, "weights": "weights"}
            write_text(self.folder / "summary.json", json.dumps(log.plain_json(shown), indent=1))
            self.log.write_csv()
        self.accelerator.wait_for_everyone()
        if last:
            self.accelerator.end_training()  # ends the trackers and the process group
        else:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.free_memory()
        return summary

    def _compete(self) -> tuple[bool | None, bool | None]:
        """Whether the best step is better than the base, and better than the start of the run."""
        config = self.config
        if not (self.before and self.best and self.base is not None):
            return None, None
        if not config.start:
            return self.best[0] < self.method.rank(self.before), None
        further = self.best[0] < self.method.rank(self.before)
        if self.method.needs_distance and config.reference in ("frozen", "ema"):
            return None, further  # distances from two references cannot be compared
        base = held_out.summarise_held_out(self.base, self.base, config)
        return self.best[0] < self.method.rank(base), further

    # Checkpoints

    def save(self) -> None:
        """Write a checkpoint of the current step and delete the old ones."""
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "recent": self.recent,
            "best": self.best,
            "before": self.before,
            "after": self.after,
            "base": self.base and {n: t.tolist() for n, t in self.base.tensors().items()},
            "identity": self.identity.state() if self.main else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        folder = self.folder / "checkpoints"
        checkpoint.save_checkpoint(
            folder / f"step-{self.step:06d}",
            self.inner,
            self.task.family.spec,
            self.optimizer.optimizer,
            self.reference,
            state,
            self.main,
            self.average,
        )
        if self.main:
            self.log.write_csv()
            best = {self.best[1]} if self.best else set()
            checkpoint.prune_checkpoints(folder, self.config.keep_checkpoints, best)
        self.accelerator.wait_for_everyone()

    def _take(self, newest: Path) -> None:
        """Resume from the checkpoint `newest`. The counterpart of `save`."""
        state = checkpoint.load_checkpoint(
            newest,
            self.inner,
            self.task.family.spec,
            self.optimizer.optimizer,
            self.reference,
            self.average,
        )
        self.step, self.recent = state["step"], state["recent"]
        if state["base"]:
            stored = {n: np.array(rows, dtype=np.float64) for n, rows in state["base"].items()}
            self.base = held_out.Table(**{n: torch.from_numpy(t) for n, t in stored.items()})
        self.best = tuple(state["best"]) if state["best"] else None
        self.before, self.after = state["before"], state["after"]
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    @property
    def identity(self) -> identity.Identity:
        """The identity of this run. Process 0 finds it, because it reads the base's files."""
        config, world = self.config, self.accelerator.num_processes
        own = {draws.losers_of(pair, config) for pair in self.pairs}
        return identity.Identity(
            identity.digest_pairs(self.pairs),
            len(self.pairs),
            identity.digest_pairs(self.watched),
            len(self.watched),
            self.fingerprint,
            config.batch * config.accumulation * world,
            world,
            str(min(own)) if self.even or len(own) == 1 else "own",
            self.rung.bits,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        spec = self.task.family.spec
        return load.fingerprint_parts(spec, spec.component)

    # Between processes

    def agree(self, flag: bool) -> bool:
        """True on every process if it is true on any."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = self.accelerator.gather(torch.tensor([int(flag)], device=self.device))
        return bool(flags.any())

    def agree_on(self, place: int) -> int:
        """The largest of the processes' numbers."""
        if self.accelerator.num_processes == 1:
            return place
        places = self.accelerator.gather(torch.tensor([place], device=self.device))
        return int(places.max())

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Keep gradients on this process. They are exchanged at the last backward of a step."""
        with self.accelerator.no_sync(self.model):
            yield

    @contextlib.contextmanager
    def bar(self) -> Iterator[Callable[..., None]]:
        """The progress bar, on the main process only."""
        if not self.main:
            yield lambda n=1, note="": None
            return
        title = f"train {self.config.objective}"
        with progress.progress_bar(title, self.config.steps, "steps", done=self.step) as advance:
            yield advance

    # One micro-batch

    def batch(self, micro: int) -> draws.Batch:
        """The micro-batch `micro` of the current step for this process, on the CPU."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        wanted = draws.sample_numbers(self.step, micro, rank, world, self.config)
        return draws.make_batch(self.pairs, wanted, self.config, self.even)

    def _backward(self, batch: draws.Batch, model: Any = None) -> StepOutcome:
        """Accumulate a micro-batch's gradient, through the wrapped model unless another is given."""
        model = self.model if model is None else model

        def backward(loss: Tensor) -> None:
            self.accelerator.backward(loss / self.config.accumulation)

        at = StepContext(
            model, self.task, self.reference, backward, self.together, self._apart, self.bank
        )
        return self.method.step(at, batch)

    # Checks and measurements

    def _check_reference(self) -> None:
        """Before the first step, policy and reference are one model, so the loss must be ln 2."""
        if self.reference is None:
            return
        batch = self.batch(0).to(self.device)
        self.model.train()
        if not self.method.needs_losers:
            apart = step.distance_moved(self.model, self.task, batch, self.reference)
            stops.reference_moved(apart, self.inner)
            return
        with self.reference.active():
            ref_win, ref_lose = step.branch_errors(self.model, self.task, batch, self.together)
        win, lose = step.branch_errors(self.model, self.task, batch, self.together)
        z = objective.margins(Errors(win, lose, ref_win, ref_lose), self.config.beta)
        stops.reference_apart(self.accelerator.gather(z.contiguous()), self.inner)

    def _measure(self) -> held_out.Table:
        self.model.eval()
        averaged = self.average.active() if self.average is not None else contextlib.nullcontext()
        with averaged, self._told("measuring held-out pairs"):
            return held_out.measure_shared(
                self.model,
                self.task,
                self.watched,
                self.config,
                self.together,
                self.accelerator,
                self.reference if self.method.needs_distance else None,
            )

    def _held_out(self, now: held_out.Table) -> dict[str, Any]:
        assert self.base is not None
        found = held_out.summarise_held_out(now, self.base, self.config)
        self.log.held_out(self.step, found)
        key = self.method.rank(found)
        if self.step and (self.best is None or key < self.best[0]):
            self.best = (key, f"step-{self.step:06d}")
        return found

    def _videos(self, name: str, stored: Path | None = None) -> None:
        """Make validation videos. Each process makes its share and waits for the others' files.

        The videos are by the policy that would be handed over now, or by that of the checkpoint
        `stored`. Adapters are small and go to every process. Full weights go to one process, which
        makes all videos.
        """
        from realdpo.train import videos

        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = (rank, world) if self.config.weights == "lora" else (0, 1)
        mine = self.main or self.config.weights == "lora"
        if stored is not None:
            spec = self.task.family.spec
            weights = checkpoint.policy_weights(stored, self.inner, spec) if mine else {}
        elif self.average is not None:
            weights = checkpoint.gather_weights(self.average, mine)
        else:
            weights = checkpoint.whole_weights(self.inner, keep=mine)
        chosen = self.watched[: self.config.validation_videos]
        hint = "leave them out with --set validation_videos=0; `realdpo eval` makes them afterwards"
        if mine:
            with memory.explain_out_of_memory(lambda: "making validation videos", lambda: hint):
                memory.empty_cache()
                videos.generate_validation_videos(
                    weights,
                    self.task.family.spec,
                    chosen,
                    self.config,
                    self.workspace,
                    self.folder,
                    name,
                    self.device,
                    share,
                )
                memory.empty_cache()
        while not all(
            videos.file_of(self.folder, f"{n:02d}-{name}").is_file() for n in range(len(chosen))
        ):
            time.sleep(0.5)
