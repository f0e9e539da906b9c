"""LoRA layers by the names of other tools: ComfyUI's, kohya's, peft's, and diffusers' own.

Inside, a layer is `blocks.0.attn1.to_q.lora_A.weight`: the module's name in diffusers and one of
two factors, with scale 1. A family says by `ORIGINAL` what its authors' own code calls a module,
by `#q`, `#k` ... which part of a fused one it is, and by `#halves` that its rows are in two halves
which the authors have the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families.base import Family

if TYPE_CHECKING:
    from torch import Tensor, nn

_OTHER_KINDS = ("dora_scale", "lokr_", "hada_", "oft_", ".diff")
_PARTS = ("q", "k", "v", "mlp")  # of a fused module, in the order of its rows
_HALVES = "halves"


Names = tuple[tuple[str, str], ...]


def original_names(names: Names, model: nn.Module) -> dict[str, list[str]]:
    """The linear modules of `model` by what `names` calls them: name -> its parts in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in linear_modules(model):
        for pattern, replacement in names:
            if re.fullmatch(pattern, name):
                stem, _, part = re.sub(pattern, replacement, name).partition("#")
                place = _PARTS.index(part) if part in _PARTS else 0
                found.setdefault(stem, []).append((place, name))
                break
    return {stem: [name for _, name in sorted(parts)] for stem, parts in found.items()}


def _swapped(names: Names, name: str) -> bool:
    """Whether the authors have the halves of a module's rows the other way round."""
    return any(
        replacement.endswith(f"#{_HALVES}") and re.fullmatch(pattern, name)
        for pattern, replacement in names
    )


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """What adapters can be put on, by name; a layer that has adapters already counts as itself."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if hasattr(module, "out_features")
        and ".lora_" not in name
        and not hasattr(module, "base_layer")
    }


def to_original(
    layers: Mapping[str, Tensor], family: Family, model: nn.Module, comfy: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layers by their authors' names, or ComfyUI's where it has its own, each (A [r, in], B [out, r]), float32, exactly B A of before.

    Where the authors fuse several modules, their ranks add up and B is block-diagonal. Raises
    UserError for layers whose original name is not known.
    """
    import torch

    called = (comfy and family.COMFY) or family.ORIGINAL
    linears = linear_modules(model)
    stems = {name.partition(".lora_")[0] for name in layers}

    def factor(name: str, which: str) -> Tensor:
        return layers[f"{name}.lora_{which}.weight"].float()

    made, done = {}, set()
    for original, names in original_names(called, model).items():
        present = [name for name in names if name in stems]
        if not present:
            continue
        done |= set(present)
        down = torch.cat([factor(name, "A") for name in present])
        rows = [int(linears[name].out_features) for name in names]  # type: ignore[arg-type]  # nn.Module types its attributes as Tensor | Module
        up = torch.zeros(sum(rows), len(down))
        column = 0
        for k, name in enumerate(names):
            if name in stems:
                block = factor(name, "B")
                if _swapped(called, name):
                    block = torch.cat(block.chunk(2)[::-1])
                up[sum(rows[:k]) : sum(rows[: k + 1]), column : column + block.shape[1]] = block
                column += block.shape[1]
        made[original] = (down, up)
    if left := sorted(stems - done):
        raise UserError(
            f"the original name of {len(left)} of {len(stems)} layers of {family.spec.pipeline} is "
            f"not known, the first is {left[0]}",
            "use --format diffusers, or train other layers",
        )
    return made


def to_diffusers(
    tensors: Mapping[str, Tensor], pipe: Any, family: Family, model: nn.Module, file: Path
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
    found = _known(stripped, family, model)
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


def _known(
    tensors: Mapping[str, Tensor], family: Family, model: nn.Module
) -> dict[str, Tensor] | None:
    """Layers by a name that is known, dotted or in kohya's way; None when one is not."""
    import torch

    linears, original = linear_modules(model), original_names(family.ORIGINAL, model)
    swapped = {stem for stem, names in original.items() if _swapped(family.ORIGINAL, names[0])}
    original |= original_names(family.COMFY, model)
    swapped |= {stem.replace(".", "_") for stem in swapped}
    known = original | {name: [name] for name in linears}
    known |= {stem.replace(".", "_"): names for stem, names in known.items()}
    found: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        stem, factor = _split(key)
        stem = re.sub(r"^(lora_unet_|lora_transformer_|transformer\.|diffusion_model\.)", "", stem)
        names = known.get(stem)
        if names is None and key.startswith("transformer.") and factor:
            names = [stem]  # diffusers' own, of another model: told layer by layer
        if names is None:
            return None
        if factor == "lora_B" and stem in swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if factor == "alpha":
            alphas |= dict.fromkeys(names, float(tensor))
        elif factor == "lora_B" and len(names) > 1:
            rows = [int(linears[name].out_features) for name in names]  # type: ignore[arg-type]  # nn.Module types its attributes as Tensor | Module
            if tensor.shape[0] != sum(rows):
                return None
            parts = tensor.split(rows)
            found |= {f"{n}.lora_B.weight": part for n, part in zip(names, parts, strict=True)}
        else:
            found |= {f"{name}.{factor}.weight": tensor for name in names}
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
