"""Licences of footage: what each allows us to pass on, and how the Hub names it.

A dataset of clips is an adaptation: footage is cut, resized and encoded again. A licence therefore
has to allow passing on *changed* copies; "no derivatives" does not, nor do the terms of stock
sites, which forbid passing files on as a collection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """A licence as the Hub names it; `problem` says why clips under it must not be published."""

    id: str
    name: str
    url: str = ""
    problem: str = ""


def read(text: str | None) -> Licence:
    """Return the licence that a ledger's text names, in whatever common spelling.

    An unknown text comes back with a `problem`: what cannot be read cannot be relied on.
    """
    if not text or not text.strip() or _plain(text) in ("unknown", "none", "null", "n a", "nan"):
        return Licence("unknown", "not stated", problem="no licence is stated")
    plain = _plain(text)
    if cc := _creative_commons(plain):
        return cc
    for pattern, licence in _KNOWN:
        if re.fullmatch(pattern, plain):
            return licence
    return Licence("other", text.strip(), problem="this licence is not one we know to allow it")


def overall(texts: list[str | None]) -> Licence:
    """Return the one licence of a collection, or `other` when its parts differ."""
    found = {read(text) for text in texts}
    if len(found) == 1:
        return found.pop()
    return Licence("other", "mixed, by source")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", " ", text.lower()).strip()


def _creative_commons(plain: str) -> Licence | None:
    if re.search(r"\bcc ?0\b|creativecommons.org publicdomain zero|creative commons zero", plain):
        return Licence("cc0-1.0", "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
    words = re.sub(
        r"https? (www )?creativecommons.org licenses|creative commons|\bcc\b", " cc ", plain
    )
    words = (
        words.replace("attribution", "by")
        .replace("noncommercial", "nc")
        .replace("non commercial", "nc")
    )
    words = words.replace("sharealike", "sa").replace("share alike", "sa")
    words = (
        words.replace("noderivatives", "nd")
        .replace("no derivatives", "nd")
        .replace("noderivs", "nd")
    )
    found = re.fullmatch(r"\s*cc\s+by((?: (?:nc|sa|nd))*)(?: ([1-4]\.[05]))?(?: international| unported| deed.*| legalcode.*)?\s*", words)  # fmt: skip
    if not found:
        return None
    parts = ["by", *[part for part in ("nc", "sa", "nd") if part in found.group(1).split()]]
    version = found.group(2)
    terms = "-".join(parts)
    problem = "ND forbids passing on changed copies, and clips are cut and encoded again"
    return Licence(
        f"cc-{terms}-{version}" if version else "cc",  # the Hub's name for the family
        f"CC {terms.upper()} {version or ''}".strip(),
        f"https://creativecommons.org/licenses/{terms}/{version or '4.0'}/",
        problem if "nd" in parts else "",
    )


_STOCK = "its terms forbid passing files on as a collection"
_KNOWN = (
    (r"public domain|pd|publicdomain|pdm|pdm 1.0", Licence("other", "public domain")),
    (r"own|own work|own footage|self", Licence("other", "published by the owner of the footage")),
    (r"mit( license)?", Licence("mit", "MIT", "https://opensource.org/license/mit")),
    (
        r"apache( license)?( version)? ?(2|2.0)?",
        Licence("apache-2.0", "Apache 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    ),
    (
        r"(new bsd|modified bsd|bsd|bsd 3|bsd 3 clause)( license)?",
        Licence("bsd-3-clause", "BSD 3-Clause", "https://opensource.org/license/bsd-3-clause"),
    ),
    (
        r"(simplified bsd|bsd 2|bsd 2 clause)( license)?",
        Licence("bsd-2-clause", "BSD 2-Clause", "https://opensource.org/license/bsd-2-clause"),
    ),
    (r"odc by( 1.0)?", Licence("odc-by", "ODC-By", "https://opendatacommons.org/licenses/by/")),
    (r"odbl( 1.0)?", Licence("odbl", "ODbL", "https://opendatacommons.org/licenses/odbl/")),
    (r"cdla permissive 2.0", Licence("cdla-permissive-2.0", "CDLA Permissive 2.0", "https://cdla.dev/permissive-2-0/")),
    (r".*\b(pexels|pixabay|unsplash|shutterstock|getty( images)?|adobe stock|storyblocks)\b.*",
     Licence("other", "stock-site terms", problem=_STOCK)),
    (r".*\b(all rights reserved|proprietary|unlicensed|standard youtube licen[cs]e|youtube)\b.*",
     Licence("other", "all rights reserved", problem="it allows no redistribution")),
)  # fmt: skip
