"""What stops a run: a reference that is not the policy, numbers that would ruin the weights, a
winner's error that rises, Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realdpo.errors import UserError
from realdpo.train import numbers
from realdpo.train.config import TrainConfig


@contextlib.contextmanager
def collect_interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second of either kills."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(number: Any, frame: Any) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: whoever called keeps the signals
        pass
    try:
        yield caught
    finally:
        restore()


def reference_apart(z: Tensor, model: nn.Module) -> None:
    """Raises UserError unless the first margins `z` [B, N] give the loss ln 2, as one model must."""
    found = float(-torch.nn.functional.logsigmoid(z).mean())
    _finite(found)
    if abs(found - math.log(2)) < 1e-4 and z.abs().max() < 1e-3:
        return
    _apart(f"the first loss is {found:.6f} and not ln 2 = 0.693147", model)


def reference_moved(apart: float, model: nn.Module) -> None:
    """Raises UserError unless policy and reference predict alike before the first step.

    apart: their mean squared distance, in units of the target's variance (about 1).
    """
    _finite(apart)
    if apart > 1e-10:
        _apart(f"policy and reference predict {apart:.2g} apart (mean square), not 0", model)


def _finite(value: float) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} before the first step: the model's weights or a clip's latents "
            "hold values that are not finite",
            "look at the model's files, delete steps/latents, or try --set precision=fp32",
        )


def _apart(found: str, model: nn.Module) -> None:
    noisy = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    cause = f"dropout is active in {noisy[0]}" if noisy else "policy and reference compute apart"
    raise UserError(
        f"{found}, so policy and reference differ before training: {cause}",
        "use --set lora_dropout=0.0"
        if noisy
        else "try --set precision=fp32 or deterministic attention kernels",
    )


def stop_on_nonsense(
    values: Mapping[str, float],
    recent: Sequence[float],
    config: TrainConfig,
    newest: Path | None,
    scaled: bool,
) -> None:
    """Raises UserError before a step that would ruin the weights; the checkpoint `newest` stands.

    recent: what `numbers.judged_value` gave for the last steps. scaled: whether a gradient scaler (fp16)
    skips a step with an infinite gradient by itself.
    """
    stands = f"{newest} stands" if newest else "nothing was saved yet"
    way_out = "lower lr or beta, add sft_weight or sdpo_mu, and run again under another --name"
    loss, norm, step = values["loss"], values["grad_norm"], int(values["step"])
    if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
        raise UserError(
            f"step {step}: the loss is {loss} and the gradient's norm {norm}; {stands}", way_out
        )
    if config.spike and len(recent) >= 10:
        floor = config.method.usual_loss
        usual = max(statistics.median(recent), floor)
        found = numbers.judged_value(values)
        if found > config.spike * usual:
            raise UserError(
                f"step {step}: the loss is {found:.4g}, {found / usual:.0f} times the usual; {stands}",
                way_out + ", or allow it with --set spike=0",
            )


def win_gap(config: TrainConfig, after: Mapping[str, Any], best: str | None) -> str | None:
    """Why to stop because winners got worse, by the held-out summary `after`, if that is asked."""
    limit = config.stop_on_win_gap
    if limit is None or after["winner_change"] <= limit:
        return None
    return (
        f"the winner's held-out error is {after['winner_change']:+.1%} against the base, "
        f"above stop_on_win_gap = {limit:.1%}; the best checkpoint is {best or 'the first'}"
    )
