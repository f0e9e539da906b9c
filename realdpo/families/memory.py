"""Which memory options a pipeline needs, and words for when memory runs out all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from realdpo.errors import UserError
from realdpo.memory import GB, OutOfMemory, ran_out
from realdpo.progress import say

OPTIONS = (
    "auto",
    "none",
    "model_cpu_offload",
    "sequential_cpu_offload",
    "vae_tiling",
    "vae_slicing",
)
"""What `--memory` takes: diffusers' own names, `auto` and `none`."""


def check_options(memory: str) -> None:
    """Raises UserError for an option, of several joined by commas, that there is not."""
    for option in memory.split(","):
        if option not in OPTIONS:
            raise UserError(f"no memory option {option!r}", f"choose from {', '.join(OPTIONS)}")


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
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
        if not ran_out(error):
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


def memory_options(pipe: Any, memory: str, device: str) -> tuple[str, ...]:
    """The options that `--memory` asks for on `device`; `auto` asks the device what fits."""
    import torch

    chosen = tuple(option for option in memory.split(",") if option not in ("auto", "none"))
    if "auto" in memory.split(","):
        if not device.startswith("cuda"):
            return chosen
        free, total = torch.cuda.mem_get_info(device)
        automatic = choose_memory(weights_bytes(pipe), free)
        say(
            f"{device}: {free / GB:.1f} of {total / GB:.1f} GB free, weights take "
            f"{sum(weights_bytes(pipe).values()) / GB:.1f} GB: "
            + (", ".join(automatic) or "no memory option needed")
        )
        return tuple(dict.fromkeys((*chosen, *automatic)))
    if device == "cpu" and any(option.endswith("offload") for option in chosen):
        raise UserError("offloading moves weights off a GPU, and there is none", "--memory none")
    return chosen


def place_pipeline(pipe: Any, options: tuple[str, ...], device: str) -> None:
    """Put the pipeline on `device`, with the options."""
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
