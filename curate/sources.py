"""Where footage comes from: files, folders, globs, manifests and URLs, with their provenance."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from realdpo import licences
from realdpo.curate.caption.prompts import (
    FILE_FIELDS,
    SPAN_FIELDS,
    Layout,
    PromptSpan,
    columns_read,
    merge_spans,
    read_prompt_table,
    read_row,
)
from realdpo.errors import UserError
from realdpo.workspace import FOLDERS, is_workspace

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts"),
        *("wmv", "flv", "3gp", "ogv", "mxf", "vob", "gif"),
    )
)
MANIFESTS = frozenset((".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"))
SPLITS = ("train", "validation", "test")
"""From nearest to farthest from training."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """Footage that may become clips, and what its owner says about it.

    path: a local path, or an fsspec address such as s3://bucket/a.mp4 or https://host/a.mp4.
    sha256, sha1: of the file as the manifest promises it, if it does; sha1 is what archives give,
    and is compared when the file is downloaded. split: the user's wish.
    captions: what its owner says is to be seen, any of them for a clip. spans: the parts that
    are to become clips, instead of its shots. captions_from: what kind of file said so.
    error: why what was said about it cannot be used; prompt_error: the same of its captions.
    unread: rows about it that make no sense, as sentences; its other spans are cut.
    """

    path: str
    license: str | None = None
    author: str | None = None
    source_url: str | None = None
    title: str | None = None
    keywords: tuple[str, ...] = ()
    retrieved_at: str | None = None
    split: str | None = None
    sha256: str | None = None
    sha1: str | None = None
    captions: tuple[str, ...] = ()
    captions_from: str | None = None
    spans: tuple[PromptSpan, ...] = ()
    error: str | None = None
    prompt_error: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def remote(self) -> bool:
        return "://" in self.path

    def provenance(self) -> dict[str, Any]:
        """The provenance columns of the tables."""
        return {
            "license": self.license,
            "author": self.author,
            "source_url": self.source_url or (self.path if self.remote else None),
            "title": self.title,
            "keywords": list(self.keywords),
            "retrieved_at": self.retrieved_at,
            "split": self.split,
            "captions": list(self.captions),
            "captions_from": self.captions_from,
            "spans": [
                {
                    "start": str(span.start),
                    "end": None if span.end is None else str(span.end),
                    "captions": list(span.captions),
                }
                for span in self.spans
            ],
        }


@dataclass
class Notes:
    """What `find_footage` has to tell besides the footage, as sentences, each said once."""

    texts: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)

    def lines(self) -> list[str]:
        counts = [f"passed over {n} {what}" for what, n in sorted(self.passed_over.items())]
        return [*self.texts, *counts]


def find_footage(
    footage: Sequence[str], workspace: Path | None = None, notes: Notes | None = None
) -> list[Candidate]:
    """Every candidate that the arguments name, each once, sorted by path.

    footage: files, folders (searched recursively), globs, URLs, and CSV, TSV, JSONL, JSON or
    Parquet manifests with a column `path` or `url`. Beside a local file, `clip.json` and yt-dlp's
    `clip.info.json` are read, and the captions that `caption.prompts` knows; a manifest's own
    words win. In folders, hidden files are passed over, and what lies in a workspace, that of
    `workspace` or another. A file that is named more than once has the strictest of its licences
    and splits. notes: takes what is to be told.

    Raises UserError when an argument names nothing or a manifest cannot be understood.
    """
    notes = notes if notes is not None else Notes()
    found: dict[str, Candidate] = {}
    for argument in footage:
        candidates = list(_expand(argument, _Walk(workspace, notes)))
        if not candidates:
            raise UserError(
                f"there is no footage in {_one_line(argument)}",
                "in folders, files named .mp4, .mov, .mkv, .webm and the like are looked for; "
                "in manifests, rows with `path` or `url`",
            )
        for candidate in candidates:
            known = found.get(candidate.path)
            found[candidate.path] = _joined(known, candidate, notes) if known else candidate
    layout = Layout([p for p, c in found.items() if not c.remote], also_read=WORDS)
    for path, candidate in found.items():
        if not candidate.remote:
            found[path] = _with_captions(_with_sidecar(candidate), layout)
    for path, candidate in found.items():
        if candidate.unread and not candidate.spans and not candidate.error:
            found[path] = dataclasses.replace(candidate, error=candidate.unread[0])
    if left := [text for c in found.values() if c.spans for text in c.unread]:
        notes.add(
            f"{len(left)} rows of films with other spans make no sense and are left out: "
            + "; ".join(left[:3])
            + (f"; and {len(left) - 3} more" if len(left) > 3 else "")
        )
    for table, columns in layout.unused.items():
        notes.add(f"{table}: columns that are not used: {', '.join(columns)}")
    return [found[path] for path in sorted(found)]


def names_path(footage: Sequence[str], path: str) -> bool:
    """Whether the arguments speak of a local path: itself, a folder around it, or a glob."""
    for argument in footage:
        place = os.path.abspath(os.path.expanduser(argument))
        if path == place or path.startswith(place.rstrip(os.sep) + os.sep):
            return True
        if glob.has_magic(argument) and fnmatch.fnmatch(path, place):
            return True
    return False


def strictest_split(splits: Iterable[str | None]) -> str | None:
    """Of several wishes for one source the one that keeps it farthest from training, or None."""
    wished = [split for split in splits if split]
    return max(wished, key=SPLITS.index, default=None)


def _joined(one: Candidate, two: Candidate, notes: Notes) -> Candidate:
    """Two rows about one path as one: the strictest licence and split, and all captions."""
    path = _one_line(one.path)
    licence = licences.strictest_licence((one.license, two.license))
    if (
        one.license
        and two.license
        and licences.read_licence(one.license) != licences.read_licence(two.license)
    ):
        notes.add(
            f"{path} is named twice, with the licences {one.license} and {two.license}: "
            f"{licence}, the stricter, counts"
        )
    split = strictest_split((one.split, two.split))
    if one.split and two.split and one.split != two.split:
        notes.add(f"{path} is named twice, for {one.split} and {two.split}: {split} counts")
    error = one.error or two.error
    if one.sha256 and two.sha256 and one.sha256.lower() != two.sha256.lower():
        error = f"{path} is named twice, with two sha256"
    filled = {f.name: getattr(one, f.name) or getattr(two, f.name) for f in dataclasses.fields(one)}
    filled |= {"license": licence, "split": split, "error": error}
    filled["captions"] = tuple(dict.fromkeys((*one.captions, *two.captions)))
    filled["spans"] = merge_spans((*one.spans, *two.spans))
    filled["unread"] = (*one.unread, *two.unread)
    return Candidate(**filled)


def sha256_of(path: str) -> str:
    """Hash of a local or remote file's bytes. Raises UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with _open(path) as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    except Exception as error:  # file systems raise whatever their libraries do
        raise UserError(f"{_one_line(path)} cannot be read: {_reason(error)}") from error
    return digest.hexdigest()


def file_stamp(path: str) -> str:
    """What tells cheaply that a file is still the same: size and time of change, or ETag."""
    try:
        if "://" not in path:
            facts = os.stat(path)
            return f"{facts.st_size}-{facts.st_mtime_ns}"
        if path.startswith(("http://", "https://")):
            return "once"  # it was fetched, or will be; the host need not be asked again
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(path)
        info = filesystem.info(inner)
        return "-".join(str(info.get(k)) for k in ("size", "ETag", "mtime", "LastModified"))
    except Exception as error:  # any file system's own error; the row says so when it is read
        return f"unreadable-{type(error).__name__}"


def _expand(argument: str, walk: _Walk) -> Iterator[Candidate]:
    if "://" in argument:
        yield from _remote(argument)
        return
    path = Path(argument).expanduser()
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:  # a name that no file system takes
        reason = error.strerror or type(error).__name__
        raise UserError(f"{_one_line(argument)[:200]}: {reason}", "check the path") from error
    if is_folder:
        yield from (Candidate(file) for file in walk.films(path))
    elif path.suffix.lower() in MANIFESTS and is_file:
        yield from _manifest(path, walk.notes)
    elif exists:
        yield Candidate(os.path.abspath(path))
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(os.path.expanduser(argument), recursive=True))
        if not matches:
            raise UserError(f"nothing matches {argument}", "quote the pattern, check the folder")
        for match in matches:
            yield from _expand(glob.escape(match) if not os.path.exists(match) else match, walk)
    else:
        raise UserError(f"{_one_line(argument)} does not exist", "check the path")


class _Walk:
    """Looks for films under folders, passing over what is hidden and what is a workspace's own."""

    def __init__(self, workspace: Path | None, notes: Notes) -> None:
        self.notes = notes
        self._own = {os.path.abspath(workspace)} if workspace is not None else set()

    def films(self, folder: Path) -> Iterator[str]:
        """Video files under a folder, following links without going in circles."""
        seen: set[tuple[int, int]] = set()
        stack = [os.path.abspath(folder)]
        while stack:
            current = stack.pop()
            try:
                facts = os.stat(current)
                if (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
                entries = sorted(os.scandir(current), key=lambda entry: entry.name)
            except OSError:
                # An unreadable folder becomes a failed row rather than silently missing footage.
                yield current
                continue
            own = current in self._own or is_workspace({entry.name for entry in entries}, current)
            for entry in entries:
                is_film = os.path.splitext(entry.name)[1].lower() in EXTENSIONS
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link that leads back to itself
                    is_folder = False
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    if is_film or is_folder:
                        kind = "folders" if is_folder else "files"
                        self.notes.passed_over[f"hidden {kind}"] += 1
                elif is_folder and own and entry.name in FOLDERS:
                    self.notes.passed_over["folders of a workspace's own results"] += 1
                elif is_folder:
                    stack.append(entry.path)
                elif is_film:
                    yield entry.path


def _remote(argument: str) -> Iterator[Candidate]:
    if argument.startswith(("http://", "https://")):
        yield Candidate(argument)
        return
    try:
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(argument)
        if glob.has_magic(argument):
            inside = filesystem.glob(inner)
        elif filesystem.isdir(inner):
            inside = [p for p in filesystem.find(inner) if Path(p).suffix.lower() in EXTENSIONS]
        else:
            inside = [inner]
    except Exception as error:  # file systems raise whatever their libraries do
        raise UserError(f"{argument} cannot be opened: {_reason(error)}") from error
    if not inside:
        raise UserError(f"nothing matches {argument}", "check the address")
    yield from (Candidate(filesystem.unstrip_protocol(p)) for p in sorted(inside))


def _manifest(path: Path, notes: Notes) -> Iterator[Candidate]:
    columns: dict[str, None] = {}
    spans = films = 0
    for number, row in enumerate(read_prompt_table(path), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, Mapping):
            raise UserError(f"{where} is not a JSON object", 'such as {"path": "a.mp4"}')
        columns.update(dict.fromkeys(str(name) for name in row if name))
        given: dict[str, Any] = _words(row, where)
        split, url = given["split"], _cell(row.get("url"), f"{where}: url")
        place = next((p for n in FILE_FIELDS if (p := _cell(row.get(n), f"{where}: {n}"))), url)
        if not place:
            shown = ", ".join(str(name) for name in row if name)
            raise UserError(f"{where} has neither `path` nor `url`", f"its columns are: {shown}")
        if split is not None and split not in SPLITS:
            raise UserError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
        if "://" not in place:
            place = os.path.abspath(path.parent / Path(place).expanduser())
        given["source_url"] = given["source_url"] or url or (place if "://" in place else None)
        try:
            said = read_row(row)
        except UserError as error:
            yield Candidate(place, unread=(f"{where}: {error.message}",), **given)
            continue
        known = bool(said.captions or said.spans)
        spans, films = spans + len(said.spans), films + bool(said.spans)
        yield Candidate(
            place,
            captions=said.captions,
            captions_from=f"manifest {path.name}" if known else None,
            spans=said.spans,
            **given,
        )
    if spans:
        named = ", ".join(name for name in columns if name in SPAN_FIELDS)
        notes.add(
            f"{path}: {spans} spans of {films} row{'s' * (films > 1)} ({named}) are cut instead of "
            "looking for shots"
        )
    if unused := columns.keys() - columns_read(columns) - WORDS:
        notes.add(f"{path}: columns that are not used: {', '.join(sorted(unused))}")


_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "license": ("license", "licence"),
        "author": ("author", "uploader", "creator", "channel", "user"),
        "source_url": ("source_url", "webpage_url"),
        "title": ("title",),
        "retrieved_at": ("retrieved_at",),
    }
)
WORDS = frozenset(name for names in _WORDS.values() for name in names) | {
    *("keywords", "tags", "split", "sha256", "sha1", "url")
}
"""Columns of manifests and of tables above films that say where footage is from."""


def _words(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Provenance out of a table's row."""
    given: dict[str, Any] = {
        kind: next((c for n in names if (c := _cell(row.get(n), f"{where}: {n}"))), None)
        for kind, names in _WORDS.items()
    }
    given |= {
        name: _cell(row.get(name), f"{where}: {name}") for name in ("split", "sha256", "sha1")
    }
    given["keywords"] = _keywords(row.get("keywords")) or _keywords(row.get("tags"))
    return given


def _cell(value: Any, where: str) -> str | None:
    """A manifest's value as text; None where a table has nothing, or pandas' NaN."""
    if isinstance(value, (list, dict)):
        raise UserError(f"{where} is not text")
    return None if value is None or value != value else str(value) or None


def _with_captions(candidate: Candidate, layout: Layout) -> Candidate:
    """Fill in what files beside and above the film say: captions, spans, provenance."""
    path = candidate.path
    try:
        said = layout.find(path)
    except UserError as error:
        return dataclasses.replace(candidate, prompt_error=error.message)
    if said is None:
        return candidate
    known: dict[str, Any] = _words_of_table(said.words)
    if not (candidate.captions or candidate.spans) and (said.captions or said.spans):
        known |= {"captions": said.captions, "spans": said.spans, "captions_from": said.origin}
        known["unread"] = said.unread
    fresh = {k: v for k, v in known.items() if v and not getattr(candidate, k)}
    return dataclasses.replace(candidate, **fresh)


def _words_of_table(words: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of a row of a table above the film, whose columns may mean other things."""
    plain = {
        k: v
        for k, v in words.items()
        if isinstance(v, (str, int, float)) or k in ("keywords", "tags")
    }
    given = {k: v for k, v in _words(plain, "").items() if not k.startswith("sha")}
    given["split"] = _SPLIT_NAMES.get(str(given["split"]).lower())
    if given["split"] is None:
        place = next((str(words[n]) for n in FILE_FIELDS if words.get(n)), "")
        folder, found, _ = place.replace("\\", "/").removeprefix("./").partition("/")
        given["split"] = _SPLIT_NAMES.get(folder.lower()) if found else None
    return given


_SPLIT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
)


def _with_sidecar(candidate: Candidate) -> Candidate:
    """Fill what is unknown from `clip.json` or `clip.info.json` beside the file."""
    stem = os.path.splitext(candidate.path)[0]
    for name in (f"{stem}.json", f"{candidate.path}.json", f"{stem}.info.json"):
        try:
            words = json.loads(Path(name).read_text(encoding="utf-8-sig"))
        except OSError:
            continue  # none there
        except ValueError as error:  # it may hold the licence, so it is not passed over
            what = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else "JSON"
            text = f"{_one_line(name)} is not {what}"
            candidate = dataclasses.replace(candidate, error=candidate.error or text)
            continue
        if not isinstance(words, dict):
            continue  # somebody else's
        known: dict[str, Any] = {
            **{kind: _text(words, *names) for kind, names in _WORDS.items()},
            "source_url": _text(words, *_WORDS["source_url"], "url"),
            "keywords": _keywords(words.get("keywords") or words.get("tags")),
        }
        fresh = {k: v for k, v in known.items() if v and not getattr(candidate, k)}
        candidate = dataclasses.replace(candidate, **fresh)
    return candidate


def _text(words: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        value = words.get(name)
        if isinstance(value, Mapping):  # stock sites nest: {"user": {"name": ...}}
            value = value.get("name")
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _keywords(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.replace(";", ",").split(",")
    if not isinstance(value, (list, tuple)):  # an empty cell read through pandas is NaN
        return ()
    return tuple(str(word).strip() for word in value if str(word).strip())


def _open(path: str) -> Any:
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    return fsspec.open(path, "rb").open()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):  # file systems of the net say the path only
        return "No such file or directory"
    return getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
