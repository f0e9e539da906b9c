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
from realdpo.files import write_bytes, write_text
from realdpo.ids import seed_of
from realdpo.media.encode import EncodeSettings, encode
from realdpo.train import checkpoint, latents, models, setup
from realdpo.train.config import TrainConfig
from realdpo.train.latents import Pair
from realdpo.train.models import Spec
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
    kind = getattr(diffusers, spec.pipeline)
    pipe = kind.from_pretrained(spec.folder, **models.in_dtype(dtype)).to(device)
    pipe.set_progress_bar_config(disable=True)
    wanted = [f"{n:02d}-base" for n in range(len(pairs))]
    missing = [n for n, stem in enumerate(wanted) if not _file(folder, stem).is_file()]
    with progress.bar("videos", len(missing) + len(pairs), "videos") as advance:
        for number in missing:
            write_text(folder / "videos" / f"{number:02d}.txt", pairs[number].prompt)
            real = latents.winner(workspace, pairs[number])
            write_bytes(_file(folder, f"{number:02d}-real"), real)
            _write(pipe, spec, pairs[number], config, _file(folder, wanted[number]))
            advance(note="base")
        tuned = getattr(pipe, spec.component)
        setup.open_weights(tuned, config, spec)
        with torch.no_grad():
            for trained, parameter in checkpoint.trained(tuned):
                parameter.copy_(weights[trained])
        tuned.eval()
        for number, pair in enumerate(pairs):
            _write(pipe, spec, pair, config, _file(folder, f"{number:02d}-{name}"))
            advance(note=name)


def _write(pipe: Any, spec: Spec, pair: Pair, config: TrainConfig, path: Path) -> None:
    width, height, frames = pair.size
    options = {"num_frames": frames} | models.family_of(spec).sampling(spec, pair.fps, frames)
    if pair.first_frame is not None:
        options["image"] = Image.open(pair.first_frame).convert("RGB")
    # The seed belongs to the pair, so base and tuned start from the same noise.
    random = torch.Generator().manual_seed(seed_of("validation video", pair.pair_id))
    with torch.autocast(pipe.device.type, torch.bfloat16, enabled=pipe.device.type == "cuda"):
        made = pipe(
            prompt=pair.prompt,
            width=width,
            height=height,
            num_inference_steps=config.validation_steps,
            guidance_scale=config.validation_guidance,
            generator=random,
            output_type="np",
            **options,
        ).frames[0]
    pixels = (np.asarray(made) * 255).round().clip(0, 255).astype(np.uint8)
    write_bytes(path, encode(pixels, pair.fps, EncodeSettings()))


def _file(folder: Path, stem: str) -> Path:
    return folder / "videos" / f"{stem}.mp4"
