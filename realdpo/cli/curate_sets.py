"""`realdpo curate dedup | merge`: this dataset and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.curate import app


@app.command(
    epilog="Examples: realdpo curate dedup -w work --against benchmarks/ucf | "
    "realdpo curate dedup -w work --against ../release-1"
)
def dedup(
    workspace: options.Workspace = options.WORK,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            help=(
                "Another workspace, Parquet files with a video column, or videos. May be repeated."
            ),
        ),
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Name of a set that was added before. May be repeated.")
    ] = None,
    engine: options.Engine = "local",
    address: options.Address = "",
    workers: options.Workers = 0,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Find near-duplicates within the dataset and of other sets, and drop them.

    The fingerprints of other sets stay in the workspace, and `decide` and `ingest` use them too.
    """
    with cli.guard_command(as_json):
        from realdpo.curate import against, decide, dedup_blocks
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        place.require(place.clips, "curate ingest FOOTAGE")
        where = dedup_blocks.Where(engine, workers, address)
        result: dict[str, Any] = {}
        if not dry_run:
            with place.lock("curate dedup"):
                for name in forget or ():
                    against.forget_set(place, name)
                for other in others or ():
                    against.add_set(place, other, where=where)
                overrides = {**decide.asked_of_ingest(place), **decide.stored_thresholds(place)}
                dedup_blocks.find_duplicates(place.clips, place.step("dedup"), where=where)
                result = decide.decide_workspace(place, overrides)
        listed = {known.name: known.fingerprints for known in against.list_sets(place)}
        dropped = result.get("dropped", {})
        summary = {
            **{name: result.get(name) for name in ("clips", "kept", "kept_before")},
            "duplicates": dropped.get("duplicate", 0),
            "known_elsewhere": dropped.get("known", 0),
            "sets": listed,
        }
        cli.print_result(
            summary, as_json, lambda summary: _dedup_lines(summary, others or (), dry_run)
        )


def _dedup_lines(summary: Mapping[str, Any], others: Sequence[Path], dry_run: bool) -> str:
    lines = [f"against {name}: {count} fingerprints" for name, count in summary["sets"].items()]
    if dry_run:
        added = ", ".join(map(str, others)) or "no other set"
        lines.append(f"would also compare with {added}; nothing was read")
    else:
        lines.append(
            "{duplicates} clips are copies of others here, {known_elsewhere} show footage of "
            "another "
            "set; kept {kept} of {clips} (before: {kept_before})".format(**summary)
        )
    return "\n".join(lines)


@app.command(epilog="Example: realdpo curate merge machine-1 machine-2 machine-3 -w all")
def merge(
    workspaces: Annotated[
        list[Path], typer.Argument(metavar="WORKSPACE...", help="Two workspaces or more.")
    ],
    workspace: options.Workspace = options.WORK,
    engine: options.Engine = "local",
    address: options.Address = "",
    workers: options.Workers = 0,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Merge several workspaces into one, with duplicates found across them and one split.

    Captions, scores, licences and caches are kept. Rules settle differences between the workspaces,
    and realdpo lists them. The given workspaces stay as they are.
    """
    with cli.guard_command(as_json):
        from realdpo.curate.dedup_blocks import Where
        from realdpo.curate.merge import check_mergeable, describe_merge, merge_workspaces
        from realdpo.workspace import Workspace

        parts, place = [Workspace(path) for path in workspaces], Workspace(workspace)
        if dry_run:
            check_mergeable(parts, place)
            rows = {str(part.root): tables_rows(part.clips) for part in parts}
            lines = [f"{name}: {count} clips" for name, count in rows.items()]
            text = "\n".join([*lines, "nothing was written"])
            cli.print_result({"clips": rows}, as_json, lambda _: text)
            return
        result = merge_workspaces(parts, place, Where(engine, workers, address))
        cli.print_result(result, as_json, describe_merge)


def tables_rows(path: Path) -> int:
    """Rows of a table, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
