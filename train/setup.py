"""Making ready: the processes, the task, the model that is trained, its optimizer and reference."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from realdpo import memory
from realdpo.errors import UserError
from realdpo.families import Family, Spec, load, trainable_family, weights
from realdpo.ids import content_id
from realdpo.memory import Rung
from realdpo.train import noise
from realdpo.train.config import TrainConfig
from realdpo.train.latents import Pair
from realdpo.train.reference import Reference
from realdpo.train.step import Bank, TrainTask
from realdpo.workspace import Workspace


def make_accelerator(config: TrainConfig, folder: Path) -> Any:
    import diffusers
    import transformers
    from accelerate import Accelerator, DistributedType
    from accelerate.utils import (
        AutocastKwargs,
        FullyShardedDataParallelPlugin,
        InitProcessGroupKwargs,
    )
    from torch.distributed.fsdp import MixedPrecisionPolicy

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    cpu = not torch.cuda.is_available()
    names = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
    chosen = choose_precision(config, torch.device("cpu" if cpu else "cuda"))
    if "tensorboard" in config.trackers and not importlib.util.find_spec("tensorboard"):
        raise UserError("the tracker tensorboard is not installed", "pip install tensorboard")
    if "wandb" in config.trackers and not importlib.util.find_spec("wandb"):
        raise UserError("the tracker wandb is not installed", "pip install wandb")
    # Nothing waits in a collective for another's long work; but a checkpoint of sharded weights is
    # written by one process, and reading a large model takes its time.
    handlers = [
        InitProcessGroupKwargs(timeout=timedelta(hours=2)),
        # Kept casts of weights would be a second copy of all of them; each is used once a forward.
        AutocastKwargs(cache_enabled=False),
    ]
    common = {
        "log_with": list(config.trackers) or None,
        "project_dir": folder,
        "kwargs_handlers": handlers,
    }
    # What `accelerate config` suggests would leave all but process 0 with empty text encoders, and
    # with weights that accelerate cannot hand out when a model has buffers, as CogVideoX has.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    made = Accelerator(mixed_precision=names[chosen], cpu=cpu, **common)
    if cpu and made.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate shards on accelerators only, though all that it calls runs on a CPU as well.
        plugin = FullyShardedDataParallelPlugin()
        made.state.distributed_type, made.state.fsdp_plugin = DistributedType.FSDP, plugin
    if made.distributed_type == DistributedType.FSDP and not made.is_fsdp2:
        raise UserError("FSDP of version 1 flattens the weights", "set fsdp_version: 2")
    if made.distributed_type == DistributedType.FSDP:
        # What accelerate gives FSDP2 would cast every input of a block to bfloat16, clocks and rotary
        # embeddings too, and sum gradients in it. Weights are gathered as they are kept, and autocast
        # computes as it does on one GPU.
        made.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=None, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    return made


@contextlib.contextmanager
def deterministic_kernels(on: bool) -> Iterator[None]:
    """Have PyTorch choose kernels that repeat bit for bit, or raise where there are none."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if on:
        # without this cuBLAS may sum in another order; it is read when cuBLAS starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def choose_precision(config: TrainConfig, device: torch.device) -> str:
    if config.precision != "auto":
        return config.precision
    return "fp32" if device.type == "cpu" else "bf16"


def make_task(spec: Spec, pairs: Sequence[Pair], config: TrainConfig) -> TrainTask:
    """The model's facts and noise process.

    Raises UserError when pairs cannot share a batch, or for a shift of a schedule that has none.
    """
    if config.batch > 1 and len({pair.shape for pair in pairs}) > 1:
        raise UserError(
            "pairs of different sizes cannot share a batch",
            "use --set batch=1 and as much accumulation",
        )
    family, shape = trainable_family(spec), pairs[0].shape
    channels = shape[1] if family.TIME_AXIS == 1 else shape[0]
    process = noise.from_scheduler(spec.scheduler, math.prod(shape) // channels)
    if config.flow_shift is not None:
        process = noise.shift_process(process, config.flow_shift)
    if boundary := spec.options.get("boundary_ratio"):
        process = noise.restrict_process(process, boundary, above=spec.component == "transformer")
    return TrainTask(family, process)


def compute_in(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Compute in the half type by autocast, as accelerate sees to but for FSDP2."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision(config, device))
    if half is None:
        return
    real = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, half, cache_enabled=False):
            return real(*args, **kwargs)

    model.forward = forward


def allowed_rungs(config: TrainConfig, sharded: bool) -> list[Rung]:
    """The rungs of the memory ladder that a run of these settings may take.

    Full training has no frozen base to quantise or to keep in main memory; FSDP2 keeps the weights
    its own way; plain training has one branch.
    """
    rungs = [r for r in memory.RUNGS if config.weights == "lora" or (r.bits == 16 and not r.blocks)]
    rungs = [r for r in rungs if not sharded or (r.bits == 16 and not r.blocks)]
    if importlib.util.find_spec("bitsandbytes") is None:
        rungs = [r for r in rungs if r.bits == 16 or r.name == config.memory]
    return rungs


def make_policy(config: TrainConfig, spec: Spec, device: torch.device, rung: Rung) -> nn.Module:
    """The transformer with what is to be trained requiring gradients, on the CPU.

    Raises UserError for layers or adapters that the model cannot have.
    """
    lora = config.weights == "lora"
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision(config, device))
    # Full weights stay in float32 (a step of 1e-6 vanishes in bfloat16); autocast computes in
    # the half type. Frozen weights under adapters need no such care.
    dtype = half if lora and half else torch.float32
    model = load.load_transformer(spec, dtype, rung.bits, device)
    open_weights(model, config, spec)
    if rung.checkpointing:
        model.enable_gradient_checkpointing()  # type: ignore[operator]  # nn.Module types its attributes as Tensor | Module
    if rung.blocks:
        memory.keep_blocks_apart(model, device)
    return model


def open_weights(model: nn.Module, config: TrainConfig, spec: Spec) -> None:
    """Let gradients into what is trained: adapters, which are added, or all weights."""
    if config.weights == "lora":
        targets = lora_targets(config, trainable_family(spec))
        weights.add_lora(model, config.rank, config.alpha, config.lora_dropout, targets)
    else:
        held = trainable_family(spec).HELD
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (held and re.search(held, name)))


def lora_targets(config: TrainConfig, family: Family) -> tuple[str, ...]:
    """The linear layers that get adapters, by the ends of their names."""
    kinds = {"attention": family.TARGETS, "feed-forward": family.FEED_FORWARD}
    chosen = config.targets or ("attention",)
    return tuple(layer for name in chosen for layer in kinds.get(name, (name,)))


def make_optimizer(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kind: Any = torch.optim.AdamW
    if config.optimizer == "adamw8bit":
        try:
            import bitsandbytes
        except ImportError:
            raise UserError(
                "optimizer = adamw8bit needs bitsandbytes", "pip install bitsandbytes"
            ) from None
        kind = bitsandbytes.optim.AdamW8bit
    made: torch.optim.Optimizer = kind(
        parameters,
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )
    return made


def moment_bytes(model: nn.Module, config: TrainConfig) -> int:
    """What the optimizer will hold beside the weights, from its first step on."""
    each = {"adamw": 8, "adamw8bit": 2}[config.optimizer]
    return each * sum(p.numel() for p in model.parameters() if p.requires_grad)


def learning_rate_factor(at: int, config: TrainConfig) -> float:
    """Factor on the learning rate at step `at` (from 0)."""
    if at < config.warmup:
        return (at + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = (at - config.warmup) / max(1, config.steps - config.warmup)
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def make_reference(config: TrainConfig, model: nn.Module) -> Reference | None:
    """The model that the policy is compared with; None where the objective needs none."""
    if not config.method.needs_reference:
        return None
    return Reference(model, config.reference_mode, config.ema_rate, config.ema_every)


def make_average(config: TrainConfig, model: nn.Module) -> Reference | None:
    """The moving average of the trained weights that is evaluated and handed over, if asked for."""
    if not config.policy_ema:
        return None
    return Reference(model, "ema", config.policy_ema, every=1, warm=True)


def open_bank(
    workspace: Workspace,
    task: TrainTask,
    pairs: Sequence[Pair],
    config: TrainConfig,
    device: torch.device,
) -> Bank | None:
    """Stored reference errors, if asked for: a folder named by everything they depend on."""
    if not config.reference_bank or not config.method.needs_losers:
        return None
    c = config
    draw = (c.seed, c.timesteps, c.t_low, c.t_high, c.logit_mean, c.logit_std)
    name = content_id(
        model=load.fingerprint_parts(task.family.spec, task.family.spec.component),
        draw=list(draw),
        losers=c.losers,
        precision=choose_precision(c, device),
        condition=c.condition_draws,
        latents=[p.win.name for p in pairs] + [f.name for p in pairs for f in p.lose],
    )
    return Bank(workspace.step("reference") / name)
