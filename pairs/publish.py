"""From rows of pairs to the published tables: pairs.parquet, the shards, the audit.

The same rows give the same bytes, and files that are up to date are not written again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from realdpo import ids, integrity, tables
from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.pairs import audit
from realdpo.progress import say
from realdpo.rows import PairRow
from realdpo.workspace import Workspace

_SHARD_BYTES = 512 << 20


def publish_pairs(workspace: Workspace, rows: Sequence[PairRow], shard_rows: int) -> dict[str, Any]:
    """Write the pairs table, its shards and its audit. Returns the summary.

    If rows and videos are those of the last time, nothing is measured or written again. Raises
    UserError if no pair was accepted. The table then says why.
    """
    accepted = [row for row in rows if row["status"] == "ok"]
    state = workspace.step("pairs") / "published.json"
    now = digest_of(rows, shard_rows)
    known = _read_json(state)
    there = workspace.pairs.is_file() and workspace.audit.is_file()
    fresh = known.get("digest") != now or not (
        there and all(_same_size(workspace, n, k) for n, k in known.get("shards", {}).items())
    )
    if not accepted and workspace.pairs.is_file() and not any(row.get("review") for row in rows):
        raise UserError(
            f"{len(rows)} clips gave no pair: {_reason_of(rows)}. The earlier pairs stay",
            _way_out(rows),
        )
    if fresh:
        _say_what_goes(workspace, accepted)
        measured = audit.measure_rows(workspace, accepted)
        full = [
            cast(PairRow, {**row, **audit.audit_columns(row, measured)})  # with further columns
            for row in rows
        ]
        tables.write_table(workspace.pairs, tables.from_rows(tables.PAIRS, full), tables.PAIRS)
        shards = write_shards(
            workspace,
            [row for row in full if row["status"] == "ok"],
            shard_rows,
            known.get("shards", {}),
        )
        if accepted:
            audit.audit_rows(workspace, accepted, measured)
        else:
            workspace.audit.unlink(missing_ok=True)  # it was about pairs that no longer exist
        write_text(state, json.dumps({"digest": now, "shards": shards}, indent=1))
    if not accepted:
        raise UserError(f"{len(rows)} clips gave no pair: {_reason_of(rows)}", _way_out(rows))
    verdict = _read_json(workspace.audit)
    count: dict[str, int] = {}
    for row in rows:
        count[row["status"]] = count.get(row["status"], 0) + 1
    return {
        "pairs": len(rows),
        "by_status": count,
        "losers": sum(len(row["lose"]) for row in accepted),
        "shards": len(_read_json(state)["shards"]),
        "verdict": verdict["verdict"],
        "auc": verdict["auc"],
        "failed": [
            f"{row['clip_id']} {row['status']}: {row['error']}"
            for row in rows
            if row["status"] in ("failed", "broken")
        ],
    }


def published_digest(workspace: Workspace) -> str | None:
    """The digest that determines the last publication, or None before the first."""
    return _read_json(workspace.step("pairs") / "published.json").get("digest")


def _say_what_goes(workspace: Workspace, accepted: Sequence[PairRow]) -> None:
    """Say which pairs of the table on disk are not part of this build. Their videos stay."""
    if not workspace.pairs.is_file():
        return
    table = tables.read_table(workspace.pairs, tables.PAIRS, ["pair_id", "status", "review"])
    before = {r["pair_id"] for r in table.to_pylist() if r["status"] == "ok"}
    if gone := before - {row["pair_id"] for row in accepted}:
        say(
            f"{len(gone)} of {len(before)} pairs leave the table, because they are not part of "
            "this build (other clips, settings or reviews). Their videos stay, and the earlier "
            "settings bring them back"
        )


def _way_out(rows: Sequence[PairRow]) -> str:
    again = "run the same command to try the failed ones again"
    broken = any(row["status"] == "broken" for row in rows)
    return f"use --keep-broken to accept broken videos, or {again}" if broken else again


def _reason_of(rows: Sequence[PairRow]) -> str:
    return min((row["error"] for row in rows if row["error"]), default="all were rejected")


def digest_of(rows: Sequence[PairRow], shard_rows: int) -> str:
    """The digest that determines everything published. Generation times are not part of it."""
    untimed = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return ids.content_id(rows=untimed, shard_rows=shard_rows, measures=audit.MEASURES)


def write_shards(
    workspace: Workspace, rows: Sequence[PairRow], shard_rows: int, before: dict[str, Any]
) -> dict[str, Any]:
    """Write the accepted rows with their videos as pairs/data/<split>-*.parquet.

    before: the result of the last call, a digest of the rows and the size of every shard. A shard
    with unchanged rows stays, and shards that are no longer needed are deleted.
    """
    folder = workspace.pair_data
    after: dict[str, Any] = {}
    for split in sorted({row["split"] for row in rows}):
        groups = _groups(workspace, [r for r in rows if r["split"] == split], shard_rows)
        for k, group in enumerate(groups):
            name = f"{split}-{k:05d}-of-{len(groups):05d}.parquet"
            digest = ids.content_id(rows=[_fixed(row) for row in group])
            known = before.get(name, {})
            if known.get("digest") != digest or not _same_size(workspace, name, known):
                table = tables.from_rows(tables.PAIR_SHARD, [_filled(workspace, r) for r in group])
                tables.write_table(folder / name, table, tables.PAIR_SHARD, row_group_size=16)
            after[name] = {"digest": digest, "bytes": (folder / name).stat().st_size}
    for path in folder.glob("*.parquet"):
        if path.name not in after:
            path.unlink()
    return after


def _same_size(workspace: Workspace, name: str, known: dict[str, Any]) -> bool:
    path = workspace.pair_data / name
    return path.is_file() and path.stat().st_size == known.get("bytes")


def _groups(workspace: Workspace, rows: list[PairRow], shard_rows: int) -> list[list[PairRow]]:
    """Rows in shards of at most `shard_rows` rows and about half a GiB."""
    sizes = {}
    with contextlib.suppress(FileNotFoundError):
        sizes = {e.name: e.stat().st_size for e in os.scandir(workspace.pair_videos)}
    groups: list[list[PairRow]] = [[]]
    weight = 0
    for row in rows:
        size = sum(sizes.get(name, 0) for name in [row["win"], *row["lose"]])
        if groups[-1] and (len(groups[-1]) >= shard_rows or weight + size > _SHARD_BYTES):
            groups.append([])
            weight = 0
        groups[-1].append(row)
        weight += size
    return groups


def _fixed(row: PairRow) -> dict[str, Any]:
    """The part of a row that goes into a shard.

    Generation times differ between runs and stay out.
    """
    return {k: v for k, v in row.items() if k not in ("seconds", "status", "error")}


def _filled(workspace: Workspace, row: PairRow) -> dict[str, Any]:
    def media(name: str | None) -> dict[str, Any] | None:
        if name is None:
            return None
        return {"bytes": integrity.read_pair_file(workspace, name), "path": name}

    shown = _fixed(row)
    return {
        **shown,
        "win": media(row["win"]),
        "lose": [media(name) for name in row["lose"]],
        "first_frame": media(row.get("first_frame")),
    }


def reviews_path(workspace: Workspace) -> Path:
    return workspace.step("pairs") / "reviews.json"


def apply_review(workspace: Workspace, file: Path) -> dict[str, str]:
    """Add the choices from a file of the page of `pairs report`. Returns all choices by pair.

    A later choice replaces an earlier one. Raises UserError if the file does not hold choices.
    """
    try:
        choices = json.loads(file.read_text(encoding="utf-8"))["choices"]
        given = {str(pair): str(choice) for pair, choice in choices.items()}
    except FileNotFoundError:
        raise UserError(
            f"there is no file {file}", "download the choices in the report page"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{file} does not hold choices", "download the choices in the report page"
        ) from None
    if strange := sorted(set(given.values()) - {"accept", "reject", "flag"}):
        raise UserError(f"{file}: a choice must be accept, reject or flag, not {strange[0]!r}")
    workspace.require(workspace.pairs, "pairs build")
    there = tables.read_table(workspace.pairs, tables.PAIRS, ["pair_id"])["pair_id"].to_pylist()
    if unknown := sorted(given.keys() - set(there)):
        raise UserError(
            f"{file}: {len(unknown)} of {len(given)} choices are about pairs that "
            f"{workspace.pairs} does not hold, such as {unknown[0]}",
            "download the choices from a report of these pairs",
        )
    merged = {**read_reviews(workspace), **given}
    write_text(reviews_path(workspace), json.dumps(merged, indent=1, sort_keys=True))
    return merged


def read_reviews(workspace: Workspace) -> dict[str, str]:
    """The choices of people, by pair id."""
    return _read_json(reviews_path(workspace))


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if the file is missing or was cut off."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}
