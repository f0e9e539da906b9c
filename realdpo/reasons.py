"""Why a clip was dropped: one value, the text that tables store, and the one parser of that text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Side = Literal["min", "max"]

# Rules that are no score and yet have a bound; the text of any other may hold what it likes.
_BOUNDED = ("too_slow", "per_action")
# Rules that `curate decide` and the tagging of actions judge anew, as they do every score.
_JUDGED_ANEW = ("duplicate", "known", "per_action")
_SIGNS: Mapping[Side, str] = {"min": "<", "max": ">"}
_TEXT = re.compile(r"(?P<value>.*?)(?P<sign>[<>])(?P<bound>-?\d[\d.e+-]*|-?inf)", re.DOTALL)


@dataclass(frozen=True)
class Reason:
    """Why a clip was dropped.

    name: the score ("motion.subject") or the rule ("too_short", "duplicate", "license").
    value: what the clip has, as text: a number, "unknown", the id of the clip it repeats.
    side, bound: the threshold it breaks, where there is one.
    """

    name: str
    value: str | None = None
    side: Side | None = None
    bound: str | None = None

    @property
    def is_score(self) -> bool:
        """Whether a threshold on a score drops the clip, and not a rule."""
        return "." in self.name

    @property
    def is_judged_anew(self) -> bool:
        """Whether new thresholds may take this reason away; others stay with the clip."""
        return self.is_score or self.name in _JUDGED_ANEW

    @property
    def detail(self) -> str:
        """What is said beside the name: `0.8<2`, `unknown`, or nothing."""
        return f"{self.value or ''}{_SIGNS[self.side] if self.side else ''}{self.bound or ''}"

    def __str__(self) -> str:
        """The text that the column `reasons` stores, such as `motion.subject=0.8<2`."""
        return f"{self.name}={self.detail}" if self.detail else self.name


def parse_reason(text: str) -> Reason:
    """The reason that `str` wrote as `text`."""
    name, _, rest = text.partition("=")
    bounded = "." in name or name in _BOUNDED
    if bounded and (parts := _TEXT.fullmatch(rest)):
        side: Side = "min" if parts["sign"] == "<" else "max"
        return Reason(name, parts["value"], side, parts["bound"])
    return Reason(name, rest or None)


def parse_reasons(texts: Iterable[str] | None) -> list[Reason]:
    """The reasons of one row of a clips table; a row without any may hold null."""
    return [parse_reason(text) for text in texts or ()]


def reason_names(texts: pa.Array) -> pa.Array:
    """The `name` of each reason in a column of texts, without a Python object for each."""
    import pyarrow.compute as pc

    return pc.list_element(pc.split_pattern(texts, "=", max_splits=1), 0)


def are_judged_anew(names: pa.Array) -> pa.Array:
    """`Reason.is_judged_anew` for a column of names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.or_(pc.match_substring(names, "."), pc.is_in(names, pa.array(_JUDGED_ANEW)))


def count_reasons(column: pa.ChunkedArray) -> dict[str, int]:
    """How many clips of a `reasons` column each name concerns, most first.

    A clip that has several reasons counts under each name once.
    """
    import pyarrow.compute as pc

    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not len(lists.flatten()):
        return {}
    coded = reason_names(lists.flatten()).dictionary_encode()
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    size = len(coded.dictionary)
    once = np.unique(rows * size + coded.indices.to_numpy(zero_copy_only=False)) % size
    counts = np.bincount(once, minlength=size).tolist()
    named = zip(coded.dictionary.to_pylist(), counts, strict=True)
    return dict(sorted(named, key=lambda item: (-item[1], item[0])))
