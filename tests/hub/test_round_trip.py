"""The whole way through processes of their own: push, kill, push again, load, pull."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hub_workspaces as workspaces
import loopback_hub
import pyarrow.parquet as pq
import pytest

from realdpo import ids, tables
from realdpo.workspace import SPLITS, Workspace

REPO = "someone/actions"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

LOAD = """
import hashlib, json, sys
from datasets import Video, load_dataset
clips = load_dataset(sys.argv[1], "clips")
pairs = load_dataset(sys.argv[1], "pairs")
found = {}
for data, key, column in ((clips, "clip_id", "video"), (pairs, "pair_id", "win")):
    for split in data.values():
        plain = split.select_columns([key, column]).cast_column(column, Video(decode=False))
        for row in plain:
            found[row[key]] = hashlib.sha256(row[column]["bytes"]).hexdigest()
print(json.dumps({
    "videos": found,
    "rows": {split: [clips[split].num_rows, pairs[split].num_rows] for split in clips},
    "types": [str(type(clips["train"].features["video"]).__name__), str(type(pairs["train"].features["first_frame"]).__name__)],
}))
"""


@pytest.mark.slow
def test_push_killed_pushed_again_loaded_and_pulled(
    hub: loopback_hub.Hub,
    made_once: workspaces.Made,
    cli: Cli,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    root = made_once.workspace.root
    hub.seconds_per_upload = 0.25
    command = [sys.executable, "-m", "realdpo", "push-hub", REPO, "-w", str(root), "--yes"]
    push = subprocess.Popen(
        [*command, "--set", "workers=1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600  # a loaded machine takes its time to get there
    while len(hub.large) < 3 and push.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(push.pid, signal.SIGKILL)
    push.wait()
    time.sleep(1.0)  # what was under way has arrived by now, or never will
    sent = len(hub.large)
    assert sent >= 3
    assert set(hub.files(REPO)) == {".gitattributes"}  # nothing that looks like a dataset

    hub.seconds_per_upload = 0.0
    uploads = hub.count("PUT /lfs/")
    again = cli("push-hub", REPO, "-w", root, "--yes", "--json")
    assert again.returncode == 0, again.stderr
    assert loopback_hub.TOKEN not in again.stdout + again.stderr
    (report,) = json.loads(again.stdout)
    large = {path for path in report["uploaded"] if path.endswith((".parquet", ".png"))}
    assert (
        hub.count("PUT /lfs/") - uploads == len(large) - sent
    )  # what had arrived is not sent again
    assert report["verified"]["clips"]["rows"] == dict.fromkeys(SPLITS, 2)
    assert report["verified"]["pairs"]["videos"] >= 3

    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, REPO], env=environment, capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    seen = json.loads(loaded.stdout)
    assert seen["videos"] == made_once.videos
    assert seen["rows"] == {split: [2, 2] for split in SPLITS}
    assert seen["types"] == ["Video", "Image"]

    pulled = cli("pull", REPO, "-w", tmp_path / "back", "--json")
    assert pulled.returncode == 0, pulled.stderr
    back = Workspace(tmp_path / "back")
    for folder in ("data", "pairs/data"):
        ours = {path.name: path.read_bytes() for path in (root / folder).glob("*.parquet")}
        assert {p.name: p.read_bytes() for p in (back.root / folder).glob("*.parquet")} == ours
    clips = tables.read_table(back.clips, tables.CLIPS).to_pylist()
    assert len(clips) == made_once.clips
    for clip in clips:
        assert clip["keep"]
        assert ids.file_hash(back.root / clip["path"]) == made_once.videos[clip["clip_id"]]
        assert clip["fps"] == "8/1"
        assert clip["motion.subject"] >= 2.0
    assert tables.read_table(back.sources, tables.SOURCES).num_rows == len(workspaces.LEDGER)
    assert json.loads(back.audit.read_text())["verdict"] == "clean"


@pytest.mark.slow
def test_any_dataset_with_the_columns_can_be_pulled(
    hub: loopback_hub.Hub, made_once: workspaces.Made, cli: Cli, tmp_path: Path
) -> None:
    """A foreign pairs dataset: four columns, one loser that is not in a list, a split 'val'."""
    from datasets import Dataset, Features, Image, Value, Video

    part = next(made_once.workspace.pair_data.glob("train-*.parquet"))
    rows = [
        {
            "prompt": row["prompt"],
            "win": row["win"],
            "lose": row["lose"][0],
            "first_frame": row["first_frame"],
        }
        for row in pq.read_table(part).to_pylist()
    ]
    features = Features(
        {"prompt": Value("string"), "win": Video(), "lose": Video(), "first_frame": Image()}
    )
    repo = loopback_hub.Repo("datasets", private=False)
    hub.repos["datasets", "other/pairs"] = repo
    files = {}
    for split in ("train", "val"):
        path = tmp_path / f"{split}.parquet"
        Dataset.from_list(rows, features=features).to_parquet(path)
        data = path.read_bytes()
        digest = ids.bytes_hash(data)
        hub.large[digest] = data
        files[f"data/{split}-00000-of-00001.parquet"] = loopback_hub.Blob(
            len(data), digest[:40], digest
        )
    repo.commit("main", files, "theirs")

    pulled = cli("pull", "other/pairs", "-w", tmp_path / "back")
    assert pulled.returncode == 0, pulled.stderr
    back = Workspace(tmp_path / "back")
    table = tables.read_table(back.pair_data / "train-00000-of-00001.parquet", tables.PAIR_SHARD)
    assert table["split"].to_pylist() == ["train"] * len(rows)
    first = table.to_pylist()[0]
    assert first["win"]["bytes"] == rows[0]["win"]["bytes"]
    assert [lose["bytes"] for lose in first["lose"]] == [rows[0]["lose"]["bytes"]]
    assert (first["width"], first["height"], first["frames"], first["fps"]) == (
        *workspaces.SIZE,
        workspaces.FRAMES,
        workspaces.FPS,
    )
    assert first["task"] == "i2v"
    assert len(set(table["pair_id"].to_pylist())) == len(rows)
    assert (back.pair_data / "validation-00000-of-00001.parquet").exists()


@pytest.mark.slow
def test_the_command_line_asks_refuses_and_shows(
    hub: loopback_hub.Hub, made_once: workspaces.Made, cli: Cli
) -> None:
    root = made_once.workspace.root
    silent = cli("push-hub", REPO, "-w", root)
    assert silent.returncode == 1
    assert "--yes" in silent.stderr
    shown = cli("push-hub", REPO, "-w", root, "--dry-run")
    assert shown.returncode == 0
    assert "rows of pairs: 2 train, 2 validation, 2 test" in shown.stdout
    assert "# actions" in shown.stdout
    nothing = cli("pull", "someone/nothing", "-w", root / "x")
    assert nothing.returncode == 1
    assert nothing.stderr.count("\n") == 2  # error and hint, no traceback
    assert not [entry for entry in hub.log if entry[0] != "GET"]
