"""Pairs from elsewhere come in, are conformed and audited, and go out again."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pair_workspace import fabricate, footage

from realdpo import tables
from realdpo.config import load_toml
from realdpo.errors import UserError
from realdpo.media.decode import read_clip
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.pairs import interchange, latents
from realdpo.workspace import Workspace


@pytest.fixture(scope="module")
def release(tmp_path_factory, bikes) -> Path:
    """A folder in RealDPO's layout: two pairs, latents of a loser path without normalisation."""
    from safetensors.numpy import save_file

    root = tmp_path_factory.mktemp("release")
    random = np.random.default_rng(0)
    names = []
    for k in range(2):
        clip = footage(bikes, 2 + 3 * k, 9, (64, 48), 8)
        win = root / "videos" / f"{100 + k}.mp4"
        win.parent.mkdir(exist_ok=True)
        win.write_bytes(encode_video(clip, 8))
        names.append(f"videos/{win.name}")
        content = random.normal(0, 0.75, (4, 3, 6, 8)).astype(np.float32)
        (root / "cache").mkdir(exist_ok=True)
        save_file({"encoded_video": content}, root / "cache" / f"videos_{100 + k}.safetensors")
        for j in range(3):
            lose = root / "negative_samples" / str(100 + k) / f"{j}.mp4"
            lose.parent.mkdir(parents=True, exist_ok=True)
            # other motion, and longer and faster than the winner
            lose.write_bytes(
                encode_video(np.concatenate([clip[:1], clip[::-1]]), 8, EncodeSettings())
            )
            seen = content * 1.17 + np.array([1.5, 0, 0.2, -0.4], np.float32).reshape(4, 1, 1, 1)
            seen[:, 1:] += random.normal(0, 0.3, seen[:, 1:].shape).astype(np.float32)
            save_file({"encoded_video": seen}, root / "cache" / f"{100 + k}_{j}.safetensors")
    (root / "prompt.txt").write_text("a street, seen from above\na man, walking\n")
    (root / "video.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture(scope="module")
def imported(tmp_path_factory, release) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("imported"))
    given = interchange.from_realdpo(release)
    interchange.take_in_pairs(workspace, given, origin="realdpo", task="i2v")
    return workspace


def test_the_released_layout_is_read(release) -> None:
    given = interchange.from_realdpo(release)
    assert [g.prompt for g in given] == ["a street, seen from above", "a man, walking"]
    assert [len(g.lose) for g in given] == [3, 3]
    assert all(len(g.latents) == 4 for g in given)
    (release / "prompt.txt").write_text((release / "prompt.txt").read_text() + "one more\n")
    with pytest.raises(UserError, match="3 lines and video.txt 2"):
        interchange.from_realdpo(release)
    (release / "prompt.txt").write_text("a street, seen from above\na man, walking\n")


def test_both_sides_are_cut_to_one_form(imported) -> None:
    rows = tables.read_table(imported.pairs, tables.PAIRS).to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert (row["width"], row["height"], row["frames"], row["fps"]) == (64, 48, 9, 8.0)
        for name in [row["win"], *row["lose"]]:
            assert read_clip(imported.pair_videos / name)[0].shape == (9, 48, 64, 3)
        assert (imported.pair_videos / row["first_frame"]).is_file()
    assert len(list(imported.pair_data.glob("*.parquet"))) >= 1


def test_losers_that_were_normalised_differently_are_found_out(imported) -> None:
    found = json.loads(imported.audit.read_text())
    assert found["verdict"] == "shortcut"
    assert found["latents"]["normalised_differently"] is True
    assert "normalised differently" in found["summary"]
    assert found["latents"]["spread_ratio"] == pytest.approx(1.17, abs=0.15)


def test_latents_that_were_encoded_alike_are_clean() -> None:
    random = np.random.default_rng(1)
    pairs = []
    for _ in range(9):
        win = random.normal(0, 1, (4, 5, 8, 8)).astype(np.float32)
        losers = []
        for _ in range(2):
            lose = random.normal(0, 1, win.shape).astype(np.float32)
            lose[:, 0] = win[:, 0]  # one first frame, one first latent
            losers.append(lose)
        pairs.append((win, losers))
    found = latents.audit_latents(pairs, same_first_frame=True)
    assert found["verdict"] == "clean"
    assert not found["normalised_differently"]
    assert "encoded alike" in found["summary"]


@pytest.mark.parametrize("kind", ["folder", "trl"])
def test_an_export_to_where_none_can_be_is_one_line(imported, tmp_path, kind: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        interchange.export_pairs(imported, tmp_path / "file", kind)
    with pytest.raises(UserError, match="cannot write"):
        interchange.export_pairs(imported, tmp_path / "file" / "beneath", kind)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_comes_back_the_same(imported, tmp_path) -> None:
    interchange.export_pairs(imported, tmp_path / "out", "folder")
    back = interchange.from_realdpo(tmp_path / "out")
    rows = tables.read_table(imported.pairs, tables.PAIRS).to_pylist()
    assert {g.prompt for g in back} == {row["prompt"] for row in rows}
    for given in back:
        row = next(r for r in rows if r["pair_id"] == given.win.stem)
        assert given.win.read_bytes() == (imported.pair_videos / row["win"]).read_bytes()
        assert len(given.lose) == 3
    with open(tmp_path / "out" / "metadata.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert len(table) == 6
    assert all((tmp_path / "out" / line["lose_file_name"]).is_file() for line in table)
    with pytest.raises(UserError, match="not empty"):
        interchange.export_pairs(imported, tmp_path / "out", "folder")


@pytest.mark.slow
def test_trl_columns_load_with_datasets(imported, tmp_path) -> None:
    import datasets

    interchange.export_pairs(imported, tmp_path / "out", "trl")
    files = [str(p) for p in (tmp_path / "out" / "data").glob("*.parquet")]
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == ["prompt", "image", "chosen", "rejected"]
    assert loaded.num_rows == 6
    assert isinstance(loaded.features["chosen"], datasets.Video)
    loaded = loaded.cast_column("rejected", datasets.Video(decode=False))
    loaded = loaded.cast_column("chosen", datasets.Video(decode=False))
    assert read_clip(loaded[0]["rejected"]["bytes"])[0].shape == (9, 48, 64, 3)


def test_simpletuners_layout_goes_out_and_comes_back(imported, tmp_path) -> None:
    """Two folders of equal names and the JSON that FLOW_DPO.md documents."""
    out = tmp_path / "out"
    interchange.export_pairs(imported, out, "simpletuner")
    preferred, rejected, text = json.loads((out / "multidatabackend.json").read_text())
    assert preferred["dataset_type"] == "video"
    assert preferred["conditioning_data"] == [rejected["id"]]
    assert rejected["dataset_type"] == "conditioning"
    assert rejected["conditioning_type"] == "reference_strict"
    assert rejected["source_dataset_id"] == preferred["id"]
    assert preferred["video"]["num_frames"] == 9
    assert (text["dataset_type"], text["default"]) == ("text_embeds", True)
    rows = tables.read_table(imported.pairs, tables.PAIRS).to_pylist()
    rows = {row["pair_id"]: row for row in rows if row["split"] == "train"}
    wins, losers = (
        {p.stem: p for p in Path(b["instance_data_dir"]).glob("*.mp4")}
        for b in (preferred, rejected)
    )
    assert wins.keys() == losers.keys() == {f"{i}-{k}" for i in rows for k in range(3)}
    for stem, win in wins.items():
        row = rows[stem.rpartition("-")[0]]
        assert win.read_bytes() == (imported.pair_videos / row["win"]).read_bytes()
        lose = row["lose"][int(stem.rpartition("-")[2])]
        assert losers[stem].read_bytes() == (imported.pair_videos / lose).read_bytes()
        assert win.with_suffix(".txt").read_text() == row["prompt"]

    moved = out.rename(tmp_path / "moved")  # the JSON names folders that are no more
    for given in (moved, moved / "multidatabackend.json"):
        back = interchange.given_from_simpletuner(given)
        assert {g.prompt for g in back} == {row["prompt"] for row in rows.values()}
        assert [len(g.lose) for g in back] == [3] * len(rows)
    again = Workspace(tmp_path / "again")
    interchange.take_in_pairs(again, back, origin="imported", task="i2v")
    assert tables.read_table(again.pairs, tables.PAIRS).num_rows == len(rows)

    next((moved / "lose").glob("*.mp4")).unlink()
    with pytest.raises(UserError, match="has no loser of the same name"):
        interchange.given_from_simpletuner(moved)
    (moved / "multidatabackend.json").write_text('[{"id": "a", "dataset_type": "video"}]')
    with pytest.raises(UserError, match="reference_strict"):
        interchange.given_from_simpletuner(moved)


@pytest.mark.parametrize("kind", ["musubi", "diffusion-pipe"])
def test_other_trainers_get_winners_with_captions(imported, tmp_path, kind, caplog, capsys) -> None:
    """musubi's docs/dataset_config.md and diffusion-pipe's examples/dataset.toml."""
    caplog.set_level("INFO")
    interchange.export_pairs(imported, tmp_path / "out", kind)
    assert "only the winners" in caplog.text + capsys.readouterr().err
    toml = load_toml(tmp_path / "out" / "dataset.toml")
    if kind == "musubi":
        [given] = toml["datasets"]
        folder = Path(given["video_directory"])
        assert (given["resolution"], given["target_frames"]) == ([64, 48], [9])
        assert given["frame_extraction"] == "head"
        assert given["cache_directory"] != given["video_directory"]
        assert toml["general"]["caption_extension"] == ".txt"
    else:
        [given] = toml["directory"]
        folder = Path(given["path"])
        assert given["ar_buckets"] == given["resolutions"] == [[64, 48]]
        assert given["frame_buckets"] == toml["frame_buckets"] == [9]
    rows = tables.read_table(imported.pairs, tables.PAIRS).to_pylist()
    rows = {row["pair_id"]: row for row in rows if row["split"] == "train"}
    assert {p.stem for p in folder.glob("*.mp4")} == rows.keys()
    for name, row in rows.items():
        assert (folder / f"{name}.txt").read_text() == row["prompt"]
        assert (folder / f"{name}.mp4").read_bytes() == (
            imported.pair_videos / row["win"]
        ).read_bytes()


def test_file_names_may_hold_what_joins_them(release, tmp_path) -> None:
    folder = release / "negative_samples" / "100"
    for name in ("l;1.mp4", "l2.mp4", "w;in.mp4"):
        source = folder / "0.mp4" if name != "w;in.mp4" else release / "videos" / "100.mp4"
        (tmp_path / name).write_bytes(source.read_bytes())
    file = tmp_path / "pairs.csv"
    for cell, names in (
        ("l;1.mp4", ["l;1.mp4"]),
        ('"""l;1.mp4"";l2.mp4"', ["l;1.mp4", "l2.mp4"]),
        ("l2.mp4; l2.mp4", ["l2.mp4", "l2.mp4"]),
    ):
        file.write_text(f"prompt,win,lose\nx,w;in.mp4,{cell}\n")
        [given] = interchange.from_csv(file)
        assert given.win.name == "w;in.mp4"
        assert [p.name for p in given.lose] == names
    file.write_text("prompt,win,lose\nx,l2.mp4,none;l2.mp4\n")
    with pytest.raises(UserError, match=r"line 2: .*none is not there"):
        interchange.from_csv(file)


def test_a_line_without_a_prompt_is_named(release) -> None:
    text = (release / "prompt.txt").read_text()
    (release / "prompt.txt").write_text("a street\n\na man\n")
    try:
        with pytest.raises(UserError, match=r"prompt.txt, line 2 is empty"):
            interchange.from_realdpo(release)
    finally:
        (release / "prompt.txt").write_text(text)


def test_a_csv_of_pairs_is_taken_in(release, tmp_path) -> None:
    file = tmp_path / "pairs.csv"
    folder = release / "negative_samples" / "100"
    file.write_text(
        "prompt,win,lose\n"
        f'"a street, seen",{release / "videos" / "100.mp4"},{folder / "0.mp4"};{folder / "1.mp4"}\n'
        f'"a street, seen",{release / "videos" / "100.mp4"},{folder / "2.mp4"}\n'
    )
    given = interchange.from_csv(file)
    assert [(g.prompt, len(g.lose)) for g in given] == [("a street, seen", 3)]
    file.write_text("prompt,win\nx,y\n")
    with pytest.raises(UserError, match="lacks the columns lose"):
        interchange.from_csv(file)
    file.write_text("prompt,win,lose\nx,nowhere.mp4,none.mp4\n")
    with pytest.raises(UserError, match="line 2: .*nowhere"):
        interchange.from_csv(file)


def test_a_review_takes_imported_pairs_out_and_puts_them_back(release, tmp_path) -> None:
    from typer.testing import CliRunner

    from realdpo.cli import app

    workspace = Workspace(tmp_path)
    given = interchange.from_realdpo(release)
    interchange.take_in_pairs(workspace, given, origin="realdpo", task="i2v")
    shards = {p.name: p.read_bytes() for p in workspace.pair_data.glob("*.parquet")}
    victim, other = (
        r["pair_id"] for r in tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    )
    file = tmp_path / "review.json"

    def choose(choice: str) -> dict:
        file.write_text(json.dumps({"choices": {victim: choice}}))
        command = ["pairs", "build", "-w", str(tmp_path), "--apply-review", str(file), "--json"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["by_status"]

    assert choose("reject") == {"ok": 1, "rejected": 1}
    left = [tables.read_table(p, tables.PAIR_SHARD) for p in workspace.pair_data.glob("*.parquet")]
    assert [i for shard in left for i in shard["pair_id"].to_pylist()] == [other]
    # importing again does not bring back what was rejected
    interchange.take_in_pairs(workspace, given, origin="realdpo", task="i2v")
    rows = {r["pair_id"]: r for r in tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()}
    assert (rows[victim]["status"], rows[victim]["review"]) == ("rejected", "reject")
    assert choose("accept") == {"ok": 2}
    again = {p.name: tables.read_table(p, tables.PAIR_SHARD) for p in workspace.pair_data.glob("*")}
    assert again.keys() == shards.keys()
    assert {i for shard in again.values() for i in shard["pair_id"].to_pylist()} == {victim, other}


def test_pairs_are_not_built_over_imported_ones(imported, bikes, tmp_path) -> None:
    import tiny_pipelines

    from realdpo.pairs.building import build_pairs
    from realdpo.pairs.config import BuildConfig

    workspace = fabricate(tmp_path / "work", bikes, clips=1)
    rows = tables.read_table(imported.pairs, tables.PAIRS)
    tables.write_table(workspace.pairs, rows, tables.PAIRS)
    model = tiny_pipelines.save("cogvideox-5b-i2v", tmp_path / "model")
    with pytest.raises(UserError, match="imported pairs"):
        build_pairs(workspace, BuildConfig(model=str(model)), devices="cpu")


def test_imports_do_not_mix_with_pairs_that_were_built(imported, bikes, tmp_path) -> None:
    workspace = fabricate(tmp_path, bikes, clips=1)
    rows = tables.read_table(imported.pairs, tables.PAIRS).to_pylist()
    built = [{k: v for k, v in row.items() if "." not in k} | {"clip_id": "x"} for row in rows]
    tables.write_table(workspace.pairs, tables.from_rows(tables.PAIRS, built), tables.PAIRS)
    with pytest.raises(UserError, match="built from its clips"):
        interchange.take_in_pairs(workspace, [], origin="realdpo", task="i2v")


@pytest.mark.parametrize(
    ("prompt", "lose", "problem"),
    [
        ("", "b.mp4", "has no prompt"),
        ("a man waves", "a.mp4", "is the winner itself"),
        ("a man waves", "copy.mp4", "is the winner itself"),
        ("a man waves", "b.mp4;copy.mp4", "loser 1 is the winner itself"),
    ],
)
def test_a_pair_that_teaches_nothing_is_refused_with_its_row(
    tmp_path: Path, prompt: str, lose: str, problem: str
) -> None:
    clip = np.zeros((9, 48, 64, 3), np.uint8)
    for name, shade in (("a", 40), ("b", 90), ("copy", 40)):
        (tmp_path / f"{name}.mp4").write_bytes(encode_video(clip + np.uint8(shade), 8))
    file = tmp_path / "pairs.csv"
    file.write_text(f"prompt,win,lose\na girl runs,a.mp4,b.mp4\n{prompt},a.mp4,{lose}\n")
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(UserError, match=problem) as refused:
        interchange.take_in_pairs(workspace, interchange.from_csv(file), origin="x", task="t2v")
    assert "pairs.csv, line 3" in refused.value.message
    assert not workspace.pairs.exists()


def test_a_loser_that_shows_what_the_winner_shows_fails_its_row(tmp_path: Path) -> None:
    clip = np.full((9, 48, 64, 3), 40, np.uint8)
    (tmp_path / "a.mp4").write_bytes(encode_video(clip, 8))
    (tmp_path / "b.mp4").write_bytes(encode_video(clip, 8, EncodeSettings(crf=14)))  # other bytes
    (tmp_path / "c.mp4").write_bytes(encode_video(clip + np.uint8(50), 8))
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,win,lose\none,a.mp4,b.mp4\ntwo,a.mp4,c.mp4\n")
    workspace = Workspace(tmp_path / "w")
    told = interchange.take_in_pairs(workspace, interchange.from_csv(file), origin="x", task="t2v")
    assert told["by_status"] == {"failed": 1, "ok": 1}
    assert "is the same video as the winner" in told["failed"][0]


def test_when_no_pair_comes_those_that_were_there_stay(imported: Workspace, tmp_path: Path) -> None:
    import shutil

    from realdpo.pairs.publish import publish_pairs

    workspace = Workspace(tmp_path / "w")
    shutil.copytree(imported.root, workspace.root)
    files = [workspace.pairs, workspace.audit, *workspace.pair_data.iterdir()]
    before = {path: path.read_bytes() for path in files}
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    rows = [{k: v for k, v in row.items() if "." not in k} for row in rows]
    failed = [{**row, "status": "failed", "error": "the model broke", "lose": []} for row in rows]
    with pytest.raises(UserError, match="the model broke. The earlier pairs stay"):
        publish_pairs(workspace, failed, shard_rows=256)
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.parametrize("how", ["other bytes", "gone"])
def test_a_video_that_is_not_what_was_written_leaves_the_workspace_by_no_door(
    release, tmp_path, how: str
) -> None:
    """Neither an export, nor the report, nor the audit takes it, and no half export stays behind."""
    from realdpo.pairs.audit import audit_workspace
    from realdpo.pairs.report import write_pairs_report

    workspace = Workspace(tmp_path / "work")
    interchange.take_in_pairs(
        workspace, interchange.from_realdpo(release), origin="realdpo", task="i2v"
    )
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    damaged = workspace.pair_videos / rows[0]["lose"][0]
    damaged.write_bytes(b"other") if how == "other bytes" else damaged.unlink()
    shutil.rmtree(workspace.step("audit"), ignore_errors=True)
    doors = [
        partial(interchange.export_pairs, workspace, tmp_path / kind, kind)
        for kind in interchange.FORMATS
    ]
    for door in (*doors, lambda: write_pairs_report(workspace), lambda: audit_workspace(workspace)):
        with pytest.raises(UserError, match=damaged.name) as caught:
            door()
        assert "again" in str(caught.value.hint)
    assert not any((tmp_path / kind).exists() for kind in interchange.FORMATS)


@pytest.mark.parametrize(
    ("cell", "message"),
    [("gone.mp4", "line 2: .*gone.mp4 is not there"), ("folder", "is a folder")],
)
def test_a_file_that_cannot_be_a_video_is_named_with_its_line(tmp_path, cell, message) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "pairs.csv").write_text(f"prompt,win,lose\na man,{cell},{cell}\n")
    with pytest.raises(UserError, match=message):
        interchange.from_csv(tmp_path / "pairs.csv")


def test_an_import_of_what_is_no_video_is_not_told_of_broken_generations(tmp_path) -> None:
    for name in ("win.mp4", "lose.mp4"):
        (tmp_path / name).write_text(f"no video {name}")
    (tmp_path / "pairs.csv").write_text("prompt,win,lose\na man,win.mp4,lose.mp4\n")
    given = interchange.from_csv(tmp_path / "pairs.csv")
    with pytest.raises(UserError, match="gave no pair") as caught:
        interchange.take_in_pairs(Workspace(tmp_path / "work"), given, origin="csv", task="t2v")
    assert caught.value.hint == "run the same command to try the failed ones again"
