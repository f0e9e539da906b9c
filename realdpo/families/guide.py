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

The other free way is `guide_by_base(pipe, "negative")`: the base makes the negative forward of
classifier-free guidance of scale s, v_base(negative) + s (v_tuned(prompt) - v_base(negative)), so that
no forward is added. It moves the prompt's prediction as classifier-free guidance of the tuned model
does, and adds (s - 1) (v_tuned(negative) - v_base(negative)).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from realdpo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Guide = float | Literal["negative"]
"""How a base guides what was tuned from it: with a strength, or as the negative forward."""


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


def parse_guide(text: str) -> Guide:
    """`2` or `negative` as written by a user. Raises ValueError for anything else."""
    if text == "negative":
        return "negative"
    if not 0 <= (strength := float(text)) < float("inf"):
        raise ValueError(text)
    return strength


def guide_text(guide: Guide) -> str:
    """What `parse_guide` reads."""
    return guide if isinstance(guide, str) else f"{guide:g}"


def guide_by_base(
    pipe: Any, guide: Guide, bases: Mapping[str, nn.Module] | None = None
) -> list[str]:
    """From now on the pipeline samples with v_tuned + guide (v_tuned - v_base).

    guide: the strength, or `negative` for the base as the negative forward of classifier-free
    guidance. bases: of transformers whose weights were trained as a whole, by component; one with
    LoRA is its own base. Returns the components that are guided. Raises UserError when there is
    none, and while sampling when the pipeline makes no negative forward.
    """
    guided = []
    for name in ("transformer", "transformer_2"):
        model = getattr(pipe, name, None)
        if model is None:
            continue
        base = (bases or {}).get(name)
        if base is None and not any(hasattr(m, "_disable_adapters") for m in model.modules()):
            continue
        if guide == "negative":
            _make_negative_by_base(pipe, model, base)
        elif guide:
            model.forward = _guided(model, base, guide)
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
        before = _of_base(model, own, base, args, kwargs)
        if isinstance(tuned, tuple):
            return (_further(tuned[0], before[0], strength), *tuned[1:])
        tuned.sample = _further(tuned.sample, before.sample, strength)
        return tuned

    return forward


def _of_base(
    model: Any, own: Any, base: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    if base is not None:
        return base(*args, **kwargs)
    with adapters_off(model):
        return own(*args, **kwargs)


def _make_negative_by_base(pipe: Any, model: Any, base: Any) -> None:
    """The negative forward by the base, by the names that pipelines give to their forwards.

    These are of diffusers' `cache_context`: `cond` and `uncond`, or `cond_uncond` for a batch whose
    first half is the negative one. Further forwards (`uncond_stg`) have the prompt, and stay.
    """
    if not hasattr(model, "cache_context"):
        raise _unnamed(pipe)
    own, named = model.forward, model.cache_context
    running, lonely = "", False  # lonely: a forward of the prompt had no negative one after it

    @contextlib.contextmanager
    def cache_context(name: str, **more: Any) -> Iterator[None]:
        nonlocal running
        running = name
        try:
            with named(name, **more):
                yield
        finally:
            running = ""

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal lonely
        if not running:
            raise _unnamed(pipe)
        if running in ("uncond", "pred_uncond"):
            lonely = False
            return _of_base(model, own, base, args, kwargs)
        if running == "cond_uncond":
            size = len(args[0] if args else kwargs["hidden_states"])
            if size % 2 or getattr(pipe, "guidance_scale", 2) <= 1:
                raise _no_negative(pipe)
            parts = [
                (
                    [_half(value, size, which) for value in args],
                    {name: _half(value, size, which) for name, value in kwargs.items()},
                )
                for which in (0, 1)
            ]
            negative = _of_base(model, own, base, *parts[0])
            return _joined(negative, own(*parts[1][0], **parts[1][1]))
        if running not in ("cond", "pred_cond"):
            return own(*args, **kwargs)
        if lonely:
            lonely = False  # the pipeline can be called again
            raise _no_negative(pipe)
        made = own(*args, **kwargs)
        lonely = True
        return made

    model.cache_context = cache_context
    model.forward = forward


def _half(value: Any, size: int, which: int) -> Any:
    """The first or second half of what has the batch's length; anything else as it is."""
    batched = hasattr(value, "chunk") and value.ndim and len(value) == size
    return value.chunk(2)[which] if batched else value


def _joined(first: Any, second: Any) -> Any:
    import torch

    if isinstance(first, tuple):
        return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
    second.sample = torch.cat([first.sample, second.sample])
    return second


def _no_negative(pipe: Any) -> UserError:
    return UserError(
        f"{type(pipe).__name__} makes no negative forward as it is called, so the base cannot be it",
        "set guidance above 1, or guide by a strength, such as 1",
    )


def _unnamed(pipe: Any) -> UserError:
    return UserError(
        f"{type(pipe).__name__} does not tell its negative forward apart, so the base cannot be it",
        "guide by a strength, such as 1",
    )


def _further(tuned: Any, before: Any, strength: float) -> Any:
    wide = tuned.float()
    return (wide + strength * (wide - before.float())).to(tuned.dtype)
