"""Prompts that came with the footage: a file beside a film, a table above it, a list, a manifest.

Read are the layouts that people have:

    a.mp4, a.txt | a.caption | a.json        a file beside the film
    videos/a.mp4, labels/a.txt               CogVideoX's first training code; also captions/a.txt
    metadata.jsonl | .csv | .parquet         a table at any level above its films (VideoFolder),
                                             found by `file_name`; also captions.csv, .jsonl
    prompt.txt, videos.txt                   two lists, line by line (finetrainers, CogVideoX)

A film, or a span of it, may have several captions: a clip gets one of them, always the same.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from realdpo import ids
from realdpo.errors import UserError

FIELDS = ("caption", "prompt", "text", "captions", "prompts")
"""Columns in which a caption is looked for; the first that says something counts.

A `description` is one in a file of the film's own only: in the tables of archives it tells who
filmed what for whom.
"""
FILE_FIELDS = (
    *("file_name", "path", "video", "video_path", "file", "file_path", "filename"),
    *("media_path", "video_file", "videos", "video_name"),
)
"""Columns that name a film, relative to the table's folder."""
ID_FIELDS = ("videoid", "video_id", "videoID", "id")
"""Columns that name a film without its ending, where no other does."""
TABLES = tuple(
    f"{stem}.{kind}" for stem in ("captions", "metadata") for kind in ("csv", "jsonl", "parquet")
)
LISTS = ("prompt.txt", "prompts.txt", "captions.txt", "caption.txt")
FILM_LISTS = ("videos.txt", "video.txt")
TIMES = ("timestamp", "timestamps", "spans", "segments")
STARTS = ("start", "start_time", "start_s", "start_sec", "begin")
ENDS = ("end", "end_time", "end_s", "end_sec", "stop")
SPAN_FIELDS = (*TIMES, *STARTS, *ENDS)
_NUMBERED = re.compile(r"(?:caption|prompt|text)_?\d+")


@dataclass(frozen=True)
class PromptSpan:
    """A part of a film that is to become clips, in seconds; `end` None is the film's end."""

    start: Fraction
    end: Fraction | None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """What was said about one film. origin: the kind of file that said it, for people to read.

    words: the other columns of a table's row. unread: rows about the film that make no sense, as
    sentences.
    """

    captions: tuple[str, ...] = ()
    spans: tuple[PromptSpan, ...] = ()
    origin: str = ""
    words: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def joined(self, other: Said) -> Said:
        """Both together: captions and spans of both, words of this one first."""
        return Said(
            tuple(dict.fromkeys((*self.captions, *other.captions))),
            merge_spans((*self.spans, *other.spans)),
            self.origin if self.captions or self.spans else other.origin,
            {**other.words, **{k: v for k, v in self.words.items() if v not in (None, "")}},
            (*self.unread, *other.unread),
        )


def merge_spans(spans: Iterable[PromptSpan]) -> tuple[PromptSpan, ...]:
    """Each span once, with all the captions that it has."""
    found: dict[tuple[Fraction, Fraction | None], tuple[str, ...]] = {}
    for span in spans:
        before = found.get((span.start, span.end), ())
        found[span.start, span.end] = tuple(dict.fromkeys((*before, *span.captions)))
    return tuple(PromptSpan(start, end, texts) for (start, end), texts in found.items())


def read_row(row: Mapping[str, Any], origin: str = "") -> Said:
    """Captions and spans of a table's row.

    Captions are texts or lists of texts. Spans are [start, end] or a list of them under
    `timestamp`, or `start` and `end`; several spans may have as many captions, in their order.
    Raises UserError for times that cannot be understood.
    """
    texts = _captions(row)
    if "clip_id" in row:  # of ours: start and end are places in the film it was cut from
        return Said(texts, (), origin, row)
    spans = _spans(row)
    if len(spans) < 2 or len(texts) < 2:
        return Said(texts, tuple(PromptSpan(a, b, texts) for a, b in spans), origin, row)
    if len(spans) != len(texts):
        raise UserError(
            f"{len(spans)} spans and {len(texts)} captions; there must be one caption for each span"
        )
    each = zip(spans, texts, strict=True)
    return Said(texts, tuple(PromptSpan(a, b, (text,)) for (a, b), text in each), origin, row)


def columns_read(names: Iterable[str]) -> set[str]:
    """Which of a table's columns can say a caption, a span, or which film is meant."""
    known = {*FIELDS, *FILE_FIELDS, *ID_FIELDS, *SPAN_FIELDS}
    return {name for name in names if name in known or _NUMBERED.fullmatch(name)}


def choose_caption(clip_id: str, captions: Sequence[str]) -> str | None:
    """The caption of a clip among several: by its id, so always the same; None without any."""
    if not captions:
        return None
    return captions[int(ids.unit_interval("caption", clip_id) * len(captions))]


def of_clip(clip: Mapping[str, Any], source: Mapping[str, Any]) -> str | None:
    """The prompt that came with a clip's source, by the columns of the two tables, or None."""
    spans = source.get("spans") or []
    shot = clip.get("shot")
    own = spans[shot]["captions"] if spans and shot is not None and shot < len(spans) else None
    return choose_caption(clip["clip_id"], own or source.get("captions") or ())


class Layout:
    """What stands beside and above a set of films, each table and list read once.

    also_read: columns that the caller understands. unused: those that say nothing to anybody, by
    the table's path.
    """

    def __init__(
        self, films: Iterable[str | Path] = (), also_read: frozenset[str] = frozenset()
    ) -> None:
        self.unused: dict[str, list[str]] = {}
        self._films = [Path(film) for film in films]
        self._also_read = also_read
        self._names: dict[Path, Counter[str]] = {}
        self._tables: dict[Path, _Table | UserError] = {}

    def find(self, film: str | Path) -> Said | None:
        """What is said about a film; None when nothing is.

        Captions are the nearest file's, and a file of the film's own wins over a table; other
        columns are taken of every table. Raises UserError when a file cannot be read, is not
        UTF-8, or the film's only row makes no sense.
        """
        film = Path(os.path.abspath(film))
        result = _beside(film)
        for level, folder in enumerate(film.parents):
            for name in _tables_in(folder, _changed(folder)):
                table = self._table(folder / name)
                said = _row_of(table, film, folder, self._alone(film, folder, level))
                if said is None:
                    continue
                if unused := sorted(table.columns - self._also_read):
                    self.unused[str(folder / name)] = unused
                if result is None:
                    result = said
                elif result.captions or result.spans:
                    result = replace(result, words={**said.words, **result.words})
                else:
                    result = said.joined(result)
        return result

    def _table(self, path: Path) -> _Table:
        if path not in self._tables:
            try:
                self._tables[path] = _table(path, _changed(path))
            except UserError as error:
                self._tables[path] = error
        found = self._tables[path]
        if isinstance(found, UserError):
            raise UserError(found.message, found.hint)
        return found

    def _alone(self, film: Path, folder: Path, level: int) -> bool:
        """Whether a bare name in a table of `folder` can mean this film only."""
        if level == 0:
            return True
        if level > 2:  # so far above, a table speaks of other films
            return False
        if folder not in self._names:
            under = (other for other in self._films if folder in other.parents)
            self._names[folder] = Counter(other.name for other in under)
        return self._names[folder][film.name] == 1


def find_prompt(film: str | Path) -> Said | None:
    """`Layout.find` for one film."""
    return Layout([film]).find(film)


# -- beside a film -----------------------------------------------------------------------------------


def _beside(film: Path) -> Said | None:
    for base in (film.with_suffix(""), film):
        for suffix in (".caption", ".txt"):
            path = base.with_name(base.name + suffix)
            if path.is_file() and (text := _text(path).strip()):
                return Said((text,), origin=f"{suffix} files")
        path = base.with_name(base.name + ".json")
        if path.is_file():
            row = _json(path, _text(path))
            if isinstance(row, dict) and (said := _captions(row) or _texts(row.get("description"))):
                return Said(said, origin=".json files")
    for name in ("labels", "captions"):
        path = film.parent.with_name(name) / f"{film.stem}.txt"
        if film.parent.name and path.is_file() and (text := _text(path).strip()):
            return Said((text,), origin=f"{name}/")
    return None


# -- tables and lists --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    by_place: dict[str, Said]
    by_name: dict[str, list[str]]  # last part of a place, with and without its ending
    columns: set[str]  # that are no caption, no time and no film's name


def _row_of(table: _Table, film: Path, folder: Path, alone: bool) -> Said | None:
    inside = film.relative_to(folder).as_posix()
    keys = [inside, str(film), os.path.splitext(inside)[0]]
    for name in (film.name, film.stem) if alone else ():
        found = table.by_name.get(name, [])
        keys += found if len(found) == 1 else []
    said = next((table.by_place[key] for key in keys if key in table.by_place), None)
    if said is not None and said.unread and not said.spans:
        raise UserError(said.unread[0])  # other rows' spans would be cut without this one
    return said


@lru_cache(maxsize=4096)
def _tables_in(folder: Path, changed: int) -> tuple[str, ...]:
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError:
        return ()
    lists = next((name for name in LISTS if name in names), None)
    found = [name for name in TABLES if name in names]
    if lists and any(name in names for name in FILM_LISTS):
        found.append(lists)
    return tuple(found)


@lru_cache(maxsize=256)
def _table(path: Path, changed: int) -> _Table:
    # `changed` is in the signature so that an edited file is read again.
    if path.name in LISTS:
        return _index(_paired(path), set())
    rows: list[tuple[str, Said]] = []
    names: set[str] = set()
    for number, row in enumerate(read_prompt_table(path), 1):
        if not isinstance(row, Mapping):
            continue
        names |= {str(name) for name in row if name}
        place = next((row[f] for f in FILE_FIELDS if isinstance(row.get(f), str) and row[f]), None)
        place = place or next((str(row[f]) for f in ID_FIELDS if row.get(f)), None)
        if not place:
            continue
        try:
            rows.append((place, read_row(row, path.name)))
        except UserError as error:
            what = f"{path}, row {number}: {error.message}"
            rows.append((place, Said(origin=path.name, unread=(what,))))
    return _index(rows, names - columns_read(names))


def _index(rows: Iterable[tuple[str, Said]], columns: set[str]) -> _Table:
    by_place: dict[str, Said] = {}
    for place, said in rows:
        key = os.path.normpath(place.replace("\\", "/"))
        earlier = by_place.get(key)
        by_place[key] = earlier.joined(said) if earlier else said
    by_name: dict[str, list[str]] = {}
    for key in by_place:
        name = key.rpartition("/")[2]
        for short in {name, os.path.splitext(name)[0]}:
            by_name.setdefault(short, []).append(key)
    return _Table(by_place, by_name, columns)


def _paired(prompts: Path) -> list[tuple[str, Said]]:
    films = next(p for name in FILM_LISTS if (p := prompts.with_name(name)).is_file())
    texts, places = _lines(prompts), _lines(films)
    if len(texts) != len(places):
        raise UserError(
            f"{prompts} has {len(texts)} lines and {films.name} has {len(places)}",
            "give both files one line for each film, in the same order",
        )
    pairs = zip(places, texts, strict=True)
    return [(place, Said((text,), origin=prompts.name)) for place, text in pairs if text]


def _lines(path: Path) -> list[str]:
    """All lines but empty ones at the end: an empty one between two keeps its place."""
    return [line.strip() for line in _text(path).rstrip().split("\n")]


def read_prompt_table(path: Path) -> Iterator[Any]:
    """Rows of a CSV, TSV, JSONL, JSON or Parquet file. Raises UserError when it is none."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            file = pq.ParquetFile(path)
            plain = [name for name in file.schema_arrow.names if not _is_media(file, name)]
            for batch in file.iter_batches(columns=plain):
                yield from batch.to_pylist()
            return
        if kind == ".json":
            document = _json(path, _text(path))
            if not isinstance(document, list):
                raise UserError(
                    f"{path} is not a list of rows", 'write a list such as [{"path": "a.mp4"}]'
                )
            yield from document
            return
        is_csv = kind in (".csv", ".tsv")
        # Not by splitlines, which also breaks at characters that JSON text may hold.
        with open(path, encoding="utf-8-sig", newline="" if is_csv else "\n") as handle:
            if is_csv:
                yield from csv.DictReader(handle, delimiter="\t" if kind == ".tsv" else ",")
                return
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield _json(f"{path}, line {number}", line)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read: {reason}") from error


def _is_media(file: Any, name: str) -> bool:
    """Bytes of pictures and films are not read to find a caption."""
    import pyarrow as pa

    kind = file.schema_arrow.field(name).type
    holds: bool = (
        pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    )
    return holds


# -- captions and times ------------------------------------------------------------------------------


def _captions(row: Mapping[str, Any]) -> tuple[str, ...]:
    for name in FIELDS:
        if texts := _texts(row.get(name)):
            return texts
    numbered = sorted(name for name in row if name and _NUMBERED.fullmatch(str(name)))
    return tuple(dict.fromkeys(text for name in numbered for text in _texts(row[name])))


def _texts(value: Any) -> tuple[str, ...]:
    """Texts of a cell: one, a list of them, or a list written as text."""
    value = _literal(value)
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, (list, tuple)):
        return tuple(text for item in value for text in _texts(item))
    return ()


def _literal(value: Any) -> Any:
    """A list that a table holds as text, such as "['a', 'b']" or "[[0, 1.5]]"; else the value."""
    if not isinstance(value, str) or not re.fullmatch(r"\s*[\[(].*[\])]\s*", value, re.S):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, (list, tuple)):
            return list(found)
    return value


def _spans(row: Mapping[str, Any]) -> list[tuple[Fraction, Fraction | None]]:
    for name in TIMES:
        value = _literal(row.get(name))
        if value is None or value == "" or value == [] or value != value:
            continue
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name} {value!r} is not a span", "write [0, 2.5] or a list of these")
        pairs = [value] if not isinstance(value[0], (list, tuple)) else value
        return [_span(pair, name) for pair in pairs]
    start, end = (
        next((row[n] for n in names if _given(row.get(n))), None) for names in (STARTS, ENDS)
    )
    if start is None and end is None:
        return []
    return [_span((0 if start is None else start, end), "start, end")]


def _given(value: Any) -> bool:
    return value is not None and value == value and value != ""


def _span(pair: Any, name: str) -> tuple[Fraction, Fraction | None]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise UserError(f"{name} {pair!r} is not a span", "give a start and an end in seconds")
    start, end = (None if part is None else parse_seconds(part) for part in pair)
    start = start or Fraction(0)
    if start < 0 or (end is not None and end <= start):
        raise UserError(f"{name} {pair!r} is not a span: it ends before it begins")
    return start, end


def parse_seconds(value: Any) -> Fraction:
    """A time as seconds: a number, "12.5", "12.5s", "3/2", "1:02", "0:01:02.500".

    Raises UserError for anything else.
    """
    text = str(value).strip().lower().removesuffix("s").strip().replace(",", ".")
    parts = text.split(":")
    try:
        if len(parts) > 3 or not all(parts):
            raise ValueError
        numbers = [Fraction(part) for part in parts]
        total = sum((n * 60**k for k, n in enumerate(reversed(numbers))), Fraction(0))
        return total.limit_denominator(1_000_000)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{value!r} is not a time", "write seconds, or h:mm:ss.fff") from None


# -- files -------------------------------------------------------------------------------------------


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _json(where: object, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        said = getattr(error, "msg", str(error))
        raise UserError(f"{where} is not JSON: {said}") from None
