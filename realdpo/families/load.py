"""A model's pipeline: where it is, what its files say of it, and loading it or its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.families import family_of, trainable_family
from realdpo.families.base import Spec
from realdpo.families.fingerprint import fingerprint_weights
from realdpo.families.guide import Guide, guide_by_base, guide_text
from realdpo.families.memory import memory_options, memory_told, place_pipeline
from realdpo.families.spec import spec_of_folder, with_task
from realdpo.families.weights import load_lora
from realdpo.ids import content_id
from realdpo.models import TINY, resolve_model
from realdpo.precision import Dtype, long_name
from realdpo.progress import say

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Model:
    """A pipeline that was found. id: the same on every machine. revision: of its weights.

    source: what from_pretrained takes. folder: where its JSON files are.
    """

    id: str
    revision: str
    source: str
    folder: Path


def locate_model(model: str, revision: str | None = None) -> Model:
    """Find `model` and its revision; of a Hub model only the JSON files are fetched.

    A folder's revision is a fingerprint of its files. Raises UserError when there is no such
    model or the Hub cannot be reached.
    """
    source = resolve_model(model)
    folder = Path(source)
    if folder.is_dir():
        name = TINY if model == TINY else folder.resolve().name
        return Model(name, fingerprint_weights(folder), source, folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(source, revision=revision, allow_patterns=["*.json"], tqdm_class=None)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot get the model {model}: {reason}",
            "check the id and the network; log in with `hf auth login` if it is gated, or give "
            "a local pipeline folder",
        ) from None
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{model} has no model_index.json", "choose a diffusers pipeline")
    return Model(source, folder.name, source, folder)


def fingerprint_parts(spec: Spec, *components: str) -> str:
    """An id of the weights and settings of some components; `fingerprint` of each."""
    return content_id(**{name: fingerprint_weights(spec.folder / name) for name in components})


def read_spec(
    model: str, revision: str | None = None, expert: str = "high", task: str | None = None
) -> Spec:
    """The facts of `model` for training; a Hub model is fetched once, whole.

    expert: "low" trains the second transformer of a model that has two; "both" begins with the
    first. task: as for `with_task`. Raises UserError when it is not trained here or the folder
    lacks a part.
    """
    if not Path(resolve_model(model)).is_dir():
        trainable_family(
            spec_of_folder(locate_model(model, revision).folder)
        )  # before the weights come
    folder = _fetched(resolve_model(model), revision)
    spec = with_task(spec_of_folder(folder), task)
    trainable_family(spec)
    if expert != "high" and "transformer_2" not in spec.classes:
        raise UserError(
            f"expert = {expert}: {model} has one transformer", "leave out the setting expert"
        )
    if expert == "low":
        spec = replace(spec, component="transformer_2")
    for part in (spec.component, "vae", "scheduler"):
        if part not in spec.parts:
            raise UserError(
                f"{folder / part} holds no configuration", "the folder is not a whole pipeline"
            )
    return spec


@contextlib.contextmanager
def _loading_told(model: Any) -> Iterator[None]:
    """What diffusers raises for weights that are missing, damaged or no safetensors, in one line."""
    from safetensors import SafetensorError

    try:
        yield
    # ImportError: a part of the pipeline that is a package of its own
    except (OSError, ValueError, AttributeError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot load the model {model}: {reason}",
            "the folder must be a whole diffusers pipeline with safetensors weights; fetch it again "
            "if a download was cut off",
        ) from error


def load_encoders(spec: Spec, dtype: torch.dtype, device: torch.device) -> Any:
    """The pipeline without its transformers: text encoders and VAE, for filling the cache."""
    without = {k: None for k in ("transformer", "transformer_2") if k in spec.classes}
    return load_trained_pipeline(spec, dtype, device, **without)


def load_trained_pipeline(
    spec: Spec, dtype: torch.dtype, device: torch.device, **parts: Any
) -> Any:
    """The pipeline that training knows by `spec`, on `device`, with `parts` in place of its own."""
    import diffusers

    kind = getattr(diffusers, spec.pipeline)
    with _loading_told(spec.folder):
        pipe = kind.from_pretrained(
            spec.folder, **in_dtype(part_dtypes(spec, dtype)), **parts, use_safetensors=True
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def load_transformer(
    spec: Spec, dtype: torch.dtype, bits: int = 16, device: torch.device | None = None
) -> nn.Module:
    """The transformer that is trained, in `dtype`, on the CPU, without gradients.

    bits: 8 or 4 quantises its linear layers with bitsandbytes while loading, onto `device`.
    """
    import diffusers

    kind = getattr(diffusers, spec.classes[spec.component])
    options: dict[str, Any] = in_dtype(dtype)
    if bits < 16:
        if device is None or device.type == "cpu":  # diffusers quantises on an accelerator only
            raise UserError(
                f"a base in {bits} bits needs a GPU, and there is none here",
                "leave out --memory, or name a rung without quantisation, such as one-by-one",
            )
        options |= {"quantization_config": _quantised(dtype, bits), "device_map": {"": str(device)}}
    with _loading_told(spec.folder):
        model: nn.Module = kind.from_pretrained(
            spec.folder, subfolder=spec.component, use_safetensors=True, **options
        )
    return model.requires_grad_(False)


def _quantised(dtype: torch.dtype, bits: int) -> Any:
    from importlib.util import find_spec

    from diffusers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UserError(f"a base in {bits} bits needs bitsandbytes", "pip install bitsandbytes")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_pipeline(
    model: str,
    dtype: str = "auto",
    device: str = "auto",
    lora: str | None = None,
    memory: str = "auto",
    *,
    revision: str | None = None,
    lora_scale: float = 1.0,
    quantization: Mapping[str, Any] | None = None,
    task: str | None = None,
    guide: Guide = 0.0,
    base: str | None = None,
) -> Any:
    """Load `model` (`tiny`, a folder, a Hub id) ready to generate, with LoRA weights if given.

    dtype, memory, quantization and task are as in BuildConfig; device: auto, cpu, cuda, cuda:1 ...
    guide: how its base guides it (see `families.guide`); the base's transformer is taken from the
    pipeline `base` (of the same revision) where all weights were trained.
    What was chosen automatically is said aloud. Raises UserError when the model or the LoRA
    cannot be loaded or the device is not there.
    """
    import diffusers
    import torch

    where = _device(device)
    found = locate_model(model, revision)
    kind = getattr(torch, dtype_on(dtype, where))
    spec = with_task(spec_of_folder(found.folder), task)
    own = getattr(diffusers, spec.pipeline, diffusers.DiffusionPipeline)
    options: dict[str, Any] = {}
    if quantization is not None:
        kind_of: Any = diffusers  # it does not export this by name
        options["quantization_config"] = kind_of.PipelineQuantizationConfig(**quantization)
    with _loading_told(model), _quiet_loading():
        pipe = own.from_pretrained(
            found.source,
            revision=found.revision if not Path(found.source).is_dir() else None,
            **in_dtype(part_dtypes(spec, kind)),
            use_safetensors=True,
            **options,
        )
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        load_lora(pipe, lora, lora_scale)
    options_used = memory_options(pipe, memory, where)
    pipe.memory_options = options_used
    with memory_told(pipe, where):
        place_pipeline(pipe, options_used, where)
    if guide:
        with memory_told(pipe, where):
            guide_by_base(pipe, guide, _bases(pipe, base, revision, where) if base else None)
    say(
        f"model {found.id} on {where} in {str(kind).removeprefix('torch.')}"
        + (f", {', '.join(options_used)}" if options_used else "")
        + (f", with LoRA {lora}" if lora else "")
        + (f", guided by its base: {guide_text(guide)}" if guide else "")
    )
    return pipe


def _bases(pipe: Any, base: str, revision: str | None, device: str) -> dict[str, nn.Module]:
    """The transformers of the pipeline `base`, beside those of a pipeline trained from it."""
    if any(option.endswith("offload") for option in pipe.memory_options):
        raise UserError(
            "guidance by the base keeps a second transformer on the device, and memory is short",
            "train adapters (their base is the same weights), or give --memory none",
        )
    found = spec_of_folder(_fetched(resolve_model(base), revision))
    names = [name for name in ("transformer", "transformer_2") if name in found.classes]
    return {
        name: load_transformer(replace(found, component=name), getattr(pipe, name).dtype)
        .to(device)
        .eval()
        for name in names
    }


def part_dtypes(spec: Spec, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each part where `dtype` is asked for: some lose detail below float32."""
    import torch

    return {"default": dtype, **dict.fromkeys(family_of(spec).FLOAT32_PARTS, torch.float32)}


def in_dtype(dtype: Any) -> dict[str, Any]:
    """The argument of diffusers' `from_pretrained` for a dtype (or a table of them by part), by the name its version takes.

    0.42 warns of `torch_dtype`; older versions take a `dtype` and may ignore it in silence.
    """
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 42) else "torch_dtype": dtype}


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """No bars for parts that load in a moment; downloads keep theirs, which is another's."""
    import warnings

    import diffusers
    import transformers

    bars = (diffusers.utils.logging, transformers.utils.logging)
    for owner in bars:
        owner.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # the newer name of `torch_dtype` is not known to older versions
            warnings.filterwarnings("ignore", message=".*torch_dtype.*")
            yield
    finally:
        for owner in bars:
            owner.enable_progress_bar()


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(
                f"there is no device {device}: this machine has {torch.cuda.device_count()} GPUs",
                "choose another --device",
            )
        return f"cuda:{index}"
    return device


def device_names(text: str) -> list[str]:
    """The devices of `--devices`: every GPU for `auto`, else the CPU once; or the names given."""
    if text != "auto":
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not names:
            raise UserError(f"--devices {text} names no device", "auto, cpu, cuda:0, or several")
        return names
    import torch

    return [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["cpu"]


def dtype_of_all(dtype: str, devices: Sequence[str]) -> Dtype:
    """What `dtype` is on these devices: a part of the id of all that they make.

    Raises UserError where `auto` would be another on each.
    """
    found = sorted({dtype_on(dtype, device) for device in devices})
    if len(found) > 1:
        raise UserError(
            f"--devices {','.join(devices)} would compute in {' and '.join(found)}",
            f"choose one for all, e.g. dtype={found[0]}",
        )
    return long_name(found[0])


def dtype_on(dtype: str, device: str) -> str:
    """The dtype that `auto` becomes on a device (`auto` itself: on the first GPU, if any)."""
    if dtype != "auto":
        return long_name(dtype)
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return "float32" if device == "cpu" else "bfloat16"


def _fetched(name: str, revision: str | None) -> Path:
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
