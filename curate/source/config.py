"""Settings of `realdpo curate source`."""

from __future__ import annotations

from dataclasses import field

from realdpo.config import settings
from realdpo.errors import UserError

PER_ACTION = 20
COLUMNS = (
    "url", "path", "license", "author", "source_url", "title", "keywords", "description",
    "seconds", "width", "height", "bytes", "sha1", "sha256", "id",
)  # fmt: skip
"""Names that a foreign table's columns may be given with `columns`."""


@settings
class SourceConfig:
    """What to look for, and what to leave out.

    actions: names of the taxonomy's actions; all of them when neither they nor words are given.
    words: searches of your own, each a group like an action. per_action: films of each group; 0
    takes 20 of a search and all of a list. hours: of footage in all, at most; 0 for no limit.
    min_height: pixels that the shorter side must have; 0 for no limit. min_seconds: shortest
    film; a length that is not stated is not judged. max_seconds: longest film; 0 for no limit.
    max_mb: largest file; 0 for no limit. licenses: SPDX ids; when not empty, films of any other
    licence are left out. default_license: of films that state none, on your word. private: take
    films that may not be passed on too. pages: of answers to one search, at most. pace: least
    seconds between two requests to one provider. contact: mail or web address at which the
    servers' owners reach you. columns: our name of a column to a foreign table's. endpoints:
    provider to the address of another server that speaks its API. refresh: ask again what was
    asked before.
    """

    actions: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    per_action: int = 0
    hours: float = 0.0
    min_height: int = 480
    min_seconds: float = 2.0
    max_seconds: float = 600.0
    max_mb: int = 2000
    licenses: tuple[str, ...] = ()
    default_license: str = ""
    private: bool = False
    pages: int = 5
    pace: float = 1.0
    contact: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)
    refresh: bool = False

    def __post_init__(self) -> None:
        for name in ("per_action", "hours", "min_height", "min_seconds", "max_seconds", "max_mb", "pace"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be 0 or more")
        if self.max_seconds and self.min_seconds > self.max_seconds:
            raise UserError("min_seconds must be at most max_seconds")
        if self.pages < 1:
            raise UserError("pages must be 1 or more")
        for name in self.columns:
            if name not in COLUMNS:
                raise UserError(
                    f"--column {name}={self.columns[name]}: a manifest has no {name!r}",
                    f"our name comes first, one of: {', '.join(COLUMNS)}",
                )
