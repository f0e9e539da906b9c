"""Captions that a person wrote or mended: out to CSV, in from CSV, and above every captioner.

They live in `captions/edits.csv` of the workspace, not among the steps, since no run can make
them again. An edit is found by its clip, or, when other encode settings gave the clip another
id, by the same stretch of the same source.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.workspace import Workspace

FIELDS = ("clip_id", "source_id", "start", "end", "prompt")
EXPORTED = (
    "clip_id",
    "prompt",
    "captioner",
    "caption_status",
    "path",
    "title",
    "start",
    "end",
    "source_id",
    "caption_raw",
)
Row = Mapping[str, Any]


def edits_path(ws: Workspace) -> Path:
    return ws.root / "captions" / "edits.csv"


def load_edits(ws: Workspace) -> dict[str, str]:
    """Prompts by clip id and by stretch of source (see `find_edit`)."""
    if not edits_path(ws).is_file():
        return {}
    found: dict[str, str] = {}
    for row in _read(edits_path(ws)):
        found[row["clip_id"]] = row["prompt"]
        if row.get("source_id") and row.get("start") and row.get("end"):
            found[_stretch(row)] = row["prompt"]
    return found


def find_edit(edits: Mapping[str, str], row: Row) -> str | None:
    """The edited prompt of a clip row, or None."""
    return edits.get(row["clip_id"]) or edits.get(_stretch(row))


def take_in_edits(ws: Workspace, file: Path, rows: Sequence[Row]) -> tuple[int, int]:
    """Keep the prompts of `file` that differ from the clips' own; they win from now on.

    `file` is a CSV with `clip_id` (or `edits_path`) and `prompt` (or `caption`); other columns are
    passed over. A row left empty is no edit. Returns (edits taken, rows that changed nothing).
    Raises UserError for a column that is missing or a clip that is not in the workspace.
    """
    by_id = {row["clip_id"]: row for row in rows}
    by_name = {Path(row["path"]).name: row for row in rows if row.get("path")}
    taken: dict[str, dict[str, str]] = {}
    same = 0
    for number, given in enumerate(_read(file), start=2):
        clip_id, name = given.get("clip_id") or "", Path(given.get("path") or "").name
        row = by_id.get(clip_id) or by_name.get(name)
        if row is None:
            raise UserError(
                f"{file}, line {number}: no clip {clip_id or name or '(no id)'} in {ws.root}",
                "export the captions again with: realdpo curate caption --export captions.csv",
            )
        prompt = " ".join((given.get("prompt") or given.get("caption") or "").split())
        if not prompt or prompt == row.get("prompt"):
            same += 1
            continue
        taken[row["clip_id"]] = {**{f: str(row[f]) for f in FIELDS[:-1]}, "prompt": prompt}
    if taken:
        kept = (
            {row["clip_id"]: row for row in _read(edits_path(ws))}
            if edits_path(ws).is_file()
            else {}
        )
        _write(edits_path(ws), FIELDS, {**kept, **taken}.values())
    return len(taken), same


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of an edits file as they stand. Raises UserError when it cannot be read."""
    return _read(file)


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write an edits file."""
    _write(file, FIELDS, rows)


def give_out(file: Path, rows: Iterable[Row]) -> int:
    """Write the clips' captions to a CSV that a person can edit and `take_in_edits` reads."""
    rows = list(rows)
    _write(file, EXPORTED, rows)
    return len(rows)


def _stretch(row: Row) -> str:
    # Lowest terms, so that "24/12" and "2/1" are the same time.
    return f"{row['source_id']} {Fraction(row['start'])} {Fraction(row['end'])}"


def _read(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text", "save it as CSV in UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    first = text.split("\n", 1)[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","  # as some spreadsheets save
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = set(reader.fieldnames or ())
    if not names & {"clip_id", "path"} or not names & {"prompt", "caption"}:
        raise UserError(
            f"{file} needs the columns clip_id and prompt, but has {', '.join(sorted(names))}",
            "start from a file that this writes: realdpo curate caption --export captions.csv",
        )
    return [{k: v or "" for k, v in row.items() if k} for row in reader]


def _write(file: Path, fields: Sequence[str], rows: Iterable[Row]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, buffer.getvalue())
