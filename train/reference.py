"""The reference model: the same module with other weights, never a second module.

    adapter-off   LoRA only: the adapters are switched off, the base weights are the reference
    frozen        a copy of the trained weights as they were at the start
    ema           a moving average of the trained weights, kept in float32

For a reference forward, the copies replace the trained weights, which come back afterwards: plain
tensors by pointer, sharded ones (FSDP2) by content. Policy and reference therefore run through one
module, one dtype and one set of kernels. That makes the first loss exactly ln 2. A reference
forward must end before a policy graph is built.
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
    """FSDP2: drop the weights that a forward without a backward left gathered."""
    sharded: list[Any] = [m for m in model.modules() if hasattr(m, "reshard")]
    for module in sharded:
        module.reshard()


class Reference:
    """Weights of the reference for `model`, whose trained parameters are those with gradients.

    The moving average is ref <- r * ref + (1 - r) * policy with r = `rate`, updated every `every`
    steps. With `warm`, r is at most (1 + step) / (10 + step), so that a young average forgets its
    start sooner (2/11 at step 1). Raises UserError if `adapter-off` meets a model without adapters.
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
                    "reference = adapter-off needs LoRA, because full training changes the base's "
                    "weights",
                    "use --set reference=frozen or --set reference=ema",
                )
            self.weights: dict[str, Tensor] = {}
        else:
            self.weights = {n: self._copy(p) for n, p in self._trained}

    def _copy(self, parameter: Tensor) -> Tensor:
        # A moving average needs float32, whatever the dtype of the weights: at rate 0.999 every
        # update
        # of a bfloat16 weight is below half a rounding step, and the reference would never move.
        dtype = parameter.dtype
        wide = torch.promote_types(dtype, torch.float32) if self.mode == "ema" else dtype
        return parameter.detach().to(wide, copy=True)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block, the module is the reference and gradients are off."""
        with (
            torch.no_grad(),
            self._adapters_off() if self.mode == "adapter-off" else self._placed(),
        ):
            yield

    @torch.no_grad()
    def update(self, step: int) -> float | None:
        """Move the average after training step `step` (counted from 1), if it is due.

        Returns |change| / |reference|, or None if it was not due.
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
        """|policy - reference| / |reference| over the trained weights. None for `adapter-off`."""
        if not self.weights:
            return None
        # Summed on the device, because fetching one number per layer would wait at every layer.
        apart, size = [], []
        for name, parameter in self._trained:
            weight = self.weights[name]
            apart.append((parameter.detach() - weight).square().sum())
            size.append(weight.square().sum())
        far, long = (float(whole_tensor(sum(parts[1:], parts[0]))) for parts in (apart, size))
        found: float | None = (far / max(long, 1e-30)) ** 0.5
        return found

    def restart(self) -> None:
        """Start again from the current trained weights."""
        self.load({name: parameter.detach() for name, parameter in self._trained if self.weights})

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over saved weights. Raises UserError if they belong to another model."""
        if weights.keys() != self.weights.keys():
            raise UserError(
                "the reference in the checkpoint does not have the same weights as this run's "
                "model",
                "resume with the settings that the run was started with",
            )
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])

    @contextlib.contextmanager
    def _adapters_off(self) -> Iterator[None]:
        # peft's enable_adapters() also flips requires_grad. If that is not flipped back, nothing is
        # trained
        # and nobody is told. In forward, its layers read this flag alone.
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
        """Put the reference's weights into the module, or put the `held` ones back."""
        let_go(self.model)
        for index, (name, parameter) in enumerate(self._trained):
            weight = self.weights[name]
            if hasattr(parameter, "to_local"):
                # FSDP owns the storage of a sharded parameter, so exchange the contents instead.
                here, there = parameter.to_local(), weight.to_local()  # type: ignore[attr-defined]  # both are DTensors here
                kept = here.clone()
                here.copy_(there)
                there.copy_(kept)
            else:
                parameter.data = held[index] if held else weight.to(parameter.dtype)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor (FSDP2) gathered from all processes, or any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
