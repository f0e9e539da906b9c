"""Settings of `realdpo push-hub`."""

from __future__ import annotations

from typing import Literal

from realdpo.config import settings
from realdpo.errors import UserError


@settings
class PushConfig:
    """What to push and how.

    what: what to publish: clips, pairs, model, or all that the workspace has. private: make a new
    repository private. revision: branch to push to; it is created if needed. pr: open a pull
    request instead. run: training run whose weights are published, if there are several. dataset:
    dataset that the model card names as training data; the one pushed to when empty.
    allow_unlicensed: publish although licences are missing or forbid it; the card says so.
    allow_shortcut: publish pairs although the audit found a shortcut; the card says so. workers:
    files that are sent at a time. samples: videos of each configuration to read back and compare.
    """

    what: Literal["clips", "pairs", "model", "all"] = "all"
    private: bool = False
    revision: str = ""
    pr: bool = False
    run: str = ""
    dataset: str = ""
    allow_unlicensed: bool = False
    allow_shortcut: bool = False
    workers: int = 4
    samples: int = 8

    def __post_init__(self) -> None:
        if self.pr and self.revision:
            raise UserError(
                "you cannot use --pr and --revision together",
                "a pull request always goes to main: leave out --revision",
            )
        if self.workers < 1 or self.samples < 1:
            raise UserError("workers and samples must be at least 1")
