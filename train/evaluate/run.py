"""From systems and prompts to numbers: generate with paired seeds, measure, compare.

Everything finished is kept under eval/<name>/ by its content: a video under the id of its system,
prompt, frame, seed and settings, a measurement under the id of its video. The same command goes
on where it stopped, and a changed setting reads nothing stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import realdpo
from realdpo import engine, progress
from realdpo.errors import UserError
from realdpo.files import write_bytes, write_text
from realdpo.ids import bytes_hash, content_id, file_hash, seed_of
from realdpo.media.decode import read_clip
from realdpo.pairs import conform
from realdpo.pairs.adapters import of
from realdpo.pairs.generate import GenerationSettings, settings_from
from realdpo.pairs.pipeline import facts_of_folder, fingerprint, locate
from realdpo.train.evaluate import benchmark, metrics
from realdpo.train.evaluate.benchmark import Item
from realdpo.train.evaluate.config import EvalConfig, JudgeConfig
from realdpo.workspace import Workspace

REAL = "real"


@dataclass(frozen=True)
class System:
    """What makes videos. videos: a folder of finished ones, else `model` (with `lora`) makes them.

    transformer: a fully trained transformer's folder that replaces the model's own. revision
    changes when any weight does.
    """

    name: str
    text: str
    model: str = ""
    lora: str | None = None
    transformer: str | None = None
    videos: str | None = None
    revision: str = ""


@dataclass(frozen=True)
class Task:
    """One video that is wanted. key names its file; image: the conformed first frame's file."""

    key: str
    system: str
    item: str
    prompt: str
    number: int
    seed: int
    image: str | None


@dataclass(frozen=True)
class Plan:
    """Systems, items, the shape and sampling of videos, and the videos wanted."""

    folder: Path
    config: EvalConfig
    systems: tuple[System, ...]
    items: tuple[Item, ...]
    settings: GenerationSettings | None
    tasks: tuple[Task, ...]

    def video(self, key: str) -> Path:
        return self.folder / "videos" / f"{key}.mp4"

    @property
    def form(self) -> conform.Form | None:
        s = self.settings
        if s is None:
            return None
        return conform.Form(s.width, s.height, s.frames, Fraction(s.fps).limit_denominator())


def run(
    workspace: Workspace,
    config: EvalConfig,
    *,
    devices: Sequence[str] = ("cpu",),
    shard: tuple[int, int] = (1, 1),
) -> dict[str, Any] | None:
    """Generate, measure and compare; returns the summary, also written to eval/<name>/summary.json.

    With a shard (i, n) only the i-th part of the videos is made, and nothing is compared (None).
    """
    from realdpo.train.evaluate import summary

    planned = plan(workspace, config)
    generate(planned, devices, shard)
    if shard[1] > 1 and any(not planned.video(t.key).is_file() for t in planned.tasks):
        progress.say("this shard is done; run without --shard once all are, to compare")
        return None
    rows, failures = measure(planned)
    extra = _with_weights(planned, workspace, rows, devices[0])
    made = summary.summarise(planned, rows, failures, extra)
    prompts = {item.item_id: item.prompt for item in planned.items}
    write_text(planned.folder / "prompts.json", json.dumps(prompts, indent=1))
    write_text(planned.folder / "rows.json", json.dumps(summary.plain(rows), indent=1))
    write_text(planned.folder / "summary.json", json.dumps(made, indent=1))
    write_text(planned.folder / "table.md", summary.markdown(made))
    return made


# ---- what is to be done -------------------------------------------------------------------------


def plan(workspace: Workspace, config: EvalConfig) -> Plan:
    """Resolve systems, items and settings, write first frames and real clips in one form.

    Raises UserError when a system, the benchmark, or a shape is not what it should be.
    """
    if not config.systems:
        raise UserError("no system to evaluate", "give --system base=MODEL --system dpo=RUN")
    folder = workspace.evaluations / config.name
    systems = tuple(resolve(workspace, name, text) for name, text in config.systems.items())
    settings = _settings(systems, config)
    if config.benchmark:
        aspect = settings.width / settings.height if settings else 1.5
        items = benchmark.read(Path(config.benchmark), aspect)
    else:
        items = benchmark.of_workspace(workspace, config.split)
    items = items[: config.prompts or None]
    planned = Plan(folder, config, systems, tuple(items), settings, ())
    conformed = [_conformed(planned, item) for item in items]
    fitting = tuple(item for item in conformed if item is not None)
    if not fitting:
        raise UserError(
            f"none of the {len(items)} clips fits the form of the videos",
            "choose a smaller --set width/height/frames, or longer clips",
        )
    if needs_picture := _needs_picture(systems):
        lacking = [item for item in fitting if item.image is None]
        if lacking:
            raise UserError(
                f"{needs_picture} starts from a picture, and {len(lacking)} prompts have none",
                "use a benchmark with first frames, or text-to-video models",
            )
    elif settings is not None:  # text-to-video: nothing promises the given first frame
        fitting = tuple(replace(item, image=None) for item in fitting)
    planned = replace(planned, items=fitting)
    tasks = [
        _task(planned, system, item, number)
        for item in planned.items
        for number in range(config.seeds)
        for system in systems
        if not system.videos
    ]
    return replace(planned, tasks=tuple(tasks))


def resolve(workspace: Workspace, name: str, text: str) -> System:
    """A system from what the user wrote: a run's name, a model, MODEL+LORA, a folder of videos."""
    run_folder = workspace.runs / text
    if text and (run_folder / "config.toml").is_file():
        return _of_run(name, text, run_folder)
    folder = Path(text).expanduser()
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        if not any(folder.glob("*.mp4")):
            raise UserError(
                f"{name}={text}: the folder holds neither a pipeline nor videos",
                "give a run, a model, MODEL+LORA, or a folder of .mp4 named by prompt",
            )
        return System(name, text, videos=str(folder))
    model, _, lora = text.partition("+")
    try:
        found = locate(model)
    except UserError as error:
        runs = sorted(p.parent.name for p in workspace.runs.glob("*/config.toml"))
        raise UserError(
            f"{name}={text}: {error.message}",
            f"runs of this workspace: {', '.join(runs) or 'none'}; {error.hint or ''}".strip("; "),
        ) from None
    if lora and not Path(lora).exists() and "/" not in lora:
        raise UserError(f"{name}={text}: the LoRA {lora} is not there")
    weights = fingerprint(Path(lora)) if lora and Path(lora).exists() else lora
    return System(name, text, model, lora or None, revision=f"{found.revision}+{weights}")


def _of_run(name: str, text: str, folder: Path) -> System:
    from realdpo.config import load_toml

    weights = folder / "weights"
    if not weights.is_dir():
        raise UserError(
            f"{name}={text}: the run has no weights yet",
            f"finish it: realdpo train --set name={text}",
        )
    model = str(load_toml(folder / "config.toml").get("train", {}).get("model", "tiny"))
    revision = f"{locate(model).revision}+{fingerprint(weights)}"
    if (weights / "pytorch_lora_weights.safetensors").is_file():
        return System(name, text, model, lora=str(weights), revision=revision)
    parts = sorted(p.parent for p in weights.glob("*/config.json"))
    if len(parts) != 1:
        raise UserError(f"{name}={text}: {weights} holds neither a LoRA nor a transformer")
    return System(name, text, model, transformer=str(parts[0]), revision=revision)


def _settings(systems: Sequence[System], config: EvalConfig) -> GenerationSettings | None:
    """One form and sampling for all systems: the base model's, with the user's changes."""
    models = [s for s in systems if not s.videos]
    models.sort(key=lambda s: s.name != config.base_name)
    names = ("width", "height", "frames", "fps", "steps", "guidance")
    changes = {name: getattr(config, name) for name in names}
    settings = None
    for system in models:
        facts = facts_of_folder(locate(system.model).folder)
        traits = of(facts).traits(facts)
        if settings is None:
            settings = settings_from(traits, **changes)
        else:
            traits.check(settings.width, settings.height, settings.frames)
    return settings


def _needs_picture(systems: Sequence[System]) -> str:
    """The name of a system that makes videos from a first frame; empty when there is none."""
    for system in systems:
        if not system.videos:
            facts = facts_of_folder(locate(system.model).folder)
            if of(facts).traits(facts).task == "i2v":
                return system.name
    return ""


def _conformed(planned: Plan, item: Item) -> Item | None:
    """The item with its first frame (PNG) and real clip in the videos' form, kept in the folder.

    None when the clip is too short or too small for it. Without a form (only finished videos)
    the pictures stay as they are.
    """
    from realdpo import report
    from realdpo.pairs.conform import Unfit

    form = planned.form
    key = content_id(
        item=item.item_id,
        form=None if form is None else asdict(form),
        files=[file_hash(p) for p in (item.image, item.clip) if p],
    )
    image, clip = (planned.folder / "inputs" / f"{key}{end}" for end in (".png", ".mp4"))
    if item.clip is not None and not clip.is_file():
        video, fps = read_clip(item.clip)
        if form is not None:
            try:
                video, fps = conform.real(video, fps, form), form.fps
            except Unfit as error:
                progress.say(f"left out {item.item_id}: {error}")
                return None
        whole = conform.Form(video.shape[2], video.shape[1], len(video), Fraction(fps))
        _write_picture(image, video[0], report)
        write_bytes(clip, conform.write(video, whole, planned.config.crf))
    elif item.clip is None and item.image is not None and not image.is_file():
        picture = benchmark.load_picture(item.image)
        if form is not None:
            picture = benchmark.fit(picture, form.width, form.height)
        _write_picture(image, picture, report)
    has_image = item.image is not None or item.clip is not None
    return replace(item, image=image if has_image else None, clip=clip if item.clip else None)


def _write_picture(path: Path, picture: np.ndarray, report: Any) -> None:
    from PIL import Image

    write_bytes(path, report.png(Image.fromarray(picture)))


def _task(planned: Plan, system: System, item: Item, number: int) -> Task:
    seed = seed_of(planned.config.seed, item.item_id, number)
    assert planned.settings is not None
    key = content_id(
        revision=system.revision,
        prompt=item.prompt,
        image=file_hash(item.image) if item.image else None,
        seed=seed,
        settings=asdict(planned.settings),
        crf=planned.config.crf,
    )
    image = str(item.image) if item.image else None
    return Task(key, system.name, item.item_id, item.prompt, number, seed, image)


# ---- videos -------------------------------------------------------------------------------------


def generate(planned: Plan, devices: Sequence[str], shard: tuple[int, int]) -> None:
    """Make the videos that are missing, one worker a device. Raises UserError if any fails."""
    index, count = shard
    if not 1 <= index <= count:
        raise UserError(f"--shard {index}/{count}: the part must be between 1 and {count}")
    mine = [t for t in planned.tasks if int(t.key[:8], 16) % count == index - 1]
    missing = [t for t in mine if not planned.video(t.key).is_file()]
    with progress.bar("videos", len(mine), "videos", len(mine) - len(missing)) as advance:
        for system in planned.systems:
            wanted = [t for t in missing if t.system == system.name]
            if not wanted:
                continue
            rows = [(device, wanted[k :: len(devices)]) for k, device in enumerate(devices)]
            work = partial(_generate, planned, system)
            if len(devices) == 1:
                _generate(planned, system, rows[0], advance)
                continue
            for outcome in engine.run(work, rows, workers=len(devices)):
                advance(len(outcome.row[1]))
                if outcome.error:
                    raise UserError(
                        f"{system.name} on {outcome.row[0]}: {outcome.error}",
                        "the same command goes on from here",
                    )


def _generate(
    planned: Plan,
    system: System,
    part: tuple[str, Sequence[Task]],
    advance: Callable[..., None] = lambda *_, **__: None,
) -> None:
    from realdpo.pairs.generate import adapter_of, generate_video, load_pipeline

    device, tasks = part
    if not tasks:
        return
    model = _whole_model(planned, system)
    config, settings = planned.config, planned.settings
    assert settings is not None
    assert planned.form is not None
    pipe = load_pipeline(model, config.dtype, device, system.lora, config.memory)
    adapter = adapter_of(pipe)
    for task in tasks:
        image = benchmark.load_picture(Path(task.image)) if task.image else None
        video = generate_video(pipe, adapter, task.prompt, image, task.seed, settings)
        write_bytes(planned.video(task.key), conform.write(video, planned.form, config.crf))
        advance(note=system.name)


def _whole_model(planned: Plan, system: System) -> str:
    """What to load: the model, or a folder of links to its parts with the trained transformer."""
    if system.transformer is None:
        return system.model
    from realdpo.train.models import read_spec

    source, trained = read_spec(system.model).folder, Path(system.transformer)
    folder = planned.folder / "models" / content_id(revision=system.revision)
    folder.mkdir(parents=True, exist_ok=True)
    for part in source.iterdir():
        link = folder / part.name
        if part.name != trained.name and not link.exists():
            link.symlink_to(part.resolve())
    if not (folder / trained.name).exists():
        (folder / trained.name).symlink_to(trained.resolve())
    return str(folder)


# ---- numbers ------------------------------------------------------------------------------------


def measure(planned: Plan) -> tuple[list[dict[str, Any]], list[str]]:
    """One row a video (system, item, seed number, file, metrics), real clips included.

    Also what could not be measured, in words: missing finished videos, damaged files.
    """
    wanted, failures = [], []
    tasks = {(t.system, t.item, t.number): t for t in planned.tasks}
    for item in planned.items:
        for system in planned.systems:
            for number in range(planned.config.seeds):
                if system.videos:
                    path = benchmark.find_video(Path(system.videos), item, number)
                else:
                    path = planned.video(tasks[system.name, item.item_id, number].key)
                if path is None or not path.is_file():
                    failures.append(f"{system.name}: no video {number} for {item.prompt!r}")
                    continue
                wanted.append((system.name, item, number, path))
        if item.clip is not None:
            wanted.append((REAL, item, 0, item.clip))
    rows = []
    jobs = [(str(path), str(item.image) if item.image else None) for _, item, _, path in wanted]
    by_job = {}
    with progress.bar("metrics", len(set(jobs)), "videos") as advance:
        for outcome in engine.run(
            partial(measure_file, planned.folder), sorted(set(jobs), key=str)
        ):
            by_job[outcome.row] = outcome
            advance()
    for (system_name, item, number, path), job in zip(wanted, jobs, strict=True):
        outcome = by_job[job]
        if outcome.value is None:
            failures.append(f"{system_name}: {path}: {outcome.error}")
            continue
        rows.append(
            {
                "system": system_name,
                "item": item.item_id,
                "seed": number,
                "video": _stored(planned.folder, path),
                "metrics": dict(outcome.value),
            }
        )
    return rows, failures


def measure_file(folder: Path, job: tuple[str, str | None]) -> dict[str, float]:
    """Weight-free metrics of a video file, kept under its content and this program's version."""
    path, image = job
    code = file_hash(metrics.__file__)
    key = content_id(
        video=file_hash(path), image=file_hash(image) if image else None, version=realdpo.__version__,
        code=code,
    )  # fmt: skip
    kept = folder / "metrics" / f"{key}.json"
    if kept.is_file():
        return {name: float(v) for name, v in json.loads(kept.read_text()).items()}
    video, fps = read_clip(Path(path))
    first = benchmark.load_picture(Path(image)) if image else None
    numbers = metrics.video_metrics(video, fps, first)
    write_text(kept, json.dumps(numbers))
    return numbers


def _with_weights(
    planned: Plan, workspace: Workspace, rows: list[dict[str, Any]], device: str
) -> dict[str, Any]:
    """Metrics that need weights, added to the rows; what belongs to no single row is returned."""
    config, extra = planned.config, {}
    items = {item.item_id: item for item in planned.items}
    if config.clip:
        from realdpo.train.evaluate import consistency

        ask = consistency.load(config.clip, device)
        with progress.bar("open_clip", len(rows), "videos") as advance:
            for row in rows:
                found = _kept(
                    planned.folder / "clip", {"model": config.clip, "video": _hash(planned.folder, row),
                    "prompt": items[row["item"]].prompt},
                    lambda: ask(_video(planned.folder, row), items[row["item"]].prompt),  # noqa: B023
                )  # fmt: skip
                row["metrics"].update(found)
                advance()
    if config.vbench:
        from realdpo.train.evaluate import vbench

        paths = [planned.folder / row["video"] for row in rows]
        made = vbench.measure(paths, planned.folder / "vbench", device, config.vbench)
        for row, numbers in zip(rows, made, strict=True):
            row["metrics"].update(numbers)
    if config.frechet:
        extra["frechet"] = _frechet(planned, rows, device)
    if config.judge.url:
        extra["judge"] = _judge(planned, workspace, rows)
    return extra


def _frechet(planned: Plan, rows: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Distance of each system's videos to the real clips."""
    from realdpo.train.evaluate import frechet

    network = frechet.load_network(planned.config.frechet, device)
    by_system: dict[str, list[np.ndarray]] = {}
    for row in rows:
        found = _kept(
            planned.folder / "features",
            {"network": network.name, "video": _hash(planned.folder, row)},
            lambda: network.features(_video(planned.folder, row)).tolist(),  # noqa: B023
        )
        by_system.setdefault(row["system"], []).append(np.array(found))
    real = by_system.pop(REAL, [])
    if len(real) < 2:
        raise UserError(
            "the Frechet distance needs at least two real clips to compare with",
            "evaluate on a workspace's split instead of a benchmark of pictures",
        )
    return {
        "name": network.name,
        "videos": len(real),
        "distance": {
            name: frechet.frechet_distance(np.stack(made), np.stack(real))
            for name, made in by_system.items()
        },
    }


def _judge(planned: Plan, workspace: Workspace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The judge's mean score per aspect into each row; how well it agrees with itself."""
    from realdpo.train.evaluate import judge

    config: JudgeConfig = planned.config.judge
    used = models_used(workspace)
    judge.refuse_if_used(config.model, used, config.allow_used)
    items = {item.item_id: item for item in planned.items}
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["system"] != REAL:
            groups.setdefault((row["item"], row["seed"]), []).append(row)
    answers: list[dict[str, list[float]]] = []
    with progress.bar("judge", len(groups) * config.runs, "questions") as advance:
        for (item_id, number), members in sorted(groups.items()):
            item = items[item_id]
            first = benchmark.load_picture(item.image) if item.image else None
            runs = []
            for turn in range(config.runs):
                what = {
                    "judge": asdict(replace(config, timeout=0, attempts=1, runs=1)), "turn": turn,
                    "videos": {row["system"]: _hash(planned.folder, row) for row in members}, "prompt": item.prompt,
                }  # fmt: skip
                seed = seed_of(planned.config.seed, "judge", item_id, number, turn) % 2**32
                runs.append(
                    _kept(
                        planned.folder / "judge",
                        what,
                        lambda: judge.judge(
                            config,
                            item.prompt,  # noqa: B023
                            first,  # noqa: B023
                            {r["system"]: _video(planned.folder, r) for r in members},  # noqa: B023
                            seed,  # noqa: B023
                        ),
                    )
                )
                advance()
            for row in members:
                mine = [scores[row["system"]] for scores in runs]
                for aspect in mine[0]:
                    scores = np.array([one[aspect] for one in mine])
                    row["metrics"][f"judge.{aspect}"] = float(scores.mean())
                    answers.append({"aspect": aspect, "scores": scores.tolist()})  # type: ignore[dict-item]
    agreement = {}
    if config.runs > 1:
        for aspect in judge.ASPECTS:
            told = [np.array(a["scores"]) for a in answers if a["aspect"] == aspect]
            if told:
                both = np.concatenate(told, axis=1)
                agreement[aspect] = judge.self_agreement(both[0], both[1])
    return {"model": config.model, "runs": config.runs, "agreement": agreement,
            "also_made_the_data": config.allow_used and _is_used(config.model, used)}  # fmt: skip


def models_used(workspace: Workspace) -> list[str]:
    """Every model that curation names: captioners of clips, and all texts in its saved settings."""
    from realdpo import tables
    from realdpo.config import load_toml

    found: set[str] = set()
    if workspace.clips.is_file():
        column = tables.read(workspace.clips, tables.CLIPS, ["captioner"])["captioner"]
        found |= {str(name) for name in column.to_pylist() if name}
    for file in sorted((workspace.root / "config").glob("curate*.toml")):
        found |= set(_texts(load_toml(file)))
    return sorted(found)


def _is_used(model: str, used: Sequence[str]) -> bool:
    from realdpo.train.evaluate import judge

    try:
        judge.refuse_if_used(model, used)
    except UserError:
        return True
    return False


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) and value:
        yield value


def _kept(folder: Path, what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """`make()`, or what it gave before for the same `what`; called at once, or not at all."""
    path = folder / f"{content_id(**what)}.json"
    if not path.is_file():
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text())


def _stored(folder: Path, path: Path) -> str:
    """A file's path as rows hold it: within the evaluation's folder relative, so it may move."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _hash(folder: Path, row: Mapping[str, Any]) -> str:
    return bytes_hash((folder / row["video"]).read_bytes())


def _video(folder: Path, row: Mapping[str, Any]) -> np.ndarray:
    return read_clip(folder / row["video"])[0]
