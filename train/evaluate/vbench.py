"""VBench's dimensions for your own videos, through its own package if it is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from realdpo.errors import UserError

# The dimensions that VBench computes for other prompts than its own (`custom_input` mode).
DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)


def check_dimensions(dimensions: Sequence[str]) -> None:
    """Raise UserError if the package is missing or cannot compute a dimension here."""
    if unknown := set(dimensions) - set(DIMENSIONS):
        raise UserError(
            f"VBench does not compute {sorted(unknown)[0]} for your own prompts",
            f"choose from {', '.join(DIMENSIONS)}",
        )
    if find_spec("vbench") is None:
        raise UserError("VBench is not installed", "pip install vbench (it downloads its weights)")


def measure_vbench(
    videos: Sequence[Path], folder: Path, device: str, dimensions: Sequence[str]
) -> list[dict[str, float]]:
    """A mapping `vbench.<dimension>` -> number for each video, in the given order.

    VBench reads one folder and writes its results beside it. Both are made under `folder`.
    """
    import vbench

    inputs = folder / "videos"
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir(parents=True)
    names = [f"{number:06d}.mp4" for number in range(len(videos))]
    for name, video in zip(names, videos, strict=True):
        shutil.copy(video, inputs / name)
    info = Path(vbench.__file__).parent / "VBench_full_info.json"
    runner = vbench.VBench(device, str(info), str(folder))
    runner.evaluate(
        videos_path=str(inputs),
        name="realdpo",
        dimension_list=list(dimensions),
        mode="custom_input",
    )
    results = json.loads((folder / "realdpo_eval_results.json").read_text())
    return per_video(results, names)


def per_video(results: dict[str, Any], names: Sequence[str]) -> list[dict[str, float]]:
    """VBench's result file {dimension: [mean, [{video_path, video_results}, ...]]}, by video."""
    rows: dict[str, dict[str, float]] = {name: {} for name in names}
    for dimension, (_, videos) in results.items():
        for video in videos:
            value = video["video_results"]
            rows[Path(video["video_path"]).name][f"vbench.{dimension}"] = float(value)
    return [rows[name] for name in names]
