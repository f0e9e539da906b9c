"""The reference model: the same module with other weights, so there is never a second module.

    adapter-off   LoRA only: the adapters are switched off, the base weights are the reference
    frozen        a copy of the trained weights as they were at the start
    ema           a moving average of the trained weights, kept in float32

For a reference forward the copies take the place of the trained weights and leave it again: plain
tensors by pointer, sharded ones (FSDP2) by content. Policy and reference therefore run through one
module, one dtype and one set of kernels, which is what makes the first loss exactly ln 2. A
reference forward must end before a policy graph is built.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from realdpo.errors import UserError

Mode = Literal["adapter-off", "frozen", "ema"]


def let_go(model: nn.Module) -> None:
    """FSDP2: drop what a forward without a backward left gathered, in the place of the shards."""
    sharded: list[Any] = [m for m in model.modules() if hasattr(m, "reshard")]
    for module in sharded:
        module.reshard()


class Reference:
    """Weights of the reference for `model`, whose trained parameters are those with gradients.

    `rate` r and `every` set the moving average: ref <- r * ref + (1 - r) * policy, every so many
    steps; with `warm`, by no more than a young average can (step 1: 2/11). Raises UserError when `adapter-off` is asked of a model without adapters.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: Mode,
        rate: float = 0.999,
        every: int = 100,
        warm: bool = False,
    ) -> None:
        self.model, self.mode, self.rate, self.every = model, mode, rate, every
        self.warm = warm
        self._trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._tuners: list[Any] = [m for m in model.modules() if hasattr(m, "_disable_adapters")]
        if mode == "adapter-off":
            if not self._tuners:
                raise UserError(
                    "reference = adapter-off needs LoRA: full training changes the base weights",
                    "use --set reference=frozen or --set reference=ema",
                )
            self.weights: dict[str, Tensor] = {}
        else:
            self.weights = {n: self._copy(p) for n, p in self._trained}

    def _copy(self, parameter: Tensor) -> Tensor:
        # A moving average needs float32 however the weights are kept: at rate 0.999 every update
        # of a bfloat16 weight is below half a rounding step, and the reference would never move.
        dtype = parameter.dtype
        wide = torch.promote_types(dtype, torch.float32) if self.mode == "ema" else dtype
        return parameter.detach().to(wide, copy=True)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the module is the reference, and gradients are off."""
        with (
            torch.no_grad(),
            self._adapters_off() if self.mode == "adapter-off" else self._placed(),
        ):
            yield

    @torch.no_grad()
    def update(self, step: int) -> float | None:
        """Move the average after training step `step` (from 1) when it is due.

        Returns |change| / |reference|, or None when nothing was due.
        """
        if self.mode != "ema" or step % self.every:
            return None
        rate = min(self.rate, (1 + step) / (10 + step)) if self.warm else self.rate
        moved, size = 0.0, 0.0
        for name, parameter in self._trained:
            weight = self.weights[name]
            change = (parameter.detach().to(weight.dtype) - weight) * (1 - rate)
            weight.add_(change)
            moved += float(change.square().sum())
            size += float(weight.square().sum())
        found: float | None = (moved / max(size, 1e-30)) ** 0.5
        return found

    @torch.no_grad()
    def distance(self) -> float | None:
        """|policy - reference| / |reference| over the trained weights; None for `adapter-off`."""
        if not self.weights:
            return None
        apart, size = [], []  # summed where they are: a number fetched a layer would wait a layer
        for name, parameter in self._trained:
            weight = self.weights[name]
            apart.append((parameter.detach() - weight).square().sum())
            size.append(weight.square().sum())
        far, long = (float(whole_tensor(sum(parts[1:], parts[0]))) for parts in (apart, size))
        found: float | None = (far / max(long, 1e-30)) ** 0.5
        return found

    def restart(self) -> None:
        """Begin again from the trained weights as they are now."""
        self.load({name: parameter.detach() for name, parameter in self._trained if self.weights})

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over saved weights. Raises UserError when they are of another model."""
        if weights.keys() != self.weights.keys():
            raise UserError(
                "the checkpoint's reference has other weights than this run's model",
                "resume with the settings the run was started with",
            )
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])

    @contextlib.contextmanager
    def _adapters_off(self) -> Iterator[None]:
        # peft's enable_adapters() would also flip requires_grad, and a forgotten flip trains
        # nothing without a word; the flag alone is what its layers read in forward.
        for tuner in self._tuners:
            tuner._disable_adapters = True
        try:
            yield
        finally:
            for tuner in self._tuners:
                tuner._disable_adapters = False

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        held = [parameter.data for _, parameter in self._trained]
        self._place()
        try:
            yield
        finally:
            self._place(held)

    def _place(self, held: list[Tensor] | None = None) -> None:
        """Put the reference's weights into the module, or the `held` ones back."""
        let_go(self.model)
        for index, (name, parameter) in enumerate(self._trained):
            weight = self.weights[name]
            if hasattr(parameter, "to_local"):
                # A sharded parameter's storage belongs to FSDP: exchange contents, both ways.
                here, there = parameter.to_local(), weight.to_local()  # type: ignore[attr-defined]  # both are DTensors here
                kept = here.clone()
                here.copy_(there)
                there.copy_(kept)
            else:
                parameter.data = held[index] if held else weight.to(parameter.dtype)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor (FSDP2) gathered from all processes; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
