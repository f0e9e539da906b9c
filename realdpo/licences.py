"""Licences of footage: read in one place, for the filter, the push and the card alike.

A dataset of clips is an adaptation: footage is cut, resized and encoded again. A licence therefore
has to allow passing on *changed* copies; "no derivatives" does not, nor do the terms of stock
sites, which forbid passing files on as a collection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from realdpo.reasons import Reason


@dataclass(frozen=True)
class Licence:
    """A licence: `id` as the Hub names it, `spdx` as SPDX does.

    `problem` says why clips under it must not be published. spdx is empty when SPDX has no name
    for it. A Creative Commons licence whose version is not stated has none either and is written
    without one, such as CC-BY.
    """

    id: str
    name: str
    url: str = ""
    problem: str = ""
    spdx: str = ""

    @property
    def understood(self) -> bool:
        """Whether the text was one that is known here, whatever it allows."""
        return self.problem not in (_NOT_KNOWN, _NOT_STATED)


_NOT_KNOWN = "this licence is not one we know to allow it"
_NOT_STATED = "no licence is stated"
_ABSENT = ("", "unknown", "none", "null", "n a", "na", "nan", "not stated", "unspecified")


def read_licence(text: str | None) -> Licence:
    """Return the licence that a ledger's text names, in whatever common spelling.

    Reads SPDX ids, the words of video sites and archives, and addresses of creativecommons.org.
    An unknown text comes back with a `problem`: what cannot be read cannot be relied on.
    """
    plain = _plain(text or "")
    if plain in _ABSENT:
        return Licence("unknown", "not stated", problem=_NOT_STATED)
    if found := _creative_commons((text or "").lower(), plain):
        return found
    for pattern, licence in _KNOWN:
        if re.fullmatch(pattern, plain):
            return licence
    return Licence("other", " ".join((text or "").split()), problem=_NOT_KNOWN)


def overall_licence(texts: list[str | None]) -> Licence:
    """Return the one licence of a collection, or `other` when its parts differ."""
    found = {read_licence(text) for text in texts}
    if len(found) == 1:
        return found.pop()
    return Licence("other", "mixed, by source")


def strictest_licence(texts: Iterable[str | None]) -> str | None:
    """The text that allows least of those said about one thing; None when none says anything.

    What is not understood is stricter than what is. Silence contradicts nobody: a text that
    states a licence is taken over one that is empty.
    """
    stated = [text for text in texts if read_licence(text).problem != _NOT_STATED]
    return max(stated, key=lambda text: (_strictness(read_licence(text)), str(text)), default=None)


def licence_reason(
    text: str | None, *, required: bool = False, allowed: Sequence[str] = ()
) -> Reason | None:
    """Why this licence keeps a clip out, or None.

    required: drop what states no licence, or one that is not understood. allowed: licences in any
    spelling; when there are some, all others are dropped. A version that is not stated, on
    either side, agrees with every version of the same licence.
    """
    licence = read_licence(text)
    if licence.problem == _NOT_STATED:
        return Reason("license", "none") if required or allowed else None
    if allowed and not any(_same(text or "", item) for item in allowed):
        return Reason("license", licence.spdx or licence.name)
    if required and not licence.understood and not allowed:
        return Reason("license", f"not understood: {licence.name}")
    return None


def not_understood(texts: Iterable[str | None]) -> dict[str, int]:
    """The texts that name no known licence, and how often each was met, most first."""
    counts: dict[str, int] = {}
    for text in texts:
        if text and (licence := read_licence(text)).problem == _NOT_KNOWN:
            counts[licence.name] = counts.get(licence.name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _same(text: str, other: str) -> bool:
    one, two = read_licence(text).spdx, read_licence(other).spdx
    if not one or not two:
        return _plain(text) == _plain(other)
    if one == two:
        return True
    short, long = sorted((one, two), key=len)
    versioned = rf"{re.escape(short)}-\d\.\d"
    return short.startswith("CC-") and re.fullmatch(versioned, long) is not None


def _strictness(licence: Licence) -> tuple[int, ...]:
    """Greater for a licence that allows less: no copies, then ND, NC, SA, BY, then the rest."""
    terms = licence.spdx.split("-") if licence.spdx.startswith("CC-BY") else []
    asks = tuple(int(term in terms) for term in ("ND", "NC", "SA", "BY"))
    if licence.problem and "ND" not in terms:
        return (3 if not licence.understood else 2, *asks)
    free = licence.spdx in ("CC0-1.0", "CC-PDM-1.0")
    return (1 if any(asks) or not free else 0, *asks)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", " ", text.lower()).strip(" .")


# -- Creative Commons ------------------------------------------------------------------------------

_ADDRESS = re.compile(
    r"creativecommons\.org/(licen[sc]es?|publicdomain)/([a-z0-9+-]+)(?:/([1-4]\.[05]))?(?=$|[/\s)>\]#?,;.\"'])"
)
_TERMS = (
    (r"no ?deriv\w*( works?)?|non ?deriv\w*", "nd"),
    (r"non ?commercial( use)?( only)?|no ?commercial( use)?", "nc"),
    (r"share ?alike", "sa"),
    (r"attribution|by", "by"),
)
_FILLERS = frozenset(
    (
        *("cc", "creativecommons", "creative", "commons", "license", "licence", "licenses"),
        *("licences", "licensed", "under", "the", "a", "international", "unported", "generic"),
        *("universal", "deed", "legalcode", "reuse", "allowed", "int", "intl", "igo"),
        # countries of ported versions
        *("de", "at", "nl", "us", "au", "fr", "uk", "pl", "jp", "es", "it", "br", "ca", "nz"),
    )
)
_CC0 = Licence(
    "cc0-1.0", "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/", spdx="CC0-1.0"
)
_MARK = Licence(
    "other",
    "public domain",
    "https://creativecommons.org/publicdomain/mark/1.0/",
    spdx="CC-PDM-1.0",
)


def _creative_commons(lower: str, plain: str) -> Licence | None:
    if address := _ADDRESS.search(lower):
        kind, terms, version = address.groups()
        if not _only_licence(re.sub(r"\S*creativecommons\.org\S*", " ", lower)):
            return None  # the address stands among words that may say anything
        if kind == "publicdomain" or terms in ("publicdomain", "zero", "mark"):
            return _CC0 if terms == "zero" else _MARK
        return _cc(set(re.split(r"[-+]", terms)), version)
    if re.fullmatch(
        r"(creative commons )?(cc )?(cc ?0|cc zero|zero|creative commons zero)"
        r"( v?1(\.0)?)?( universal)?( public domain dedication)?( licen[sc]e)?",
        plain,
    ) or plain in ("cc0 public domain dedication", "public domain dedication cc0"):
        return _CC0
    words = plain
    for pattern, term in _TERMS:
        words = re.sub(rf"\b(?:{pattern})\b", f" {term} ", words)
    terms, versions, others = set(), [], []
    for word in words.split():
        if word in ("by", "nc", "sa", "nd"):
            terms.add(word)
        elif version := re.fullmatch(r"v?([1-4])(?:\.([05]))?", word):
            versions.append(f"{version[1]}.{version[2] or 0}")
        elif word not in _FILLERS:
            others.append(word)
    if others or "by" not in terms:
        return None
    # Wikimedia lists several versions, of which anyone may choose.
    return _cc(terms, max(versions, default=None))


def _only_licence(words: str) -> bool:
    """Whether what stands beside an address is nothing, or a licence's name."""
    plain = _plain(words)
    return all(word in _FILLERS for word in plain.split()) or any(
        (_creative_commons(plain, plain), re.fullmatch(_KNOWN[0][0], plain))
    )


def _cc(terms: set[str], version: str | None) -> Licence | None:
    parts = [part for part in ("by", "nc", "sa", "nd") if part in terms]
    if set(parts) != terms or "by" not in terms or {"sa", "nd"} <= terms:
        return None
    joined = "-".join(parts)
    return Licence(
        f"cc-{joined}-{version}" if version else "cc",  # the Hub's name for the family
        f"CC {joined.upper()} {version or ''}".strip(),
        f"https://creativecommons.org/licenses/{joined}/{version or '4.0'}/",
        "ND forbids passing on changed copies, and clips are cut and encoded again"
        if "nd" in terms
        else "",
        f"CC-{joined.upper()}" + (f"-{version}" if version else ""),
    )


# -- the rest --------------------------------------------------------------------------------------

_STOCK = "its terms forbid passing files on as a collection"
_SITES = r"pexels|pixabay|unsplash|shutterstock|getty( images)?|adobe stock|storyblocks|mixkit|videvo|coverr|envato|istock|pond5|artgrid|freepik|videezy|dareful"
_LICENSE = r"( public)? ?(licen[sc]e)?"
_KNOWN = (
    (
        r"(the )?(public domain|pd|publicdomain)( mark| work| dedication)?( 1.0)?|pdm( 1.0)?"
        r"|cc pdm 1.0|cc public domain mark( 1.0)?|creative commons public domain( mark)?( 1.0)?"
        r"|no known copyright( restrictions)?|pd [a-z0-9 ]{1,30}"
        r"|(united states|u.?s.?) gov(ernment|t)?( work)?s?( public domain)?|nasa( public domain)?",
        _MARK,
    ),
    (
        r"own|own work|own footage|self|self made|mine",
        Licence("other", "published by the owner of the footage"),
    ),
    (
        rf"(the )?(mit|expat){_LICENSE}",
        Licence("mit", "MIT", "https://opensource.org/license/mit", spdx="MIT"),
    ),
    (
        r"(the )?apache( software)?( license)?( version)? ?(v?2|v?2.0)?( license)?",
        Licence(
            "apache-2.0",
            "Apache 2.0",
            "https://www.apache.org/licenses/LICENSE-2.0",
            spdx="Apache-2.0",
        ),
    ),
    (
        rf"(new bsd|modified bsd|bsd|bsd 3|bsd 3 clause|3 clause bsd){_LICENSE}",
        Licence(
            "bsd-3-clause",
            "BSD 3-Clause",
            "https://opensource.org/license/bsd-3-clause",
            spdx="BSD-3-Clause",
        ),
    ),
    (
        rf"(simplified bsd|bsd 2|bsd 2 clause|2 clause bsd){_LICENSE}",
        Licence(
            "bsd-2-clause",
            "BSD 2-Clause",
            "https://opensource.org/license/bsd-2-clause",
            spdx="BSD-2-Clause",
        ),
    ),
    (
        r"odc by( 1.0)?",
        Licence("odc-by", "ODC-By", "https://opendatacommons.org/licenses/by/", spdx="ODC-By-1.0"),
    ),
    (
        r"odbl( 1.0)?",
        Licence("odbl", "ODbL", "https://opendatacommons.org/licenses/odbl/", spdx="ODbL-1.0"),
    ),
    (
        r"pddl( 1.0)?",
        Licence("pddl", "PDDL", "https://opendatacommons.org/licenses/pddl/", spdx="PDDL-1.0"),
    ),
    (
        r"cdla permissive 2.0",
        Licence(
            "cdla-permissive-2.0",
            "CDLA Permissive 2.0",
            "https://cdla.dev/permissive-2-0/",
            spdx="CDLA-Permissive-2.0",
        ),
    ),
    (
        r"(fal|free art|licence art libre|lal)( licen[sc]e)?( 1.3)?",
        Licence(
            "other", "Free Art License 1.3", "https://artlibre.org/licence/lal/en/", spdx="LAL-1.3"
        ),
    ),
    (
        r"(gnu )?(gfdl|free documentation licen[sc]e)( 1.[123])?( or later)?",
        Licence(
            "gfdl", "GFDL", "https://www.gnu.org/licenses/fdl-1.3.html", spdx="GFDL-1.3-or-later"
        ),
    ),
    (
        rf"(the )?({_SITES})( (content|video|free|stock|stock video free|royalty free|attribution|standard))*( licen[sc]e| terms)?( 1.0)?|royalty free",
        Licence("other", "stock-site terms", problem=_STOCK),
    ),
    (
        r"(c )?(copyright )?all rights reserved|.*\b(all rights reserved|proprietary|unlicensed)\b.*|copyrighted"
        r"|(the )?(standard )?(youtube|vimeo|dailymotion|facebook|tiktok|instagram)( standard)?( licen[sc]e| terms)?"
        r"|in copyright( .*)?|https? rightsstatements.org vocab inc .*",
        Licence("other", "all rights reserved", problem="it allows no redistribution"),
    ),
    (rf".*\b({_SITES})\b.*", Licence("other", "stock-site terms", problem=_STOCK)),
    (
        r".*\b(standard youtube licen[sc]e|youtube)\b.*",
        Licence("other", "all rights reserved", problem="it allows no redistribution"),
    ),
)
