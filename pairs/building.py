"""From the clips of a workspace to preference pairs: plan, make missing videos, write the tables.

Every video has its own file, named by its content, and an entry in a ledger. A run that was killed
continues with the next video. Rows are claimed one by one, so several processes, GPUs and machines
on one folder share the work. The tables are written last, from the ledger alone. Their bytes are
the same, whoever made the videos and in whatever order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from realdpo import ids, integrity
from realdpo.config import settings_to_toml
from realdpo.errors import UserError
from realdpo.families.guide import guide_text
from realdpo.families.load import device_names, dtype_of_all
from realdpo.files import sweep_temporary, write_bytes
from realdpo.ledger import Ledger
from realdpo.memory import OutOfMemory
from realdpo.pairs import conform
from realdpo.pairs.config import BuildConfig
from realdpo.pairs.interchange import are_imported
from realdpo.pairs.plan import BuildPlan, Loser, PairTask, plan_loser, plan_pairs
from realdpo.pairs.publish import publish_pairs, published_digest, read_reviews
from realdpo.progress import progress_bar, say
from realdpo.rows import PairRow, RegionRow
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from realdpo.families.sample import GenerationSettings
    from realdpo.pairs.generate import Start

    Video = npt.NDArray[np.uint8]

_PROVENANCE = ("source_id", "license", "author", "source_url", "title", "keywords", "retrieved_at")


def build_pairs(
    workspace: Workspace,
    config: BuildConfig,
    *,
    shard: tuple[int, int] = (1, 1),
    devices: str = "auto",
    engine: str = "local",
    address: str = "",
) -> dict[str, Any]:
    """Make every missing pair. When all are made, write the tables. Returns the summary.

    shard: (i, n) makes the i-th of n parts, counting from 1, for n machines on one folder. devices:
    "auto" for every GPU, or names joined by commas, one worker each; a name given twice runs two
    workers on that device. engine: "local", or "ray" for workers on a cluster that shares the
    folder.
    """
    names = device_names(devices)
    config = dataclasses.replace(config, dtype=dtype_of_all(config.dtype, names))
    planned = plan_pairs(workspace, config)
    if planned.family.refusal():
        say(_not_trainable(planned))
    sweep_temporary(
        workspace.root / "pairs"
    )  # left by killed workers; other workers may be running, without the lock
    if without := sum(not task.clip["prompt"] for task in planned.tasks):
        say(f"{without} of {len(planned.tasks)} clips have no prompt, so they give no pair")
    if are_imported(workspace):
        raise UserError(
            f"{workspace.root} holds imported pairs",
            "choose another workspace for building with -w",
        )
    ledger = Ledger(workspace.step("pairs"))
    mine = [t for t in planned.tasks if t.unfit is None and _of_shard(t, shard)]
    files = _present(workspace)
    left = [t for t in mine if not _finished(t, config, ledger, files)]
    if left:
        if engine == "local" and len(names) == 1:
            _work(workspace.root, config, shard, names[0], progress=True)
        else:
            _spread(workspace, planned, shard, names, engine, address)
        ledger.refresh()
        files = _present(workspace)
    others = [t for t in planned.tasks if t.unfit is None and not _of_shard(t, shard)]
    missing = [t for t in (*left, *others) if not _settled(t, config, ledger, files)]
    if missing and shard[1] > 1:
        say(
            f"{len(missing)} pairs belong to other shards. The shard that finishes last writes the "
            "tables"
        )
        return {"pairs": len(planned.tasks), "missing": len(missing), "written": False}
    # if processes end at the same moment, they write in turn, and the second finds it done
    with ledger.claim("publish", wait=True), workspace.lock("pairs build"):
        return {**finish_build(workspace, planned, ledger), "missing": 0, "written": True}


def _not_trainable(planned: BuildPlan) -> str:
    return (
        f"`realdpo train` cannot train {planned.family.spec.pipeline}. You can use these pairs for "
        "evaluation, for study, or with `pairs export`"
    )


def preview_build(
    workspace: Workspace,
    config: BuildConfig,
    shard: tuple[int, int] = (1, 1),
    devices: str = "auto",
) -> dict[str, Any]:
    """A preview of `build_pairs`, without doing it."""
    dtype = dtype_of_all(config.dtype, device_names(devices))
    config = dataclasses.replace(config, dtype=dtype)
    planned = plan_pairs(workspace, config)
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
    first = next((t.settings for t in mine if t.settings), None)
    return {
        "model": f"{planned.model.id} ({planned.traits.task}, revision {planned.model.revision})",
        "clips": len(planned.tasks),
        "to make": f"{len(left)} pairs of 1 + {config.losers} videos",
        "shape": shapes,
        "sampling": f"{planned.scheduler}, {first.steps} steps, guidance {first.guidance:g}, "
        f"{planned.dtype}"
        if first
        else None,
        "negative prompt": (first.negative_prompt or "none") if first else None,
        "where from": _origins(planned, first) if first else None,
        "call": dict(first.call) or None if first else None,
        "scheduler": dict(first.scheduler) or None if first else None,
        "training": _not_trainable(planned)
        if planned.family.refusal()
        else "`realdpo train` can train this model with these pairs",
        "unfit": unfit,
    }


def _origins(planned: BuildPlan, settings: GenerationSettings) -> str:
    """The origin of each setting: the user, the model, or the clips."""
    config, traits = planned.config, planned.traits
    origins: dict[str, list[str]] = {}
    for name in ("width", "height", "frames", "fps", "steps", "guidance", "negative_prompt"):
        if getattr(config, name) is not None:
            origin = "yours"
        elif getattr(settings, name) == getattr(traits, name):
            origin = "the model's own"
        else:
            origin = f"smaller than the model's own {getattr(traits, name):g}, to fit the clips"
        origins.setdefault(origin, []).append(name.replace("_", " "))
    return "; ".join(f"{', '.join(names)}: {origin}" for origin, names in origins.items())


def _of_shard(task: PairTask, shard: tuple[int, int]) -> bool:
    index, count = shard
    return int(task.pair_id[:8], 16) % count == index - 1


def _parts(config: BuildConfig) -> list[str]:
    return ["win", *(f"lose{k}" for k in range(config.losers))]


def _present(workspace: Workspace) -> set[str]:
    """The names of all video files. One listing is faster than 100,000 look-ups."""
    with contextlib.suppress(FileNotFoundError):
        return {entry.name for entry in os.scandir(workspace.pair_videos)}
    return set()


def _finished(task: PairTask, config: BuildConfig, ledger: Ledger, files: set[str]) -> bool:
    """Whether every video of a pair was made. A failed part is tried again."""
    return all(
        (record := ledger.get(f"{task.pair_id}.{part}")) is not None
        and record.get("error") is None
        and record["file"] in files
        for part in _parts(config)
    )


def _settled(task: PairTask, config: BuildConfig, ledger: Ledger, files: set[str]) -> bool:
    """Whether every video of a pair was made or has failed."""
    return all(
        (record := ledger.get(f"{task.pair_id}.{part}")) is not None
        and (record.get("error") is not None or record["file"] in files)
        for part in _parts(config)
    )


def _work(
    root: Path, config: BuildConfig, shard: tuple[int, int], device: str, progress: bool = False
) -> int:
    """Make every unfinished pair of the shard that no other process is making.

    Returns the count.
    """
    from realdpo.families.load import load_pipeline

    workspace = Workspace(root)
    planned = plan_pairs(workspace, config)
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
        task=config.task,
        guide=config.guide,
    )
    family = planned.family
    made = 0
    if not any(ledger.get(f"{t.pair_id}.{part}") for t in mine for part in _parts(config)):
        _try_out(left[0], planned, workspace, pipe, family)
    total = len(mine) * (1 + config.losers)
    done = total - len(left) * (1 + config.losers)
    show = (
        progress_bar("pairs", total, "videos", done)
        if progress
        else contextlib.nullcontext(_silent)
    )
    with ledger, show as advance:
        while left:
            busy = []
            for task in left:
                with ledger.claim(task.pair_id) as mine_now:
                    if not mine_now:
                        busy.append(task)
                        continue
                    ledger.refresh()
                    for note in _make(task, planned, ledger, workspace, pipe, family):
                        advance(1, note)
                    made += 1
            ledger.refresh()
            files = _present(workspace)
            left = [t for t in busy if not _finished(t, config, ledger, files)]
            if left:
                time.sleep(0.5)  # another process is making these, and it may die before it is done
    return made


def _worker(root: Path, config: BuildConfig, shard: tuple[int, int], device: str) -> int:
    """`_work` on an engine.

    The engine keeps only an error's message, so the hint is put into it.
    """
    try:
        return _work(root, config, shard, device)
    except UserError as error:
        raise UserError(f"{error.message}; {error.hint}" if error.hint else error.message) from None


def _silent(*_: Any) -> None:
    """No progress bar: the process that started the workers shows one."""


_TRIED_OUT = 2  # steps of the video that tries out the settings


def _try_out(
    task: PairTask, planned: BuildPlan, workspace: Workspace, pipe: Any, family: Any
) -> None:
    """Try out the settings: make a video of two steps at the real size before any other.

    If the videos themselves take about as few steps, this is skipped. Raises UserError with the
    pipeline's message, or OutOfMemory if it does not fit.
    """
    from realdpo.families.sample import sample_frames

    assert task.settings is not None
    if task.settings.steps <= 2 * _TRIED_OUT:
        return
    try:
        real = _real(task, workspace)
    except (UserError, ValueError):
        return  # only this clip is damaged, and its row will say so
    settings = dataclasses.replace(task.settings, steps=_TRIED_OUT)
    image = real[0] if planned.traits.task == "i2v" else None
    try:
        sample_frames(pipe, family, task.clip["prompt"], image, 0, settings)
    except UserError:
        raise
    except Exception as error:
        form = task.form
        raise UserError(
            f"cannot make {form.frames} frames of {form.width}x{form.height}: {_reason(error)}",
            "nothing was made. Change --set frames, width, height, memory, call or scheduler",
        ) from error


def _reason(error: BaseException) -> str:
    """An error in one line.

    If its text is empty or says little, the line names its type as well.
    """
    text = (str(error).splitlines() or [""])[0]
    plain = isinstance(error, (UserError, RuntimeError, ValueError)) and text
    return text if plain else f"{type(error).__name__}: {text}".rstrip(": ")


def _make(
    task: PairTask, planned: BuildPlan, ledger: Ledger, workspace: Workspace, pipe: Any, family: Any
) -> Iterator[str]:
    """Make the missing videos of a pair, and yield a note for each.

    An error fails only its video.
    """
    from realdpo.families.sample import to_uint8
    from realdpo.pairs import generate

    config, form, settings = planned.config, task.form, task.settings
    assert settings is not None
    real: Video | None = None
    for part in _parts(config):
        key = f"{task.pair_id}.{part}"
        record = ledger.get(key)
        made = record is not None and record.get("error") is None
        if record and made and (workspace.pair_videos / record["file"]).exists():
            yield "was there"
            continue
        try:
            if real is None:
                real = _real(task, workspace)
            image = real[0] if planned.traits.task == "i2v" else None
            started = time.perf_counter()
            broken = None
            if part == "win":
                video = (
                    generate.roundtrip_video(pipe, family, real) if config.roundtrip_win else real
                )
                extra: dict[str, Any] = {}
            else:
                how = plan_loser(task.pair_id, int(part.removeprefix("lose")), config)
                raw, start = _generate(pipe, family, task, how, real, image)
                broken = generate.why_broken(raw)
                video = conform.conform_generated(to_uint8(raw), form)
                extra = {"seed": how.seed, "strategy": how.strategy, "asked": how.strength}
                extra |= {"strength": start.strength, "steps": start.steps} if start else {}
                if start and start.steps > settings.steps:
                    _say_once(
                        f"{settings.steps} steps cannot begin at a strength of {how.strength:.2g}, "
                        f"so {start.steps} steps are used"
                    )
            seconds = time.perf_counter() - started
            data = conform.encode_side(conform.with_first_frame(video, image), form, config.crf)
        except OutOfMemory:
            raise  # the next video would not fit in memory either
        except Exception as error:  # an error of a pipeline fails only this video
            text = _reason(error)
            ledger.put(key, {"error": text})
            _say_once(f"{task.clip['clip_id']} {part} failed: {text}")
            yield "failed"
            continue
        if part == "win":
            extra["frame"] = _save_frame(workspace, image)
        name = _save_video(workspace, data)
        extra |= {"file": name, "seconds": round(seconds, 3), "broken": broken}
        ledger.put(key, extra)
        yield broken or ""


_said: set[str] = set()
_MOST_SAID = 20


def _say_once(line: str) -> None:
    """Log a line about a video, for the first few videos only. The table has all of them."""
    if line in _said or len(_said) > _MOST_SAID:
        return
    _said.add(line)
    say(line if len(_said) <= _MOST_SAID else "further lines are in pairs.parquet only")


def _generate(
    pipe: Any, family: Any, task: PairTask, how: Loser, real: Video, image: Video | None
) -> tuple[npt.NDArray[np.float32], Start | None]:
    from realdpo.families.sample import sample_frames
    from realdpo.pairs import generate

    assert task.settings is not None
    prompt = task.clip["prompt"]
    if how.strategy == "generate":
        return sample_frames(pipe, family, prompt, image, how.seed, task.settings), None
    assert how.strength is not None
    return generate.regenerate_video(
        pipe, family, prompt, real, how.seed, task.settings, how.strength, how.region
    )


def _real(task: PairTask, workspace: Workspace) -> Video:
    """The clip in the pair's form. Raises MediaError, Unfit, or UserError if it is damaged."""
    from realdpo.media.decode import read_clip

    path = workspace.root / task.clip["path"]
    data = integrity.require_file(path, task.clip["sha256"], "the clip", integrity.CLIP_HINT)
    video, fps = read_clip(data)
    return conform.conform_real(video, fps, task.form)


def _save_video(workspace: Workspace, data: bytes) -> str:
    name = f"{ids.bytes_hash(data)}.mp4"
    if not (workspace.pair_videos / name).exists():
        write_bytes(workspace.pair_videos / name, data)
    return name


def _save_frame(workspace: Workspace, image: Video | None) -> str | None:
    """Save the first frame as PNG. Returns its file name, or None for text-to-video."""
    if image is None:
        return None
    from PIL import Image

    from realdpo.report import encode_png

    data = encode_png(Image.fromarray(image))
    name = f"{ids.bytes_hash(data)}.png"
    if not (workspace.pair_videos / name).exists():
        write_bytes(workspace.pair_videos / name, data)
    return name


def _spread(
    workspace: Workspace,
    planned: BuildPlan,
    shard: tuple[int, int],
    devices: Sequence[str],
    engine: str,
    address: str,
) -> None:
    """Run one worker per device through the engine, and show the progress from the ledger."""
    import threading

    from realdpo.engine import run_rows

    config = planned.config
    mine = {t.pair_id for t in planned.tasks if t.unfit is None and _of_shard(t, shard)}
    keys = [f"{pair}.{part}" for pair in mine for part in _parts(config)]
    ledger = Ledger(workspace.step("pairs"))
    stop = threading.Event()

    def count() -> int:
        ledger.refresh()
        return sum(ledger.get(key) is not None for key in keys)

    done = count()
    with progress_bar("pairs", len(keys), "videos", done) as advance:

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
            step = partial(_worker, workspace.root.resolve(), config, shard)
            errors = []
            for outcome in run_rows(
                step,
                list(devices),
                engine=engine,
                workers=len(devices),
                address=address,
                gpus=int(any(name.startswith("cuda") for name in devices)),  # each, on Ray
            ):
                if outcome.error:
                    errors.append(outcome.error)
                    say(f"the worker on {outcome.row} stopped: {outcome.error}")
            if len(errors) == len(devices):
                raise UserError(f"every worker stopped: {errors[0]}")
        finally:
            stop.set()
            thread.join()


def finish_build(workspace: Workspace, planned: BuildPlan, ledger: Ledger) -> dict[str, Any]:
    """Write pairs.parquet, the shards and the audit from the ledger. Returns the summary."""
    reviews = read_reviews(workspace)
    rows = [pair_row(task, planned, ledger, reviews) for task in planned.tasks]
    before = published_digest(workspace)
    try:
        return publish_pairs(workspace, rows, planned.config.shard_rows)
    finally:
        # The saved settings belong to the existing videos. A run that made nothing does not replace
        # them.
        if (
            published_digest(workspace) != before
            or not workspace.config_file("pairs build").is_file()
        ):
            workspace.save_config("pairs build", settings_to_toml("pairs", planned.config))


def pair_row(
    task: PairTask, planned: BuildPlan, ledger: Ledger, reviews: dict[str, str]
) -> PairRow:
    """A row of pairs.parquet, from a task and its videos."""
    config, clip, settings = planned.config, task.clip, task.settings
    row: PairRow = {
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
        "guide": guide_text(config.guide) if config.guide else None,
        "task": planned.traits.task,
        "scheduler": planned.scheduler,
        "dtype": planned.dtype,
        "quantization": _as_json(config.quantization),
        "round": config.round,
        "review": reviews.get(task.pair_id),
    }
    row |= cast(PairRow, {name: dict(clip)[name] for name in _PROVENANCE})
    if settings is None:
        return row
    row |= {
        "width": settings.width,
        "height": settings.height,
        "frames": settings.frames,
        "fps": settings.fps,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "negative_prompt": settings.negative_prompt or None,
        "call": _as_json(settings.call),
        "scheduler_settings": _as_json(settings.scheduler),
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
        "strength": [r.get("strength") for r in kept],
        "regions": _regions(task, kept, parts, config),
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


def _regions(
    task: PairTask,
    kept: list[dict[str, Any]],
    parts: dict[str, dict[str, Any]],
    config: BuildConfig,
) -> list[RegionRow | None]:
    """For each loser, the region that was generated, or None if all of the video was."""
    numbers = {id(record): k for k, record in enumerate(parts.values())}
    found = (plan_loser(task.pair_id, numbers[id(record)], config).region for record in kept)
    return [
        None
        if region is None
        else RegionRow(time=[*region.time], rows=[*region.rows], columns=[*region.columns])
        for region in found
    ]


def _as_json(settings: Mapping[str, Any] | None) -> str | None:
    """Settings with types of the model's own, as text. None if there are none."""
    return json.dumps(settings, sort_keys=True, default=str) if settings else None


def _complaint(parts: dict[str, dict[str, Any]]) -> str | None:
    """One line about failed or broken losers, or None."""
    words = [
        f"{part}: {record.get('error') or record.get('broken') or 'not made yet'}"
        for part, record in parts.items()
        if record.get("error") or record.get("broken") or not record.get("file")
    ]
    return "; ".join(words) or None
