"""Prompts that came with footage: every layout that people have, and what is wrong with some."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realdpo.curate import sources
from realdpo.curate.caption import prompts
from realdpo.curate.caption.prompts import Layout, PromptSpan
from realdpo.errors import UserError


def films(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def said(film: Path) -> tuple[str, ...]:
    found = prompts.find_prompt(film)
    return () if found is None else found.captions


def test_a_file_beside_the_film_wins_over_a_table(tmp_path: Path) -> None:
    (video,) = films(tmp_path, "a.mp4")
    assert said(video) == ()
    table = tmp_path / "captions.csv"
    table.write_text('file_name,caption\na.mp4,"A man, in red, waves."\n')
    assert said(video) == ("A man, in red, waves.",)
    (tmp_path / "a.mp4.json").write_text(json.dumps({"description": "She waves."}))
    assert said(video) == ("She waves.",)
    (tmp_path / "a.txt").write_text("\ufeffA girl waves.\n", encoding="utf-8")
    assert said(video) == ("A girl waves.",)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["caption", "text", "prompt"])
def test_a_video_folder(tmp_path: Path, kind: str, column: str) -> None:
    a, b = films(tmp_path / "set", "train/deep/a.mp4", "test/a.mp4")
    rows = [
        {"file_name": "train/deep/a.mp4", column: "a bicycle", "aesthetic": 5.5},
        {"file_name": "./test/a.mp4", column: "a car", "aesthetic": 4.0},
    ]
    table = tmp_path / "set" / f"metadata.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif kind == "jsonl":
        table.write_text("\n".join(map(json.dumps, rows)))
    else:
        table.write_text(
            "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)])
        )
    notes = sources.Notes()
    found = {c.path: c for c in sources.find_footage([str(tmp_path / "set")], notes=notes)}
    assert found[str(a)].captions == ("a bicycle",)
    assert found[str(b)].captions == ("a car",)
    assert found[str(a)].captions_from == f"metadata.{kind}"
    assert (found[str(a)].split, found[str(b)].split) == ("train", "test")
    assert any("aesthetic" in line and f"metadata.{kind}" in line for line in notes.lines())
    # The table itself names the same footage.
    [one, two] = sources.find_footage([str(table)])
    assert {one.captions, two.captions} == {("a bicycle",), ("a car",)}


def test_a_bare_name_means_a_film_only_where_one_has_it(tmp_path: Path) -> None:
    a, b = films(tmp_path, "videos/a.mp4", "videos/b.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,a bicycle\nb,a car\n")
    assert [said(a), said(b)] == [("a bicycle",), ("a car",)]
    (other,) = films(tmp_path, "more/a.mp4")
    layout = Layout([a, b, other])
    assert layout.find(a) is None
    assert layout.find(other) is None
    assert layout.find(b) is not None


@pytest.mark.parametrize(
    "names",
    [("prompt.txt", "videos.txt"), ("prompts.txt", "videos.txt"), ("captions.txt", "video.txt")],
)
def test_two_lists_pair_line_by_line(tmp_path: Path, names: tuple[str, str]) -> None:
    a, b, c = films(tmp_path, "videos/0.mp4", "videos/1.mp4", "videos/2.mp4")
    (tmp_path / names[0]).write_text("one\n\nthree\n")  # the second has none
    (tmp_path / names[1]).write_text("videos/0.mp4\nvideos/1.mp4\nvideos/2.mp4\n")
    assert [said(film) for film in (a, b, c)] == [("one",), (), ("three",)]
    (tmp_path / names[0]).write_text("one\n")
    with pytest.raises(UserError, match=r"has 1 lines and .* 3"):
        prompts.find_prompt(a)


def test_labels_beside_videos(tmp_path: Path) -> None:
    (a,) = films(tmp_path, "videos/a.mp4")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("a bicycle")
    assert said(a) == ("a bicycle",)


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"caption": "one"}, ("one",)),
        ({"caption": ["one", "two", " "]}, ("one", "two")),
        ({"caption": "['one', 'two']"}, ("one", "two")),
        ({"text": '["one"]', "description": "long"}, ("one",)),
        ({"caption": None, "prompt": "", "text": "one"}, ("one",)),
        ({"caption_0": "one", "caption_1": "two"}, ("one", "two")),
        ({"caption": "[laughs] a man talks [off]"}, ("[laughs] a man talks [off]",)),
        ({"caption": float("nan"), "description": "Filmed in 1950 for the ministry."}, ()),
    ],
)
def test_captions_of_a_row(row: dict[str, object], captions: tuple[str, ...]) -> None:
    assert prompts.read_row(row).captions == captions


@pytest.mark.parametrize(
    ("row", "spans"),
    [
        ({"timestamp": "[['0:00:01.000', '0:00:03.500']]"}, [(1, Fraction(7, 2))]),
        ({"timestamp": [[0, 2], [2, 4.5]]}, [(0, 2), (2, Fraction(9, 2))]),
        ({"timestamp": [1, 2]}, [(1, 2)]),
        ({"start": "1.5", "end": "3"}, [(Fraction(3, 2), 3)]),
        ({"start_time": "00:01:02,250", "end_time": "1:03"}, [(Fraction(249, 4), 63)]),
        ({"start": 2.0, "end": float("nan")}, [(2, None)]),
        ({"start": "", "end": ""}, []),
        ({"clip_id": "x", "start": "0/1", "end": "3/2"}, []),
    ],
)
def test_spans_of_a_row(row: dict[str, object], spans: list[tuple[object, object]]) -> None:
    assert [(s.start, s.end) for s in prompts.read_row(row).spans] == spans


def test_spans_and_captions_pair() -> None:
    row = {"timestamp": [[0, 1], [1, 2]], "caption": ["one", "two"]}
    assert prompts.read_row(row).spans == (
        PromptSpan(Fraction(0), Fraction(1), ("one",)),
        PromptSpan(Fraction(1), Fraction(2), ("two",)),
    )
    assert [s.captions for s in prompts.read_row({**row, "caption": "all"}).spans] == [("all",)] * 2
    for wrong in ({**row, "caption": ["1", "2", "3"]}, {"timestamp": [[2, 1]]}, {"start": "soon"}):
        with pytest.raises(UserError):
            prompts.read_row(wrong)


def test_a_bad_row_or_file_is_that_films_alone(tmp_path: Path) -> None:
    a, b, c = films(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "a.txt").write_bytes(b"v\xe9lo")
    rows = [
        '{"file_name": "b.mp4", "text": "one", "start": "soon"}',
        '{"file_name": "c.mp4", "text": "two"}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    one, two, three = sources.find_footage([str(tmp_path)])
    assert "a.txt is not UTF-8" in str(one.prompt_error)
    assert "metadata.jsonl, row 1" in str(two.prompt_error)
    assert (three.prompt_error, three.captions) == (None, ("two",))
    (tmp_path / "m.csv").write_text("path,caption,timestamp\nb.mp4,x,never\nc.mp4,y,\n")
    wrong, right = sources.find_footage([str(tmp_path / "m.csv")])
    assert "row 1" in str(wrong.error)
    assert (right.error, right.captions, right.spans) == (None, ("y",), ())
    assert {one.path, wrong.path, right.path} == {str(a), str(b), str(c)}


def test_one_of_several_captions_is_always_the_same() -> None:
    texts = ["one", "two", "three"]
    chosen = {f"clip{k}": prompts.choose_caption(f"clip{k}", texts) for k in range(60)}
    assert set(chosen.values()) == set(texts)
    assert all(prompts.choose_caption(clip, texts) == text for clip, text in chosen.items())
    assert prompts.choose_caption("clip", []) is None


def test_rows_of_one_film_add_up(tmp_path: Path) -> None:
    (film,) = films(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text(
        "path,start,end,caption,license,fps\n"
        "a.mp4,0,2,one,CC0-1.0,24\na.mp4,2,4,two,CC-BY-NC-4.0,24\na.mp4,2,4,again,,24\n"
    )
    notes = sources.Notes()
    [found] = sources.find_footage([str(tmp_path / "m.csv")], notes=notes)
    assert found.path == str(film)
    assert [(s.start, s.captions) for s in found.spans] == [(0, ("one",)), (2, ("two", "again"))]
    assert found.license == "CC-BY-NC-4.0"
    told = "\n".join(notes.lines())
    assert "CC0-1.0" in told
    assert "not used: fps" in told
    assert "start, end" in told


@pytest.mark.parametrize("table", ["m.csv", "metadata.jsonl"])
def test_a_bad_span_among_good_ones_is_left_out_and_said(tmp_path: Path, table: str) -> None:
    films(tmp_path, "a.mp4")
    if table == "m.csv":
        (tmp_path / table).write_text("path,start,end\na.mp4,0,2\na.mp4,5,4\na.mp4,6,8\n")
    else:
        spans = [[0, 2], [5, 4], [6, 8]]
        lines = [json.dumps({"file_name": "a.mp4", "timestamp": span}) for span in spans]
        (tmp_path / table).write_text("\n".join(lines))
    notes = sources.Notes()
    where = tmp_path / table if table == "m.csv" else tmp_path
    [found] = sources.find_footage([str(where)], notes=notes)
    assert (found.error, found.prompt_error) == (None, None)
    assert [(s.start, s.end) for s in found.spans] == [(0, 2), (6, 8)]
    told = "\n".join(notes.lines())
    assert "1 rows of films with other spans make no sense and are left out" in told
    assert "row 2" in told
