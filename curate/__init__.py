"""Footage to a dataset: find shots, score, decide, caption, cut and shard.

`ingest` runs the whole way; `apply_thresholds` keeps or drops clips anew by their scores. Scores
and shots of one file need no workspace:
`realdpo.curate.scores.of("clip.mp4")`, `realdpo.curate.shots.of("film.mp4")`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realdpo.curate.config import IngestConfig
    from realdpo.workspace import Workspace

__all__ = ["apply_thresholds", "ingest", "scores", "shots"]


def ingest(
    work: Workspace | str | Path,
    footage: Sequence[str | Path] | str | Path,
    *,
    config: IngestConfig | None = None,
    prune: Callable[[Sequence[str]], bool] | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Bring the workspace to what `footage` and the settings ask for; goes on where it stopped.

    Args:
        work: the workspace, or its folder.
        footage: files, folders, patterns, manifests or addresses.
        config: whole settings, instead of single ones.
        prune: asked with the lines that say what of earlier runs would be removed; nothing is
            removed without it.
        progress: show progress bars on stderr.
        settings: fields of `realdpo.curate.config.IngestConfig`, such as `target` and `caption`.

    Returns:
        The funnel: how many sources and clips there are, and why clips were dropped.

    Raises:
        UserError: footage that is not there, a wrong setting, a workspace in use, a full disk.
    """
    from realdpo.config import build_settings, settings_to_toml
    from realdpo.curate import ingestion
    from realdpo.curate.config import IngestConfig
    from realdpo.progress import show_progress
    from realdpo.workspace import Workspace

    workspace = Workspace.of(work)
    chosen = config or build_settings(IngestConfig, settings, "ingest")
    named = [footage] if isinstance(footage, (str, Path)) else footage
    with show_progress(progress):
        result = ingestion.ingest_footage(
            workspace, [str(name) for name in named], chosen, prune=prune
        )
    workspace.save_config("curate ingest", settings_to_toml("ingest", chosen))
    return result


def apply_thresholds(
    work: Workspace | str | Path,
    thresholds: Mapping[str, Any] | None = None,
    *,
    write: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Keep or drop every clip anew by its stored scores, as `realdpo curate decide` does.

    Nothing is decoded. A clip that is kept and not cut yet is cut by the next `ingest`.

    Args:
        work: the workspace, or its folder.
        thresholds: `<group>.<name>_min` or `_max` -> bound, such as `{"motion.subject_min": 0.1}`;
            "off" removes one. The others are as `ingest` was told, else the defaults.
        write: store the result; otherwise it is only counted.
        progress: show progress bars on stderr.

    Returns:
        Counts: `clips`, `kept`, `kept_before`, `not_cut_yet`, `dropped` by reason, `thresholds`.

    Raises:
        UserError: a workspace without clips, or a threshold that there is not.
    """
    from realdpo.curate import decide
    from realdpo.progress import show_progress
    from realdpo.workspace import Workspace

    workspace = Workspace.of(work)
    with show_progress(progress):
        return decide.apply_overrides(workspace, thresholds or {}, write=write)


def __getattr__(name: str) -> Any:
    if name in ("scores", "shots"):
        return importlib.import_module(f"realdpo.curate.{name}")
    raise AttributeError(f"module 'realdpo.curate' has no attribute {name!r}")
