"""`realdpo sample`: videos by several systems from the same prompts and seeds, side by side.

The page shows the videos of a run beside those of its base. Numbers say how far the run moved from
the base: a run that did not move has learnt nothing visible.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from realdpo import report
from realdpo.config import settings_to_toml
from realdpo.errors import UserError
from realdpo.families.guide import Guide, guide_text
from realdpo.families.load import dtype_of_all
from realdpo.files import write_text
from realdpo.media.decode import read_clip
from realdpo.train.evaluate import benchmark, plan, run
from realdpo.train.evaluate.config import SampleConfig
from realdpo.train.evaluate.plan import EvalPlan
from realdpo.train.evaluate.systems import resolve_system
from realdpo.workspace import Workspace


def systems_for(
    workspace: Workspace,
    runs: Sequence[str],
    guide: Guide | None,
    named: dict[str, str] | None,
    base: bool = True,
) -> dict[str, str]:
    """The systems by name: the base of the first run, then the runs, each guided if asked.

    Raises UserError if nothing was named.
    """
    found: dict[str, str] = {}
    for name in runs:
        found[name] = name
        if guide:
            found[f"{name}-guided"] = f"{name}@guide={guide_text(guide)}"
    found |= named or {}
    if not found:
        raise UserError("there is nothing to sample from", "give --run NAME or --system NAME=WHAT")
    tuned = [
        s
        for s in (resolve_system(workspace, n, t) for n, t in found.items())
        if s.lora or s.transformer
    ]
    if base and tuned and "base" not in found:
        model, revision = tuned[0].model, tuned[0].base_revision
        text = f"{model}@revision={revision}" if revision else model
        if text not in found.values():
            return {"base": text, **found}
    return found


def prompts_folder(
    workspace: Workspace, name: str, prompts: Sequence[str], images: Sequence[Path]
) -> Path:
    """A folder with these prompts. images: their first frames, or one for all, or none."""
    if len(images) not in (0, 1, len(prompts)):
        raise UserError(
            f"{len(images)} images for {len(prompts)} prompts", "give one for each, or one for all"
        )
    folder = _folder(workspace, name) / "prompts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not images:
        write_text(folder / "prompts.txt", "\n".join(prompts) + "\n")
        return folder
    for image in images:
        benchmark.load_picture(image)  # fails now rather than after loading a model
    for number, prompt in enumerate(prompts):
        image = images[number % len(images)]
        shutil.copyfile(image, folder / f"{number:03d}{image.suffix.lower()}")
        write_text(folder / f"{number:03d}.txt", prompt)
    return folder


def read_prompts(path: Path) -> list[str]:
    """Read one prompt per line. Raises UserError if the file cannot be read or holds none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts {path}: {error}") from None
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"{path} holds no prompt", "write one prompt per line")
    return found


def sample_prompts(
    workspace: Workspace,
    config: SampleConfig,
    prompts: Sequence[str],
    file: Path | None,
    images: Sequence[Path],
    devices: Sequence[str],
) -> dict[str, Any]:
    """`sample_systems` for the prompts that were given, if any. The settings are saved."""
    with workspace.lock(f"sample --name {config.name}"):
        config = with_prompts(workspace, config, prompts, file, images)
        workspace.save_config("sample", settings_to_toml("sample", config))
        return sample_systems(workspace, config, devices)


def sample_systems(
    workspace: Workspace, config: SampleConfig, devices: Sequence[str] = ("cpu",)
) -> dict[str, Any]:
    """Make the missing videos and the page. However often you call this, a video is made once.

    Returns the videos by system, and how far each system moved from the first.
    """
    config = replace(config, dtype=dtype_of_all(config.dtype, devices))
    planned = plan.plan_evaluation(workspace, config, _folder(workspace, config.name))
    run.generate_videos(planned, devices, (1, 1))
    videos = _named(planned)
    moved = _moved(planned, videos)
    page = workspace.reports / f"sample-{config.name}.html"
    report.write_page(page, _page(planned, videos, moved))
    made = {
        "videos": {n: [str(p) for p in paths.values()] for n, paths in videos.items()},
        "moved": moved,
        "page": str(page),
    }
    write_text(planned.folder / "samples.json", json.dumps(made, indent=1))
    return made


def describe_samples(made: dict[str, Any]) -> str:
    """The results of `sample_systems`, as lines for a terminal."""
    lines = [
        f"{row['system']:<20} {row['videos']} videos; difference from {row['from']} "
        f"{row['difference']:.3f}, motion {row['motion']:.2f} times as much"
        for row in made["moved"]
    ]
    return "\n".join([*lines, f"page: {made['page']}"])


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.root / "samples" / name


def _named(planned: EvalPlan[SampleConfig]) -> dict[str, dict[tuple[str, int], Path]]:
    """The videos under readable names: <system>/<prompt>-<seed>.mp4."""
    found: dict[str, dict[tuple[str, int], Path]] = {}
    places: dict[str, Path] = {}
    for task in planned.tasks:
        folder = planned.folder / task.system
        if folder.name not in places:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            places[folder.name] = folder
        words = re.sub(r"\W+", "-", task.prompt).strip("-")[:60] or "video"
        target = folder / f"{words}-{task.item[:6]}-{task.number}.mp4"
        try:
            os.link(planned.video(task.key), target)
        except OSError:  # the file system has no links
            shutil.copyfile(planned.video(task.key), target)
        found.setdefault(task.system, {})[task.item, task.number] = target
    return found


def _moved(
    planned: EvalPlan[SampleConfig], videos: dict[str, dict[tuple[str, int], Path]]
) -> list[dict[str, Any]]:
    """How far the videos of every system are from those of the first, seed by seed.

    difference: root mean square of pixels in 0..1. motion: mean change from frame to frame, divided
    by that of the first system.
    """
    first, *others = videos
    rows = []
    for name in others:
        apart, own, its = [], [], []
        for key, path in videos[name].items():
            here, there = _pixels(path), _pixels(videos[first][key])
            apart.append(float(np.sqrt(np.mean((here - there) ** 2))))
            own.append(float(np.abs(np.diff(here, axis=0)).mean()))
            its.append(float(np.abs(np.diff(there, axis=0)).mean()))
        motion = float(np.mean(own) / np.mean(its)) if np.mean(its) > 0 else float("nan")
        row = {"system": name, "videos": len(apart), "from": first}
        rows.append({**row, "difference": float(np.mean(apart)), "motion": motion})
    return rows


def _pixels(path: Path) -> np.ndarray:
    return read_clip(path)[0].astype(np.float32) / 255


def _page(
    planned: EvalPlan[SampleConfig],
    videos: dict[str, dict[tuple[str, int], Path]],
    moved: list[dict[str, Any]],
) -> str:
    parts = Markup("")
    for item in planned.items:
        for number in range(planned.config.seeds):
            clips = [("real", item.clip.read_bytes())] if item.clip else []
            clips += [
                (name, paths[item.item_id, number].read_bytes()) for name, paths in videos.items()
            ]
            parts += Markup("<p><em>{}</em> seed {}</p>").format(item.prompt, number)
            parts += report.in_step(clips, float(planned.form.fps))
    systems = [{"system": s.name, "is": s.text} for s in planned.systems]
    sections = [report.Section("Videos in step", parts)]
    if moved:
        note = Markup(
            "<p>difference: root mean square of pixels in 0..1, seed by seed. motion: change from "
            'frame to frame, divided by that of the system in the column "from".</p>'
        )
        sections.append(report.Section("Distance from the base", note + report.render_table(moved)))
    sections.append(report.Section("Systems and settings", report.render_table(systems)))
    return report.render_page(f"Samples: {planned.config.name}", sections)


def with_prompts(
    workspace: Workspace,
    config: SampleConfig,
    prompts: Sequence[str],
    file: Path | None,
    images: Sequence[Path],
) -> SampleConfig:
    """The settings with the prompts that were given, if any: one by one, a file, or a folder."""
    if file is not None and file.is_dir():
        return replace(config, benchmark=str(file))
    asked = [*prompts, *(read_prompts(file) if file else [])]
    if not asked:
        if images:
            raise UserError(f"--image {images[0]} has no prompt", "give --prompt as well")
        return config
    folder = prompts_folder(workspace, config.name, asked, images)
    return replace(config, benchmark=str(folder))
