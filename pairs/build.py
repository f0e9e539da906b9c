"""Clips of a workspace to preference pairs: plan, make what is missing, write the tables.

Every video is a file of its own, named by its content and recorded in a ledger, so that a run
that was killed goes on with the next video. Rows are claimed one by one, so that several
processes, GPUs and machines on one folder share the work. The tables are written last, from the
ledger alone, the same bytes whoever made what in which order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids, tables
from realdpo.errors import UserError
from realdpo.files import write_bytes, write_text
from realdpo.pairs import audit, conform
from realdpo.pairs.adapters import Traits, of
from realdpo.pairs.config import BuildConfig
from realdpo.pairs.conform import Form
from realdpo.pairs.generate import Box, GenerationSettings, settings_from
from realdpo.pairs.ledger import Ledger, Record
from realdpo.pairs.pipeline import Model, facts_of_folder, locate, lora_id, scheduler_name
from realdpo.progress import bar, say
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Video = npt.NDArray[np.uint8]

FORMAT = 1  # of what a pair is made of; a change here makes every pair anew
_SHARD_BYTES = 512 << 20
_PROVENANCE = ("source_id", "license", "author", "source_url", "title", "keywords", "retrieved_at")


@dataclass(frozen=True)
class Task:
    """One pair to make. `unfit` says why it cannot be, and then `settings` is None."""

    pair_id: str
    clip: dict[str, Any]
    settings: GenerationSettings | None
    unfit: str | None = None

    @property
    def form(self) -> Form:
        assert self.settings is not None
        s = self.settings
        return Form(s.width, s.height, s.frames, Fraction(s.fps).limit_denominator(1001))


@dataclass(frozen=True)
class Plan:
    """What a build will do: the model as found, and a task for every clip."""

    config: BuildConfig
    model: Model
    traits: Traits
    lora: str | None
    scheduler: str
    tasks: tuple[Task, ...]


def plan(workspace: Workspace, config: BuildConfig) -> Plan:
    """Read the clips and the model's JSON files and say what pairs to make; loads no weights.

    Raises UserError when there are no clips, no such model, or a shape that it cannot make.
    """
    workspace.require(workspace.clips, "curate ingest FOOTAGE")
    model = locate(config.model, config.revision)
    facts = facts_of_folder(model.folder)
    adapter = of(facts)
    traits = adapter.traits(facts)
    if adapter.NAME == "generic" and (
        config.roundtrip_win or any(config.strategies.get(s) for s in ("renoise", "local"))
    ):
        raise UserError(
            f"the latents of {facts.pipeline} are not known, so winners cannot pass through its "
            "VAE and clips cannot be renoised",
            "use --strategies generate and --no-roundtrip-win with this model",
        )
    lora = lora_id(config.lora)
    found = Plan(config, model, traits, lora, scheduler_name(facts), ())
    wanted = set(config.splits)
    columns = [field.name for field in tables.CLIPS.schema]
    clips = tables.read(workspace.clips, tables.CLIPS, columns).to_pylist()
    chosen = [
        clip
        for clip in clips
        if clip["keep"] and clip["status"] == "ok" and clip["path"] and clip["split"] in wanted
    ]
    if not chosen:
        raise UserError(
            f"{workspace.clips} holds no accepted clip of {', '.join(config.splits)}",
            f"see why with: realdpo curate report -w {workspace.root}",
        )
    tasks = sorted((_task(found, clip) for clip in chosen), key=lambda task: task.pair_id)
    if all(task.unfit for task in tasks):
        raise UserError(
            f"none of the {len(tasks)} clips fits {model.id}: {tasks[0].unfit}",
            "ingest with the --target of this model, or set fps, frames, width and height of the "
            "pairs, e.g. --set fps=8",
        )
    return dataclasses.replace(found, tasks=tuple(tasks))


def _task(made_by: Plan, clip: dict[str, Any]) -> Task:
    config, traits = made_by.config, made_by.traits
    settings: GenerationSettings | None = None
    unfit = None
    if not clip["prompt"]:
        unfit = "the clip has no prompt"
    else:
        try:
            settings = _settings(config, traits, clip)
        except conform.Unfit as error:
            unfit = str(error)
    pair_id = ids.content_id(
        format=FORMAT,
        clip=clip["clip_id"],
        clip_bytes=clip["sha256"],
        prompt=clip["prompt"],
        model=made_by.model.id,
        revision=made_by.model.revision,
        lora=made_by.lora,
        lora_scale=config.lora_scale if made_by.lora else None,
        round=config.round,
        settings=settings,
        strategies={k: v for k, v in sorted(config.strategies.items()) if v > 0},
        strength=list(config.strength),
        local_strength=list(config.local_strength),
        roundtrip=config.roundtrip_win,
        encoder=conform.encoder(config.crf),
        seed=config.seed,
    )
    return Task(pair_id, clip, settings, unfit)


def _settings(config: BuildConfig, traits: Traits, clip: dict[str, Any]) -> GenerationSettings:
    """The model's own shape, or the nearest legal one that the clip can fill. Raises Unfit."""
    fps = Fraction(config.fps or traits.fps).limit_denominator(1001)
    available = len(conform.frames_at(clip["frames"], Fraction(clip["fps"]), fps))
    frames = config.frames or traits.legal_frames(min(traits.frames, available))
    width, height = traits.legal_size(
        min(clip["width"], traits.width), min(clip["height"], traits.height)
    )
    width, height = config.width or width, config.height or height
    if frames < 2 or frames > available:
        raise conform.Unfit(
            f"the clip gives {available} frames at {float(fps):g} a second, "
            f"{config.frames or traits.frame_step + 1} are wanted"
        )
    if not width or not height or width > clip["width"] or height > clip["height"]:
        raise conform.Unfit(
            f"the clip is {clip['width']}x{clip['height']}, too small for this model"
        )
    return settings_from(
        traits,
        width=width,
        height=height,
        frames=frames,
        fps=float(fps),
        steps=config.steps,
        guidance=config.guidance,
        negative_prompt=config.negative_prompt,
    )


@dataclass(frozen=True)
class Loser:
    """How one loser is made; all of it follows from the pair's id and the settings."""

    seed: int
    strategy: str
    strength: float | None = None
    box: Box | None = None


def loser(pair_id: str, k: int, config: BuildConfig) -> Loser:
    """The k-th loser of a pair, the same on every machine and for any number of losers."""
    weights = {name: w for name, w in sorted(config.strategies.items()) if w > 0}
    at = ids.unit_interval(pair_id, k, "strategy") * sum(weights.values())
    strategy = list(weights)[-1]
    for name, weight in weights.items():
        if at < weight:
            strategy = name
            break
        at -= weight
    seed = ids.seed_of(pair_id, k, "seed")
    if strategy == "generate":
        return Loser(seed, strategy)
    low, high = config.strength if strategy == "renoise" else config.local_strength
    strength = low + (high - low) * ids.unit_interval(pair_id, k, "strength")
    if strategy == "renoise":
        return Loser(seed, strategy, strength)
    # a third to two thirds of each side, half to all of the time
    sides = [_span(pair_id, k, name, 1 / 3, 2 / 3) for name in ("rows", "columns")]
    return Loser(seed, strategy, strength, Box(_span(pair_id, k, "time", 0.5, 1.0), *sides))


def _span(pair_id: str, k: int, name: str, low: float, high: float) -> tuple[float, float]:
    size = low + (high - low) * ids.unit_interval(pair_id, k, name, "size")
    start = (1 - size) * ids.unit_interval(pair_id, k, name, "start")
    return start, start + size


def build(
    workspace: Workspace,
    config: BuildConfig,
    *,
    shard: tuple[int, int] = (1, 1),
    devices: str = "auto",
    engine: str = "local",
    address: str = "",
) -> dict[str, Any]:
    """Make every pair that is missing and, when all are there, write the tables; the summary.

    shard: (i, n) makes the i-th of n parts, counting from 1, for n machines on one folder.
    devices: "auto" for every GPU, or names joined by commas, one worker each; naming one twice
    runs two workers on it.
    engine: "local", or "ray" for workers on a cluster that shares the folder.
    """
    planned = plan(workspace, config)
    ledger = Ledger(workspace.step("pairs"))
    mine = [t for t in planned.tasks if t.unfit is None and _of_shard(t, shard)]
    files = _present(workspace)
    if any(not _finished(t, config, ledger, files) for t in mine):
        names = device_names(devices)
        if engine == "local" and len(names) == 1:
            _work(workspace.root, config, shard, names[0], progress=True)
        else:
            _spread(workspace, planned, shard, names, engine, address)
        ledger.refresh()
    files = _present(workspace)
    missing = [
        t for t in planned.tasks if t.unfit is None and not _settled(t, config, ledger, files)
    ]
    if missing and shard[1] > 1:
        say(f"{len(missing)} pairs belong to other shards; the last one writes the tables")
        return {"pairs": len(planned.tasks), "missing": len(missing), "written": False}
    with workspace.lock("pairs build"):
        return {**finish(workspace, planned, ledger), "missing": 0, "written": True}


def preview(
    workspace: Workspace, config: BuildConfig, shard: tuple[int, int] = (1, 1)
) -> dict[str, Any]:
    """What `build` would do, without doing it."""
    planned = plan(workspace, config)
    ledger = Ledger(workspace.step("pairs"))
    mine = [t for t in planned.tasks if t.unfit is None and _of_shard(t, shard)]
    shapes = sorted(
        {
            f"{t.form.width}x{t.form.height}, {t.form.frames} frames at {float(t.form.fps):g}"
            for t in mine
        }
    )
    left = [t for t in mine if not _finished(t, config, ledger, _present(workspace))]
    unfit = [f"{t.clip['clip_id']}: {t.unfit}" for t in planned.tasks if t.unfit]
    first = next((t.settings for t in mine), None)
    return {
        "model": f"{planned.model.id} ({planned.traits.task}, revision {planned.model.revision})",
        "clips": len(planned.tasks),
        "to make": f"{len(left)} pairs of 1 + {config.losers} videos",
        "shape": shapes,
        "sampling": f"{planned.scheduler}, {first.steps} steps, guidance {first.guidance:g}"
        if first
        else None,
        "unfit": unfit,
    }


def device_names(text: str) -> list[str]:
    """The devices of `--devices`: every GPU for `auto`, else the CPU once."""
    if text != "auto":
        return [name.strip() for name in text.split(",") if name.strip()]
    import torch

    return [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["cpu"]


def _of_shard(task: Task, shard: tuple[int, int]) -> bool:
    index, count = shard
    return int(task.pair_id[:8], 16) % count == index - 1


def _parts(config: BuildConfig) -> list[str]:
    return ["win", *(f"lose{k}" for k in range(config.losers))]


def _present(workspace: Workspace) -> set[str]:
    """Names of all video files; one listing is faster than 100,000 questions."""
    with contextlib.suppress(FileNotFoundError):
        return {entry.name for entry in os.scandir(workspace.pair_videos)}
    return set()


def _finished(task: Task, config: BuildConfig, ledger: Ledger, files: set[str]) -> bool:
    """Whether every video of a pair was made; a part that failed is tried again."""
    return all(
        (record := ledger.get(f"{task.pair_id}.{part}")) is not None
        and record.get("error") is None
        and record["file"] in files
        for part in _parts(config)
    )


def _settled(task: Task, config: BuildConfig, ledger: Ledger, files: set[str]) -> bool:
    """Whether every video of a pair was made or has failed."""
    return all(
        (record := ledger.get(f"{task.pair_id}.{part}")) is not None
        and (record.get("error") is not None or record["file"] in files)
        for part in _parts(config)
    )


# ---- workers ------------------------------------------------------------------------------------


def _work(
    root: Path, config: BuildConfig, shard: tuple[int, int], device: str, progress: bool = False
) -> int:
    """Make every unfinished pair of the shard that nobody else is making; how many it made."""
    from realdpo.pairs.generate import adapter_of, load_pipeline

    workspace = Workspace(root)
    planned = plan(workspace, config)
    ledger = Ledger(workspace.step("pairs"))
    mine = [t for t in planned.tasks if t.unfit is None and _of_shard(t, shard)]
    files = _present(workspace)
    left = [t for t in mine if not _finished(t, config, ledger, files)]
    if not left:
        return 0
    pipe = load_pipeline(
        config.model,
        config.dtype,
        device,
        config.lora,
        config.memory,
        revision=config.revision,
        lora_scale=config.lora_scale,
        quantization=config.quantization,
    )
    adapter = adapter_of(pipe)
    made = 0
    total = len(mine) * (1 + config.losers)
    done = total - len(left) * (1 + config.losers)
    show = bar("pairs", total, "videos", done) if progress else contextlib.nullcontext(_silent)
    with show as advance:
        while left:
            busy = []
            for task in left:
                with ledger.claim(task.pair_id) as mine_now:
                    if not mine_now:
                        busy.append(task)
                        continue
                    ledger.refresh()
                    for note in _make(task, planned, ledger, workspace, pipe, adapter):
                        advance(1, note)
                    made += 1
            ledger.refresh()
            files = _present(workspace)
            left = [t for t in busy if not _finished(t, config, ledger, files)]
            if left:
                time.sleep(0.5)  # another process is making these; it may also die over them
    return made


def _silent(*_: Any) -> None:
    """No progress bar: the process that started the workers shows one."""


def _make(
    task: Task, planned: Plan, ledger: Ledger, workspace: Workspace, pipe: Any, adapter: Any
) -> Iterator[str]:
    """Make what a pair still lacks, yielding a note a video. An error fails its video only."""
    from realdpo.pairs import generate

    config, form, settings = planned.config, task.form, task.settings
    assert settings is not None
    real: Video | None = None
    for part in _parts(config):
        key = f"{task.pair_id}.{part}"
        record = ledger.get(key)
        made = record is not None and record.get("error") is None
        if made and (workspace.pair_videos / record["file"]).exists():
            yield "was there"
            continue
        try:
            if real is None:
                real = _real(task, workspace)
            image = real[0] if planned.traits.task == "i2v" else None
            started = time.perf_counter()
            broken = None
            if part == "win":
                video = generate.roundtrip(pipe, adapter, real) if config.roundtrip_win else real
                extra: dict[str, Any] = {"frame": _save_frame(workspace, image)}
            else:
                how = loser(task.pair_id, int(part.removeprefix("lose")), config)
                raw = _generate(pipe, adapter, task, how, real, image)
                broken = generate.why_broken(raw)
                video = conform.generated(generate.to_uint8(raw), form)
                extra = {"seed": how.seed, "strategy": how.strategy, "strength": how.strength}
            seconds = time.perf_counter() - started
            data = conform.write(conform.with_first_frame(video, image), form, config.crf)
        except UserError as error:
            ledger.add(key, error=error.message)
            yield f"failed: {error.message}"
            continue
        except (RuntimeError, ValueError) as error:  # out of memory, a shape the model refused
            text = (str(error).splitlines() or [type(error).__name__])[0]
            ledger.add(key, error=text)
            yield f"failed: {text}"
            continue
        name = _save_video(workspace, data)
        ledger.add(key, file=name, seconds=round(seconds, 3), broken=broken, **extra)
        yield broken or ""


def _generate(
    pipe: Any, adapter: Any, task: Task, how: Loser, real: Video, image: Video | None
) -> npt.NDArray[np.float32]:
    from realdpo.pairs import generate

    assert task.settings is not None
    prompt = task.clip["prompt"]
    if how.strategy == "generate":
        return generate.sample(pipe, adapter, prompt, image, how.seed, task.settings)
    assert how.strength is not None
    return generate.regenerate(
        pipe, adapter, prompt, real, how.seed, task.settings, how.strength, how.box
    )


def _real(task: Task, workspace: Workspace) -> Video:
    """The clip in the pair's form. Raises MediaError or Unfit."""
    from realdpo.media.decode import read_clip

    video, fps = read_clip(workspace.root / task.clip["path"])
    return conform.real(video, fps, task.form)


def _save_video(workspace: Workspace, data: bytes) -> str:
    name = f"{ids.bytes_hash(data)}.mp4"
    if not (workspace.pair_videos / name).exists():
        write_bytes(workspace.pair_videos / name, data)
    return name


def _save_frame(workspace: Workspace, image: Video | None) -> str | None:
    """The first frame as PNG; its file name, or None for text-to-video."""
    if image is None:
        return None
    from PIL import Image

    from realdpo.report import png

    data = png(Image.fromarray(image))
    name = f"{ids.bytes_hash(data)}.png"
    if not (workspace.pair_videos / name).exists():
        write_bytes(workspace.pair_videos / name, data)
    return name


def _spread(
    workspace: Workspace,
    planned: Plan,
    shard: tuple[int, int],
    devices: Sequence[str],
    engine: str,
    address: str,
) -> None:
    """Run a worker a device through the engine, showing what the ledger says meanwhile."""
    import threading

    from realdpo.engine import run

    config = planned.config
    mine = {t.pair_id for t in planned.tasks if t.unfit is None and _of_shard(t, shard)}
    keys = [f"{pair}.{part}" for pair in mine for part in _parts(config)]
    ledger = Ledger(workspace.step("pairs"))
    stop = threading.Event()

    def count() -> int:
        ledger.refresh()
        return sum(ledger.get(key) is not None for key in keys)

    done = count()
    with bar("pairs", len(keys), "videos", done) as advance:

        def watch() -> None:
            shown = done
            while not stop.wait(1):
                now = count()
                if now > shown:
                    advance(now - shown, f"{len(devices)} workers")
                    shown = now

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            step = partial(_work, workspace.root, config, shard)
            for outcome in run(
                step, list(devices), engine=engine, workers=len(devices), address=address
            ):
                if outcome.error:
                    say(f"the worker on {outcome.row} stopped: {outcome.error}")
        finally:
            stop.set()
            thread.join()


# ---- tables -------------------------------------------------------------------------------------


def finish(workspace: Workspace, planned: Plan, ledger: Ledger) -> dict[str, Any]:
    """Write pairs.parquet, the shards and the audit from what the ledger holds; the summary."""
    reviews = read_reviews(workspace)
    rows = [_row(task, planned, ledger, reviews) for task in planned.tasks]
    measured = audit.measure_rows(workspace, rows)
    for row in rows:
        row.update(audit.columns(row, measured))
    tables.write(workspace.pairs, tables.from_rows(tables.PAIRS, rows), tables.PAIRS)
    accepted = [row for row in rows if row["status"] == "ok"]
    shards = write_shards(workspace, accepted, planned.config.shard_rows)
    if not accepted:
        reasons = sorted({row["error"] for row in rows if row["error"]}) or ["all were rejected"]
        raise UserError(
            f"no pair came of {len(rows)} clips: {reasons[0]}",
            "--keep-broken pairs broken generations too; the same command tries failures again",
        )
    verdict = audit.audit_rows(workspace, accepted, measured)
    count: dict[str, int] = {}
    for row in rows:
        count[row["status"]] = count.get(row["status"], 0) + 1
    return {
        "pairs": len(rows),
        "by_status": count,
        "losers": sum(len(row["lose"]) for row in accepted),
        "shards": shards,
        "verdict": verdict["verdict"],
        "auc": verdict["auc"],
        "failed": [
            {"clip_id": row["clip_id"], "status": row["status"], "error": row["error"]}
            for row in rows
            if row["status"] in ("failed", "broken")
        ],
    }


def _row(task: Task, planned: Plan, ledger: Ledger, reviews: dict[str, str]) -> dict[str, Any]:
    """A row of pairs.parquet from a task and what was made of it."""
    config, clip, settings = planned.config, task.clip, task.settings
    row: dict[str, Any] = {
        "pair_id": task.pair_id,
        "clip_id": clip["clip_id"],
        "prompt": clip["prompt"],
        "split": clip["split"],
        "status": "failed",
        "error": task.unfit,
        "lose": [],
        "model": planned.model.id,
        "revision": planned.model.revision,
        "lora": planned.lora,
        "task": planned.traits.task,
        "scheduler": planned.scheduler,
        "round": config.round,
        "review": reviews.get(task.pair_id),
        **{name: clip[name] for name in _PROVENANCE},
    }
    if settings is None:
        return row
    row |= {
        "width": settings.width,
        "height": settings.height,
        "frames": settings.frames,
        "fps": settings.fps,
        "steps": settings.steps,
        "guidance": settings.guidance,
    }
    parts = {part: ledger.get(f"{task.pair_id}.{part}") or {} for part in _parts(config)}
    win = parts.pop("win")
    if win.get("file") is None:
        row["error"] = win.get("error") or "not made yet"
        return row
    row |= {"win": win["file"], "first_frame": win.get("frame")}
    made = [record for record in parts.values() if record.get("file")]
    kept = [r for r in made if config.keep_broken or not r["broken"]]
    row |= {
        "lose": [r["file"] for r in kept],
        "seeds": [r["seed"] for r in kept],
        "strategy": [r["strategy"] for r in kept],
        "seconds": [r["seconds"] for r in kept],
    }
    row["error"] = _complaint(parts)
    if not made:
        row["status"] = "failed"
    elif not kept:
        row["status"] = "broken"
    else:
        row["status"] = "rejected" if row["review"] == "reject" else "ok"
    return row


def _complaint(parts: dict[str, Record]) -> str | None:
    """What is wrong with some of the losers, in one line, or None."""
    words = [
        f"{part}: {record.get('error') or record.get('broken') or 'not made yet'}"
        for part, record in parts.items()
        if record.get("error") or record.get("broken") or not record.get("file")
    ]
    return "; ".join(words) or None


def write_shards(workspace: Workspace, rows: Sequence[dict[str, Any]], shard_rows: int) -> int:
    """Write the accepted rows with their videos as pairs/data/<split>-*.parquet; how many.

    A shard whose rows are what they were is left alone, and files of other shards go.
    """
    folder = workspace.pair_data
    notes = workspace.step("pairs") / "shards.json"
    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(notes.read_text(encoding="utf-8"))
    after: dict[str, Any] = {}
    for split in sorted({row["split"] for row in rows}):
        groups = _groups(workspace, [r for r in rows if r["split"] == split], shard_rows)
        for k, group in enumerate(groups):
            name = f"{split}-{k:05d}-of-{len(groups):05d}.parquet"
            digest = ids.content_id(rows=[_without_time(row) for row in group], format=FORMAT)
            path = folder / name
            known = before.get(name, {})
            if known.get("digest") != digest or not _same_size(path, known.get("bytes")):
                table = tables.from_rows(tables.PAIR_SHARD, [_filled(workspace, r) for r in group])
                tables.write(path, table, tables.PAIR_SHARD, row_group_size=16)
            after[name] = {"digest": digest, "bytes": path.stat().st_size}
    if folder.is_dir():
        for path in folder.glob("*.parquet"):
            if path.name not in after:
                path.unlink()
    write_text(notes, json.dumps(after, indent=1, sort_keys=True))
    return len(after)


def _groups(
    workspace: Workspace, rows: list[dict[str, Any]], shard_rows: int
) -> list[list[dict[str, Any]]]:
    """Rows in shards of at most `shard_rows` rows and about half a GiB."""
    sizes = {}
    with contextlib.suppress(FileNotFoundError):
        sizes = {e.name: e.stat().st_size for e in os.scandir(workspace.pair_videos)}
    groups: list[list[dict[str, Any]]] = [[]]
    weight = 0
    for row in rows:
        size = sum(sizes.get(name, 0) for name in [row["win"], *row["lose"]])
        if groups[-1] and (len(groups[-1]) >= shard_rows or weight + size > _SHARD_BYTES):
            groups.append([])
            weight = 0
        groups[-1].append(row)
        weight += size
    return groups


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row goes into a shard: how long generation took differs between runs."""
    return {k: v for k, v in row.items() if k not in ("seconds", "status", "error")}


def _filled(workspace: Workspace, row: dict[str, Any]) -> dict[str, Any]:
    def media(name: str | None) -> dict[str, Any] | None:
        if name is None:
            return None
        return {"bytes": (workspace.pair_videos / name).read_bytes(), "path": name}

    shown = _without_time(row)
    return {
        **shown,
        "win": media(row["win"]),
        "lose": [media(name) for name in row["lose"]],
        "first_frame": media(row.get("first_frame")),
    }


def _same_size(path: Path, size: int | None) -> bool:
    return size is not None and path.is_file() and path.stat().st_size == size


def reviews_path(workspace: Workspace) -> Path:
    return workspace.step("pairs") / "reviews.json"


def apply_review(workspace: Workspace, file: Path) -> dict[str, str]:
    """Take in choices that `pairs report` gave as a file; later choices win. All of them, by pair.

    Raises UserError when the file is not one of choices.
    """
    try:
        choices = json.loads(file.read_text(encoding="utf-8"))["choices"]
        given = {str(pair): str(choice) for pair, choice in choices.items()}
    except FileNotFoundError:
        raise UserError(f"no file {file}", "download the choices in the report page") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{file} does not hold choices", "download the choices in the report page"
        ) from None
    if strange := sorted(set(given.values()) - {"accept", "reject", "flag"}):
        raise UserError(f"{file}: a choice is accept, reject or flag, not {strange[0]!r}")
    merged = {**read_reviews(workspace), **given}
    write_text(reviews_path(workspace), json.dumps(merged, indent=1, sort_keys=True))
    return merged


def read_reviews(workspace: Workspace) -> dict[str, str]:
    """What people decided, by pair id."""
    with contextlib.suppress(FileNotFoundError):
        return dict(json.loads(reviews_path(workspace).read_text(encoding="utf-8")))
    return {}
