"""Settings of `realdpo curate source`."""

from __future__ import annotations

from dataclasses import field

from realdpo.config import settings
from realdpo.errors import UserError

PER_ACTION = 20
COLUMNS = (
    "url",
    "path",
    "license",
    "author",
    "source_url",
    "title",
    "keywords",
    "description",
    "seconds",
    "width",
    "height",
    "bytes",
    "sha1",
    "sha256",
    "id",
)
"""Names that a foreign table's columns may be given with `columns`."""


@settings
class SourceConfig:
    """What to look for, and what to leave out.

    actions: actions of the taxonomy to search for; all of them if you name neither actions nor
    words. words: searches of your own; each is a group, like an action. per_action: films of each
    action or search; 0 takes 20 of a search and all of a list. hours: hours of footage in all, at
    most; 0 for no limit. min_height: least pixels of the shorter side; 0 for no limit. min_seconds:
    shortest film in seconds; films of unstated length pass. max_seconds: longest film in seconds; 0
    for no limit. max_mb: largest file in megabytes; 0 for no limit. licenses: allowed licences, as
    SPDX ids; other films are left out. default_license: licence of films that state none, if you
    know it. private: also take films that you may train on here but not pass on. pages: pages of
    answers to one search, at most. pace: seconds between two requests to one provider, at least.
    contact: mail or web address at which the servers' owners can reach you; also
    REALDPO_CONTACT. columns: columns of a table under our names, as OURS=THEIRS. endpoints:
    address of another server that speaks a provider's API, by provider. refresh: ask again what an
    earlier run has asked.
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
        for name in (
            "per_action",
            "hours",
            "min_height",
            "min_seconds",
            "max_seconds",
            "max_mb",
            "pace",
        ):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be 0 or more")
        if self.max_seconds and self.min_seconds > self.max_seconds:
            raise UserError("min_seconds must be at most max_seconds")
        if self.pages < 1:
            raise UserError("pages must be 1 or more")
        for name in self.columns:
            if name not in COLUMNS:
                raise UserError(
                    f"--column {name}={self.columns[name]}: a manifest has no column {name!r}",
                    f"write --column OURS=THEIRS; OURS is one of: {', '.join(COLUMNS)}",
                )
