"""Licences: read from what people write, judged by whether changed copies may be passed on."""

from __future__ import annotations

import pytest

from realdpo import licences


@pytest.mark.parametrize(
    ("text", "identifier", "spdx"),
    [
        ("CC-BY-4.0", "cc-by-4.0", "CC-BY-4.0"),
        ("cc by 3.0", "cc-by-3.0", "CC-BY-3.0"),
        ("CC BY 4.0", "cc-by-4.0", "CC-BY-4.0"),
        ("CC-BY", "cc", "CC-BY"),  # the version is not guessed
        ("CC BY-SA 4.0", "cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("CC BY-SA 3.0 de", "cc-by-sa-3.0", "CC-BY-SA-3.0"),
        ("cc-by-sa-4.0,3.0,2.5,2.0,1.0", "cc-by-sa-4.0", "CC-BY-SA-4.0"),  # Wikimedia Commons
        ("by-nc-sa", "cc", "CC-BY-NC-SA"),  # Vimeo, Openverse
        ("Attribution-NonCommercial 4.0 International", "cc-by-nc-4.0", "CC-BY-NC-4.0"),
        (
            "Creative Commons Attribution-ShareAlike 4.0 International",
            "cc-by-sa-4.0",
            "CC-BY-SA-4.0",
        ),
        ("Creative Commons Attribution license (reuse allowed)", "cc", "CC-BY"),  # YouTube
        ("Creative Commons Attribution licence (reuse allowed)", "cc", "CC-BY"),
        ("Creative Commons - Attribution", "cc", "CC-BY"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("http://www.creativecommons.org/licenses/by/4.0", "cc-by-4.0", "CC-BY-4.0"),
        ("creativecommons.org/licenses/by-sa/3.0/us/", "cc-by-sa-3.0", "CC-BY-SA-3.0"),
        ("https://creativecommons.org/licenses/by/4.0/deed.en", "cc-by-4.0", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/2.0/legalcode", "cc-by-2.0", "CC-BY-2.0"),
        ("https://creativecommons.org/licenses/by/", "cc", "CC-BY"),
        ("CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)", "cc-by-4.0", "CC-BY-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/deed.de", "cc0-1.0", "CC0-1.0"),
        ("CC0", "cc0-1.0", "CC0-1.0"),
        ("cc-zero", "cc0-1.0", "CC0-1.0"),
        ("CC0 1.0 Universal", "cc0-1.0", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "other", "CC-PDM-1.0"),
        ("http://creativecommons.org/licenses/publicdomain/", "other", "CC-PDM-1.0"),
        ("Public Domain Mark 1.0", "other", "CC-PDM-1.0"),
        ("Public domain", "other", "CC-PDM-1.0"),
        ("PD-USGov", "other", "CC-PDM-1.0"),
        ("BSD-3-Clause", "bsd-3-clause", "BSD-3-Clause"),
        ("Apache-2.0", "apache-2.0", "Apache-2.0"),
        ("MIT", "mit", "MIT"),
        ("The MIT License", "mit", "MIT"),
    ],
)
def test_known_licences_may_be_passed_on(text: str, identifier: str, spdx: str) -> None:
    found = licences.read_licence(text)
    assert (found.id, found.spdx, found.problem) == (identifier, spdx, "")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "  ",
        "unknown",
        "CC BY-ND 4.0",
        "CC-BY-NC-ND-4.0",
        "Pexels License",
        "all rights reserved",
        "Standard YouTube License",
        "see readme",
        "CC BY 4.0 but ask me first",
        "Pixabay Content License",
        "Mixkit Stock Video Free License",
        "https://creativecommons.org/licenses/by-nc-nd/3.0/us/",
        "Creative Commons Attribution-NoDerivs",
        "cc by sa nd",
        "4",
        "free for all",
        "https://creativecommons.org/licenses/by/4.0/ does not apply",
    ],
)
def test_the_rest_may_not(text: str | None) -> None:
    assert licences.read_licence(text).problem


def test_what_is_not_understood_is_told_with_its_text() -> None:
    texts = ["see readme", "CC0", None, "see readme", "Pexels License", "4"]
    assert licences.not_understood(texts) == {"see readme": 2, "4": 1}


def test_a_mix_is_other_and_one_licence_is_itself() -> None:
    assert licences.overall_licence(["MIT", "mit license"]).id == "mit"
    assert licences.overall_licence(["MIT", "CC0"]).id == "other"
    assert licences.overall_licence(["MIT", "CC0"]).problem == ""


def test_the_strictest_of_several_counts() -> None:
    ladder = [
        "CC0",
        "MIT",
        "CC-BY-4.0",
        "CC BY-SA 4.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-ND-4.0",
        "Pexels License",
        "whatever it says",
    ]
    for k, strict in enumerate(ladder):
        assert licences.strictest_licence([*ladder[:k], strict, *ladder[:k]]) == strict
    assert licences.strictest_licence([None, "CC0", ""]) == "CC0"
    assert licences.strictest_licence([None, ""]) is None


def test_the_filter_reads_both_sides() -> None:
    def why(text: str | None, *allowed: str, required: bool = False) -> str | None:
        reason = licences.licence_reason(text, required=required, allowed=allowed)
        return None if reason is None else str(reason)

    assert why(None) is None
    assert why(None, required=True) == "license=none"
    assert why("", "MIT") == "license=none"
    assert why("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0") is None
    assert why("CC BY 4.0", "cc-by-4.0") is None
    assert why("CC BY", "CC-BY-4.0") is None  # its version is not stated
    assert why("CC-BY-3.0", "CC BY") is None
    assert why("CC-BY-3.0", "CC-BY-4.0") == "license=CC-BY-3.0"
    assert why("CC BY-NC 4.0", "CC-BY") == "license=CC-BY-NC-4.0"
    assert why("my studio's", "My Studio's") is None
    assert why("see readme", "MIT") == "license=see readme"
    assert why("see readme", required=True) == "license=not understood: see readme"
    assert why("Pexels License", required=True) is None  # known, though not to be published
