"""A model's pipeline: where it is, what its files say of it, and loading it to fit the memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realdpo.errors import UserError
from realdpo.models import TINY, resolve_model
from realdpo.pairs.adapters import Facts, of
from realdpo.progress import say

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 20


class OutOfMemory(UserError):
    """Something did not fit into memory; the hint names the next memory option to try."""


@dataclass(frozen=True)
class Model:
    """A pipeline that was found. id: the same on every machine. revision: of its weights.

    source: what from_pretrained takes. folder: where its JSON files are.
    """

    id: str
    revision: str
    source: str
    folder: Path


def locate(model: str, revision: str | None = None) -> Model:
    """Find `model` and its revision; of a Hub model only the JSON files are fetched.

    A folder's revision is a fingerprint of its files. Raises UserError when there is no such
    model or the Hub cannot be reached.
    """
    source = resolve_model(model)
    folder = Path(source)
    if folder.is_dir():
        name = TINY if model == TINY else folder.resolve().name
        return Model(name, fingerprint(folder), source, folder)
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


def fingerprint(path: Path) -> str:
    """32 hex digits that change when the weights do, without reading all of them.

    Small files count whole; of large ones, the size and 16 evenly spaced blocks of 1 MiB.
    Every fine-tuning changes nearly every weight, so a sample sees it.
    """
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        if file.suffix in (".md", ".txt") and path.is_dir():
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with open(file, "rb") as handle:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(handle.read())
                continue
            for k in range(_SAMPLES):
                handle.seek((size - _SAMPLE_BYTES) * k // (_SAMPLES - 1))
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def facts_of_folder(folder: Path) -> Facts:
    """The facts in a pipeline folder's JSON files. Raises UserError when they are damaged."""
    index = _json(folder / "model_index.json")
    parts = {"pipeline": {k: v for k, v in index.items() if not isinstance(v, list)}}
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value[0] is not None:
            for file in ("config.json", "scheduler_config.json"):
                if (folder / name / file).is_file():
                    parts[name] = _json(folder / name / file)
    return Facts(str(index.get("_class_name", "?")), parts)


def scheduler_name(facts: Facts) -> str:
    return str(facts.get("scheduler", "_class_name", "?"))


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
) -> Any:
    """Load `model` (`tiny`, a folder, a Hub id) ready to generate, with LoRA weights if given.

    dtype, memory and quantization are as in BuildConfig; device: auto, cpu, cuda, cuda:1 ...
    What was chosen automatically is said aloud. Raises UserError when the model or the LoRA
    cannot be loaded or the device is not there.
    """
    import diffusers
    import torch

    where = _device(device)
    found = locate(model, revision)
    kind = _dtype(dtype, where)
    wishes = {"default": kind}
    # Wan's VAE and image encoder lose detail below float32, says its model card
    if of(facts_of_folder(found.folder)).NAME == "wan":
        wishes |= {"vae": torch.float32, "image_encoder": torch.float32}
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = diffusers.PipelineQuantizationConfig(**quantization)
    try:
        with _quiet_loading():
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                found.source,
                revision=found.revision if not Path(found.source).is_dir() else None,
                torch_dtype=wishes,
                use_safetensors=True,
                **options,
            )
    except (OSError, ValueError, AttributeError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the model {model}: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        _add_lora(pipe, lora, lora_scale)
    options_used = _memory_options(pipe, memory, where)
    pipe.memory_options = options_used
    with memory_told(pipe, where):
        _place(pipe, options_used, where)
    say(
        f"model {found.id} on {where} in {str(kind).removeprefix('torch.')}"
        + (f", {', '.join(options_used)}" if options_used else "")
        + (f", with LoRA {lora}" if lora else "")
    )
    return pipe


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


def weights_bytes(pipe: Any) -> dict[str, int]:
    """Bytes of each part of a pipeline as loaded."""
    import torch

    return {
        name: sum(p.numel() * p.element_size() for p in part.parameters())
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }


def choose_memory(parts: Mapping[str, int], free: int) -> tuple[str, ...]:
    """Which of diffusers' memory options fit weights of `parts` bytes into `free` bytes.

    Activations of video models need a few GiB beside the weights: a sixth of the memory, 6 GiB
    at most, is left for them. With room to spare nothing is turned on; tiling and slicing the
    VAE cost little and come with any offload.
    """
    room = free - min(free // 6, 6 << 30)
    if sum(parts.values()) <= room:
        return ("vae_tiling",) if free < 40 << 30 else ()
    whole = max(parts.values(), default=0) <= room
    offload = "model_cpu_offload" if whole else "sequential_cpu_offload"
    return (offload, "vae_tiling", "vae_slicing")


def next_memory(used: Sequence[str], device: str) -> str | None:
    """What `--memory` should say after memory ran out on `device` with the options `used`.

    None when every option that helps there is on.
    """
    vae = ("vae_tiling", "vae_slicing")
    offloads = ("model_cpu_offload", "sequential_cpu_offload") if device.startswith("cuda") else ()
    on = [k for k, option in enumerate(offloads) if option in used]
    if "vae_tiling" not in used:
        return ",".join((*offloads[on[-1] :][:1], *vae) if on else vae)
    left = offloads[on[-1] + 1 :] if on else offloads
    return ",".join((left[0], *vae)) if left else None


@contextlib.contextmanager
def memory_told(pipe: Any, device: str | None = None) -> Iterator[None]:
    """Turn running out of memory into OutOfMemory, which says what to try next."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
        # a CPU's allocator raises a plain RuntimeError
        words = ("out of memory", "not enough memory", "can't allocate memory")
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
            word in str(error).lower() for word in words
        ):
            raise
        where = device or str(pipe._execution_device)
        used = getattr(pipe, "memory_options", ())
        following = next_memory(used, where)
        raise OutOfMemory(
            f"{where} ran out of memory with {', '.join(used) or 'no memory option'}",
            (
                f"try --memory {following}"
                if following
                else "make smaller videos (--set width=, height=, frames=) or quantise the weights"
            )
            + "; what is made is kept",
        ) from error


def _memory_options(pipe: Any, memory: str, device: str) -> tuple[str, ...]:
    import torch

    chosen = tuple(option for option in memory.split(",") if option not in ("auto", "none"))
    if "auto" in memory.split(","):
        if not device.startswith("cuda"):
            return chosen
        free, total = torch.cuda.mem_get_info(device)
        automatic = choose_memory(weights_bytes(pipe), free)
        say(
            f"{device}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, weights take "
            f"{sum(weights_bytes(pipe).values()) / 2**30:.1f} GiB: "
            + (", ".join(automatic) or "no memory option needed")
        )
        return tuple(dict.fromkeys((*chosen, *automatic)))
    if device == "cpu" and any(option.endswith("offload") for option in chosen):
        raise UserError("offloading moves weights off a GPU, and there is none", "--memory none")
    return chosen


def _place(pipe: Any, options: tuple[str, ...], device: str) -> None:
    if "vae_tiling" in options and hasattr(pipe.vae, "enable_tiling"):
        pipe.vae.enable_tiling()
    if "vae_slicing" in options and hasattr(pipe.vae, "enable_slicing"):
        pipe.vae.enable_slicing()
    if "sequential_cpu_offload" in options:
        pipe.enable_sequential_cpu_offload(device=device)
    elif "model_cpu_offload" in options:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)


def _add_lora(pipe: Any, lora: str, scale: float) -> None:
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


def lora_id(lora: str | None) -> str | None:
    """What names LoRA weights in a pair's id: a fingerprint of local files, else the Hub id."""
    if lora is None:
        return None
    path = Path(lora).expanduser()
    if path.exists():
        return fingerprint(path)
    if path.is_absolute() or lora.startswith((".", "~")):
        raise UserError(f"no LoRA weights at {lora}", "check the path of --lora")
    return lora


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


def _dtype(dtype: str, device: str) -> Any:
    import torch

    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, dtype)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}", "save or download the model again"
        ) from None
