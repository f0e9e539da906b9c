"""The page shell: everything escaped, self-contained, well-formed, and the same bytes each time."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.patches import Rectangle
from PIL import Image

from realdpo import report

HOSTILE = "<script>alert('x')</script> & \"quotes\" $math$"
VOID = {"meta", "img", "input", "br", "hr", "link"}


class Balance(HTMLParser):
    """Collects tags, attributes and text, and fails on an end tag that closes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def parse(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    return parser


def hostile_page() -> str:
    rows: list[dict[str, object]] = [
        {HOSTILE: HOSTILE, "n": 1234.5},
        {HOSTILE: None, "n": float("nan")},
    ]
    return report.render_page(
        HOSTILE,
        [
            report.Section(HOSTILE, HOSTILE),
            report.Section("table", report.render_table(rows)),
            report.Section(
                "chart",
                report.plot_lines({HOSTILE: ([0, 1], [1, 2]), "b": ([0, 1], [2, 1])}, HOSTILE),
            ),
            report.Section(
                "histogram", report.plot_histogram([1.0, 2.0, None], HOSTILE, {HOSTILE: 1.5})
            ),
            report.Section("clips", report.in_step([(HOSTILE, b"\0mp4"), ("b", b"\0mp4")])),
            report.Section("clip", report.render_video(b"\0mp4", HOSTILE)),
            report.Section("picture", report.render_image(b"\x89PNG", HOSTILE)),
        ],
        HOSTILE,
    )


def test_hostile_strings_stay_text() -> None:
    page = parse(hostile_page())
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    # title twice, subtitle, section heading, menu, paragraph, column, cell, and the labels of
    # 2 line charts' parts, histogram title and mark, player, clip and picture
    assert page.text.count(HOSTILE) >= 13


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = parse(hostile_page())
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", hostile_page())


def test_the_same_input_gives_the_same_page() -> None:
    assert hostile_page() == hostile_page()


def test_numbers_stand_right_and_keep_their_exact_value_for_sorting() -> None:
    html = report.render_table(
        [
            {"clips": 1234567, "share": 0.123456, "word": "x"},
            {"clips": None, "share": 2.0, "word": True},
        ],
        {"clips": "Clips", "share": "Share", "word": "Word"},
    )
    cells = re.findall(r"<td([^>]*)>([^<]*)</td>", html)
    assert cells == [
        (' class="n" data-key="1234567.0"', "1,234,567"),
        (' class="n" data-key="0.123456"', "0.1235"),
        ("", "x"),
        (' class="n"', "–"),
        (' class="n" data-key="2.0"', "2"),
        ("", "yes"),
    ]


def test_a_table_shows_only_the_columns_asked_for_and_keeps_markup() -> None:
    html = report.render_table([{"a": Markup("<b>1</b>"), "secret": "s"}], ["a"])
    assert "<td><b>1</b></td>" in html
    assert "secret" not in html
    assert "Nothing to show" in report.render_table([])


def test_charts_take_the_colours_of_the_theme() -> None:
    svg = report.plot_lines({"a": ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])}, "t")
    assert "var(--s0" in svg
    assert "var(--s1" in svg
    unthemed = set(re.findall(r"(?<!, )#[0-9a-f]{6}", svg)) - {"#ffffff"}
    assert not unthemed
    parse(svg)


def test_a_histogram_leaves_out_what_was_not_measured_and_marks_thresholds() -> None:
    axes = report.histogram_figure(
        [1, 2, 2, None, float("nan"), float("inf")], "t", {"min": 1.5}
    ).axes[0]
    assert sum(patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)) == 3
    assert [line.get_xdata()[0] for line in axes.lines] == [1.5]
    assert "no values" in report.plot_histogram([], "t")


def test_a_contact_sheet_holds_every_picture_where_it_should_be() -> None:
    red = np.full((50, 100, 3), (255, 0, 0), np.uint8)
    blue = np.full((100, 50, 3), (0, 0, 255), np.uint8)
    png = report.contact_sheet([("red", red), ("b" * 200, blue), ("red", red)], columns=2, cell=100)
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    assert sheet.shape == (10 + 2 * (125 + 22 + 10), 10 + 2 * (100 + 10), 3)
    assert tuple(sheet[10 + 62, 10 + 50]) == (255, 0, 0)
    assert tuple(sheet[10 + 62, 120 + 50]) == (0, 0, 255)
    assert tuple(sheet[167 + 62, 10 + 50]) == (255, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        report.contact_sheet([])


def test_a_page_replaces_the_old_one_whole(tmp_path) -> None:
    target = tmp_path / "reports" / "page.html"
    report.write_page(target, "old")
    report.write_page(target, "é")
    assert target.read_text(encoding="utf-8") == "é"
    assert [file.name for file in target.parent.iterdir()] == ["page.html"]
