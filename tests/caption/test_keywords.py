"""Captions from names and tags: they must read as sentences and claim nothing that was seen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realdpo.curate.actions import read_taxonomy
from realdpo.curate.caption import keywords


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("hair_braiding.mp4", "Someone is braiding hair."),
        ("Woman walking dog in park", "A woman is walking a dog in park."),
        ("people dancing", "People are dancing."),
        ("group of friends dancing", "A group of friends is dancing."),
        ("red_dress_vertical", "A red dress is in view. The frame is vertical."),
        ("handheld_vertical", "The camera is handheld. The frame is vertical."),
        ("hair braiding salon", "A hair braiding salon is in view."),
        ("plant_1fps", "A plant is in view."),
        ("bikes", "Bikes are in view."),
        ("IMG_20200101_120000", keywords.UNTITLED),
        ("4873105-hd_1920_1080_25fps.mp4", keywords.UNTITLED),
        ("apple on table", "An apple on table is in view."),
    ],
)
def test_titles(title: str, wanted: str) -> None:
    assert keywords.caption_from_keywords(title) == wanted


def test_tags_and_actions_are_said_once() -> None:
    text = keywords.caption_from_keywords(
        None, ["salon", "hair", "beauty"], ["hair_braiding"], "x_0001.mp4"
    )
    assert text == "Someone is braiding hair. The themes are salon and beauty."
    assert (
        keywords.caption_from_keywords("carphone", ["face"])
        == "A carphone is in view. The theme is a face."
    )
    assert keywords.caption_from_keywords("chef", actions=["chopping vegetables", "talking"]) == (
        "A chef is chopping vegetables and talking."
    )


def test_every_action_of_the_taxonomy_makes_a_sentence() -> None:
    said = {a.name: keywords.caption_from_keywords(None, (), [a.name]) for a in read_taxonomy()}
    assert said["doing_hair"] == "Someone is doing hair."
    assert said["using_phone"] == "Someone is using a phone."
    for name, text in said.items():
        assert re.fullmatch(r"Someone is (?:doing )?[a-z]+ing\b[a-z ]*\.", text), name
        assert not re.search(r"\ba \w+ed\b|\ba teeth|\ba work|\ban? \w+ing\.", text), name


@settings(max_examples=300, deadline=None)
@given(
    st.none() | st.text(max_size=60),
    st.lists(st.text(max_size=20), max_size=8),
    st.lists(st.text(max_size=20), max_size=3),
)
def test_always_sentences(title: str | None, tags: list[str], actions: list[str]) -> None:
    text = keywords.caption_from_keywords(title, tags, actions, "clip.mp4")
    assert text.endswith(".")
    assert "  " not in text
    assert "\n" not in text
    for sentence in re.split(r"(?<=\.) ", text):
        assert re.search(r"\b(is|are)\b", sentence)
