"""Trained weights: adapters into a model, weights to and from files, and into a pipeline.

Every place that loads weights goes through `load_lora`: a file says which transformer it is for,
its keys are counted against that transformer, and what does not fit is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families.base import Spec
from realdpo.families.fingerprint import fingerprint_weights
from realdpo.families.names import to_diffusers
from realdpo.families.spec import spec_of_pipeline

if TYPE_CHECKING:
    from torch import Tensor, nn

# in a file's metadata: the transformer it is for, and the pipeline class it was trained with
COMPONENT, PIPELINE = "realdpo.component", "realdpo.pipeline"
ADAPTER = "round"
# the names that diffusers looks for
LORA_FILE = "pytorch_lora_weights.safetensors"
# of the second of two transformers, where both are in one folder
LOW_LORA_FILE = "pytorch_lora_weights_low_noise.safetensors"
FULL_FILE = "diffusion_pytorch_model.safetensors"


def add_lora(model: Any, rank: int, alpha: float, dropout: float, targets: tuple[str, ...]) -> None:
    """Give `model` trainable float32 adapters. Raises UserError when no layer bears a target's name.

    The adapters start as the identity (their second factor is zero).
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes fractions
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
    which diffusers drops unless told, and the transformer it is for. Full: a transformer folder
    for `from_pretrained`.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    if not any("lora_" in name for name in weights):
        target = folder / spec.component
        target.mkdir(parents=True, exist_ok=True)
        model.save_config(target)
        whole = {**model.state_dict(), **kept}
        kept = {n: whole[n].detach().cpu().contiguous() for n in model.state_dict()}
        save_file(kept, target / FULL_FILE, metadata={"format": "pt"})
        return
    folder.mkdir(parents=True, exist_ok=True)
    layers = get_peft_model_state_dict(model, state_dict=kept)
    config = model.peft_config["default"].to_dict()
    told = {f"transformer.{k}": sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    save_file(
        # Wan 2.2's second transformer too goes by this name in files
        {f"transformer.{name}": tensor for name, tensor in layers.items()},
        folder / LORA_FILE,
        metadata={
            "format": "pt",
            "lora_adapter_metadata": json.dumps(told, indent=2, sort_keys=True),
            COMPONENT: spec.component,
            PIPELINE: spec.pipeline,
        },
    )


def read_weights(model: nn.Module, spec: Spec, folder: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote, by the names of `model`'s trained parameters."""
    from safetensors.torch import load_file

    whole = folder / spec.component / FULL_FILE
    if whole.is_file():
        return load_file(whole)
    stored = load_file(lora_file(folder, spec))
    # peft's files leave out the adapter's name: ...lora_A.weight for ...lora_A.default.weight
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return {n: stored[f"transformer.{n.replace('.default.', '.')}"] for n in trained}


def lora_file(folder: Path, spec: Spec) -> Path:
    """The LoRA file of `folder` for the transformer that is trained."""
    low = folder / LOW_LORA_FILE
    return low if spec.component == "transformer_2" and low.is_file() else folder / LORA_FILE


def read_start(model: nn.Module, spec: Spec, folder: Path) -> dict[str, Tensor]:
    """Weights that an earlier run wrote, for `model` to train on from, by its parameters' names.

    Raises UserError unless they are of the same transformer, layers, rank and alpha.
    """
    from safetensors import SafetensorError, safe_open

    lora = getattr(model, "peft_config", {}).get("default")
    file = lora_file(folder, spec) if lora else folder / spec.component / FULL_FILE
    if not file.is_file():
        other = "all weights" if lora else "adapters"
        raise UserError(
            f"{folder} holds no {file.name} to train on from",
            f"if it was trained with {other}, train them again (--set weights=), "
            "or name another run with --set start=",
        )
    try:
        with safe_open(file, framework="pt") as opened:
            told = dict(opened.metadata() or {})
        found = read_weights(model, spec, folder)
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(
            f"cannot train on from {file}: it lacks {error}"
            if isinstance(error, KeyError)
            else f"cannot train on from {file}: {error}",
            "use the model, rank and targets that it was trained with",
        ) from None
    if told.get(COMPONENT, spec.component) != spec.component:
        raise UserError(
            f"{file} is for {told[COMPONENT]}, and this run trains {spec.component}",
            "name the run of the same expert with --set start=",
        )
    if lora:
        was = json.loads(told.get("lora_adapter_metadata", "{}"))
        for setting, name, now in (("rank", "r", lora.r), ("alpha", "lora_alpha", lora.lora_alpha)):
            then = was.get(f"transformer.{name}", now)
            if then != now:
                raise UserError(
                    f"{file} was trained with {setting} {then:g}, and this run has {now:g}",
                    f"train on with --set {setting}={then:g}",
                )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and found[name].shape != parameter.shape:
            raise UserError(
                f"{file} is of another model: {name} is {list(found[name].shape)} there, and "
                f"{list(parameter.shape)} here",
                "use the model that it was trained with",
            )
    return found


def load_lora(pipe: Any, lora: str, scale: float = 1.0) -> dict[str, int]:
    """Load LoRA weights (file, folder, Hub id, or several joined by commas) into a pipeline.

    Returns how many layers of each transformer were adapted. Names of diffusers, peft, ComfyUI
    and kohya are known. Raises UserError when a file cannot be read, does not say for which of
    two transformers it is, or does not fit that transformer layer by layer.
    """
    from realdpo.families import family_of

    family, loaded = family_of(spec_of_pipeline(pipe)), dict[str, int]()
    for file in [file for part in lora.split(",") for file in _files(part.strip())]:
        tensors, told = _read(file)
        component = _component(pipe, file, told)
        if component in loaded:
            raise UserError(
                f"two files of {lora} are for {component}", "give one LoRA a transformer"
            )
        model = getattr(pipe, component)
        layers = to_diffusers(tensors, pipe, family, model, file)
        _require_fit(layers, model, component, file)
        metadata = json.loads(told["lora_adapter_metadata"]) if _own(told) else None
        try:
            model.load_lora_adapter(
                {f"transformer.{name}": tensor for name, tensor in layers.items()},
                prefix="transformer",
                adapter_name=ADAPTER,
                metadata=metadata,
            )
            model.set_adapters([ADAPTER], [scale])
        except (ValueError, KeyError, AttributeError, RuntimeError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot load the LoRA weights {file}: {reason}") from error
        loaded[component] = len(layers) // 2
    return loaded


def lora_id(lora: str | None) -> str | None:
    """What names LoRA weights in a pair's id: a fingerprint of local files, else the Hub id."""
    if lora is None:
        return None
    named = []
    for part in lora.split(","):
        path = Path(part.strip()).expanduser()
        if path.exists():
            named.append(fingerprint_weights(path))
        elif path.is_absolute() or part.startswith((".", "~")):
            raise UserError(f"no LoRA weights at {part}", "check the path of --lora")
        else:
            named.append(part)
    return ",".join(named)


def _files(lora: str) -> list[Path]:
    """The safetensors files that `lora` stands for; of a Hub id, they are fetched."""
    path = Path(lora).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        names = sorted(p.name for p in path.glob("*.safetensors"))
        return [path / name for name in _chosen(names, lora)]
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        names = [n for n in HfApi().list_repo_files(lora) if n.endswith(".safetensors")]
        return [Path(hf_hub_download(lora, name)) for name in _chosen(names, lora)]
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot get the LoRA weights {lora}: {reason}",
            "give the folder or safetensors file that training wrote, or a Hub id",
        ) from None


def _chosen(names: list[str], lora: str) -> list[str]:
    """The LoRA files among `names`: those that diffusers names so, else the only one."""
    ours = [name for name in names if Path(name).name.startswith("pytorch_lora_weights")]
    found = ours or names
    if not found or (len(found) > 1 and not ours):
        held = "no safetensors file" if not found else f"{len(found)} safetensors files"
        raise UserError(
            f"cannot load the LoRA weights {lora}: it holds {held}", "name the file to load"
        )
    return found


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            # it is no dictionary
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it is no dictionary
            return tensors, dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot load the LoRA weights {file}: {error}",
            "give the folder or safetensors file that training wrote for this model",
        ) from None


def _own(told: Mapping[str, str]) -> bool:
    return "lora_adapter_metadata" in told


def _component(pipe: Any, file: Path, told: Mapping[str, str]) -> str:
    """The transformer a file is for: as it says, as its name says, or the only one there is."""
    there = [n for n in ("transformer", "transformer_2") if getattr(pipe, n, None) is not None]
    name = file.name.lower()
    by_name = {"high_noise": "transformer", "low_noise": "transformer_2"}
    named = next((part for word, part in by_name.items() if word in name), None)
    component = told.get(COMPONENT) or named or (there[0] if len(there) == 1 else None)
    if component is None:
        raise UserError(
            f"{file} does not say for which of the two transformers it is",
            "write high_noise or low_noise into the file's name",
        )
    if component not in there:
        raise UserError(
            f"{file} is for {component}, and this {type(pipe).__name__} has no such transformer",
            "give the LoRA of this model",
        )
    return component


def _require_fit(
    layers: Mapping[str, Tensor], model: nn.Module, component: str, file: Path
) -> None:
    """Raise UserError unless every layer has both factors, and the model that layer in that shape."""
    modules = dict(model.named_modules())
    stems = {name.partition(".lora_")[0] for name in layers}
    if not stems:
        raise UserError(f"cannot load the LoRA weights {file}: it holds no layer")
    missing = sorted(stem for stem in stems if stem not in modules)
    halves = sorted(
        stem
        for stem in stems
        if not {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"} <= layers.keys()
    )
    wrong = []
    for stem in sorted(stems - set(missing) - set(halves)):
        layer = modules[stem]
        weight = getattr(getattr(layer, "base_layer", layer), "weight", None)
        if weight is None or not hasattr(layer, "in_features"):
            continue  # a convolution, or quantised: peft knows
        down, up = layers[f"{stem}.lora_A.weight"], layers[f"{stem}.lora_B.weight"]
        if (up.shape[0], down.shape[1]) != (layer.out_features, layer.in_features):
            wrong.append(stem)
    for found, words in (
        (missing, "are not in this model"),
        (halves, "lack one of their two factors"),
        (wrong, "have other shapes than this model's"),
    ):
        if found:
            raise UserError(
                f"the LoRA weights {file} do not fit {component}: {len(found)} of {len(stems)} "
                f"layers {words}, the first is {found[0]}",
                "give the LoRA of this model",
            )
