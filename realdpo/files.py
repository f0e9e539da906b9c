"""Atomic writes: a file is there whole or not at all, whenever the process dies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from realdpo.errors import UserError


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is fsynced and renamed over it.

    When the body raises, the temporary file goes and `target` stays as it was.
    Raises UserError when the disk is full or the folder cannot be written.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(
                dir=target.parent,
                prefix=f".{_short(target.name)}.{_OWNER}-{os.getpid()}-",
                suffix=".tmp",
            )
        except FileNotFoundError as error:  # /proc says so: it is there, but takes no files
            raise UserError(
                f"cannot write {target}: nothing can be made in its folder", "choose another place"
            ) from error
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; others may read results
        os.replace(temporary, target)
        _fsync_folder(target.parent)
    except Exception as error:
        if (found := explain_write_error(error, target)) is error:
            raise
        raise found from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


_OWNER = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]
_TEMPORARY = re.compile(r"\..*\.([A-Za-z0-9]*)-(\d+)-[^.]*\.tmp", re.S)
_OLD = 24 * 3600  # seconds after which a temporary file is nobody's, wherever it is from


def sweep_temporary(folder: Path) -> int:
    """Remove temporary files that killed processes left under `folder`; how many there were.

    A file names its writer. One whose writer runs on this machine stays, and one of another
    machine for a day: several may share the folder.
    """
    swept = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if not (name.startswith(".") and name.endswith(".tmp")):
                continue
            path = Path(place) / name
            with contextlib.suppress(OSError):
                if _is_abandoned(path):
                    path.unlink()
                    swept += 1
    return swept


def replace_folder(unfinished: Path, folder: Path) -> None:
    """Put a finished folder in the place of `folder`, so that one of them is there at any time.

    unfinished: beside it, named `.<name>.unfinished`. A kill between the two steps leaves the old
    one under `.<name>.old`, from where `sweep_folders` brings it back.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(unfinished, folder)
    shutil.rmtree(old, ignore_errors=True)


def sweep_folders(root: Path) -> None:
    """Put right what `replace_folder` and its callers left under `root` when they were killed.

    Only for who holds the lock of the workspace: an unfinished folder of a running process goes.
    """
    for place, names, _ in os.walk(root):
        for name in [name for name in names if name.startswith(".")]:
            path = Path(place) / name
            whole = path.with_name(path.stem[1:])
            if path.suffix == ".old" and not whole.exists():
                os.replace(path, whole)
            elif path.suffix in (".old", ".unfinished"):
                shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None or found[1] != _OWNER:
        return time.time() - path.stat().st_mtime > _OLD
    return not _runs(int(found[2]))


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, as somebody else
        return True
    return True


def stem_of(text: str, most: int = 180) -> str:
    """A file stem for a text such as a prompt: at most `most` bytes, and no two texts share one.

    A text that fits and has no separator is its own stem; any other is cut at a whole character
    and ends in a hash of all of it.
    """
    plain = "".join("_" if c in "/\\\0" or ord(c) < 32 else c for c in text)
    if plain == text and len(text.encode(errors="replace")) <= most and text not in ("", ".", ".."):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    head = plain.encode(errors="replace")[: most - len(digest) - 1].decode(errors="ignore")
    return f"{head}-{digest}"


def _short(name: str) -> str:
    """The beginning of a file name, of 80 bytes at most."""
    return name.encode()[:80].decode(errors="ignore")


def write_bytes(target: str | Path, data: bytes) -> None:
    """Write `data` to `target` atomically. Raises UserError as `atomic_path` does."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 `text` to `target` atomically. Raises UserError as `atomic_path` does."""
    write_bytes(target, text.encode())


def _fsync_folder(folder: Path) -> None:
    # A rename is only durable once the folder that holds the name is; Windows has no such call.
    with contextlib.suppress(OSError, PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def explain_write_error(error: Exception, target: Path) -> Exception:
    """A UserError for what the user can mend about writing `target`, else the error itself."""
    number = error.errno if isinstance(error, OSError) else None
    # safetensors wraps the system's error in its own; both say it in their text.
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return UserError(
            f"no space left while writing {target}",
            "free some space and run the same command again; finished work is kept",
        )
    denied = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP)
    if number in (*denied, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG):
        reason = os.strerror(number)
        return UserError(f"cannot write {target}: {reason}", "choose another place")
    if number == errno.EFBIG:
        return UserError(f"{target} is larger than this system allows", "raise the file size limit")
    return error
