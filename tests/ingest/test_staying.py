"""Results only grow: footage that is away, replaced, moved or not named costs nothing that is made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from films import ffmpeg
from typer.testing import CliRunner

from realdpo import tables
from realdpo.cli import app
from realdpo.config import load_toml
from realdpo.curate import decide, earlier
from realdpo.curate.caption.config import CaptionConfig
from realdpo.curate.config import IngestConfig, ShardSettings
from realdpo.curate.ingestion import funnel_table, ingest_footage
from realdpo.errors import UserError
from realdpo.workspace import Workspace

OPEN = {f"{limit.score}_{side}": "off" for limit in decide.LIMITS for side in ("min", "max")}
SETTINGS = IngestConfig(
    target="tiny", decide=OPEN, engine="serial", shards=ShardSettings(validation=0.0, test=0.0)
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 and b.mp4, two seconds each and unlike each other."""
    folder = tmp_path_factory.mktemp("films")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=24:d=2.5", folder / "a.mp4")
    ffmpeg("-f", "lavfi", "-i", "mandelbrot=s=160x120:r=24", "-t", "2.5", folder / "b.mp4")
    return folder


@pytest.fixture
def disks(films: Path, tmp_path: Path) -> Path:
    """one/a.mp4 and two/b.mp4, and a manifest that names both."""
    for disk, name in (("one", "a.mp4"), ("two", "b.mp4")):
        (tmp_path / disk).mkdir()
        shutil.copy(films / name, tmp_path / disk / name)
    (tmp_path / "m.csv").write_text(
        "path,license,title\none/a.mp4,CC0-1.0,A man waves\ntwo/b.mp4,CC BY 4.0,A girl runs\n"
    )
    return tmp_path


def made(workspace: Workspace) -> dict[str, str]:
    """Hash of every clip and shard, and of the clips table."""
    files = [workspace.clips, *workspace.data.iterdir(), *workspace.clip_files.iterdir()]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def states(workspace: Workspace) -> dict[str, str]:
    rows = tables.read_table(workspace.sources, tables.SOURCES).to_pylist()
    return {Path(row["path"]).name: row["status"] for row in rows}


def prompts(workspace: Workspace) -> set[str | None]:
    return set(tables.read_table(workspace.clips, tables.CLIPS)["prompt"].to_pylist())


def run(workspace: Workspace, *footage: Path, **options: Any) -> dict[str, Any]:
    return ingest_footage(workspace, [str(f) for f in footage], SETTINGS, **options)


def test_a_disk_that_is_away_costs_nothing(disks: Path) -> None:
    workspace = Workspace(disks / "w")
    first = run(workspace, disks / "m.csv")
    assert (first["kept"], first["missing"]) == (4, [])
    before = made(workspace)
    for away in (["two"], ["one", "two"]):
        for disk in away:
            (disks / disk).rename(disks / f"{disk}.away")
        for _ in range(2):  # the second finds the first one's mark
            told = run(workspace, disks / "m.csv")
            assert told["kept"] == 4
            assert len(told["missing"]) == told["sources_missing"] == len(away)
            assert any("warning" in line and "two/b.mp4" in line for line in told["notes"])
            assert made(workspace) == before
        assert states(workspace)["b.mp4"] == "missing"
        for disk in away:
            (disks / f"{disk}.away").rename(disks / disk)
    assert run(workspace, disks / "m.csv")["missing"] == []
    assert made(workspace) == before
    assert set(states(workspace).values()) == {"ok"}


def test_a_folder_of_which_half_is_gone(films: Path, tmp_path: Path) -> None:
    shutil.copytree(films, tmp_path / "f")
    workspace = Workspace(tmp_path / "w")
    run(workspace, tmp_path / "f")
    before = made(workspace)
    (tmp_path / "f" / "b.mp4").unlink()
    told = run(workspace, tmp_path / "f")
    assert [Path(path).name for path in told["missing"]] == ["b.mp4"]
    assert made(workspace) == before
    # A file that is no longer what it was, or no film at all, takes nothing with it either.
    (tmp_path / "f" / "b.mp4").write_bytes(b"no film")
    assert len(run(workspace, tmp_path / "f")["missing"]) == 1
    assert made(workspace) == before


def test_what_is_not_named_stays_until_it_is_pruned(disks: Path) -> None:
    workspace = Workspace(disks / "w")
    run(workspace, disks / "m.csv")
    before = made(workspace)
    told = run(workspace, disks / "one")
    assert (told["kept"], told["missing"]) == (4, [])  # b.mp4 is there, only not named
    assert any("not named" in line for line in told["notes"])
    assert made(workspace) == before
    shutil.rmtree(disks / "two")
    assert run(workspace, disks / "one")["missing"] == []
    assert states(workspace) == {"a.mp4": "ok", "b.mp4": "missing"}
    with pytest.raises(UserError, match="nothing was removed"):
        run(workspace, disks / "one", prune=lambda lines: False)
    assert made(workspace) == before
    shown: list[str] = []
    told = run(workspace, disks / "one", prune=lambda lines: not shown.extend(lines))
    assert "1 sources and their 2 clips" in shown[0]
    assert "b.mp4" in shown[1]
    assert (told["kept"], told["pruned"]) == (2, 2)
    assert states(workspace) == {"a.mp4": "ok"}
    assert set(made(workspace)) < set(before)
    assert len(list(workspace.clip_files.iterdir())) == 2


def test_a_file_that_moved_is_the_same_source(disks: Path) -> None:
    workspace = Workspace(disks / "w")
    run(workspace, disks / "one", disks / "two")
    before = made(workspace)
    (disks / "two" / "b.mp4").rename(disks / "two" / "c.mp4")
    assert run(workspace, disks / "one", disks / "two")["missing"] == []
    assert states(workspace) == {"a.mp4": "ok", "c.mp4": "ok"}
    del before[str(workspace.clips)]
    assert before.items() <= made(workspace).items()


def test_a_file_that_holds_other_footage_adds_to_what_was_there(disks: Path, films: Path) -> None:
    workspace = Workspace(disks / "w")
    run(workspace, disks / "one")
    shutil.copy(films / "b.mp4", disks / "one" / "a.mp4")
    told = run(workspace, disks / "one")
    assert (told["kept"], told["missing"]) == (4, [])
    assert any("no longer what their files hold" in line for line in told["notes"])


def test_clips_whose_files_are_lost_come_out_of_the_shards(disks: Path) -> None:
    workspace = Workspace(disks / "w")
    run(workspace, disks / "m.csv")
    before = made(workspace)
    shutil.rmtree(workspace.clip_files)
    (disks / "two").rename(disks / "away")
    assert run(workspace, disks / "m.csv")["kept"] == 4
    assert made(workspace) == before


def test_captions_that_are_no_longer_found_stay(disks: Path) -> None:
    workspace = Workspace(disks / "w")
    text = disks / "one" / "a.txt"
    text.write_text("a person rides a bicycle")
    told = run(workspace, disks / "one")
    assert told["prompts"] == {".txt files": 2}
    before = prompts(workspace)
    text.unlink()
    told = run(workspace, disks / "one")
    assert any("of 1 sources something was said before" in line for line in told["notes"])
    assert prompts(workspace) == before == {"A person rides a bicycle."}
    run(workspace, disks / "one", prune=lambda lines: "to be forgotten" in lines[0])
    assert prompts(workspace) == {None}


def test_the_same_bytes_with_two_licences_have_the_stricter(films: Path, tmp_path: Path) -> None:
    shutil.copy(films / "a.mp4", tmp_path / "a.mp4")
    shutil.copy(films / "a.mp4", tmp_path / "z.mp4")
    (tmp_path / "m.csv").write_text(
        "path,license,split,author\na.mp4,CC0-1.0,train,Ann\nz.mp4,CC-BY-NC-ND-4.0,test,Bo\n"
    )
    workspace = Workspace(tmp_path / "w")
    told = run(workspace, tmp_path / "m.csv")
    rows = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    assert {(r["license"], r["split"], r["author"]) for r in rows} == {
        ("CC-BY-NC-ND-4.0", "test", "Bo")
    }
    assert any("CC0-1.0" in line and "the strictest" in line for line in told["notes"])


def test_spans_with_captions_are_cut_instead_of_shots(films: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "path,timestamp,caption\n"
        f'{films / "a.mp4"},"[[0.25, 1.5], [1.25, 2.5], [60, 70]]",'
        "\"['a man waves', 'a girl runs', 'nobody']\"\n"
    )
    workspace = Workspace(tmp_path / "w")
    told = run(workspace, tmp_path / "m.csv")
    rows = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    assert [(r["start_s"], r["prompt"]) for r in rows if r["keep"]] == [
        (0.25, "A man waves."),
        (1.25, "A girl runs."),
    ]
    assert [r["reasons"] for r in rows if not r["keep"]] == [["outside"]]
    assert told["prompts"] == {"manifest m.csv": 2}


def test_a_file_name_is_no_prompt_unless_asked(films: Path, tmp_path: Path) -> None:
    shutil.copy(films / "a.mp4", tmp_path / "xvid.mp4")
    workspace = Workspace(tmp_path / "w")
    told = run(workspace, tmp_path / "xvid.mp4")
    assert told["prompts"] == {"none": 2}
    assert "without" in funnel_table(told)
    [row, _] = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    assert (row["prompt"], row["captioner"], row["caption_status"]) == (None, None, "none")
    assert row["keep"]
    asked = replace(SETTINGS, captions=CaptionConfig(file_names=True))
    assert ingest_footage(workspace, [str(tmp_path / "xvid.mp4")], asked)["prompts"] == {
        "file_name": 2
    }
    assert prompts(workspace) == {"A xvid is in view."}


def test_one_bad_caption_file_fails_its_film_alone(disks: Path) -> None:
    workspace = Workspace(disks / "w")
    (disks / "one" / "a.txt").write_bytes(b"v\xe9lo")
    (disks / "two" / "b.txt").write_text("a person rides a bicycle")
    told = run(workspace, disks / "one", disks / "two")
    assert states(workspace) == {"a.mp4": "failed", "b.mp4": "ok"}
    assert (told["sources_failed"], told["prompts"]) == (1, {".txt files": 2})
    # The film was well, and its caption file is broken later: what is known stays.
    (disks / "two" / "b.txt").write_bytes(b"v\xe9lo")
    told = run(workspace, disks / "one", disks / "two")
    assert states(workspace)["b.mp4"] == "missing"
    assert told["prompts"] == {".txt files": 2}


def test_defaults_that_nobody_chose_are_not_kept_as_chosen(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "w")
    chosen = replace(SETTINGS, decide={**OPEN, "luma.mean_min": 1.0})
    for name in ("luma.contrast_min", "luma.contrast_max"):
        del chosen.decide[name]
    assert ingest_footage(workspace, [str(films)], chosen)["kept"] == 4
    saved = load_toml(workspace.root / "config" / "curate-decide.toml")
    assert saved["decide"]["luma"]["mean_min"] == 1.0
    assert "contrast_min" not in saved["decide"]["luma"]
    assert saved["thresholds"]["luma"]["contrast_min"] == 10
    # A version with another default judges anew, though nothing else has changed.
    limits = [
        dataclasses.replace(x, least=1e6) if x.score == "luma.contrast" else x
        for x in decide.LIMITS
    ]
    monkeypatch.setattr(decide, "LIMITS", tuple(limits))
    assert ingest_footage(workspace, [str(films)], chosen)["kept"] == 0


def test_the_command_says_what_is_missing_and_asks_before_it_prunes(disks: Path) -> None:
    def command(*more: str) -> Result:
        off = [part for key in OPEN for part in ("--set", f"{key}=off")]
        words = ["curate", "ingest", str(disks / "m.csv"), "-w", str(disks / "w"), *more]
        words += ["--target", "tiny", "--engine", "serial", *off]
        return CliRunner().invoke(app, words)

    assert command().exit_code == 0
    shutil.rmtree(disks / "two")
    away = command("--json")
    assert away.exit_code == 3
    assert json.loads(away.stdout)["missing"] == [str(disks / "two" / "b.mp4")]
    asked = command("--prune")
    assert (asked.exit_code, "needs your confirmation" in asked.stderr) == (1, True)
    assert "b.mp4" in asked.stderr
    gone = command("--prune", "--yes")
    assert "kept            2" in gone.stdout, gone.stderr


def test_a_damaged_shard_is_named_when_clips_are_restored(tmp_path, capsys):
    work = Workspace(tmp_path)
    work.data.mkdir(parents=True)
    (work.data / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing else")
    assert earlier.restore_clips(work, {"a" * 32: "b" * 64}) == set()
    assert "train-00000-of-00001.parquet cannot be read" in capsys.readouterr().err
