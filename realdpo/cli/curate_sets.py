"""`realdpo curate dedup | merge`: this set beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.curate import app


@app.command(
    epilog="Examples: realdpo curate dedup -w work --against benchmarks/ucf | "
    "realdpo curate dedup -w work --against ../release-1"
)
def dedup(
    workspace: options.Workspace,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another workspace, Parquet files with a video column, or videos; repeatable."
        ),
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Name of a set that was added; repeatable.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local, serial or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Address of a running Ray cluster.")] = "",
    workers: Annotated[int, typer.Option(help="Processes; as many as cores by default.")] = 0,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Find near-duplicates within the set and of other sets, and drop them.

    The fingerprints of other sets stay in the workspace: `decide` and `ingest` heed them too.
    """
    with cli.guard_command(json_):
        from realdpo.curate import against as sets
        from realdpo.curate import decide as room
        from realdpo.curate import dedup_blocks
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        place.require(place.clips, "curate ingest FOOTAGE")
        where = dedup_blocks.Where(engine, workers, address)
        if not dry_run:
            with place.lock("curate dedup"):
                for name in forget or ():
                    sets.forget_set(place, name)
                for other in against or ():
                    sets.add_set(place, other, where=where)
                overrides = {**room.asked_of_ingest(place), **room.stored_thresholds(place)}
                dedup_blocks.find_duplicates(place.clips, place.step("dedup"), where=where)
                result = room.decide_workspace(place, overrides)
        else:
            result = {}
        listed = {known.name: known.fingerprints for known in sets.list_sets(place)}
        told = {
            "clips": result.get("clips"),
            "kept": result.get("kept"),
            "kept_before": result.get("kept_before"),
            "duplicates": result.get("dropped", {}).get("duplicate", 0),
            "known_elsewhere": result.get("dropped", {}).get("known", 0),
            "sets": listed,
        }
        if json_:
            cli.print_json(told)
            return
        for name, count in listed.items():
            print(f"against {name}: {count} fingerprints")
        if dry_run:
            added = ", ".join(str(path) for path in against or ()) or "no other set"
            print(f"would compare with {added} besides; nothing was read")
            return
        print(
            f"{told['duplicates']} clips are copies of others here, {told['known_elsewhere']} show "
            f"footage of another set; kept {told['kept']} of {told['clips']} "
            f"(before: {told['kept_before']})"
        )


@app.command(epilog="Example: realdpo curate merge machine-1 machine-2 machine-3 -w all")
def merge(
    workspace: options.Workspace,
    given: Annotated[
        list[Path], typer.Argument(metavar="WORKSPACE...", help="Two workspaces or more.")
    ],
    engine: Annotated[str, typer.Option(help="Where it runs: local, serial or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Address of a running Ray cluster.")] = "",
    workers: Annotated[int, typer.Option(help="Processes; as many as cores by default.")] = 0,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Make one workspace of several: duplicates across them, one split, nothing lost.

    Captions, scores, licences and caches are kept; what the workspaces tell differently is
    settled by rules and said. The given workspaces stay as they are.
    """
    with cli.guard_command(json_):
        from realdpo.curate import merge as room
        from realdpo.curate.dedup_blocks import Where
        from realdpo.workspace import Workspace

        parts, place = [Workspace(path) for path in given], Workspace(workspace)
        if dry_run:
            room.check_mergeable(parts, place)
            rows = {str(part.root): tables_rows(part.clips) for part in parts}
            if json_:
                cli.print_json({"clips": rows})
            else:
                for name, count in rows.items():
                    print(f"{name}: {count} clips")
                print("nothing was written")
            return
        result = room.merge_workspaces(parts, place, Where(engine, workers, address))
        if json_:
            cli.print_json(result)
        else:
            print(room.describe_merge(result))


def tables_rows(path: Path) -> int:
    """Rows of a table, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
