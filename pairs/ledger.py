"""What has been made, and who is making what: many processes share one folder without a server.

Every process appends to a file of its own, one JSON line a result, each line written before the
next result is begun. A line cut off by a kill is skipped, and nobody appends after it. A result
counts only while the file that it names is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realdpo.errors import UserError

Record = dict[str, Any]


class Ledger:
    """Results of a step by key, shared by every process that opens the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}
        self._records: dict[str, Record] = {}
        self._own: Path | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take in what any process has added since the last look."""
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            files = sorted(
                (entry.name, entry.stat().st_size)
                for entry in entries
                if entry.name.endswith(".jsonl")
            )
        for name, size in files:
            start = self._read.get(name, 0)
            if size <= start:
                continue
            with open(self.folder / name, "rb") as handle:
                handle.seek(start)
                data = handle.read()
            end = data.rfind(b"\n") + 1
            self._read[name] = start + end
            for line in data[:end].splitlines():
                with contextlib.suppress(ValueError):  # a line damaged by a full disk
                    record = json.loads(line)
                    self._records[record["key"]] = record

    def get(self, key: str) -> Record | None:
        return self._records.get(key)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, key: str, **values: Any) -> Record:
        """Record a result durably and return it. Raises UserError when it cannot be written."""
        record = {"key": key, **values}
        try:
            if self._own is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
                self._own = self.folder / name
            with open(self._own, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(record, sort_keys=True) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}: {error.strerror}",
                "free some space and run the same command again; finished work is kept",
            ) from error
        self._records[key] = record
        return record

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
