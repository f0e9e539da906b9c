"""Trained weights: adding adapters, writing and reading them, and loading them into a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families.base import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


def add_lora(model: Any, rank: int, alpha: float, dropout: float, targets: tuple[str, ...]) -> None:
    """Give `model` trainable float32 adapters. Raises UserError when no layer bears a target's name.

    The adapters start as the identity (their second factor is zero).
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(targets),
    )
    try:
        model.add_adapter(config)
    except ValueError as error:
        raise UserError(
            f"no layer of {type(model).__name__} is named {', '.join(targets)}: {error}",
            "name linear layers of the model with --set 'targets=[\"to_q\"]'",
        ) from None
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_weights(weights: Mapping[str, Tensor], model: Any, spec: Spec, folder: Path) -> None:
    """Write trained `weights` (parameter name -> whole tensor) as safetensors diffusers loads.

    LoRA: `pytorch_lora_weights.safetensors` for `pipe.load_lora_weights(folder)`, with its alpha,
    which diffusers drops unless told. Full: a transformer folder for `from_pretrained`.
    """
    import diffusers
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    if not any("lora_" in name for name in weights):
        target = folder / spec.component
        target.mkdir(parents=True, exist_ok=True)
        model.save_config(target)
        whole = {**dict(model.named_buffers()), **weights}
        kept = {n: whole[n].detach().cpu().contiguous() for n in model.state_dict()}
        save_file(kept, target / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        return
    layers = {n: t.detach().cpu().contiguous() for n, t in weights.items()}
    layers = get_peft_model_state_dict(model, state_dict=layers)
    getattr(diffusers, spec.pipeline).save_lora_weights(
        folder,
        transformer_lora_layers=layers,
        # Wan 2.2's second transformer too goes by this name, and is loaded with
        # load_lora_weights(folder, load_into_transformer_2=True)
        **_collate_lora_metadata({"transformer": model}),
    )


def read_weights(model: nn.Module, spec: Spec, folder: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote, by the names of `model`'s trained parameters."""
    from safetensors.torch import load_file

    lora = folder / "pytorch_lora_weights.safetensors"
    if not lora.is_file():
        return load_file(folder / spec.component / "diffusion_pytorch_model.safetensors")
    stored = load_file(lora)
    # peft's files leave out the adapter's name: ...lora_A.weight for ...lora_A.default.weight
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return {n: stored[f"transformer.{n.replace('.default.', '.')}"] for n in trained}


def load_lora(pipe: Any, lora: str, scale: float) -> None:
    """Load LoRA weights (file, folder or Hub id) into a pipeline. Raises UserError."""
    path = Path(lora).expanduser()
    try:
        if path.is_file():
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="round")
        else:
            pipe.load_lora_weights(str(path) if path.exists() else lora, adapter_name="round")
        pipe.set_adapters(["round"], [scale])
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot load the LoRA weights {lora}: {reason}",
            "give the folder or safetensors file that training wrote for this model",
        ) from error
