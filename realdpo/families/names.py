"""LoRA layers by the names of other tools: ComfyUI's, kohya's, peft's, and diffusers' own.

Inside, a layer is `blocks.0.attn1.to_q.lora_A.weight`: the module's name in diffusers and one of
two factors, with scale 1. A family says by `ORIGINAL` what its authors' own code calls a layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

_OTHER_KINDS = ("dora_scale", "lokr_", "hada_", "oft_", ".diff")


def to_diffusers(
    tensors: Mapping[str, Tensor], pipe: Any, model: nn.Module, file: Path
) -> dict[str, Tensor]:
    """The layers of a LoRA file by diffusers' names, each scaled by its alpha.

    Raises UserError for what is no LoRA of the transformer.
    """
    for kind in _OTHER_KINDS:
        if bad := [key for key in tensors if kind in key]:
            raise UserError(
                f"{file} is not plain LoRA: it holds {bad[0]} ({len(bad)} of {len(tensors)} keys)",
                "train or convert it as LoRA (two factors a layer)",
            )
    if bad := [key for key in tensors if re.match(r"(text_encoder|lora_te|conditioner)", key)]:
        raise UserError(
            f"{file} changes the text encoder ({bad[0]}), which training and sampling here do not"
        )
    stripped = {re.sub(r"^(base_model\.model\.|module\.)+", "", k): t for k, t in tensors.items()}
    found = _plain(stripped, model)
    if found is not None:
        return found
    if not hasattr(pipe, "lora_state_dict"):
        first = next(iter(tensors), "nothing")
        raise UserError(
            f"the LoRA weights {file} do not fit {type(model).__name__}: no layer is called as "
            f"{first}",
            "give the LoRA of this model",
        )
    try:
        state = pipe.lora_state_dict(dict(stripped))
    except (ValueError, KeyError, RuntimeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"the LoRA weights {file} do not fit {type(pipe).__name__}: {reason}",
            "give the LoRA of this model",
        ) from None
    state = state[0] if isinstance(state, tuple) else state
    return {name.removeprefix("transformer."): tensor for name, tensor in state.items()}


def _plain(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    """Layers that bear the model's own module names, dotted or in kohya's way; None if others."""
    modules = {name for name, module in model.named_modules() if not list(module.children())}
    modules |= {name.removesuffix(".base_layer") for name in modules}
    by_kohya = {name.replace(".", "_"): name for name in modules}
    found: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        stem, factor = _split(key)
        stem = re.sub(r"^(lora_unet_|lora_transformer_|transformer\.|diffusion_model\.)", "", stem)
        name = stem if stem in modules else by_kohya.get(stem)
        if name is None:
            # a file of diffusers' own names that is of another model is told layer by layer
            if key.startswith("transformer.") and factor:
                name = stem
            else:
                return None
        if factor == "alpha":
            alphas[name] = float(tensor)
        else:
            found[f"{name}.{factor}.weight"] = tensor
    for name, alpha in alphas.items():
        down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        if down in found and up in found:
            found[up] = found[up] * (alpha / found[down].shape[0])
    return found


def _split(key: str) -> tuple[str, str]:
    """A key's module and what of it: lora_A, lora_B, alpha, or nothing that is known."""
    for ending, factor in (
        (r"\.lora_A(\.default)?\.weight$|\.lora_down\.weight$|\.lora\.down\.weight$", "lora_A"),
        (r"\.lora_B(\.default)?\.weight$|\.lora_up\.weight$|\.lora\.up\.weight$", "lora_B"),
        (r"\.alpha$", "alpha"),
    ):
        if re.search(ending, key):
            return re.sub(ending, "", key), factor
    return key, ""
