"""What the licence texts of a film amount to: an SPDX id, and whether clips may be passed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from realdpo import licences


@dataclass(frozen=True)
class Rights:
    """license: SPDX id where there is one, else the provider's text; "" when none is stated.
    problem: why changed copies must not be passed on, "" when they may."""

    license: str
    problem: str = ""


def read_rights(texts: Sequence[str], *, choice: bool = False) -> Rights:
    """Read every text that states a film's licence; those that say nothing readable yield to
    those that do.

    choice: of several licences the user may take one; the first that lets clips be passed on is.
    Otherwise all of them bind, and a film under several is left out: nobody can say what holds.
    """
    if not texts:
        return Rights("", licences.read_licence(None).problem)
    read = {text: licences.read_licence(text) for text in texts}
    found = {
        licence.spdx or " ".join(text.split()): licence
        for text, licence in read.items()
        if licence.understood
    }
    # "CC BY" beside "CC BY 4.0" is the same licence without its version.
    found = {
        name: licence
        for name, licence in found.items()
        if not any(other.startswith(f"{name}-") for other in found)
    }
    if not found:
        return Rights(texts[0], licences.read_licence(texts[0]).problem)
    if len(found) == 1 or choice:
        free = [name for name, licence in found.items() if not licence.problem]
        name = (free or [*found])[0]
        return Rights(name, found[name].problem)
    if barred := [licence.problem for licence in found.values() if licence.problem]:
        return Rights(" and ".join(found), barred[0])
    return Rights(" and ".join(found), "it states several licences at once")
