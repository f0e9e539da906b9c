"""Actions: a taxonomy of what people do, tags from words, and a balanced selection."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from realdpo.errors import UserError
from realdpo.reasons import Reason

if TYPE_CHECKING:
    import pyarrow as pa

# Words of a phrase may stand this far apart, not counting the words below.
_SLACK = 2
_SKIPPED = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "with",
        "and",
        "or",
        "for",
        "from",
        "by",
        "his",
        "her",
        "their",
        "my",
        "our",
        "its",
        "some",
        "is",
        "are",
    ]
)
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Action:
    """One action. words: phrases that mean it, as one would type them into a search."""

    name: str
    scene: str
    words: tuple[str, ...]


@lru_cache(maxsize=1)
def read_taxonomy() -> tuple[Action, ...]:
    """The actions that come with the package, in the order of their file."""
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = resources.files("realdpo.curate").joinpath("actions.toml").read_text(encoding="utf-8")
    return tuple(
        Action(name, scene, tuple(words))
        for scene, actions in tomllib.loads(text).items()
        for name, words in actions.items()
    )


def tag_actions(texts: Iterable[str | None]) -> list[str]:
    """Names of the actions that the texts speak of, in the order of the taxonomy."""
    found: set[str] = set()
    index = _index()
    for text in texts:
        stems = [stem_word(word) for word in _words(text or "")]
        places: dict[str, list[int]] = {}
        for place, word in enumerate(stems):
            places.setdefault(word, []).append(place)
        for word in places:
            for phrase, name in index.get(word, ()):
                if name not in found and _near(phrase, places):
                    found.add(name)
    return [action.name for action in read_taxonomy() if action.name in found]


def stem_word(word: str) -> str:
    """A word without its ending: `braids`, `braided` and `braiding` are `braid`.

    A few rules in the manner of Porter 1980; the taxonomy's own words pass through the same.
    """
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) > 2 and any(c in _VOWELS + "y" for c in root):
            word = root
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "y" if len(word) > 3 and word.endswith("i") else word


def balance_actions(clips: pa.Table, per_action: int) -> pa.Table:
    """Drop kept clips beyond `per_action` of each action, as `per_action=dancing>20`.

    A clip with several actions stays as long as one of them has room; clips without any action
    are not limited. Sources take turns, so that no single video fills an action. Raises UserError
    for a number under 1.
    """
    import pyarrow as pa

    if per_action < 1:
        raise UserError(f"per_action={per_action}: must be 1 or more")
    actions = clips["action"].to_pylist()
    keep = clips["keep"].to_pylist()
    reasons = [list(row or ()) for row in clips["reasons"].to_pylist()]
    sources, ids = clips["source_id"].to_pylist(), clips["clip_id"].to_pylist()
    taken: Counter[str] = Counter()
    for row in _by_turns([i for i in range(clips.num_rows) if keep[i]], sources, ids):
        names = actions[row] or []
        if names and all(taken[name] >= per_action for name in names):
            keep[row] = False
            reasons[row].append(str(Reason("per_action", names[0], "max", str(per_action))))
        else:
            taken.update(names)
    place = clips.schema.get_field_index
    clips = clips.set_column(place("keep"), "keep", pa.array(keep, pa.bool_()))
    return clips.set_column(place("reasons"), "reasons", pa.array(reasons, pa.list_(pa.string())))


def _by_turns(rows: Sequence[int], sources: Sequence[str], ids: Sequence[str]) -> list[int]:
    turn: Counter[str] = Counter()
    order = []
    # Clip ids are hashes: their order is arbitrary, and the same on every machine.
    for row in sorted(rows, key=lambda row: ids[row]):
        order.append((turn[sources[row]], ids[row], row))
        turn[sources[row]] += 1
    return [row for *_, row in sorted(order)]


@lru_cache(maxsize=1)
def _index() -> Mapping[str, list[tuple[tuple[str, ...], str]]]:
    """Phrases by their first stem."""
    index: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for action in read_taxonomy():
        for words in (*action.words, action.name.replace("_", " ")):
            phrase = tuple(stem_word(word) for word in _words(words))
            index.setdefault(phrase[0], []).append((phrase, action.name))
    return index


def _near(phrase: Sequence[str], places: Mapping[str, Sequence[int]]) -> bool:
    """Whether the words of a phrase all stand close to one place of its first word."""
    reach = len(phrase) - 1 + _SLACK
    return any(
        all(any(abs(at - start) <= reach for at in places.get(word, ())) for word in phrase[1:])
        for start in places.get(phrase[0], ())
    )


def _words(text: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower().replace("'s", "")
    return [word for word in re.findall(r"[a-z]+", spaced) if word not in _SKIPPED]
