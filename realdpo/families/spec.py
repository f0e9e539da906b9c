"""The facts of a model's pipeline, read from its folder's JSON files or from the loaded pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from realdpo.errors import UserError
from realdpo.families import family_of
from realdpo.families.base import Spec


def spec_of_folder(folder: Path, component: str = "transformer") -> Spec:
    """The facts in a pipeline folder's JSON files. Raises UserError when they are damaged."""
    index = _json(folder / "model_index.json")
    parts = {"pipeline": {k: v for k, v in index.items() if not isinstance(v, list)}}
    classes = {}
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value[0] is not None:
            classes[name] = str(value[1])
            for file in ("config.json", "scheduler_config.json", "guider_config.json"):
                if (folder / name / file).is_file():
                    parts[name] = _json(folder / name / file)
    return Spec(str(index.get("_class_name", "?")), parts, classes, folder, component)


def spec_of_pipeline(pipe: Any) -> Spec:
    """The facts of a loaded pipeline; equal to those of its folder in all that families read."""
    parts = {
        name: dict(part.config) if not hasattr(part.config, "to_dict") else part.config.to_dict()
        for name, part in pipe.components.items()
        if hasattr(part, "config")
    }
    classes = {name: type(part).__name__ for name, part in pipe.components.items() if part}
    return Spec(type(pipe).__name__, {**parts, "pipeline": dict(pipe.config)}, classes)


def with_task(spec: Spec, task: str | None) -> Spec:
    """The facts with the pipeline class that does `task`; None leaves the folder's own.

    Some publishers put one folder on the Hub for text-to-video and image-to-video. Raises
    UserError when the weights cannot do it.
    """
    family = family_of(spec)
    if task is None or task == family.task:
        return spec
    if task not in family.tasks():
        raise UserError(
            f"{spec.folder or spec.pipeline} is a {spec.pipeline}: its weights do {family.task}",
            f"leave out the task, or give a model for {task}",
        )
    classes = [name for name, does in family.TASKS.items() if does == task]
    return replace(spec, pipeline=classes[0] if classes else spec.pipeline, task=task)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}", "save or download the model again"
        ) from None
