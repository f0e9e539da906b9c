"""Metrics of every video: those without weights, and those with weights that the user names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from realdpo import engine, progress
from realdpo.curate import scores
from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.ids import bytes_hash, content_id, file_hash, seed_of
from realdpo.media import decode
from realdpo.media.decode import read_clip
from realdpo.train.evaluate import benchmark, consistency, frechet, judge, metrics, vbench
from realdpo.train.evaluate.benchmark import Item
from realdpo.train.evaluate.config import REAL, EvalConfig
from realdpo.train.evaluate.plan import EvalPlan
from realdpo.workspace import Workspace


def check_measures(planned: EvalPlan[EvalConfig], workspace: Workspace) -> None:
    """Refuse measures that cannot work, before hours are spent on videos."""
    config = planned.config
    if config.clip:
        consistency.load_consistency(config.clip)
    if config.frechet:
        frechet.load_network(config.frechet)
        if sum(item.clip is not None for item in planned.items) < 2:
            raise UserError(
                "the Frechet distance needs at least two real clips to compare with",
                "evaluate on a split of the workspace, or put <name>.mp4 beside the pictures",
            )
    if config.vbench:
        vbench.check_dimensions(config.vbench)
    if config.judge.url and not config.judge.allow_used:
        judge.refuse_if_used(config.judge.model, judge.models_used(workspace))


def measure_videos(planned: EvalPlan[EvalConfig]) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per video (system, item, seed number, file, dtype, form, metrics), with real clips.

    dtype: dtype of the weights that made it, or None if it was not made here. Also returns the
    failures in words: missing finished videos, damaged files.
    """
    wanted: list[tuple[str, Item, int, Path]] = []
    failures = []
    tasks = {(t.system, t.item, t.number): t for t in planned.tasks}
    numbers = range(planned.config.seeds)
    for system in planned.systems:
        missing = []
        for item in planned.items:
            for number in numbers:
                if system.videos:
                    path = benchmark.find_video(Path(system.videos), item, number)
                else:
                    path = planned.video(tasks[system.name, item.item_id, number].key)
                if path is None:
                    missing.append(f"{item.names[0]}-{number}.mp4")
                else:
                    wanted.append((system.name, item, number, path))
        if missing:
            all_ = len(planned.items) * len(numbers)
            failures.append(
                f"{system.name}: {len(missing)} of {all_} videos are missing from {system.videos}, "
                f"for example {missing[0]}"
            )
    wanted += [(REAL, item, 0, item.clip) for item in planned.items if item.clip is not None]
    jobs = [(str(path), str(item.image) if item.image else None) for _, item, _, path in wanted]
    outcomes = {}
    with progress.progress_bar("metrics", len(set(jobs)), "videos") as advance:
        step = partial(measure_file, planned.folder)
        for outcome in engine.run_rows(step, sorted(set(jobs), key=str)):
            outcomes[outcome.row] = outcome
            advance()
    dtypes = {s.name: planned.config.dtype for s in planned.systems if not s.videos}
    rows = []
    for (name, item, number, path), job in zip(wanted, jobs, strict=True):
        outcome = outcomes[job]
        if outcome.value is None:
            error = outcome.error or ""
            failures.append(f"{name}: {error if str(path) in error else f'{path}: {error}'}")
            continue
        key = {"system": name, "item": item.item_id, "seed": number}
        video = {"video": _stored(planned.folder, path), "dtype": dtypes.get(name)}
        # Copied, because one file may be the video of two systems, which get numbers of their own.
        rows.append({**key, **video, **outcome.value, "metrics": dict(outcome.value["metrics"])})
    return rows, failures


def measure_file(folder: Path, job: tuple[str, str | None]) -> dict[str, Any]:
    """Form and weight-free metrics of a video file, stored by its content and this version."""
    path, image = job

    def made() -> dict[str, Any]:
        video, fps = read_clip(Path(path))
        first = benchmark.load_picture(Path(image)) if image else None
        height, width = video.shape[1:3]
        return {
            "form": [width, height, len(video), round(float(fps), 3)],
            "metrics": metrics.video_metrics(video, fps, first),
        }

    what = {
        "video": file_hash(path),
        "image": file_hash(image) if image else None,
        "versions": [metrics.VERSION, scores.VERSION, decode.VERSION],
    }
    return dict(_kept(folder / "metrics", what, made))


def add_with_weights(
    planned: EvalPlan[EvalConfig], workspace: Workspace, rows: list[dict[str, Any]], device: str
) -> dict[str, Any]:
    """Add metrics that need weights to the rows. Returns those that belong to no single row."""
    config, extra = planned.config, {}
    items = {item.item_id: item for item in planned.items}
    if config.clip:
        ask = consistency.load_consistency(config.clip, device)
        with progress.progress_bar("open_clip", len(rows), "videos") as advance:
            for row in rows:
                found = _kept(
                    planned.folder / "clip",
                    {
                        "model": config.clip,
                        "video": _hash(planned.folder, row),
                        "prompt": items[row["item"]].prompt,
                    },
                    lambda: ask(_video(planned.folder, row), items[row["item"]].prompt),  # noqa: B023 - called before the loop goes on
                )
                row["metrics"].update(found)
                advance()
    if config.vbench:
        paths = [planned.folder / row["video"] for row in rows]
        made = vbench.measure_vbench(paths, planned.folder / "vbench", device, config.vbench)
        for row, numbers in zip(rows, made, strict=True):
            row["metrics"].update(numbers)
    if config.frechet:
        extra["frechet"] = _frechet(planned, rows, device)
    if config.judge.url:
        extra["judge"] = _judge(planned, rows)
        extra["judge"]["used_as"] = judge.used_as(config.judge.model, judge.models_used(workspace))
    return extra


def _frechet(
    planned: EvalPlan[EvalConfig], rows: Sequence[Mapping[str, Any]], device: str
) -> dict[str, Any]:
    """Distance of each system's videos from the real clips."""
    network = frechet.load_network(planned.config.frechet, device)
    by_system: dict[str, list[np.ndarray]] = {}
    for row in rows:
        found = _kept(
            planned.folder / "features",
            {"network": network.name, "video": _hash(planned.folder, row)},
            lambda: network.features(_video(planned.folder, row)).tolist(),  # noqa: B023 - called before the loop goes on
        )
        by_system.setdefault(row["system"], []).append(np.array(found))
    real = by_system.pop(REAL, [])
    return {
        "name": network.name,
        "features": len(real[0]),
        "videos": {REAL: len(real)} | {name: len(made) for name, made in by_system.items()},
        "distance": {
            name: frechet.frechet_distance(np.stack(made), np.stack(real))
            for name, made in by_system.items()
            if len(made) > 1
        },
    }


def _judge(planned: EvalPlan[EvalConfig], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Add the judge's mean score per aspect to each row. Returns its agreement with itself."""
    config = planned.config.judge
    asked = asdict(replace(config, timeout=0, attempts=1, runs=1))
    items = {item.item_id: item for item in planned.items}
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["system"] != REAL:
            groups.setdefault((row["item"], row["seed"]), []).append(row)
    told: dict[str, list[np.ndarray]] = {}  # aspect -> scores [runs, questions] of each video
    with progress.progress_bar("judge", len(groups) * config.runs, "questions") as advance:
        for (item_id, number), members in sorted(groups.items()):
            item = items[item_id]
            first = benchmark.load_picture(item.image) if item.image else None
            seed = seed_of(planned.config.seed, "judge", item_id, number) % 2**32

            def ask(turn: int) -> dict[str, dict[str, list[float]]]:
                videos = {r["system"]: _video(planned.folder, r) for r in members}  # noqa: B023 - called before the loop goes on
                return judge.judge_prompt(config, item.prompt, first, videos, seed, turn)  # noqa: B023 - called before the loop goes on

            hashes = {row["system"]: _hash(planned.folder, row) for row in members}
            what = {"judge": asked, "videos": hashes, "prompt": item.prompt, "seed": seed}
            runs = []
            for turn in range(config.runs):
                kept = planned.folder / "judge"
                runs.append(_kept(kept, {**what, "turn": turn}, partial(ask, turn)))
                advance()
            for row in members:
                for aspect in runs[0][row["system"]]:
                    scores = np.array([run[row["system"]][aspect] for run in runs])
                    row["metrics"][f"judge.{aspect}"] = float(scores.mean())
                    told.setdefault(aspect, []).append(scores)
    agreement = {}
    if config.runs > 1:
        for aspect, videos in told.items():
            agreement[aspect] = judge.self_agreement(np.concatenate(videos, axis=1))
    return {"model": config.model, "runs": config.runs, "agreement": agreement}


def _kept(folder: Path, what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """The result of `make()`, or the stored result for the same `what`."""
    path = folder / f"{content_id(**what)}.json"
    if not path.is_file():
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text())


def _stored(folder: Path, path: Path) -> str:
    """A file's path for a row: relative inside the evaluation's folder, so the folder can move."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _hash(folder: Path, row: Mapping[str, Any]) -> str:
    return bytes_hash((folder / row["video"]).read_bytes())


def _video(folder: Path, row: Mapping[str, Any]) -> np.ndarray:
    return read_clip(folder / row["video"])[0]
