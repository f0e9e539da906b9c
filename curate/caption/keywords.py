"""Captions without any model: title, keywords and action tags put into plain sentences.

They say what the file's name and tags say and nothing that was seen, and are marked as such:
their captioner is `keywords`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

UNTITLED = "This is an untitled clip."


def caption_from_keywords(
    title: str | None,
    keywords: Sequence[str] | None = (),
    actions: Sequence[str] | None = (),
    file_name: str | None = None,
) -> str:
    """One to four sentences from what is known about the footage without looking at it.

    `title` wins over `file_name`; both may be file names ("hair_braiding.mp4"). `actions` are
    tags such as "braiding hair". Never empty.
    """
    words, facts = _words(title or "")
    if not words and file_name:
        words, more = _words(PurePath(file_name).stem)
        facts = list(dict.fromkeys([*facts, *more]))
    spoken = [_tag(action) for action in actions or ()]
    main = _main_sentence(words, [action for action in spoken if action])
    themes = _themes(keywords or (), main, spoken)
    parts = [main] if main else []
    if len(themes) == 1:
        parts.append(f"The theme is {_noun_phrase(themes[0].split())}.")
    elif themes:
        parts.append(f"The themes are {_listed(themes)}.")
    parts += facts
    return " ".join(parts) or UNTITLED


# --- words ----------------------------------------------------------------------------------


def _bag(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FACTS = {
    "handheld": "The camera is handheld.",
    "drone": "It is filmed from the air.",
    "aerial": "It is filmed from the air.",
    "closeup": "It is a close-up.",
    "slowmo": "It is in slow motion.",
    "slowmotion": "It is in slow motion.",
    "timelapse": "It is a time lapse.",
    "pov": "It is filmed in first person.",
    "vertical": "The frame is vertical.",
    "portrait": "The frame is vertical.",
}
_TWO_WORD_FACTS = {
    ("slow", "motion"): "slowmo",
    ("close", "up"): "closeup",
    ("time", "lapse"): "timelapse",
    ("hand", "held"): "handheld",
}
_NOISE = re.compile(
    r"(?:\d+|\d+(?:p|k|fps|hz|s|sec|secs|min|mins|mb|x\d+)|x26[45]|h26[45]|hevc|avc|av1|vp[89]|"
    r"hd|uhd|fhd|sd|hdr|sdr|mp4|mov|mkv|avi|webm|final|copy|edit(?:ed)?|export|output|"
    r"v\d+|(?:take|part|clip|video|scene|shot|cam|camera)\d*|videos|clips|demo|sample|test|"
    r"img|vid|dsc[nf]?|gopr|gh\d+|gx\d+|mvi|pxl|dji|mov\w?\d+|movie\d*|wa|rec|"
    r"stock|footage|free|royalty|pexels|pixabay|videvo|mixkit|coverr|youtube|vimeo|"
    r"(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}|[a-z]*\d{4,}[a-z\d]*)",
    re.I,
)
_PEOPLE = _bag(
    "person people man men woman women girl girls boy boys child children kid kids baby babies "
    "couple couples family families friends adult adults teenager teenagers teen teens lady "
    "ladies guy guys dancer dancers player players athlete athletes chef chefs cook cooks "
    "worker workers student students teacher teachers musician musicians runner runners "
    "cyclist cyclists skater skaters swimmer swimmers climber climbers hairdresser barber "
    "mother mothers father fathers grandmother grandfather doctor doctors someone hand hands "
    "finger fingers foot feet arm arms face faces crowd team"
)
_PLURALS = _bag("people men women children feet teeth clothes")
_SHORT_GERUNDS = _bag("doing going using tying lying")
_NOT_VERBS = _bag(
    "building morning evening ceiling string spring thing nothing something anything everything "
    "clothing wedding painting earring sibling darling pudding sterling lightning during "
    "king ring wing swing being beijing"
)
_MASS = _bag(
    "water hair coffee tea rain snow food traffic grass sand smoke fire music bread dough "
    "nature fog ice light sunlight milk wine beer rice meat fruit wood paper clothing "
    "soccer football tennis basketball baseball volleyball cricket golf rugby hockey badminton "
    "yoga pasta pizza makeup lunch dinner breakfast furniture laundry clay karate judo chess "
    "transit racket pottery work housework homework"
)
_PREPOSITIONS = _bag(
    "in on at with of by for from into onto over under near beside behind through across along "
    "around against between to during"
)
_DETERMINERS = _bag(
    "a an the his her its their my our your this that these those some two three four five six "
    "seven eight nine ten several many one each no"
)
_WORKS = _bag(
    "trailer teaser vlog tutorial interview film movie documentary episode advert "
    "advertisement commercial showreel"
)


def _words(name: str) -> tuple[list[str], list[str]]:
    """Lower-case words of a title or file name without its noise, and sentences on the camera."""
    name = re.sub(r"\.(?:mp4|m4v|mov|mkv|avi|webm|mpe?g|ts|wmv|flv)$", "", name.strip(), flags=re.I)
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)
    tokens = [t.strip("'’") for t in re.split(r"[^\w'’]+|_+", name.casefold())]
    tokens = [t for t in tokens if t]
    facts: list[str] = []
    words: list[str] = []
    i = 0
    while i < len(tokens):
        two = _TWO_WORD_FACTS.get(tuple(tokens[i : i + 2]))  # type: ignore[arg-type]  # a slice of two is a pair
        fact = _FACTS.get(two or tokens[i])
        if fact:
            facts += [] if fact in facts else [fact]
        elif not _NOISE.fullmatch(tokens[i]):
            words.append(tokens[i])
        i += 2 if two else 1
    while words and (words[-1] in _PREPOSITIONS or words[-1] in ("and", "or", "a", "an", "the")):
        words.pop()
    if all(len(word) == 1 for word in words):
        words = []
    while words and words[0] in ("and", "or", "of"):
        words.pop(0)
    return words, facts


def _tag(tag: str) -> str:
    return " ".join(re.split(r"[\W_]+", tag.casefold())).strip()


# --- sentences ------------------------------------------------------------------------------


def _main_sentence(words: list[str], actions: list[str]) -> str:
    at = next((i for i, word in enumerate(words) if _is_gerund(word)), None)
    if at is None:
        if actions:
            subject = _noun_phrase(words) if words and _is_person(words) else "someone"
            is_are = "is" if subject == "someone" else _be(words)
            rest = f" {_in_view(words)}" if words and subject == "someone" else ""
            doing = _listed([_doing(action) for action in actions])
            return f"{_start(subject)} {is_are} {doing}.{rest}"
        return _in_view(words) if words else ""
    before, verb, after = words[:at], words[at], words[at + 1 :]
    if before and _is_person(before):
        rest = " ".join([verb, *_object(after)])
        return f"{_start(_noun_phrase(before))} {_be(before)} {rest}."
    if before and after and after[0] not in _PREPOSITIONS:
        return _in_view(words)  # "hair braiding salon" is a thing, not somebody's doing
    if before and after:
        return f"Someone is {verb} {' '.join([*before, *after])}."
    return f"Someone is {' '.join([verb, *_object(after or before)])}."


def _in_view(words: list[str]) -> str:
    if words[-1] in _WORKS:
        return f"This is a scene from {_noun_phrase(words, definite=True)}."
    return f"{_start(_noun_phrase(words))} {_be(words)} in view."


def _is_gerund(word: str) -> bool:
    if word in _SHORT_GERUNDS:
        return True
    return len(word) > 5 and word.endswith("ing") and word not in _NOT_VERBS


def _head(words: list[str]) -> str:
    """The noun that a phrase is about: the last word before a preposition."""
    for i, word in enumerate(words):
        if word in _PREPOSITIONS and i:
            return words[i - 1]
    return words[-1]


def _is_person(words: list[str]) -> bool:
    return any(word in _PEOPLE for word in words)


def _is_plural(words: list[str]) -> bool:
    head = _head(words)
    if "and" in words or head in _PLURALS:
        return True
    return len(head) > 3 and head.endswith("s") and not head.endswith(("ss", "us", "is", "ous"))


def _be(words: list[str]) -> str:
    return "are" if words and _is_plural(words) else "is"


def _noun_phrase(words: list[str], definite: bool = False) -> str:
    text = " ".join(words)
    if words[0] in _DETERMINERS or words[0] == "someone":
        return text
    if definite:
        return f"the {text}"
    if (_is_plural(words) and "and" not in words) or _head(words) in _MASS:
        return text
    if _is_gerund(words[-1]):
        return text
    return f"{_article(words[0])} {text}"


def _object(words: list[str]) -> list[str]:
    """The object with its article where it needs one: "walking a dog", "braiding hair"."""
    if not words or words[0] in _PREPOSITIONS | _DETERMINERS or words[0].endswith(("ly", "ed")):
        return words
    if _is_plural(words) or _head(words) in _MASS or len(_head(words)) < 3 or _is_gerund(words[-1]):
        return words
    return [_article(words[0]), *words]


def _doing(action: str) -> str:
    """ "hair braiding" and "braiding hair" both as "braiding hair"; "handshake" as it is."""
    words = action.split()
    if len(words) > 1 and _is_gerund(words[-1]) and not _is_gerund(words[0]):
        words = [words[-1], *words[:-1]]
    if _is_gerund(words[0]) or (len(words) == 1 and words[0].endswith("ing")):
        return " ".join([words[0], *_object(words[1:])])
    return f"doing {' '.join(_object(words))}"


def _article(word: str) -> str:
    vowel = word[0] in "aeiou" and not word.startswith(("uni", "use", "usu", "eu", "one"))
    return "an" if vowel or word in ("hour", "honest", "heirloom") else "a"


def _themes(keywords: Sequence[str], said: str, actions: Sequence[str]) -> list[str]:
    spoken = set(re.findall(r"\w+", said.casefold()))
    themes: list[str] = []
    for keyword in keywords:
        words, _ = _words(keyword)
        theme = " ".join(words)
        if theme and theme not in themes and theme not in actions and not set(words) <= spoken:
            themes.append(theme)
    return themes[:6]


def _listed(items: Sequence[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
