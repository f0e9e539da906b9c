"""A zip of films: unpacked beside the workspace's tables, safely, going on where it stopped."""

from __future__ import annotations

import os
import shutil
import zipfile
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from realdpo.curate.source.film import SourceFilm
from realdpo.curate.sources import EXTENSIONS
from realdpo.errors import UserError
from realdpo.files import atomic_path, explain_write_error
from realdpo.progress import progress_bar


def unpack_zip(path: Path, folder: Path) -> list[SourceFilm]:
    """Unpack every film, and the JSON beside it, into `folder`/<name of the zip>; list them.

    A file that is there with the size that the zip states is left alone. Raises UserError for
    what is no zip, is damaged or locked by a password, for names that lead out of the folder,
    and when the disk has no room for all of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpacked(archive, path, folder / path.stem)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as a zip: {error}", "download it again") from None
    except OSError as error:
        if (found := explain_write_error(error, folder)) is not error:
            raise found from error
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _unpacked(archive: zipfile.ZipFile, path: Path, folder: Path) -> list[SourceFilm]:
    members = [m for m in archive.infolist() if not m.is_dir() and _suffix(m) in EXTENSIONS]
    named = {member.filename for member in members}
    sidecars = [
        m for m in archive.infolist() if _suffix(m) == ".json" and _film_of(m.filename, named)
    ]
    for member in (*members, *sidecars):
        if member.flag_bits & 1:
            raise UserError(
                f"{path}: {member.filename} is locked by a password",
                "unpack it yourself, then give the folder to `realdpo curate ingest`",
            )
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or PurePosixPath(member.filename).is_absolute() or ":" in parts[0]:
            raise UserError(f"{path}: {member.filename} would be unpacked outside its folder")
    missing = [m for m in (*members, *sidecars) if not _is_there(folder / m.filename, m)]
    needed = sum(member.file_size for member in missing)
    near = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if needed > (free := shutil.disk_usage(near).free):
        raise UserError(
            f"{path} holds {needed >> 20} MB of films, but {folder} has room for {free >> 20} MB only",
            "free some space, or choose another workspace with -w",
        )
    count = len(members) + len(sidecars)
    with progress_bar("unpack", count, "files", done=count - len(missing)) as advance:
        for member in missing:
            with (
                archive.open(member) as packed,
                atomic_path(folder / member.filename) as temporary,
                open(temporary, "wb") as out,
            ):
                shutil.copyfileobj(packed, out, 1 << 20)
            advance()
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        SourceFilm(
            provider="zip",
            id=f"{path.name}/{member.filename}",
            url=os.path.abspath(folder / member.filename),
            title=PurePosixPath(member.filename).stem.replace("_", " ").replace("-", " "),
            keywords=PurePosixPath(member.filename).parts[:-1],
            bytes=member.file_size,
            retrieved_at=now,
        )
        for member in members
    ]


def _suffix(member: zipfile.ZipInfo) -> str:
    hidden = PurePosixPath(member.filename).name.startswith(".") or "__MACOSX" in member.filename
    return "" if hidden else PurePosixPath(member.filename).suffix.lower()


def _film_of(name: str, films: set[str]) -> bool:
    """Whether a JSON file stands beside a film as `ingest` looks for it."""
    stem = name.removesuffix(".json").removesuffix(".info")
    return stem in films or any(f"{stem}{ending}" in films for ending in EXTENSIONS)


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    try:
        return path.stat().st_size == member.file_size
    except OSError:
        return False
