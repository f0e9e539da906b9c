"""From a dataset to preference pairs: generate a model's own video of every prompt as the loser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realdpo.pairs.config import BuildConfig
    from realdpo.workspace import Workspace

__all__ = ["build"]


def build(
    work: Workspace | str | Path,
    *,
    config: BuildConfig | None = None,
    shard: tuple[int, int] = (1, 1),
    devices: str = "auto",
    engine: str = "local",
    address: str = "",
    apply_review: Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Generate losers for every kept clip and write the pairs. Continues where it stopped.

    Args:
        work: the workspace, or its folder.
        config: whole settings, instead of single ones.
        shard: (i, n) makes the i-th of n parts, counting from 1, for n machines on one folder.
        devices: `auto` for every GPU, or names joined by commas, one worker each.
        engine: `local`, or `ray` for a cluster that shares the folder; address: of the cluster.
        apply_review: the file of choices from the page of `pairs report`. Rejected pairs leave the
            shards.
        progress: show progress bars on stderr.
        settings: fields of `realdpo.pairs.config.BuildConfig`, such as `model` and `losers`.

    Returns:
        The summary: pairs, losers, failures and the audit's verdict.

    Raises:
        UserError: a setting is wrong, the model is missing, or there are no clips.
    """
    from realdpo.config import build_settings
    from realdpo.pairs import building, interchange
    from realdpo.pairs.config import BuildConfig
    from realdpo.pairs.publish import apply_review as take_review
    from realdpo.progress import show_progress
    from realdpo.workspace import Workspace

    workspace = Workspace.of(work)
    chosen = config or build_settings(BuildConfig, settings, "pairs")
    with show_progress(progress):
        if apply_review is not None:
            take_review(workspace, apply_review)
            # Imported pairs have no clips, so there is nothing to generate.
            if interchange.are_imported(workspace):
                return interchange.review_imported(workspace)
        return building.build_pairs(
            workspace, chosen, shard=shard, devices=devices, engine=engine, address=address
        )
