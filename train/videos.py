"""Videos of held-out prompts at fixed seeds: by the base once, by the tuned model on request.

The pair's real clip is shown beside them.
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
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.train import checkpoint, latents, setup
from realdpo.train.config import TrainConfig
from realdpo.train.latents import Pair
from realdpo.workspace import Workspace


def generate_validation_videos(
    weights: Mapping[str, Tensor],
    spec: Spec,
    pairs: Sequence[Pair],
    config: TrainConfig,
    workspace: Workspace,
    folder: Path,
    name: str,
    device: torch.device,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Write videos/<n>-<name>.mp4 for every pair, and <n>-real.mp4, <n>-base.mp4 where missing.

    The base is loaded from its folder, and the trained `weights` turn it into the tuned model,
    because the policy itself may be in shards. With a `share` (k, n), process k of n makes every
    n-th video.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    family = family_of(spec)
    pipe = load.load_trained_pipeline(spec, dtype, device)
    mine = range(len(pairs))[share[0] :: share[1]]
    base = {n: file_of(folder, f"{n:02d}-base") for n in mine}
    missing = [n for n, path in base.items() if not path.is_file()]
    with progress.progress_bar("videos", len(missing) + len(mine), "videos") as advance:
        for number in missing:
            write_text(folder / "videos" / f"{number:02d}.txt", pairs[number].prompt)
            real = latents.winner_bytes(workspace, pairs[number])
            write_bytes(file_of(folder, f"{number:02d}-real"), real)
            _write(pipe, family, pairs[number], config, base[number])
            advance(note="base")
        tuned = getattr(pipe, spec.component)
        setup.open_weights(tuned, config, spec)
        with torch.no_grad():
            for trained, parameter in checkpoint.trained_parameters(tuned):
                parameter.copy_(weights[trained])
        tuned.eval()
        for number in mine:
            _write(pipe, family, pairs[number], config, file_of(folder, f"{number:02d}-{name}"))
            advance(note=name)


def _write(pipe: Any, family: Family, pair: Pair, config: TrainConfig, path: Path) -> None:
    width, height, frames = pair.size
    settings = settings_from(
        family,
        width=width,
        height=height,
        frames=frames,
        fps=pair.fps,
        steps=config.validation_steps,
        guidance=config.validation_guidance,
    )
    first = None
    if pair.first_frame is not None:
        first = np.asarray(Image.open(pair.first_frame).convert("RGB"))
    # The seed belongs to the pair, so the base and the tuned model start from the same noise.
    seed = seed_of("validation video", pair.pair_id)
    with torch.autocast(pipe.device.type, torch.bfloat16, enabled=pipe.device.type == "cuda"):
        made = generate_video(pipe, family, pair.prompt, first, seed, settings)
    write_bytes(path, encode_video(made, pair.fps, EncodeSettings()))


def file_of(folder: Path, stem: str) -> Path:
    """The path of the video with a stem such as `03-step-000100`."""
    return folder / "videos" / f"{stem}.mp4"
