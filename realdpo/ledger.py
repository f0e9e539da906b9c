"""An append-only file of finished items: the memory of a step that may die at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from realdpo.errors import UserError


class Ledger:
    """Key to JSON value; one line an item, written when the item is done.

    A process killed in the middle of a line leaves a torn one, which the next run passes over:
    that item is done again. One process writes at a time (the workspace's lock sees to it).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._items: dict[str, Any] = {}
        self._handle: TextIO | None = None
        self._torn = False
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                key, value = json.loads(line)
            except (ValueError, TypeError):
                continue
            self._items[key] = value

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def get(self, key: str) -> Any:
        """The value stored for `key`, or None."""
        return self._items.get(key)

    def items(self) -> Mapping[str, Any]:
        """Everything stored; read only."""
        return self._items

    def put(self, key: str, value: Any) -> None:
        """Store `value`. Raises UserError when the disk is full or the folder read-only."""
        line = json.dumps([key, value], sort_keys=True) + "\n"
        try:
            if self._handle is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            self._handle.write("\n" + line if self._torn else line)
            self._handle.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}",
                "free some space or choose another folder; finished work is kept",
            ) from error
        self._torn = False
        self._items[key] = value
