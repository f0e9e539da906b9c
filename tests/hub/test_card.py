"""The dataset card: metadata that the Hub and datasets read, numbers that add up, nothing unescaped."""

from __future__ import annotations

import json
import re
from typing import Any

import hub_workspaces as workspaces
import pyarrow as pa
import pytest
import yaml

from realdpo import tables
from realdpo.publish import dataset_card as cards
from realdpo.publish import hub, published


def card_of(made: workspaces.Made, *configs: str, **options: Any) -> cards.Card:
    parts = [
        published.published_shards(made.workspace, name) for name in configs or ("clips", "pairs")
    ]
    return cards.dataset_card(made.workspace, parts, "someone/actions", **options)


@pytest.fixture(scope="module")
def card(made_once: workspaces.Made) -> cards.Card:
    """The card of the workspace as it was made, for tests that only look."""
    return card_of(made_once)


def header_of(readme: str) -> dict[str, Any]:
    return yaml.safe_load(readme.split("---\n")[1])


def rewrite(made: workspaces.Made, **values: Any) -> None:
    """Set columns of every clip in the shards to one value."""
    for path in made.workspace.data.glob("*.parquet"):
        table = tables.read_table(path, tables.DATASET)
        for name, value in values.items():
            field = table.schema.field(name)
            place = table.schema.get_field_index(name)
            table = table.set_column(place, field, pa.array([value] * table.num_rows, field.type))
        tables.write_table(path, table, tables.DATASET)


def test_the_header_says_what_the_shards_hold(made_once: workspaces.Made, card: cards.Card) -> None:
    import datasets

    made = made_once
    header = header_of(card.readme)
    assert header["size_categories"] == ["n<1K"]
    assert set(header["task_categories"]) == {
        "image-to-video",
        "text-to-video",
        "video-classification",
    }
    assert header["license"] == "other"  # the ledger has three licences
    assert [config["config_name"] for config in header["configs"]] == ["clips", "pairs"]
    for info, kind, folder in zip(
        header["dataset_info"], ("clips", "pairs"), ("data", "pairs/data"), strict=True
    ):
        part = published.published_shards(made.workspace, kind)
        given = datasets.Features._from_yaml_list(info["features"])
        assert given == datasets.Features.from_arrow_schema(part.schema)
        assert {split["name"]: split["num_examples"] for split in info["splits"]} == dict(part.rows)
        files = list((made.workspace.root / folder).glob("*.parquet"))
        assert info["download_size"] == sum(path.stat().st_size for path in files)
    assert isinstance(given["win"], datasets.Video)


def test_one_licence_is_named_in_the_header(made: workspaces.Made) -> None:
    rewrite(made, license="CC-BY-4.0")
    assert header_of(card_of(made, "clips").readme)["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (2_000_000, "1M<n<10M"),
    ],
)
def test_size_categories(rows: int, category: str) -> None:
    assert cards._size_category(rows) == category


def test_the_funnel_counts_by_hand(made: workspaces.Made) -> None:
    # 6 kept; 3 dropped for motion, 2 of them also for light; nothing is too bright
    clips = tables.read_table(made.workspace.clips, tables.CLIPS)
    rules = cards.read_thresholds(made.workspace, clips)
    assert rules == {"motion.subject": {"min": 1.5}, "luma.mean": {"min": 30.0, "max": 240.0}}
    rows = [
        (str(row["step"]), row.get("dropped"), row.get("alone"), row.get("left"))
        for row in cards.funnel_rows(clips, rules)
    ]
    assert rows == [
        ("clips found", None, None, 9),
        ("`motion.subject < 1.5`", 3, 1, None),
        ("`luma.mean < 30`", 2, 0, None),
        ("`luma.mean > 240`", 0, 0, None),
        ("kept", None, None, 6),
    ]


def test_hostile_titles_and_captions_stay_text(made: workspaces.Made) -> None:
    hostile = "a|b <img src=x onerror=alert(1)> `c` [d](javascript:alert(1)) **e** $f$ \n# g"
    rewrite(made, title=hostile, author=hostile, source_url="javascript:alert(2)", license="CC0")
    readme = card_of(made, "clips").readme
    html = render(readme)
    assert "<img src=x" not in html
    assert 'href="javascript' not in html
    assert "<strong>e</strong>" not in html
    assert "<h1>g" not in html
    for block in re.findall(r"(?:^\|.*\n)+", readme, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


def render(readme: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(readme))


def test_every_source_is_credited(card: cards.Card) -> None:
    attribution = card.files["ATTRIBUTION.md"].decode()
    assert attribution.count("\n- ") == len(workspaces.LEDGER)
    assert "[licence: CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)" in attribution
    assert "by Grace" in attribution
    assert "Changes: cut into clips" in attribution


def test_nothing_of_this_machine_is_published(made_once: workspaces.Made) -> None:
    made = made_once
    for plan in hub.plan_push(made.workspace, "someone/actions", hub.PushConfig()):
        for file in plan.files:
            data = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
            assert b"/home/somebody" not in data, file.path
            assert str(made.workspace.root).encode() not in data, file.path


def test_a_source_in_two_splits_is_said_loudly(made: workspaces.Made, card: cards.Card) -> None:
    assert "none appears in two splits" in card.readme
    rewrite(made, source_id="0" * 64)
    assert re.search(r"\*\*1 of .* have clips in more than one split", card_of(made).readme)


def test_an_audit_shows_with_its_numbers(made: workspaces.Made) -> None:
    made.workspace.audit.write_text(
        json.dumps(
            {
                "verdict": "suspicious",
                "summary": "told apart with AUC 0.81",
                "auc": 0.81,
                "features": [{"name": "sharpness", "p": 0.002, "auc": 0.8125, "words": "blurrier"}],
                "motion": {"words": "losers move 0.50 times as much"},
            }
        )
    )
    card = card_of(made, "pairs")
    readme = card.readme
    assert "**Perhaps**" in readme
    assert "| sharpness | 0.002 | 0.8125 | blurrier |" in readme
    assert "Losers move 0.50 times as much." in readme
    assert b"suspicious" in card.files["pairs/audit.json"]


def test_the_card_depends_on_the_workspace_alone(
    made_once: workspaces.Made, card: cards.Card
) -> None:
    assert card_of(made_once) == card


def test_what_was_not_measured_is_listed(made: workspaces.Made, card: cards.Card) -> None:
    assert "No filter for nudity" in card.readme
    clips = tables.read_table(made.workspace.clips, tables.CLIPS)
    seen = pa.array([0.0] * clips.num_rows, pa.float32())
    tables.write_table(made.workspace.clips, clips.append_column("nsfw.share", seen), tables.CLIPS)
    assert "No filter for nudity" not in card_of(made, "clips").readme


def test_the_example_in_the_card_is_python(card: cards.Card) -> None:
    for block in re.findall(r"```python\n(.*?)```", card.readme, re.DOTALL):
        compile(block, "card", "exec")
