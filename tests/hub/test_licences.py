"""Licences: read from common spellings, and judged by whether changed copies may be passed on."""

from __future__ import annotations

import pytest

from realdpo import licences


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("CC-BY-4.0", "cc-by-4.0"),
        ("cc by 3.0", "cc-by-3.0"),
        ("CC-BY", "cc"),  # the version is not guessed
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "cc-by-sa-4.0"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "cc-by-nc-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("CC0", "cc0-1.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("Apache-2.0", "apache-2.0"),
        ("MIT", "mit"),
    ],
)
def test_known_licences_may_be_passed_on(text: str, identifier: str) -> None:
    found = licences.read(text)
    assert (found.id, found.problem) == (identifier, "")


@pytest.mark.parametrize(
    "text",
    [None, "", "  ", "unknown", "CC BY-ND 4.0", "CC-BY-NC-ND-4.0", "Pexels License", "all rights reserved",
     "Standard YouTube License", "see readme", "CC BY 4.0 but ask me first"],
)  # fmt: skip
def test_the_rest_may_not(text: str | None) -> None:
    assert licences.read(text).problem


def test_a_mix_is_other_and_one_licence_is_itself() -> None:
    assert licences.overall(["MIT", "mit license"]).id == "mit"
    assert licences.overall(["MIT", "CC0"]).id == "other"
    assert licences.overall(["MIT", "CC0"]).problem == ""
