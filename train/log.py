"""The logs of a run: log.jsonl (one line per step), held_out.jsonl, metrics.csv, and trackers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realdpo.files import explain_write_error, write_text
from realdpo.ids import content_id
from realdpo.train.config import TrainConfig


class Log:
    """The logs of a run that has done `step` steps. Later lines, left by a crash, are dropped."""

    def __init__(
        self, folder: Path, step: int, main: bool, accelerator: Any, config: TrainConfig
    ) -> None:
        self.folder, self.main, self.accelerator = folder, main, accelerator
        if main:
            for name in ("log.jsonl", "held_out.jsonl"):
                kept = [line for line in read_log(folder / name) if line["step"] <= step and step]
                write_text(
                    folder / name, "".join(json.dumps(plain_json(line)) + "\n" for line in kept)
                )
        # W&B resumes a run by its id. The folder's name alone could clash with other runs.
        run = content_id(folder=str(folder.resolve()))
        wandb = {"name": folder.name, "id": run, "resume": "allow"}
        settings = {k: v if v is not None else "" for k, v in asdict(config).items()}
        settings = {k: ", ".join(v) if isinstance(v, tuple) else v for k, v in settings.items()}
        accelerator.init_trackers("realdpo", config=settings, init_kwargs={"wandb": wandb})

    def step(self, values: dict[str, float]) -> None:
        if self.main:
            _append(self.folder / "log.jsonl", values)
        self.accelerator.log(values, step=int(values["step"]))

    def held_out(self, step: int, found: dict[str, Any]) -> None:
        if self.main:
            _append(self.folder / "held_out.jsonl", {"step": step, **found})
        plain = {f"held_out/{n}": v for n, v in found.items() if isinstance(v, (int, float))}
        self.accelerator.log(plain, step=step)

    def write_csv(self) -> None:
        """Write the whole log as metrics.csv, with one column per number."""
        rows = read_log(self.folder / "log.jsonl")
        names = sorted({name for row in rows for name in row} - {"step"})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names])
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "metrics.csv", text.getvalue())


def plain_json(value: Any) -> Any:
    """`value` as portable JSON: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {key: plain_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, with NaN where a number was not finite.

    If a crash cut the last line short, it is left out.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows.append({k: math.nan if v is None else v for k, v in row.items()})
        except ValueError:
            break
    return rows


def _append(path: Path, row: dict[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(plain_json(row)) + "\n")
    except OSError as error:
        raise explain_write_error(error, path) from error
