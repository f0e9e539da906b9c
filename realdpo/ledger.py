"""What a step has finished, and who is working on what: its memory when it may die at any moment.

Many processes and machines share one folder without a server. Every process appends to a file of
its own, one JSON line an item, written when the item is done. A line cut off by a kill or a power
cut is passed over, and nobody appends after it: that item is done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from realdpo.errors import UserError

_SYNC_EVERY = 1.0  # seconds: a power cut loses that much at most, and small items stay fast


class Ledger:
    """Key to JSON value, shared by every process that opens the same folder; the latest counts.

    As a context manager it closes its file at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}
        self._values: dict[str, Any] = {}
        self._own: TextIO | None = None
        self._synced = 0.0
        self.refresh()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            os.fsync(self._own.fileno())
            self._own.close()
            self._own = None

    def __len__(self) -> int:
        return len(self._values)

    def refresh(self) -> None:
        """Take in what any process has added since the last look."""
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            files = sorted((e.name, e.stat().st_size) for e in entries if e.name.endswith(".jsonl"))
        for name, size in files:
            start = self._read.get(name, 0)
            if size <= start:
                continue
            with open(self.folder / name, "rb") as handle:
                handle.seek(start)
                data = handle.read()
            end = data.rfind(b"\n") + 1
            self._read[name] = start + end
            self._values.update(_pairs(data[:end].splitlines()))

    def get(self, key: str) -> Any:
        """The value stored for `key`, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Store `value`. Raises UserError when the disk is full or the folder read-only."""
        try:
            if self._own is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # files are read in the order of their names: later runs have the last word
                who = f"{time.time_ns():020d}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
                self._own = open(self.folder / f"{who}.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the ledger
            self._own.write(json.dumps([key, value], sort_keys=True) + "\n")
            self._own.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY:
                os.fsync(self._own.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}: {error.strerror}",
                "free some space or choose another folder, and run the same command again; "
                "finished work is kept",
            ) from error
        self._values[key] = value

    @contextlib.contextmanager
    def claim(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Whether this process alone may work on `key` now; the claim ends with the process.

        Keys share 4096 locks, so that a claim may be refused for the sake of another key:
        come back to it later. After a claim, `refresh` shows what was done meanwhile.
        """
        import hashlib

        import filelock

        bucket = hashlib.sha256(key.encode()).hexdigest()[:3]
        (self.folder / "claims").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / "claims" / f"{bucket}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _pairs(lines: list[bytes]) -> dict[str, Any]:
    """Keys and values of lines; those that a full disk damaged are passed over."""
    try:
        return dict(json.loads(b"[" + b",".join(lines) + b"]"))  # half the time of one by one
    except (ValueError, TypeError):
        found: dict[str, Any] = {}
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                key, value = json.loads(line)
                found[key] = value
        return found
