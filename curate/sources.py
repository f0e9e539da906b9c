"""Where footage comes from: files, folders, globs, manifests and URLs, with their provenance."""

from __future__ import annotations

import csv
import dataclasses
import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from realdpo import waiting
from realdpo.errors import UserError

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts"),
        *("wmv", "flv", "3gp", "ogv", "mxf", "vob"),
    )
)
MANIFESTS = frozenset((".csv", ".jsonl", ".parquet"))
SPLITS = ("train", "validation", "test")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """Footage that may become clips, and what its owner says about it.

    path: a local path, or an fsspec address such as s3://bucket/a.mp4 or https://host/a.mp4.
    sha256, sha1: of the file as the manifest promises it, if it does; sha1 is what archives give,
    and is compared when the file is downloaded. split: the user's wish.
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
        }


def find(footage: Sequence[str]) -> list[Candidate]:
    """Every candidate that the arguments name, each once, sorted by path.

    footage: files, folders (searched recursively), globs, URLs, and CSV, JSONL or Parquet
    manifests with a column `path` or `url`. Beside a local file, `clip.json` and yt-dlp's
    `clip.info.json` are read; a manifest's own words win. Raises UserError when an argument
    names nothing or a manifest cannot be understood.
    """
    found: dict[str, Candidate] = {}
    for argument in footage:
        candidates = list(_expand(argument))
        if not candidates:
            raise UserError(
                f"there is no footage in {_one_line(argument)}",
                "in folders, files named .mp4, .mov, .mkv, .webm and the like are looked for; "
                "in manifests, rows with `path` or `url`",
            )
        for candidate in candidates:
            if not candidate.remote:
                candidate = _with_sidecar(candidate)
            found.setdefault(candidate.path, candidate)
    return [found[path] for path in sorted(found)]


def license_reason(license_id: str | None, *, required: bool, allowed: Sequence[str]) -> str | None:
    """Why this licence keeps a clip out, or None. SPDX ids are compared without case."""
    if not license_id:
        return "license=none" if required or allowed else None
    if allowed and license_id.casefold() not in {item.casefold() for item in allowed}:
        return f"license={license_id}"
    return None


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


def stamp(path: str) -> str:
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


def download(
    url: str,
    folder: Path,
    *,
    max_bytes: int,
    sha256: str | None = None,
    sha1: str | None = None,
    attempts: int = 6,
) -> Path:
    """Fetch a URL over HTTP(S) into `folder`, going on where an earlier try broke off.

    The file is named by the hash of its URL. attempts: in a row that bring nothing new. Raises UserError when it is larger than
    `max_bytes`, its hash is not `sha256` or `sha1`, or the server refuses it.
    """
    import httpx

    suffix = Path(urlsplit(url).path).suffix.lower()
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    target = folder / f"{name}{suffix if suffix in EXTENSIONS else '.mp4'}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(target.suffix + ".part")
    tries, reached = 0, -1
    while True:
        try:
            _fetch(url, part, max_bytes)
            break
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise UserError(f"{url}: the server says {error.response.status_code}") from error
            have = part.stat().st_size if part.exists() else 0
            tries = 1 if have > reached else tries + 1
            reached = have
            if tries >= attempts:
                raise UserError(
                    f"{url} cannot be fetched: {error}", "run again to go on"
                ) from error
            time.sleep(min(2**tries, 60) / 8)
    if sha256 and sha256_of(str(part)) != sha256.lower():
        part.unlink()
        raise UserError(f"{url}: the file that came is not the one whose sha256 was given")
    if sha1 and _sha1_of(part) != sha1.lower():
        part.unlink()
        raise UserError(f"{url}: the file that came is not the one whose sha1 was given")
    os.replace(part, target)
    return target


def _sha1_of(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fetch(url: str, part: Path, max_bytes: int) -> None:
    import httpx

    have = part.stat().st_size if part.exists() else 0
    mark = part.with_suffix(".etag")
    # Wikimedia refuses programs that do not say who they are.
    headers = {"Accept-Encoding": "identity", "User-Agent": waiting.user_agent()}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and mark.exists():
        headers["If-Range"] = mark.read_text()  # a file that changed is sent whole
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer:
        if answer.status_code == 416 and answer.headers.get("content-range", "").endswith(
            f"/{have}"
        ):
            return
        answer.raise_for_status()
        resumed = answer.status_code == 206
        have = have if resumed else 0
        total = have + int(answer.headers.get("content-length", 0))
        if total > max_bytes:
            raise UserError(f"{url} is {total >> 20} MB, more than {max_bytes >> 20} MB")
        if etag := answer.headers.get("etag"):
            mark.write_text(etag)
        with open(part, "ab" if resumed else "wb") as out:
            for block in answer.iter_raw():  # as it comes: what came is not lost
                have += len(block)
                if have > max_bytes:
                    raise UserError(f"{url} is more than {max_bytes >> 20} MB")
                out.write(block)
    mark.unlink(missing_ok=True)


def _expand(argument: str) -> Iterator[Candidate]:
    if "://" in argument:
        yield from _remote(argument)
        return
    path = Path(argument).expanduser()
    if path.is_dir():
        yield from (Candidate(file) for file in _walk(path))
    elif path.suffix.lower() in MANIFESTS and path.is_file():
        yield from _manifest(path)
    elif path.exists():
        yield Candidate(os.path.abspath(path))
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(os.path.expanduser(argument), recursive=True))
        if not matches:
            raise UserError(f"nothing matches {argument}", "quote the pattern, check the folder")
        for match in matches:
            yield from _expand(glob.escape(match) if not os.path.exists(match) else match)
    else:
        raise UserError(f"{_one_line(argument)} does not exist", "check the path")


def _walk(folder: Path) -> Iterator[str]:
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
        for entry in entries:
            try:
                if entry.is_dir():
                    stack.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    yield entry.path
            except OSError:  # a link that leads back to itself
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


def _manifest(path: Path) -> Iterator[Candidate]:
    for number, row in enumerate(read_manifest(path), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, Mapping):
            raise UserError(f"{where} is no JSON object", 'such as {"path": "a.mp4"}')
        given = {name: _cell(row.get(name), f"{where}: {name}") for name in _TEXTS}
        url, split = given.pop("url"), given.pop("split")
        place = given.pop("path") or url
        if not place:
            columns = ", ".join(str(name) for name in row if name)
            raise UserError(f"{where} has neither `path` nor `url`", f"its columns are: {columns}")
        if split is not None and split not in SPLITS:
            raise UserError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
        if "://" not in place:
            place = os.path.abspath(path.parent / Path(place).expanduser())
        given["source_url"] = given["source_url"] or url or (place if "://" in place else None)
        yield Candidate(place, keywords=_keywords(row.get("keywords")), split=split, **given)


_TEXTS = ("path", "url", "split", "license", "author", "source_url", "title", "retrieved_at",
          "sha256", "sha1")  # fmt: skip


def _cell(value: Any, where: str) -> str | None:
    """A manifest's value as text; None where a table has nothing, or pandas' NaN."""
    if isinstance(value, (list, dict)):
        raise UserError(f"{where} is not text")
    return None if value is None or value != value else str(value) or None


def read_manifest(path: Path) -> Iterator[Any]:
    """Rows of a CSV, JSONL or Parquet file, a batch at a time; those of JSONL may be anything.

    Raises UserError that names the file, and of JSONL the line, when it cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(10_000):
                    yield from batch.to_pylist()
        elif path.suffix.lower() == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as handle:
                yield from csv.DictReader(handle)
        else:
            # Not by splitlines, which also breaks at characters that JSON text may hold.
            with open(path, encoding="utf-8-sig", newline="\n") as handle:
                for number, line in enumerate(handle, 1):
                    if line.strip():
                        yield _json(line, f"{path}, line {number}")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a manifest: {_reason(error)}") from error


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is no JSON: {error.msg}, column {error.colno}") from error


def _with_sidecar(candidate: Candidate) -> Candidate:
    """Fill what is unknown from `clip.json` or `clip.info.json` beside the file."""
    stem = os.path.splitext(candidate.path)[0]
    for name in (f"{stem}.json", f"{candidate.path}.json", f"{stem}.info.json"):
        try:
            words = json.loads(Path(name).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue  # none there, or somebody else's JSON
        if not isinstance(words, dict):
            continue
        known: dict[str, Any] = {
            "license": _text(words, "license", "licence"),
            "author": _text(words, "author", "uploader", "creator", "channel", "user"),
            "source_url": _text(words, "source_url", "webpage_url", "url"),
            "title": _text(words, "title"),
            "retrieved_at": _text(words, "retrieved_at"),
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
