"""Ingest, whole: odd footage survives, a finished run is not repeated, a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from realdpo import tables
from realdpo.curate import sources
from realdpo.curate.config import ClipSettings, IngestConfig, ShardSettings, SourceSettings
from realdpo.curate.ingestion import funnel_table, identify_sources, ingest_footage
from realdpo.errors import UserError
from realdpo.media.decode import decode_frames, read_clip
from realdpo.workspace import Workspace

# Little footage, so little is asked of it: this is about the machinery, not the thresholds.
OPEN = {
    f"{name}_{side}": "off"
    for name, side in [
        ("motion.subject", "min"),
        ("motion.subject_share", "min"),
        ("source.short_side", "min"),
        ("motion.camera_confidence", "min"),
        ("box.share", "max"),
        ("detail.sharpness", "min"),
        ("detail.blocking", "max"),
        ("motion.shake", "max"),
        ("motion.camera", "max"),
        ("motion.unexplained", "max"),
        ("frozen.share", "max"),
        ("luma.mean", "min"),
        ("flash.flicker", "max"),
    ]
}
SETTINGS = IngestConfig(
    target="tiny", decide=OPEN, engine="serial", shards=ShardSettings(validation=0.2, test=0.2)
)


@pytest.fixture(scope="module")
def done(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("work"))
    workspace_result = ingest_footage(workspace, [str(footage)], SETTINGS)
    (workspace.root / "funnel.json").write_text(json.dumps(workspace_result))
    return workspace


def outputs(workspace: Workspace) -> dict[str, str]:
    """Hash of every final file by its name."""
    files = [workspace.sources, workspace.clips]
    files += [*workspace.data.iterdir(), *workspace.clip_files.iterdir()]
    return {
        str(f.relative_to(workspace.root)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
    }


def command(footage: Path, root: Path) -> list[str]:
    sets = [part for key in OPEN for part in ("--set", f"{key}=off")]
    shares = ["--set", "shards.validation=0.2", "--set", "shards.test=0.2"]
    return [
        *(sys.executable, "-m", "realdpo", "curate", "ingest", str(footage)),
        *("-w", str(root), "--target", "tiny", *sets, *shares),
    ]


@pytest.mark.slow
def test_every_source_is_a_row_and_bad_ones_say_why(done: Workspace) -> None:
    rows = {
        Path(r["path"]).name: r for r in tables.read_table(done.sources, tables.SOURCES).to_pylist()
    }
    failed = {name for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {
        "zero.mp4",
        "text.mp4",
        "headless.mp4",
        "audio.m4v",
        "loop.mp4",
        "gone.mp4",
        "playlist.mp4",
    }
    assert all(row["error"] for row in rows.values() if row["status"] == "failed")
    assert len(rows) == len(failed) + 6
    assert rows["odd_sizes.mkv"]["width"] == 482  # 321 pixels of 3:2, shown square
    assert rows["vfr.mkv"]["start_s"] == 0
    assert rows["street.mp4"]["author"] == "Ann"


@pytest.mark.slow
def test_clips_are_exactly_what_the_target_wants(done: Workspace) -> None:
    clips = tables.read_table(done.clips, tables.CLIPS).to_pylist()
    kept = [row for row in clips if row["keep"]]
    assert kept
    for row in kept:
        rgb, fps = read_clip(done.root / row["path"])
        assert rgb.shape == (9, 80, 80, 3)
        assert fps == 8
        assert hashlib.sha256((done.root / row["path"]).read_bytes()).hexdigest() == row["sha256"]
        titled = row["title"] is not None
        assert (bool(row["prompt"]), row["caption_status"] == "ok") == (titled, titled)
    assert {row["prompt"] for row in kept} >= {
        None,
        "People are riding bikes. The theme is a street.",
    }
    by_source = {
        row["source_id"]: Path(row["path"]).name
        for row in tables.read_table(done.sources, tables.SOURCES).to_pylist()
    }
    dropped = {by_source[r["source_id"]]: r["reasons"] for r in clips if not r["keep"]}
    assert any(reason.startswith("too_slow=1<8") for reason in dropped["one_fps.mp4"])
    assert "too_short" in dropped["one_frame.mp4"]
    assert {row["license"] for row in kept} >= {"CC-BY-4.0"}


@pytest.mark.slow
def test_first_frame_of_a_clip_is_the_source_frame_at_its_start(
    done: Workspace, footage: Path
) -> None:
    street = str(footage / "good" / "street.mp4")
    sources = tables.read_table(done.sources, tables.SOURCES).to_pylist()
    source_id = next(row["source_id"] for row in sources if row["path"] == street)
    clips = tables.read_table(done.clips, tables.CLIPS).to_pylist()
    row = next(r for r in clips if r["keep"] and r["source_id"] == source_id)
    rgb, _ = read_clip(done.root / row["path"])
    whole = {f.time: f.rgb for f in decode_frames(street, size=(188, 80))}
    left = round((row["crop.left"] + row["crop.width"] / 2) * 188 - 40)
    cropped = {time: picture[:, left : left + 80].astype(int) for time, picture in whole.items()}
    for k in (0, 4, 8):
        wanted = Fraction(row["start"]) + Fraction(k, 8)
        nearest = min(cropped, key=lambda time: (abs(time - wanted), time))
        errors = {t: np.abs(p - rgb[k]).mean() for t, p in cropped.items()}
        assert errors[nearest] == min(errors.values())
        assert errors[nearest] < 4


@pytest.mark.slow
def test_shards_load_as_a_dataset_and_split_by_source(done: Workspace) -> None:
    import datasets

    files = {
        split: sorted(map(str, done.data.glob(f"{split}-*.parquet")))
        for split in ("train", "validation", "test")
    }
    assert all(files.values())
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(done.root / "cache"))
    assert isinstance(loaded["train"].features["video"], datasets.Video)
    owners: dict[str, str] = {}
    rows = 0
    for split, part in loaded.items():
        for row in part.cast_column("video", datasets.Video(decode=False)):
            assert owners.setdefault(row["source_id"], split) == split
            assert read_clip(row["video"]["bytes"])[0].shape == (9, 80, 80, 3)
            rows += 1
    assert rows == sum(tables.read_table(done.clips, tables.CLIPS)["keep"].to_pylist())


@pytest.mark.slow
def test_a_finished_workspace_is_left_alone_and_a_new_threshold_decodes_nothing(
    done: Workspace, footage: Path
) -> None:
    before = outputs(done)
    steps = {f: f.stat().st_mtime_ns for f in done.step("analyse").iterdir()}
    result = ingest_footage(done, [str(footage)], SETTINGS)
    assert result.pop("unchanged")
    assert result == json.loads((done.root / "funnel.json").read_text())
    assert "dropped" in funnel_table(result)
    assert outputs(done) == before
    strict = IngestConfig(**{**vars(SETTINGS), "decide": {**OPEN, "luma.mean_min": 250.0}})
    assert ingest_footage(done, [str(footage)], strict)["kept"] == 0
    assert {f: f.stat().st_mtime_ns for f in done.step("analyse").iterdir()} == steps
    ingest_footage(done, [str(footage)], SETTINGS)
    assert outputs(done) == before  # clips that are kept again were not even cut again


def results(root: Path) -> int:
    """How many results a run has put on disk so far; half-written ones do not count."""
    parts = (root / "steps", root / "clips")
    return sum(f.suffix in (".parquet", ".mp4") for part in parts for f in part.rglob("*"))


@pytest.mark.slow
def test_killed_at_any_moment_the_result_is_the_same(
    done: Workspace, footage: Path, tmp_path: Path
) -> None:
    # By what is on disk, not by the clock: a fast machine is killed as often as a slow one.
    total = results(done.root)
    for wanted in sorted(random.Random(3).sample(range(1, total - 1), 3)):
        process = subprocess.Popen(
            command(footage, tmp_path), stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and results(tmp_path) < wanted:
            time.sleep(0.002)
        assert process.poll() is None, f"ended with {results(tmp_path)} of {wanted} results"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert wanted <= results(tmp_path) <= total
    subprocess.run(command(footage, tmp_path), check=True, capture_output=True)
    assert outputs(Workspace(tmp_path)) == outputs(done)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    done: Workspace, footage: Path, tmp_path: Path
) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    one = footage / "good" / "street.mp4"
    stopped = subprocess.run(
        [*command(one, tmp_path), "--engine", "serial"],
        capture_output=True,
        text=True,
        preexec_fn=no_large_files,
    )
    assert stopped.returncode == 1
    assert "error:" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    again = ingest_footage(Workspace(tmp_path), [str(one)], SETTINGS)
    assert again["kept"] > 0


def test_two_runs_on_one_workspace(footage: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with (
        workspace.lock("curate ingest"),
        pytest.raises(UserError, match=r"in use by `realdpo curate ingest` \(process"),
    ):
        ingest_footage(workspace, [str(footage)], SETTINGS)


def test_a_workspace_that_cannot_be_made(footage: Path) -> None:
    with pytest.raises(UserError, match="cannot make the workspace"):
        ingest_footage(Workspace(Path("/proc/nowhere")), [str(footage)], SETTINGS)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"decide": {"motion.subject_mn": 1}}, "is not a threshold"),
        ({"extras": ("peopel",)}, "no score 'peopel'"),
        ({"caption": "nobody"}, "no captioner 'nobody'"),
        ({"per_action": -3}, "must be 0 or more"),
        ({"shards": ShardSettings(to="nowhere://set")}, "nowhere://set cannot be written"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_decoded(
    bikes: Path, tmp_path: Path, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ingest_footage(Workspace(tmp_path), [str(bikes)], replace(SETTINGS, **asked))
    assert not (tmp_path / "steps").exists()


def test_footage_of_which_nothing_can_be_read_ends_as_an_error_every_time(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for name in ("corrupt.mp4", "empty.mp4"):
        (films / name).write_bytes(b"no video" * (name == "corrupt.mp4"))
    args = [*command(films, tmp_path / "w"), "--engine", "serial"]
    for _ in range(2):
        run = subprocess.run(args, capture_output=True, text=True)
        assert run.returncode == 1, run.stderr
        assert "2 failed" in run.stdout
        (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: no source could be read (2 failed): ")
        assert "corrupt.mp4 cannot be read as video" in line
        rows = tables.read_table(Workspace(tmp_path / "w").sources, tables.SOURCES).to_pylist()
        assert [(Path(row["path"]).name, row["status"]) for row in rows] == [
            ("corrupt.mp4", "failed"),
            ("empty.mp4", "failed"),
        ]
    run = subprocess.run([*args, "--json"], capture_output=True, text=True)
    told = json.loads(run.stdout)
    assert (run.returncode, told["sources"], told["sources_failed"]) == (1, 2, 2)
    assert f"error: {told['error']}\n" in run.stderr


def test_one_bad_file_among_good_ones_is_no_error(bikes: Path, tmp_path: Path) -> None:
    bad = tmp_path / "corrupt.mp4"
    bad.write_bytes(b"no video")
    args = [*command(bikes, tmp_path / "w"), str(bad), "--engine", "serial"]
    run = subprocess.run(args, capture_output=True, text=True)
    assert (run.returncode, "1 failed" in run.stdout) == (0, True), run.stderr


def test_a_file_that_is_not_the_one_its_manifest_promises_is_not_used(tmp_path: Path) -> None:
    for name in ("same", "other"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    right = hashlib.sha256(b"same").hexdigest()
    rows = [{"path": f"{name}.mp4", "sha256": right.upper()} for name in ("other", "same")]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    other, same = identify_sources(
        Workspace(tmp_path / "w"), sources.find_footage([str(manifest)]), SETTINGS
    )
    assert (same.source_id, same.error) == (right, None)
    assert other.source_id is None
    assert "other.mp4: the manifest gives another sha256" in str(other.error)


@pytest.mark.slow
def test_licences_are_required_and_native_clips_keep_size_and_rate(
    footage: Path, tmp_path: Path
) -> None:
    settings = IngestConfig(
        decide=OPEN,
        engine="serial",
        clips=ClipSettings(min_seconds=0.5, max_seconds=1.5),
        sources=SourceSettings(require_license=True, licenses=("cc-by-4.0",)),
    )
    workspace = Workspace(tmp_path)
    good = footage / "good"
    ingest_footage(workspace, [str(good)], settings)
    clips = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    kept = [row for row in clips if row["keep"]]
    assert kept
    assert {row["license"] for row in kept} == {"CC-BY-4.0"}
    unknown = [row for row in clips if row["license"] is None]
    assert unknown
    assert all("license=none" in row["reasons"] for row in unknown)
    for row in kept:
        rgb, fps = read_clip(workspace.root / row["path"])
        assert (rgb.shape[2], fps) == (320, 25)
        assert len(rgb) == int((Fraction(row["end"]) - Fraction(row["start"])) * 25)
        assert 0.5 <= row["end_s"] - row["start_s"] <= 1.6


@pytest.mark.slow
@pytest.mark.parametrize("form", ["webdataset", "folder"])
def test_other_formats(done: Workspace, footage: Path, tmp_path: Path, form: str) -> None:
    import tarfile

    # On a workspace that has its clips already, another format costs only the writing.
    subprocess.run(["cp", "-r", f"{done.root}/.", str(tmp_path)], check=True)
    workspace = Workspace(tmp_path)
    changed = IngestConfig(
        **{
            **vars(SETTINGS),
            "shards": ShardSettings(
                format=form, validation=0.2, test=0.2, to=f"file://{tmp_path}/copy"
            ),
        }
    )
    kept = ingest_footage(workspace, [str(footage)], changed)["kept"]
    assert not list(workspace.data.glob("*.parquet"))
    files = [f for f in workspace.data.rglob("*") if f.is_file()]
    if form == "webdataset":
        names = []
        for file in files:
            with tarfile.open(file) as tar:
                names += tar.getnames()
        assert len(names) == 2 * kept
        assert {Path(name).suffix for name in names} == {".mp4", ".json"}
    else:
        lines = [
            json.loads(line)
            for f in files
            if f.name == "metadata.jsonl"
            for line in f.read_text().splitlines()
        ]
        assert len(lines) == kept
        assert all(any(f.name == line["file_name"] for f in files) for line in lines)
    copied = {
        f.relative_to(tmp_path / "copy") for f in (tmp_path / "copy").rglob("*") if f.is_file()
    }
    assert copied == {f.relative_to(workspace.data) for f in files}


@pytest.mark.slow
def test_scores_of_captions_outlive_another_ingest(footage: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    street = str(footage / "good" / "street.mp4")
    ingest_footage(workspace, [street], SETTINGS)
    clips = tables.read_table(workspace.clips, tables.CLIPS)
    rows = clips.to_pylist()
    kept = next(row["clip_id"] for row in rows if row["keep"])
    for row in rows:
        row["verify.fit"] = 0.25 if row["clip_id"] == kept else None
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)

    ingest_footage(workspace, [street], replace(SETTINGS, decide={**OPEN, "verify.fit_min": 0.5}))
    after = {
        row["clip_id"]: row for row in tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    }
    assert after[kept]["verify.fit"] == 0.25
    assert after[kept]["reasons"] == ["verify.fit=0.25<0.5"]
    assert not after[kept]["keep"]
