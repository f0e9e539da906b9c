"""Sources: what arguments name, what sidecars and manifests say, what is passed over."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from realdpo import tables
from realdpo.curate import shards, sources
from realdpo.curate.config import ShardSettings
from realdpo.errors import UserError


def test_folders_globs_and_files_name_each_source_once(footage: Path) -> None:
    everything = sources.find_footage([str(footage)])
    names = [Path(c.path).name for c in everything]
    assert len(names) == len({c.path for c in everything}) == 13
    again = sources.find_footage(
        [str(footage), str(footage / "good"), str(footage / "good" / "*.mp4")]
    )
    assert [c.path for c in again] == [c.path for c in everything]
    for word in ("missing.mp4", "*.nothing"):
        with pytest.raises(UserError):
            sources.find_footage([str(footage / word)])


def test_sidecars_of_stock_sites_and_yt_dlp(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "a.info.json").write_text(
        json.dumps(
            {
                "license": "CC-BY-4.0",
                "uploader": "Bo",
                "webpage_url": "https://x.org/1",
                "tags": ["hair", "braid"],
                "title": "Braids",
            }
        )
    )
    (tmp_path / "b.mp4").write_bytes(b"2")
    (tmp_path / "b.json").write_text("[1, 2]")  # somebody else's
    a, b = sources.find_footage([str(tmp_path)])
    assert (a.license, a.author, a.title) == ("CC-BY-4.0", "Bo", "Braids")
    assert a.keywords == ("hair", "braid")
    assert a.source_url == "https://x.org/1"
    assert b.license is None


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ü b.mp4").write_bytes(b"1")
    rows = [
        {"path": "in/ü b.mp4", "license": "CC0-1.0", "keywords": "a; b", "split": "test"},
        {"path": "https://x.org/c.mp4", "license": "", "keywords": "", "split": ""},
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    local, remote = sources.find_footage([str(path)])
    assert (local.path, local.split) == (str(tmp_path / "in" / "ü b.mp4"), "test")
    assert local.keywords == ("a", "b")
    assert remote.license is None
    assert remote.source_url == remote.path == "https://x.org/c.mp4"
    (tmp_path / "bad.jsonl").write_text('{"title": "no path"}')
    with pytest.raises(UserError, match="row 1 has neither"):
        sources.find_footage([str(tmp_path / "bad.jsonl")])


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("no.csv", "title,license\nx,CC0-1.0\n", "row 1 has neither"),
        ("empty.csv", "path,title\n", "no footage in"),
        ("list.jsonl", '["a.mp4"]\n', "row 1 is not a JSON object"),
        ("cut.jsonl", '{"path": "a.mp4"}\n\n{"path":\n', "line 3 is not JSON"),
        ("two.jsonl", '{"path": "a.mp4", "license": ["CC0-1.0", "MIT"]}\n', "license is not text"),
        ("odd.csv", "path,split\na.mp4,dev\n", "split 'dev' is none of"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_clear_line(
    tmp_path: Path, name: str, written: str, message: str
) -> None:
    (tmp_path / name).write_text(written)
    with pytest.raises(UserError, match=message) as failed:
        sources.find_footage([str(tmp_path / name)])
    assert name in failed.value.message


def test_a_folder_without_footage_is_no_quiet_success(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(UserError, match="no footage in"):
        sources.find_footage([str(tmp_path)])


def test_a_table_of_pandas_has_numbers_and_nan(tmp_path: Path) -> None:
    nan = float("nan")
    columns = {
        "path": [None, "a.mp4"],
        "url": ["https://x.org/b.mp4", "https://x.org/a.mp4"],
        "license": [nan, nan],
        "title": [3.5, nan],
        "keywords": [nan, nan],
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    local, remote = sources.find_footage([str(tmp_path / "list.parquet")])
    assert (remote.path, remote.title, remote.license) == ("https://x.org/b.mp4", "3.5", None)
    assert (local.source_url, local.title, local.keywords) == ("https://x.org/a.mp4", None, ())


def test_other_file_systems() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/films/a.mp4", b"abc")
    store.pipe("/films/notes.txt", b"")
    [found] = sources.find_footage(["memory://films"])
    assert found.remote
    assert sources.sha256_of(found.path) == hashlib.sha256(b"abc").hexdigest()
    before = sources.file_stamp(found.path)
    store.pipe("/films/a.mp4", b"abcd")
    assert sources.file_stamp(found.path) != before
    with pytest.raises(UserError, match=r"nothing matches memory://films/\*\.mov"):
        sources.find_footage(["memory://films/*.mov"])
    with pytest.raises(UserError, match="gone.mp4 cannot be read: No such file"):
        sources.sha256_of("memory://films/gone.mp4")


def test_splits_are_by_source_stable_and_not_empty() -> None:
    ids = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    settings = ShardSettings(validation=0.1, test=0.1)
    split = shards.assign_splits(ids, settings)
    counts = {name: list(split.values()).count(name) for name in ("train", "validation", "test")}
    assert 130 < counts["train"] < 185
    assert min(counts.values()) > 5
    # More footage moves nobody.
    fewer = shards.assign_splits(ids[:100], settings)
    assert all(split[i] == fewer[i] for i in ids[:100])
    for n in range(3, 12):
        assert set(shards.assign_splits(ids[:n], settings).values()) == {
            "train",
            "validation",
            "test",
        }
    linked = shards.assign_splits(ids, settings, linked=[(ids[0], ids[1]), (ids[1], ids[2])])
    assert linked[ids[0]] == linked[ids[1]] == linked[ids[2]]
    wished = shards.assign_splits(ids[:5], settings, wishes={ids[3]: "test"})
    assert wished[ids[3]] == "test"


def test_hidden_files_and_workspaces_are_passed_over(tmp_path: Path) -> None:
    wanted = ["a.mp4", "b/clips/c.mp4"]
    hidden = ["._a.mp4", ".Trash/b.mp4", "__MACOSX/a.mp4"]
    own = ["work/clips/x.mp4", "work/pairs/videos/y.mp4", "work/data/train/z.mp4"]
    for name in [*wanted, *hidden, *own, "other/clips/x.mp4", "other/d.mp4"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    # One is the workspace of this run, which has written nothing yet; one is known by its table.
    kind = tables.SOURCES
    tables.write_table(tmp_path / "other" / "sources.parquet", tables.from_rows(kind, []), kind)
    notes = sources.Notes()
    found = sources.find_footage([str(tmp_path)], tmp_path / "work", notes)
    names = [Path(c.path).relative_to(tmp_path).as_posix() for c in found]
    assert names == [*wanted, "other/d.mp4"]
    assert any("hidden" in line for line in notes.lines())
    assert any("workspace" in line for line in notes.lines())
    # What is named outright is taken.
    assert (
        len(sources.find_footage([str(tmp_path / "._a.mp4"), str(tmp_path / "work" / "clips")]))
        == 2
    )


def test_one_path_named_twice_has_the_stricter_words(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "m.csv").write_text(
        "path,license,split,author\na.mp4,CC0-1.0,train,Ann\n./a.mp4,CC BY-NC-ND 4.0,test,\n"
    )
    for order in (["m.csv", "a.mp4"], ["a.mp4", "m.csv"]):
        notes = sources.Notes()
        [found] = sources.find_footage([str(tmp_path / name) for name in order], notes=notes)
        assert (found.license, found.split, found.author) == ("CC BY-NC-ND 4.0", "test", "Ann")
        assert any("CC0-1.0" in line for line in notes.lines())
        assert any("train and test" in line for line in notes.lines())


def test_a_sidecar_that_cannot_be_read_is_said_in_the_films_row(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "a.json").write_text('{"license": "CC0"')
    (tmp_path / "b.mp4").write_bytes(b"2")
    a, b = sources.find_footage([str(tmp_path)])
    assert "a.json is not JSON" in str(a.error)
    assert b.error is None


def test_a_name_that_no_file_system_takes_is_one_clear_line() -> None:
    with pytest.raises(UserError):
        sources.find_footage(["x" * 5000])
