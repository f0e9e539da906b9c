"""Building pairs: what is in the tables, what a kill leaves behind, who may work on what."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
from pair_workspace import fabricate

from realdpo import tables
from realdpo.errors import UserError
from realdpo.families.fingerprint import fingerprint_weights
from realdpo.media.decode import read_clip
from realdpo.pairs import building
from realdpo.pairs.building import build_pairs, preview_build
from realdpo.pairs.config import BuildConfig
from realdpo.pairs.plan import plan_loser, plan_pairs
from realdpo.pairs.publish import apply_review, reviews_path
from realdpo.workspace import Workspace

STEPS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_pipelines.save("cogvideox-5b-i2v", tmp_path_factory.mktemp("model") / "i2v")


@pytest.fixture(scope="module")
def built(tmp_path_factory, bikes, model) -> tuple[Workspace, BuildConfig]:
    workspace = fabricate(tmp_path_factory.mktemp("work"), bikes)
    config = BuildConfig(model=str(model), steps=STEPS, losers=2, strategies=MIX)
    build_pairs(workspace, config, devices="cpu")
    return workspace, config


MIX = {"generate": 1.0, "renoise": 1.0, "local": 1.0}


def contents(workspace: Workspace) -> dict[str, str]:
    """Hashes of everything that others read, except how long things took."""
    files = sorted(workspace.pair_data.glob("*.parquet"))
    files += sorted(workspace.pair_videos.glob("[!.]*"))  # a kill may leave a temporary file
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_shards_load_with_datasets_and_hold_conformed_pairs(built) -> None:
    import datasets

    workspace, config = built
    files = {
        split: [str(p) for p in workspace.pair_data.glob(f"{split}-*.parquet")]
        for split in ("train", "validation")
    }
    loaded = datasets.load_dataset(
        "parquet", data_files=files, cache_dir=str(workspace.root / "cache")
    )
    loaded = loaded.cast_column("win", datasets.Video(decode=False))
    loaded = loaded.cast_column("lose", datasets.List(datasets.Video(decode=False)))
    assert loaded["train"].num_rows == 2
    assert loaded["validation"].num_rows == 1
    assert isinstance(loaded["train"].features["first_frame"], datasets.Image)
    for row in [*loaded["train"], *loaded["validation"]]:
        win, fps = read_clip(row["win"]["bytes"])
        assert (win.shape, fps) == ((9, 64, 64, 3), 8)
        assert len(row["lose"]) == len(row["seeds"]) == len(row["strategy"]) == config.losers
        for lose in row["lose"]:
            video, rate = read_clip(lose["bytes"])
            assert (video.shape, rate) == (win.shape, fps)
            assert np.array_equal(video[0], win[0])  # the same first frame, decoded
        image = np.array(row["first_frame"].convert("RGB")).astype(int)
        assert np.abs(image - win[0]).mean() < 3  # the frame before the codec
        assert row["license"] == "CC-BY-4.0"
        assert row["model"] == "i2v"
        assert row["scheduler"] == "CogVideoXDPMScheduler"
        assert row["audit.motion"] is not None


@pytest.mark.slow
def test_nothing_that_is_published_names_a_place_on_this_machine(built, model) -> None:
    workspace, _ = built
    row = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()[0]
    assert row["model"] == model.name
    assert row["revision"] == fingerprint_weights(model)
    published = [p for p in (workspace.root / "pairs").rglob("*") if p.is_file()]
    assert {p.suffix for p in published} == {".parquet", ".json", ".mp4", ".png"}
    for path in published:
        text = path.read_bytes()
        if path.suffix == ".parquet":  # pages are compressed
            text = repr(pq.read_table(path).to_pylist()).encode()
        assert str(model.parent).encode() not in text, path
        assert str(workspace.root).encode() not in text, path


@pytest.mark.slow
def test_the_winner_went_through_the_models_vae_unless_told_otherwise(built, bikes) -> None:
    workspace, _ = built
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    clip = {c["clip_id"]: c for c in tables.read_table(workspace.clips, tables.CLIPS).to_pylist()}
    row = rows[0]
    real = read_clip(workspace.root / clip[row["clip_id"]]["path"])[0].astype(int)
    win = read_clip(workspace.pair_videos / row["win"])[0].astype(int)
    assert np.abs(win[0] - real[0]).mean() < 4
    assert np.abs(win[1:] - real[1:]).mean() > 10  # a random VAE restores nothing


@pytest.mark.slow
def test_a_second_run_makes_nothing_and_changes_nothing(built, monkeypatch) -> None:
    workspace, config = built
    before = contents(workspace)
    table = workspace.pairs.stat().st_mtime_ns
    monkeypatch.setattr(
        "realdpo.families.load.load_pipeline", lambda *a, **k: pytest.fail("loaded")
    )
    build_pairs(workspace, config, devices="cpu")
    assert contents(workspace) == before
    assert workspace.pairs.stat().st_mtime_ns == table
    assert preview_build(workspace, config)["to make"].startswith("0 pairs")


@pytest.mark.slow
def test_a_review_takes_pairs_out_and_puts_them_back(built) -> None:
    workspace, config = built
    before = contents(workspace)
    victim = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()[0]["pair_id"]
    file = workspace.root / "review.json"
    for choice, left in (("reject", 2), ("accept", 3)):
        file.write_text(json.dumps({"choices": {victim: choice}}))
        apply_review(workspace, file)
        summary = build_pairs(workspace, config, devices="cpu")
        assert summary["by_status"].get("ok") == left
        assert tables.read_table(workspace.pairs, tables.PAIRS).num_rows == 3
    file.write_text(json.dumps({"choices": {victim: "maybe"}}))
    with pytest.raises(UserError, match="maybe"):
        apply_review(workspace, file)
    file.write_text("[]")
    with pytest.raises(UserError, match="does not hold choices"):
        apply_review(workspace, file)
    reviews_path(workspace).unlink()
    build_pairs(workspace, config, devices="cpu")
    assert contents(workspace) == before


def rows_of(workspace: Workspace) -> list[dict]:
    return tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()


@pytest.mark.slow
def test_the_table_says_what_was_really_done(built) -> None:
    workspace, config = built
    strategies = set()
    for row in rows_of(workspace):
        assert (row["dtype"], row["quantization"]) == ("float32", None)
        for k in range(config.losers):
            how = plan_loser(row["pair_id"], k, config)
            strategies.add(how.strategy)
            assert row["strategy"][k] == how.strategy
            if how.strength is None:
                assert row["strength"][k] is None
            else:  # two steps do not reach it: more were taken
                assert row["strength"][k] == pytest.approx(how.strength, abs=0.1)
            region = row["regions"][k]
            assert region == (how.region and {n: list(v) for n, v in vars(how.region).items()})
    assert strategies == set(MIX)
    shard = tables.read_table(next(workspace.pair_data.glob("train-*")), tables.PAIR_SHARD)
    assert "regions" in shard.column_names


@pytest.mark.slow
def test_the_settings_kept_are_those_that_the_data_was_made_with(built) -> None:
    workspace, config = built
    kept = workspace.config_file("pairs build").read_text()
    assert 'dtype = "float32"' in kept
    again = dataclasses.replace(config, memory="vae_slicing")
    build_pairs(workspace, again, devices="cpu")  # makes nothing
    assert workspace.config_file("pairs build").read_text() == kept
    with pytest.raises(UserError, match="names no device"):
        build_pairs(workspace, config, devices=",")


@pytest.mark.slow
def test_another_dtype_makes_other_videos(tmp_path, bikes, model) -> None:
    workspace = fabricate(tmp_path, bikes, clips=1)
    made = {}
    for dtype in ("fp32", "bf16"):
        build_pairs(workspace, BuildConfig(model=str(model), steps=1, losers=1, dtype=dtype))
        [row] = rows_of(workspace)
        made[row["dtype"]] = (row["pair_id"], row["lose"])
        assert f'dtype = "{row["dtype"]}"' in workspace.config_file("pairs build").read_text()
    assert set(made) == {"float32", "bfloat16"}
    assert made["float32"][0] != made["bfloat16"][0]
    assert made["float32"][1] != made["bfloat16"][1]


@pytest.mark.slow
def test_any_argument_of_call_and_scheduler_is_reached_and_recorded(
    tmp_path, bikes, model, monkeypatch
) -> None:
    import diffusers

    asked = []
    call = diffusers.CogVideoXImageToVideoPipeline.__call__

    def seen(pipe, *args, **kwargs):
        asked.append((kwargs["use_dynamic_cfg"], pipe.scheduler.config.snr_shift_scale))
        return call(pipe, *args, **kwargs)

    seen.__signature__ = inspect.signature(call)
    monkeypatch.setattr(diffusers.CogVideoXImageToVideoPipeline, "__call__", seen)
    workspace = fabricate(tmp_path, bikes, clips=1)
    config = BuildConfig(
        model=str(model),
        steps=1,
        losers=1,
        negative_prompt="blurry",
        call={"use_dynamic_cfg": True},
        scheduler={"snr_shift_scale": 2.0},
    )
    build_pairs(workspace, config, devices="cpu")
    assert asked == [(True, 2.0)]
    [row] = rows_of(workspace)
    assert json.loads(row["call"]) == {"use_dynamic_cfg": True}
    assert json.loads(row["scheduler_settings"]) == {"snr_shift_scale": 2.0}
    assert row["negative_prompt"] == "blurry"
    shown = preview_build(workspace, config)
    assert shown["call"] == {"use_dynamic_cfg": True}
    assert shown["negative prompt"] == "blurry"
    assert "can train this model" in shown["training"]


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"call": {"use_dynamic_cgf": 1}}, "has no argument", "call.use_dynamic_cfg?"),
        ({"call": {"num_frames": 9}}, "call.num_frames cannot be set: set frames instead", None),
        ({"scheduler": {"snr_shift": 2}}, "has no setting", "scheduler.snr_shift_scale?"),
    ],
)
def test_settings_that_no_pipeline_takes_are_refused_before_anything_is_loaded(
    tmp_path, bikes, model, changes, message, hint
) -> None:
    workspace = fabricate(tmp_path, bikes, clips=1)
    with pytest.raises(UserError, match=message) as caught:
        preview_build(workspace, BuildConfig(model=str(model), **changes))
    assert hint is None or hint in str(caught.value.hint)


def test_a_plan_says_which_settings_are_whose(tmp_path, bikes, model) -> None:
    workspace = fabricate(tmp_path, bikes, clips=1)
    config = BuildConfig(model=str(model), steps=3, negative_prompt="blurry")
    shown = preview_build(workspace, config)
    assert shown["where from"].split("; ") == [
        "width, height, frames, fps, guidance: the model's own",
        "steps, negative prompt: yours",
    ]
    assert shown["negative prompt"] == "blurry"
    assert preview_build(workspace, BuildConfig(model=str(model)))["negative prompt"] == "none"
    planned = plan_pairs(workspace, config)
    short = dataclasses.replace(planned.tasks[0].settings, frames=5)
    told = building._origins(planned, short)
    assert "frames: smaller than the model's own 9, to fit the clips" in told.split("; ")


def test_help_shows_shape_and_negative_prompt_and_they_are_taken(tmp_path, bikes, model) -> None:
    from typer.testing import CliRunner

    from realdpo.cli import app

    shown = CliRunner().invoke(app, ["pairs", "build", "--help"], env={"COLUMNS": "120"}).output
    flags = ("--width", "--height", "--frames", "--fps", "--negative-prompt")
    assert all(flag in shown for flag in flags)
    workspace = fabricate(tmp_path, bikes, clips=1)
    told = (
        CliRunner()
        .invoke(
            app,
            [
                "pairs",
                "build",
                "-w",
                str(workspace.root),
                "--model",
                str(model),
                "--width",
                "64",
                "--height",
                "64",
                "--frames",
                "9",
                "--fps",
                "8",
                "--negative-prompt",
                "blurry",
                "--dry-run",
            ],
        )
        .output
    )
    assert "64x64, 9 frames at 8" in told
    assert "width, height, frames, fps, negative prompt: yours" in told


def failing(monkeypatch, after: int) -> None:
    """From the `after`-th call on, the transformer of a loaded pipeline raises an odd error."""
    from realdpo.families import load

    loaded = load.load_pipeline

    def with_hook(*args, **kwargs):
        pipe = loaded(*args, **kwargs)
        count = iter(range(10_000))

        def fail(*_) -> None:
            if next(count) >= after:
                raise AttributeError("'NoneType' object has no attribute 'lower'")

        pipe.transformer.register_forward_pre_hook(fail)
        return pipe

    monkeypatch.setattr(load, "load_pipeline", with_hook)


@pytest.mark.slow
def test_whatever_a_pipeline_raises_fails_one_row(
    tmp_path, bikes, model, monkeypatch, caplog, capsys
) -> None:
    caplog.set_level("INFO")
    failing(monkeypatch, after=STEPS)
    workspace = fabricate(tmp_path, bikes, clips=1)
    config = BuildConfig(model=str(model), steps=STEPS, losers=2)
    assert build_pairs(workspace, config, devices="cpu")["by_status"] == {"ok": 1}
    [row] = rows_of(workspace)
    assert len(row["lose"]) == 1
    words = (
        "CogVideoXImageToVideoPipeline: AttributeError: 'NoneType' object has no attribute 'lower'"
    )
    assert row["error"] == f"lose1: {words}"
    assert f"lose1 failed: {words}" in caplog.text + capsys.readouterr().err


@pytest.mark.slow
def test_what_cannot_work_is_found_out_before_anything_is_paid_for(
    tmp_path, bikes, model, monkeypatch
) -> None:
    failing(monkeypatch, after=1)
    workspace = fabricate(tmp_path, bikes)
    with pytest.raises(
        UserError, match="cannot make 9 frames of 64x64: CogVideoXImage.*: AttributeError"
    ):
        build_pairs(workspace, BuildConfig(model=str(model), steps=50), devices="cpu")
    assert not list(workspace.pair_videos.glob("*.mp4"))


def test_a_review_of_pairs_that_are_not_there_is_refused(built) -> None:
    workspace, _ = built
    file = workspace.root / "other.json"
    file.write_text(json.dumps({"choices": {"f" * 32: "reject"}}))
    with pytest.raises(
        UserError, match="1 of 1 choices are about pairs .* does not hold, such as fff"
    ):
        apply_review(workspace, file)
    assert not reviews_path(workspace).exists()


COMMAND = """
import sys
from pathlib import Path
from realdpo.pairs.building import build_pairs
from realdpo.pairs.config import BuildConfig
from realdpo.workspace import Workspace
build_pairs(Workspace(Path(sys.argv[1])),
      BuildConfig(model=sys.argv[2], steps=2, losers=2,
                  strategies={"generate": 1.0, "renoise": 1.0, "local": 1.0}),
      devices="cpu", shard=(int(sys.argv[3]), int(sys.argv[4])))
"""


def start(workspace: Workspace, model: Path, shard: tuple[int, int] = (1, 1)) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(workspace.root), str(model), *map(str, shard)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_kills_leave_the_same_shards(built, tmp_path, bikes, model) -> None:
    expected = contents(built[0])
    workspace = fabricate(tmp_path, bikes)
    made = 0
    for wanted in (1, 3, 6):  # kill once that many videos are on disk, whatever goes on then
        process = start(workspace, model)
        while process.poll() is None and len(list(workspace.pair_videos.glob("*.mp4"))) < wanted:
            time.sleep(0.002)
        assert process.poll() is None, "ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        made = len(list(workspace.pair_videos.glob("*.mp4")))
    assert made < 9, "killed too late to test anything"
    assert start(workspace, model).wait() == 0
    assert contents(workspace) == expected


@pytest.mark.slow
def test_shards_of_two_processes_make_the_same_set(built, tmp_path, bikes, model) -> None:
    workspace = fabricate(tmp_path, bikes)
    both = [start(workspace, model, (k, 2)) for k in (1, 2)]
    assert [process.wait() for process in both] == [0, 0]
    last = start(workspace, model)  # writes the tables, had the two ended at the same moment
    assert last.wait() == 0
    assert contents(workspace) == contents(built[0])
    assert_nothing_was_made_twice(workspace)


def assert_nothing_was_made_twice(workspace: Workspace) -> None:
    keys = [
        json.loads(line)[0]
        for file in workspace.step("pairs").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert len(keys) == len(set(keys)) == 9, "a video was made twice"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_two_workers_make_the_same_set(built, tmp_path, bikes, engine) -> None:
    workspace, config = fabricate(tmp_path, bikes), built[1]
    if engine == "ray":
        ray = pytest.importorskip("ray")
        ray.init(address="local", num_cpus=2, object_store_memory=80 << 20, include_dashboard=False)
    try:
        build_pairs(workspace, config, devices="cpu,cpu", engine=engine)
    finally:
        if engine == "ray":
            ray.shutdown()
    assert contents(workspace) == contents(built[0])
    assert_nothing_was_made_twice(workspace)


@pytest.mark.slow
def test_broken_generations_are_marked_and_left_out(built, tmp_path, bikes, model) -> None:
    import torch
    from diffusers import CogVideoXImageToVideoPipeline

    pipe = CogVideoXImageToVideoPipeline.from_pretrained(model)
    with torch.no_grad():
        pipe.transformer.proj_out.bias.fill_(float("nan"))
    pipe.save_pretrained(tmp_path / "nan")
    workspace = fabricate(tmp_path / "work", bikes, clips=1)
    config = BuildConfig(model=str(tmp_path / "nan"), steps=STEPS, losers=1)
    with pytest.raises(UserError, match="1 clips gave no pair: lose0: nan"):
        build_pairs(workspace, config, devices="cpu")
    row = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()[0]
    assert (row["status"], row["lose"]) == ("broken", [])
    kept = BuildConfig(model=str(tmp_path / "nan"), steps=STEPS, losers=1, keep_broken=True)
    assert build_pairs(workspace, kept, devices="cpu")["by_status"] == {"ok": 1}


@pytest.mark.slow
def test_running_out_of_memory_ends_the_run_and_says_what_to_try(
    tmp_path, bikes, model, monkeypatch
) -> None:
    import torch

    from realdpo.families import load as loading

    load = loading.load_pipeline
    asked: list[int] = []

    def cramped(error):
        """Load the pipeline; its transformer runs out of memory from the second video on."""

        def loaded(*args, **kwargs):
            pipe = load(*args, **kwargs)

            def run_out(*_) -> None:
                asked.append(1)
                if len(asked) > STEPS * 2:  # guidance is one batch, so a call a step; 2 losers
                    raise error

            pipe.transformer.register_forward_pre_hook(run_out)
            return pipe

        return loaded

    workspace = fabricate(tmp_path, bikes)
    config = BuildConfig(model=str(model), steps=STEPS, losers=2)
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
    cpu = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes")
    for error, memory in ((gpu, "auto"), (cpu, "vae_slicing")):
        asked.clear()
        monkeypatch.setattr(loading, "load_pipeline", cramped(error))
        config = dataclasses.replace(config, memory=memory)
        with pytest.raises(UserError, match="^cpu ran out of memory with [a-z_ ]+$") as caught:
            build_pairs(workspace, config, devices="cpu")
        assert str(caught.value.hint).startswith("try --memory vae_tiling,vae_slicing;")
        assert len(asked) == STEPS * 2 + 1, "went on after memory ran out"
    # nothing was recorded as failed, and what was made is kept: the same command goes on
    records = [
        json.loads(line)
        for file in workspace.step("pairs").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert len(records) == 2 * 3 + 1  # two pairs, a run each, and the winner of the third
    assert not any("error" in record for _, record in records)
    monkeypatch.setattr(loading, "load_pipeline", load)
    assert build_pairs(workspace, config, devices="cpu")["by_status"] == {"ok": 3}


@pytest.mark.slow
def test_a_lora_of_the_last_round_changes_the_losers(built, tmp_path, bikes, model) -> None:
    import torch
    from diffusers import CogVideoXImageToVideoPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = CogVideoXImageToVideoPipeline.from_pretrained(model)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    for name, weight in pipe.transformer.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=1.0)
    pipe.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(pipe.transformer))
    workspace = fabricate(tmp_path / "work", bikes, clips=1)
    config = BuildConfig(
        model=str(model), steps=STEPS, losers=1, lora=str(tmp_path / "lora"), round=2
    )
    build_pairs(workspace, config, devices="cpu")
    row = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()[0]
    assert row["round"] == 2
    assert row["lora"]
    plain = fabricate(tmp_path / "plain", bikes, clips=1)
    build_pairs(plain, BuildConfig(model=str(model), steps=STEPS, losers=1, round=2), devices="cpu")
    other = tables.read_table(plain.pairs, tables.PAIRS).to_pylist()[0]
    assert row["pair_id"] != other["pair_id"]
    assert row["win"] == other["win"]
    guided = fabricate(tmp_path / "guided", bikes, clips=1)
    build_pairs(guided, dataclasses.replace(config, guide="negative"), devices="cpu")
    again = tables.read_table(guided.pairs, tables.PAIRS).to_pylist()[0]
    assert (row["guide"], again["guide"]) == (None, "negative")
    assert again["pair_id"] != row["pair_id"]
    assert again["lose"] != row["lose"]
    with pytest.raises(UserError, match="no LoRA weights"):
        build_pairs(
            plain, BuildConfig(model=str(model), lora=str(tmp_path / "none")), devices="cpu"
        )
