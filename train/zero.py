"""DeepSpeed's ZeRO through accelerate: what it must be told, and its shards read and written whole.

Its engine clips and steps inside the last backward of a step, and leaves a step out whose gradient
is not finite. Precision stays ours: trained weights are float32, autocast computes in the half type,
so the engine's own half types are refused. Weights and moments go through DeepSpeed's calls for
whole tensors into the same safetensors as everywhere; its own checkpoints, which are pickles, are
never written or read. Every process must make the calls that gather.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from realdpo.errors import UserError
from realdpo.train.config import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


def asked() -> bool:
    """Whether accelerate's configuration asks for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def accelerator(config: TrainConfig, **common: Any) -> Any:
    """accelerate over DeepSpeed, as its configuration asks; over gloo where there is no GPU.

    Raises UserError for what cannot be had so.
    """
    from accelerate import Accelerator
    from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs

    if not importlib.util.find_spec("deepspeed"):
        raise UserError(
            "DeepSpeed is asked for and not installed", "pip install realdpo[deepspeed]"
        )
    if "RANK" not in os.environ:
        raise UserError("DeepSpeed needs a launcher", "add --num-processes N, or accelerate launch")
    plugin = DeepSpeedPlugin()
    _configure(plugin, config)
    gloo = [] if torch.cuda.is_available() else [InitProcessGroupKwargs(backend="gloo")]
    if gloo:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with contextlib.redirect_stdout(sys.stderr):  # its logger's place too; stdout is for --json
        import deepspeed.ops

        # It would compile code of its own to speed up gloo, for a minute and with a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        return Accelerator(
            mixed_precision="no", deepspeed_plugin=plugin, kwargs_handlers=gloo, **common
        )


def _configure(plugin: Any, config: TrainConfig) -> None:
    given = plugin.deepspeed_config
    offload = [given["zero_optimization"].get(f"offload_{what}") for what in ("param", "optimizer")]
    needs_whole = config.objective == "dpo" and config.reference_mode != "adapter-off"
    checks = {
        "ZeRO's stage must be 2 or 3": plugin.zero_stage in (2, 3),
        "precision = fp16 does not go with DeepSpeed; take bf16": config.precision != "fp16",
        "optimizer = adamw8bit does not go with DeepSpeed": config.optimizer == "adamw",
        "DeepSpeed's offloading is not supported": all(
            (o or {}).get("device", "none") in ("none", None) for o in offload
        ),
        "leave bf16 and fp16 out of DeepSpeed's configuration: `precision` says it": not any(
            given.get(half, {}).get("enabled") is True for half in ("bf16", "fp16")
        ),
        "under ZeRO 3 the reference must be adapter-off; take ZeRO 2 or FSDP2": not (
            plugin.zero_stage == 3 and needs_whole
        ),
    }
    for rule, holds in checks.items():
        if not holds:
            raise UserError(f"DeepSpeed: {rule}", "see docs/training.md, Memory and speed")
    given["train_micro_batch_size_per_gpu"] = config.batch
    given["gradient_accumulation_steps"] = (
        1  # the loop divides, and says which backward is the last
    )
    given["gradient_clipping"] = config.clip
    plugin.zero3_init_flag = False  # or text encoders would be sharded as they are loaded


def autocast(model: nn.Module, half: torch.dtype | None, device: torch.device) -> None:
    """Compute in the half type, as accelerate's other ways do by themselves."""
    if half is not None:
        model.forward = torch.autocast(device.type, half)(model.forward)


def sharded(parameter: Tensor) -> bool:
    """Whether the optimizer's part (ZeRO 2), or the weight as well (ZeRO 3), is in shards."""
    return hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id")


def whole(parameter: Tensor) -> Tensor:
    """The trained weight, gathered if it is in shards."""
    from deepspeed.utils import safe_get_full_fp32_param

    found: Tensor = (
        safe_get_full_fp32_param(parameter) if hasattr(parameter, "ds_id") else parameter
    )
    return found.detach()


def fill(parameter: Tensor, value: Tensor) -> None:
    """Set a trained weight: what the forward reads, and what the optimizer steps from."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param

    value = value.to(parameter.device)
    with deepspeed.zero.GatheredParameters(
        [parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")
    ):
        parameter.data.copy_(value)
    safe_set_full_fp32_param(parameter, value)


def moments(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """What `torch.optim.AdamW` would hold for the parameter; empty before the first step."""
    from deepspeed.utils import safe_get_full_optimizer_state

    flat = next(iter(optimizer.optimizer.state.values()), None)
    if not flat:
        return {}
    gathered = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
    return {"step": flat["step"].detach().clone(), **gathered}


def fill_moments(optimizer: Any, values: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    """Put back what `moments` gave for every trained parameter."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_set_full_optimizer_state

    if not any(values.values()):
        return
    state, step = optimizer.optimizer.state, next(iter(values.values()))["step"]
    third = hasattr(optimizer, "fp32_partitioned_groups_flat")
    flats = (
        optimizer.fp32_partitioned_groups_flat
        if third
        else optimizer.single_partition_of_fp32_groups
    )
    for index, flat in enumerate(flats):
        state[flat] = {"step": step.clone(), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        if not third:
            lazy_init_hp_params_optimizer_state(optimizer.bit16_groups[index], flat, state)
    for parameter, entries in values.items():
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, entries[key].to(parameter.device), key)
