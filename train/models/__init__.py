"""Model families behind a few functions, and how their parts are loaded.

A family is a module (`cogvideox`, `wan`, `ltx`, `hunyuan`, `mochi`) with the members of `Family`.
Latents are [B, ...] in the layout the transformer takes (CogVideoX [B, F, C, H, W], the others
[B, C, F, H, W]), normalised as the model's own pipeline does it. Inputs are the tensors a forward
needs beside the noisy latents; each is stored without its batch axis.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from realdpo import models as names
from realdpo.errors import UserError
from realdpo.ids import content_id, file_hash

_FAMILIES = {
    "CogVideoXPipeline": "cogvideox",
    "CogVideoXImageToVideoPipeline": "cogvideox",
    "WanPipeline": "wan",
    "WanImageToVideoPipeline": "wan",
    "LTXPipeline": "ltx",
    "LTXImageToVideoPipeline": "ltx",
    "HunyuanVideoPipeline": "hunyuan",
    "HunyuanVideoImageToVideoPipeline": "hunyuan",
    "MochiPipeline": "mochi",
}


@dataclass(frozen=True)
class Spec:
    """Facts of a pipeline folder: class names and the configurations of its parts."""

    folder: Path
    pipeline: str
    options: Mapping[str, Any]  # model_index.json
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    component: str = "transformer"  # the one that is trained

    @property
    def image(self) -> bool:
        """Whether the pipeline starts from an image."""
        return "ImageToVideo" in self.pipeline


class Family(Protocol):
    """What a family's module offers."""

    TIME_AXIS: int
    """Axis of latent frames in [B, ...] latents."""
    TARGETS: tuple[str, ...]
    """Layers that get adapters unless the user names others."""

    def factors(self, spec: Spec) -> tuple[int, int]:
        """What frames after the first, and width and height, must be multiples of."""

    def condition_noise(self, spec: Spec) -> tuple[float, float] | None:
        """(mean, std) of the log sigma with which the base saw its first frame noised, if so."""

    def embed(self, pipe: Any, spec: Spec, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        """Inputs made of the prompt (and of `image` [3, H, W] in -1..1, for image encoders)."""

    def encode(self, vae: Any, spec: Spec, video: Tensor) -> Tensor:
        """Latents [1, ...] of `video` [1, 3, F, H, W] in -1..1: the posterior's mode, normalised."""

    def condition(self, vae: Any, spec: Spec, image: Tensor, frames: int) -> dict[str, Tensor]:
        """Inputs made of the first frame [1, 3, H, W] for a video of `frames` frames, [1, ...]."""

    def forward(
        self,
        transformer: Any,
        spec: Spec,
        noisy: Tensor,
        timestep: Tensor,
        inputs: dict[str, Tensor],
    ) -> Tensor:
        """The prediction for `noisy` [B, ...] at `timestep` [B], called as the pipeline does."""

    def sampling(self, spec: Spec, fps: float, frames: int) -> dict[str, Any]:
        """What the pipeline's call must be told so that it samples as the model is trained."""

    def clean_frames(self, spec: Spec) -> int:
        """Latent frames at the start that the model is given, so that no loss is taken on them."""


def family_of(spec: Spec) -> Family:
    """The family's module. Raises UserError when the pipeline is of none of them."""
    if spec.pipeline not in _FAMILIES:
        raise UserError(
            f"{spec.folder} is a {spec.pipeline}, which cannot be trained here",
            f"known pipelines: {', '.join(_FAMILIES)}",
        )
    return cast(Family, importlib.import_module(f"{__name__}.{_FAMILIES[spec.pipeline]}"))


def read_spec(model: str, revision: str | None = None, expert: str = "high") -> Spec:
    """The facts of `model` (as in `realdpo.models.resolve_model`); a Hub model is fetched once.

    Raises UserError when the folder lacks a part.
    """
    folder = _folder(names.resolve_model(model), revision)
    index = _json(folder / "model_index.json")
    two = (index.get("transformer_2") or [None])[0] is not None
    component = "transformer_2" if two and expert == "low" else "transformer"
    return Spec(
        folder,
        index["_class_name"],
        index,
        _json(folder / component / "config.json"),
        _json(folder / "vae" / "config.json"),
        _json(folder / "scheduler" / "scheduler_config.json"),
        component,
    )


def load_encoders(spec: Spec, dtype: torch.dtype, device: torch.device) -> Any:
    """The pipeline without its transformers: text encoders and VAE, for filling the cache."""
    import diffusers

    kind = getattr(diffusers, spec.pipeline)
    without: dict[str, Any] = {
        k: None for k in ("transformer", "transformer_2") if k in spec.options
    }
    pipe = kind.from_pretrained(spec.folder, **in_dtype(dtype), **without)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def load_transformer(spec: Spec, dtype: torch.dtype) -> nn.Module:
    """The transformer that is trained, in `dtype`, on the CPU, without gradients."""
    import diffusers

    kind = getattr(diffusers, spec.options[spec.component][1])
    model: nn.Module = kind.from_pretrained(
        spec.folder, subfolder=spec.component, **in_dtype(dtype)
    )
    return model.requires_grad_(False)


def in_dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The argument of diffusers' `from_pretrained` for a dtype, by the name its version takes.

    0.42 warns of `torch_dtype`; older versions take a `dtype` and may ignore it in silence.
    """
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 42) else "torch_dtype": dtype}


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


def fingerprint(spec: Spec, *components: str) -> str:
    """An id of the weights and settings of some components, from their files' contents."""
    hashes = {}
    for component in components:
        folder = spec.folder / component
        files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "README.md")
        hashes[component] = {str(f.relative_to(folder)): _identity(f) for f in files}
    return content_id(**hashes)


def _identity(file: Path) -> str:
    """A name for a file's content. Files in the Hub's cache are links named by their hash."""
    return Path(file.resolve()).name if file.is_symlink() else file_hash(file)


def _folder(name: str, revision: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, revision=revision))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot fetch {name}: {str(error).splitlines()[0]}",
            "check the name, the network and `hf auth login`, or give a local folder",
        ) from None


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{file} is not there", "the folder is not a whole pipeline") from None
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
