"""Cleaning: what must go, what must stay, and what no input may do to it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realdpo.curate.caption import clean as c

WORDS = st.sampled_from(
    re.split(
        " ",
        "The video shows a man in red who walks to the left and appears to be eating possibly "
        "Overall Sure! **Action:** - 1. the, then; stops. \n A woman's (small) dog: runs? #",
    )
)
TEXTS = st.lists(WORDS, max_size=40).map(" ".join) | st.text(max_size=200)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("The video shows a man walking.", "A man walking."),
        ("In this short clip, we can see two women dancing.", "Two women dancing."),
        ("The camera follows a dog.", "The camera follows a dog."),
        ("Here is the caption:\nA boy jumps.", "A boy jumps."),
        ("Sure! Here's a description of the video: A boy jumps.", "A boy jumps."),
        ("He appears to be eating, possibly at home.", "He is eating."),
        ("They seem to be laughing.", "They are laughing."),
        ("A man is likely to fall.", "A man is likely to fall."),
        ("A girl waves, suggesting a friendly mood. Overall, the tone is calm.", "A girl waves."),
        ("**Subject:** A cook.\n- **Action:** She chops an onion", "A cook. She chops an onion."),
        ("# Scene\n1. A man sits.\n2. He stands up.", "A man sits. He stands up."),
        ("Camera: static", "The camera is static."),
        ("<think>what is it</think>A cat sleeps.", "A cat sleeps."),
        ('```json\n{"caption": "A cat sleeps."}\n```', "A cat sleeps."),
        ("A cat sleeps. A cat sleeps.", "A cat sleeps."),
        ("Dr. Miller lifts 2.5 kg.", "Dr. Miller lifts 2.5 kg."),
        ("She picks up the pan with her left hand", "She picks up the pan with her left hand."),
        ("A video editor cuts a film.", "A video editor cuts a film."),
    ],
)
def test_one_answer(raw: str, wanted: str) -> None:
    assert c.clean_caption(raw) == c.Cleaned(wanted, c.OK)


@pytest.mark.parametrize(
    ("raw", "finish", "text", "status"),
    [
        ("I'm sorry, but I can't help with that.", "stop", "", c.REFUSED),
        ("As an AI language model, I cannot see.", "stop", "", c.REFUSED),
        ("A man walks.", "content_filter", "", c.REFUSED),
        ("A man who is sorry walks.", "stop", "A man who is sorry walks.", c.OK),
        ("A man walks. He turns and", "length", "A man walks.", c.TRUNCATED),
        ("A man walks. He turns and", None, "A man walks.", c.TRUNCATED),
        ("A man walks. He turns", "stop", "A man walks. He turns.", c.OK),
        ("A man walks and", "length", "", c.TRUNCATED),
        ("He walks. " + "The man turns left, " * 9, "stop", "He walks.", c.TRUNCATED),
        (" \n** ", "stop", "", c.EMPTY),
        ("", "stop", "", c.EMPTY),
        ("一个男人在公园里跑步。", "stop", "", c.ERROR),
        ("Ein Mann geht mit dem Hund auf der Straße und lacht.", "stop", "", c.ERROR),
    ],
)
def test_status(raw: str, finish: str | None, text: str, status: str) -> None:
    cleaned = c.clean_caption(raw, finish=finish)
    assert (cleaned.text, cleaned.status) == (text, status)
    assert bool(cleaned.problem) == (status != c.OK)


def test_language_is_the_users_choice() -> None:
    german = "Ein Mann geht mit dem Hund auf der Straße und lacht."
    assert c.clean_caption(german, language="de").text == german
    assert c.clean_caption(german, language="").status == c.OK


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["stop", "length", None]))
def test_whatever_comes_in(raw: str, finish: str | None) -> None:
    cleaned = c.clean_caption(raw, finish=finish)
    text = cleaned.text
    assert len(text) <= len(raw) * 2 + 20
    assert not set(text) & set("*`#\n\t")
    assert "  " not in text
    assert text == text.strip()
    if cleaned.status == c.OK:
        assert text
        assert any(ch.isalpha() for ch in text)
        assert text.rstrip("\"'”’)]")[-1] in ".!?。！？…"
    if cleaned.status in (c.REFUSED, c.EMPTY, c.ERROR):
        assert text == ""


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_cleaning_twice_is_cleaning_once(raw: str) -> None:
    once = c.strip_caption(raw)
    assert c.strip_caption(once) == once
