"""The folder a project lives in: where each table and file is, and who is writing to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from realdpo.errors import UserError
from realdpo.files import sweep_folders, sweep_temporary, write_text
from realdpo.table_files import ClipsFile, PairsFile, SourcesFile

SPLITS = ("train", "validation", "test")

FOLDERS = ("clips", "data", "pairs", "runs", "eval", "reports", "steps", "config")
"""What commands make in a workspace."""


@dataclass(frozen=True, init=False)
class Workspace:
    """Paths of a workspace. Nothing is created until something is written."""

    root: Path

    def __init__(self, root: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "root", Path(root))

    @classmethod
    def of(cls, work: Workspace | str | os.PathLike[str]) -> Workspace:
        """`work` itself, or the workspace in that folder."""
        return work if isinstance(work, Workspace) else cls(work)

    @property
    def sources(self) -> SourcesFile:
        return SourcesFile(self.root / "sources.parquet")

    @property
    def clips(self) -> ClipsFile:
        return ClipsFile(self.root / "clips.parquet")

    @property
    def clip_files(self) -> Path:
        return self.root / "clips"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def pairs(self) -> PairsFile:
        return PairsFile(self.root / "pairs" / "pairs.parquet")

    @property
    def pair_videos(self) -> Path:
        return self.root / "pairs" / "videos"

    @property
    def pair_data(self) -> Path:
        return self.root / "pairs" / "data"

    @property
    def audit(self) -> Path:
        return self.root / "pairs" / "audit.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def evaluations(self) -> Path:
        return self.root / "eval"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def step(self, name: str) -> Path:
        """Folder of the per-item results that make step `name` resumable."""
        return self.root / "steps" / name

    def clip_file(self, clip_id: str) -> Path:
        return self.clip_files / f"{clip_id}.mp4"

    def save_config(self, command: str, toml: str) -> None:
        """Keep the resolved configuration of `command` as it was run."""
        write_text(self.config_file(command), toml)

    def config_file(self, command: str) -> Path:
        """Where the configuration of `command` is kept."""
        return self.root / "config" / f"{command.replace(' ', '-')}.toml"

    def require(self, path: Path, made_by: str) -> Path:
        """`path`, or a UserError that names the command which makes it."""
        if not path.exists():
            raise UserError(
                f"{path} is not there", f"make it with: realdpo {made_by} -w {self.root}"
            )
        return path

    @contextlib.contextmanager
    def lock(self, command: str, *, sweeps: bool = True) -> Iterator[None]:
        """Hold the workspace for writing. Raises UserError that says who holds it already.

        sweeps: first remove what killed runs left unfinished, which takes a look at every file's
        name. The lock is the operating system's, so it goes with the process however it dies.
        """
        import filelock

        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the workspace {self.root}: {error.strerror}",
                "choose another folder with -w",
            ) from error
        holder = self.root / ".lock-holder.json"
        guard = filelock.FileLock(self.root / ".lock")
        try:
            guard.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"the workspace {self.root} is in use by {_describe(holder)}",
                "wait for it to end, or use another workspace with -w",
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to the workspace {self.root}: {error.strerror}",
                "choose another folder with -w",
            ) from error
        try:
            who = {
                "command": command,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            write_text(holder, json.dumps(who))
            if sweeps:
                sweep_temporary(self.root)
                sweep_folders(self.runs)
            yield
        finally:
            holder.unlink(missing_ok=True)
            guard.release()


def is_workspace(names: Container[str], folder: str | Path) -> bool:
    """Whether a folder with these entries is a workspace, finished or just begun.

    Its own tables count only when they are ours: others may have a sources.parquet too.
    """
    if ".lock" in names and ("steps" in names or "config" in names):
        return True
    from realdpo import tables

    for name, kind in (("sources.parquet", tables.SOURCES), ("clips.parquet", tables.CLIPS)):
        if name in names:
            try:
                tables.check_table(Path(folder) / name, kind)
            except UserError:
                continue
            return True
    return False


def _describe(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text())
        return (
            f"`realdpo {who['command']}` (process {who['pid']} on {who['host']}, "
            f"since {who['since']})"
        )
    except (OSError, ValueError, KeyError):
        return "another process"
