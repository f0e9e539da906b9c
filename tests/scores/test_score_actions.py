"""Actions: the taxonomy, tags from words, balance."""

from __future__ import annotations

import pytest

from realdpo import tables
from realdpo.curate import actions
from realdpo.errors import UserError


def test_the_taxonomy_is_large_enough_and_has_no_name_twice() -> None:
    every = actions.read_taxonomy()
    assert len({action.scene for action in every}) >= 10
    assert len({action.name for action in every}) == len(every) >= 60
    assert all(action.words for action in every)


@pytest.mark.parametrize("action", actions.read_taxonomy(), ids=lambda action: action.name)
def test_every_search_word_tags_its_action(action: actions.Action) -> None:
    for words in action.words:
        assert action.name in actions.tag_actions([words]), words


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hair_braiding.mp4", "doing_hair"),
        ("A woman braids her daughter's hair", "doing_hair"),
        ("He is drinking water from a bottle", "drinking"),
        ("Two men riding bicycles through the city", "cycling"),
        ("girl-dancing-in-red-dress.mp4", "dancing"),
        ("Pouring hot coffee into a cup", "pouring"),
        ("WalkingTheDog", "walking_dog"),
        ("a chef chopped the vegetables", "cutting_food"),
        ("she carries boxes upstairs", "carrying"),
    ],
)
def test_words_as_people_write_them(text: str, name: str) -> None:
    assert name in actions.tag_actions([text])


@pytest.mark.parametrize(
    "text",
    ["", None, "plant in a pot", "sintel_trailer_30s.mp4", "a sunset over the hills", "0001.mp4"],
)
def test_no_action_where_there_is_none(text: str | None) -> None:
    assert actions.tag_actions([text]) == []


def test_the_words_of_a_phrase_must_stand_together() -> None:
    apart = "He had long hair and then after a while went home with the braid"
    assert "doing_hair" not in actions.tag_actions([apart])


@pytest.mark.parametrize(
    ("forms", "root"),
    [
        (("run", "runs", "running"), "run"),
        (("dance", "dances", "dancing", "danced"), "danc"),
        (("carry", "carries", "carrying", "carried"), "carry"),
        (("wash", "washes", "washing", "washed"), "wash"),
        (("chop", "chopped", "chopping"), "chop"),
    ],
)
def test_forms_of_a_word_have_one_stem(forms: tuple[str, ...], root: str) -> None:
    assert {actions.stem_word(form) for form in forms} == {root}


def test_balance_takes_turns_between_sources() -> None:
    rows = [
        {"clip_id": f"{i:02}", "source_id": source, "keep": True, "reasons": [], "action": names}
        for i, (source, names) in enumerate(
            [("a", ["dancing"])] * 4
            + [("b", ["dancing"])] * 2
            + [("c", []), ("a", ["dancing", "eating"])]
        )
    ]
    after = actions.balance_actions(tables.from_rows(tables.CLIPS, rows), 3)
    kept = [row["clip_id"] for row in after.to_pylist() if row["keep"]]
    # Two of the first turn, one of the second; the clip without an action; the one who eats.
    assert kept == ["00", "01", "04", "06", "07"]
    assert after["reasons"].to_pylist()[5] == ["per_action=dancing>3"]
    with pytest.raises(UserError):
        actions.balance_actions(after, 0)
