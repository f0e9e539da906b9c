"""A training run on disk: read its weights, settings and logs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.train import log
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunLog:
    """One log of a run, with one line per step."""

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        return log.read_log(self.path)

    def to_pandas(self) -> pd.DataFrame:
        """The log as a table: one row per step, one column per number."""
        import pandas as pd

        return pd.DataFrame(self.rows())


@dataclass(frozen=True)
class Run:
    """The folder of a run, as `realdpo.train` wrote it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        """The folder that diffusers loads: LoRA weights, or a transformer."""
        found = self.folder / "weights"
        if not found.is_dir():
            raise UserError(f"{self.folder} has no weights yet", "let the run finish first")
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of the run."""
        from realdpo.config import load_toml

        return dict(load_toml(self.folder / "config.toml")["train"])

    @property
    def model(self) -> str:
        """The model that was trained: `tiny`, a folder or a Hub id."""
        return str(self.config["model"])

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The numbers that `realdpo train` prints: steps, seconds per step, held-out figures."""
        try:
            return dict(json.loads((self.folder / "summary.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"{self.folder} has no summary yet", "let the run finish first"
            ) from None

    @property
    def log(self) -> RunLog:
        """The numbers of every step: `run.log.to_pandas()`."""
        return RunLog(self.folder / "log.jsonl")

    @property
    def held_out(self) -> RunLog:
        """The numbers of every measurement on held-out pairs or clips."""
        return RunLog(self.folder / "held_out.jsonl")


def weights_of(workspace: Workspace, start: str) -> Path:
    """The folder of weights that `start` names: a run of the workspace, or a folder of weights.

    Raises UserError if there is none.
    """
    folder = Path(start).expanduser()
    if (workspace.runs / start).is_dir():
        return Run(workspace.runs / start).weights
    if (folder / "weights").is_dir():
        return folder / "weights"
    if folder.is_dir():
        return folder
    known = sorted(p.name for p in workspace.runs.glob("*") if (p / "weights").is_dir())
    raise UserError(
        f"start = {start} is neither a run nor a folder",
        f"runs with weights: {', '.join(known) or 'none'}",
    )


def held_out_lines(before: Mapping[str, Any], after: Mapping[str, Any], by: str) -> list[str]:
    """Lines for a terminal: how held-out clips or pairs changed in training.

    by: the rule by which they were held out.
    """
    # The summary of a run that diverged has null where a number was not finite.
    before, after = (
        {name: math.nan if value is None else value for name, value in part.items()}
        for part in (before, after)
    )
    lines = [f"held out   {after['pairs']} {'pairs' if 'accuracy' in after else 'clips'} by {by}"]
    if "accuracy" in after:
        lines.append(
            f"accuracy   {before['accuracy']:.3f} -> {after['accuracy']:.3f} against the base model"
        )
    lines.append(
        f"real clips error {before['winner_error']:.5f} -> {after['winner_error']:.5f} "
        f"({after['winner_change']:+.2%})"
    )
    if "contrast" in after:
        lines.append(
            f"contrast   {before['contrast']:.5f} -> {after['contrast']:.5f}: what training lowers"
        )
    if "control_accuracy" in after:
        lines.append(
            f"control    {after['control_accuracy']:.3f} accuracy with losers of other prompts: "
            "how much is won without the prompt"
        )
    return lines
