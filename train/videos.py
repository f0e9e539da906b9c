"""Videos of held-out prompts at fixed seeds: the base once, the tuned model whenever asked.

The real clip of the pair stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from realdpo import progress
from realdpo.families import Family, Spec, family_of, load
from realdpo.families.sample import generate_video, settings_from
from realdpo.files import write_bytes, write_text
from realdpo.ids import seed_of
from realdpo.media.encode import EncodeSettings, encode
from realdpo.train import checkpoint, latents, setup
from realdpo.train.config import TrainConfig
from realdpo.train.latents import Pair
from realdpo.workspace import Workspace


def generate(
    weights: Mapping[str, Tensor],
    spec: Spec,
    pairs: Sequence[Pair],
    config: TrainConfig,
    workspace: Workspace,
    folder: Path,
    name: str,
    device: torch.device,
) -> None:
    """Write videos/<n>-<name>.mp4 for every pair, and <n>-real.mp4, <n>-base.mp4 where missing.

    The base is loaded from its folder, and becomes the tuned model by the trained `weights`: the
    policy itself may be in shards, and only one process comes here.
    """
    import diffusers

    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    family, kind = family_of(spec), getattr(diffusers, spec.pipeline)
    pipe = kind.from_pretrained(spec.folder, **load.in_dtype(load.dtypes(spec, dtype))).to(device)
    pipe.set_progress_bar_config(disable=True)
    wanted = [f"{n:02d}-base" for n in range(len(pairs))]
    missing = [n for n, stem in enumerate(wanted) if not _file(folder, stem).is_file()]
    with progress.bar("videos", len(missing) + len(pairs), "videos") as advance:
        for number in missing:
            write_text(folder / "videos" / f"{number:02d}.txt", pairs[number].prompt)
            real = latents.winner(workspace, pairs[number])
            write_bytes(_file(folder, f"{number:02d}-real"), real)
            _write(pipe, family, pairs[number], config, _file(folder, wanted[number]))
            advance(note="base")
        tuned = getattr(pipe, spec.component)
        setup.open_weights(tuned, config, spec)
        with torch.no_grad():
            for trained, parameter in checkpoint.trained(tuned):
                parameter.copy_(weights[trained])
        tuned.eval()
        for number, pair in enumerate(pairs):
            _write(pipe, family, pair, config, _file(folder, f"{number:02d}-{name}"))
            advance(note=name)


def _write(pipe: Any, family: Family, pair: Pair, config: TrainConfig, path: Path) -> None:
    width, height, frames = pair.size
    settings = settings_from(
        family, width=width, height=height, frames=frames, fps=pair.fps,
        steps=config.validation_steps, guidance=config.validation_guidance,
    )  # fmt: skip
    first = None
    if pair.first_frame is not None:
        first = np.asarray(Image.open(pair.first_frame).convert("RGB"))
    # The seed belongs to the pair, so base and tuned start from the same noise.
    seed = seed_of("validation video", pair.pair_id)
    with torch.autocast(pipe.device.type, torch.bfloat16, enabled=pipe.device.type == "cuda"):
        made = generate_video(pipe, family, pair.prompt, first, seed, settings)
    write_bytes(path, encode(made, pair.fps, EncodeSettings()))


def _file(folder: Path, stem: str) -> Path:
    return folder / "videos" / f"{stem}.mp4"
