"""Guidance by the base while sampling: v_tuned + g (v_tuned - v_base).

What fine-tuning moved is moved on by g times as much, at every step. That is autoguidance (Karras
et al., arXiv 2406.02507) with the model before fine-tuning as the worse version of itself. It goes
with classifier-free guidance, which is applied to what comes out of here.

    pipe = DiffusionPipeline.from_pretrained(model)
    pipe.load_lora_weights("work/runs/contrast/weights")
    guide_by_base(pipe, 2)
    video = pipe(prompt).frames[0]

With LoRA the base is the same weights with the adapters off: no second copy, two forwards a step
in place of one. Adapters scaled by 1 + g are the free approximation: `pipe.set_adapters(..., 1 + g)`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within the block the model is its base: its LoRA layers leave out their adapters."""
    # peft's enable_adapters() would also flip requires_grad, and a forgotten flip trains
    # nothing without a word; the flag alone is what its layers read in forward.
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "_disable_adapters")]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def guide_by_base(
    pipe: Any, strength: float, bases: Mapping[str, nn.Module] | None = None
) -> list[str]:
    """From now on the pipeline samples with v_tuned + strength (v_tuned - v_base).

    bases: of transformers whose weights were trained as a whole, by component; one with LoRA is its
    own base. Returns the components that are guided. Raises UserError when there is none.
    """
    guided = []
    for name in ("transformer", "transformer_2"):
        model = getattr(pipe, name, None)
        if model is None:
            continue
        base = (bases or {}).get(name)
        if base is None and not any(hasattr(m, "_disable_adapters") for m in model.modules()):
            continue
        if strength:
            model.forward = _guided(model, base, strength)
        guided.append(name)
    if not guided:
        raise UserError(
            "guidance by the base needs a model that was fine-tuned: this one has no LoRA",
            "give a run, or MODEL+LORA",
        )
    return guided


def _guided(model: Any, base: Any, strength: float) -> Any:
    own = model.forward

    @functools.wraps(own)  # pipelines look at its signature
    def forward(*args: Any, **kwargs: Any) -> Any:
        tuned = own(*args, **kwargs)
        if base is None:
            with adapters_off(model):
                before = own(*args, **kwargs)
        else:
            before = base(*args, **kwargs)
        if isinstance(tuned, tuple):
            return (_further(tuned[0], before[0], strength), *tuned[1:])
        tuned.sample = _further(tuned.sample, before.sample, strength)
        return tuned

    return forward


def _further(tuned: Any, before: Any, strength: float) -> Any:
    wide = tuned.float()
    return (wide + strength * (wide - before.float())).to(tuned.dtype)
