"""Systems that make videos: a run of the workspace, a model, MODEL+LORA, or finished videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from realdpo.config import load_toml
from realdpo.errors import UserError
from realdpo.families.base import Spec
from realdpo.families.fingerprint import fingerprint_weights
from realdpo.families.guide import Guide, guide_text, parse_guide
from realdpo.families.load import locate_model, read_spec
from realdpo.families.spec import spec_of_folder, with_task
from realdpo.ids import content_id
from realdpo.workspace import Workspace


@dataclass(frozen=True)
class System:
    """A source of videos: a folder of finished `videos`, or `model` (with `lora`).

    task: as for `realdpo.families.spec.with_task`. transformer: a fully trained transformer's
    folder that replaces the model's own. base_revision: the commit or branch of the model on the
    Hub. revision: an id that changes if any weight does. guide: guidance by its base, if any.
    scale: factor on the LoRA.
    """

    name: str
    text: str
    model: str = ""
    lora: str | None = None
    transformer: str | None = None
    videos: str | None = None
    revision: str = ""
    base_revision: str | None = None
    task: str | None = None
    guide: Guide = 0.0
    scale: float = 1.0


def resolve_system(workspace: Workspace, name: str, text: str, task: str | None = None) -> System:
    """The system that the user wrote: a run's name, a model, MODEL+LORA, or a folder of videos.

    task: task of a model; a run has its own. `@guide=2` after a run or MODEL+LORA guides it by its
    base while sampling. With `@guide=negative`, the base makes the negative forward. `@scale=3`
    makes the adapters three times as strong. `@revision=v1` after a model or MODEL+LORA takes that
    commit or branch of the model; a run has its own.
    """
    text, how, base_revision = _how(name, text)
    found = _resolve(workspace, name, text, task, base_revision)
    if not how:
        return found
    if found.videos or not (found.lora or found.transformer):
        raise UserError(
            f"{name}={text}: only a fine-tuned system has a base that can guide it",
            "give a run, or MODEL+LORA",
        )
    if "scale" in how and not found.lora:
        raise UserError(f"{name}={text}: only adapters can be scaled", "use @guide=")
    joint = "," if base_revision else "@"
    return replace(found, text=f"{found.text}{joint}{_told(how)}", **how)  # type: ignore[arg-type]  # the fields are checked by the class


def _how(name: str, text: str) -> tuple[str, dict[str, Guide], str | None]:
    """Split `run@guide=2` into the run, its way of sampling, and the model's revision, if named."""
    rest, at, told = text.rpartition("@")
    if not at or "=" not in told:
        return text, {}, None
    how: dict[str, Guide] = {}
    revision = None
    for part in told.split(","):
        key, _, value = part.partition("=")
        if key == "revision" and value:
            revision = value
            continue
        try:
            if key not in NEUTRAL or (key, value) == ("scale", "negative"):
                raise ValueError(key)
            how[key] = parse_guide(value)
        except ValueError:
            raise UserError(
                f"{name}={text}: {part!r} is not understood",
                "write guide=2, guide=negative, scale=3 or revision=BRANCH after the @",
            ) from None
    return rest, {key: value for key, value in how.items() if value != NEUTRAL[key]}, revision


NEUTRAL = {"guide": 0.0, "scale": 1.0}


def _told(how: Mapping[str, Guide]) -> str:
    return ",".join(f"{key}={guide_text(value)}" for key, value in how.items())


def _resolve(
    workspace: Workspace, name: str, text: str, task: str | None, base_revision: str | None
) -> System:
    run_folder = workspace.runs / text
    folder = Path(text).expanduser()
    wrong = f"{name}={text}@revision={base_revision}"
    if text and (run_folder / "config.toml").is_file():
        if base_revision:
            raise UserError(
                f"{wrong}: a run keeps the revision that it was trained on", "leave @revision= out"
            )
        return _of_run(name, text, run_folder)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        if not any(folder.glob("*.mp4")):
            raise UserError(
                f"{name}={text}: the folder holds neither a pipeline nor videos",
                "give a run, a model, MODEL+LORA, or a folder of .mp4 files that have the prompts' "
                "names",
            )
        return System(name, text, videos=str(folder))
    model, _, lora = text.partition("+")
    try:
        found = locate_model(model, base_revision)
    except UserError as error:
        runs = sorted(p.parent.name for p in workspace.runs.glob("*/config.toml"))
        raise UserError(
            f"{name}={text}: {error.message}",
            f"runs of this workspace: {', '.join(runs) or 'none'}; {error.hint or ''}".strip("; "),
        ) from None
    if base_revision and Path(found.source).is_dir():
        raise UserError(f"{wrong}: a folder has no revisions", "leave @revision= out")
    if lora and not Path(lora).exists() and "/" not in lora:
        raise UserError(f"{name}={text}: the LoRA {lora} is missing")
    weights = fingerprint_weights(Path(lora)) if lora and Path(lora).exists() else lora
    return System(
        name,
        text + (f"@revision={base_revision}" if base_revision else ""),
        model,
        lora or None,
        revision=f"{found.revision}+{weights}",
        base_revision=base_revision,
        task=task,
    )


def _of_run(name: str, text: str, folder: Path) -> System:
    weights = folder / "weights"
    if not weights.is_dir():
        raise UserError(
            f"{name}={text}: the run has no weights yet", f"finish it: realdpo train --name {text}"
        )
    settings = load_toml(folder / "config.toml").get("train", {})
    model = str(settings.get("model", "tiny"))
    base_revision = settings.get("revision")
    found = locate_model(model, base_revision)
    system = System(
        name,
        text,
        model,
        revision=f"{found.revision}+{fingerprint_weights(weights)}",
        base_revision=base_revision,
        task=settings.get("task"),
    )
    if (weights / "pytorch_lora_weights.safetensors").is_file():
        return replace(system, lora=str(weights))
    parts = sorted(p.parent for p in weights.glob("*/config.json"))
    if len(parts) != 1:
        raise UserError(f"{name}={text}: {weights} holds neither a LoRA nor a transformer")
    return replace(system, transformer=str(parts[0]))


def spec_of_system(system: System) -> Spec:
    """The spec of the system's model, at its revision and for its task."""
    found = locate_model(system.model, system.base_revision)
    return with_task(spec_of_folder(found.folder), system.task)


def model_folder(system: System, links: Path) -> str:
    """The folder to load: the model, or its parts and the trained transformer under `links`."""
    if system.transformer is None:
        return system.model
    # on another machine than the one that trained it, the whole model may have to be fetched
    source = read_spec(system.model, system.base_revision).folder
    trained = Path(system.transformer)
    folder = links / content_id(revision=system.revision)
    folder.mkdir(parents=True, exist_ok=True)
    for part in source.iterdir():
        link = folder / part.name
        if not link.exists():
            link.symlink_to((trained if part.name == trained.name else part).resolve())
    return str(folder)
