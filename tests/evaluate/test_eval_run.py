"""`realdpo eval` from end to end: small pipelines of the real classes, real footage, no stand-ins."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import tiny_pipelines
import torch
from judge_server import Server
from PIL import Image
from typer.testing import CliRunner

from realdpo import config as configs
from realdpo import ids, tables
from realdpo.cli import app
from realdpo.errors import UserError
from realdpo.families import family_of, load, weights
from realdpo.media import decode
from realdpo.media.encode import encode_video
from realdpo.pairs import conform
from realdpo.train.config import TrainConfig
from realdpo.train.evaluate import commands, plan, run, systems
from realdpo.train.evaluate.config import EvalConfig
from realdpo.workspace import Workspace


@pytest.fixture(scope="module")
def street(bikes):
    """Twelve pieces of real footage, uint8 [9, 64, 64, 3], taken to be at 8 frames a second."""
    shown = [f.rgb for f in decode.decode_frames(bikes, size=(152, 64))]
    pieces = [np.stack(shown[k * 19 : k * 19 + 9]) for k in range(12)]
    return [np.ascontiguousarray(piece[:, :, 44:108]) for piece in pieces]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, street):
    """A workspace with two test clips, a small pipeline, a LoRA run and a full run of it."""
    place = Workspace(tmp_path_factory.mktemp("work"))
    rows = []
    for k, video in enumerate(street[:3]):
        data = encode_video(video, 8)
        clip_id = ids.content_id(clip=k)
        place.clip_file(clip_id).parent.mkdir(exist_ok=True)
        place.clip_file(clip_id).write_bytes(data)
        rows.append(
            {
                "clip_id": clip_id,
                "status": "ok",
                "keep": True,
                "split": "test" if k else "train",
                "prompt": f"a person walking {k}",
                "captioner": "openai:http://x/v1 Watcher-7B",
                "path": f"clips/{clip_id}.mp4",
            }
        )
    tables.write_table(place.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    folder = tiny_pipelines.save("cogvideox-5b-i2v", place.root / "model")
    spec = load.read_spec(str(folder))
    import torch

    for name in ("lora", "full"):
        model = load.load_transformer(spec, torch.float32)
        if name == "lora":  # as it starts: the identity
            weights.add_lora(model, 4, 4.0, 0.0, family_of(spec).TARGETS)
            trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        else:
            model.requires_grad_(True)
            with torch.no_grad():
                model.proj_out.weight += 0.3 * torch.randn(
                    model.proj_out.weight.shape, generator=torch.Generator().manual_seed(0)
                )
            trained = {n: p.detach() for n, p in model.named_parameters()}
        run_folder = place.runs / name
        weights.save_weights(trained, model, spec, run_folder / "weights")
        settings = TrainConfig(model=str(folder), name=name)
        (run_folder / "config.toml").write_text(configs.settings_to_toml("train", settings))
    return place


def settings_for(workspace, **changes):
    systems = {"base": str(workspace.root / "model"), "lora": "lora", "full": "full"}
    return EvalConfig(
        **{
            "systems": systems,
            "seeds": 2,
            "steps": 2,
            "frames": 9,
            "width": 64,
            "height": 64,
            "fps": 8.0,
        }
        | changes
    )


@pytest.mark.slow
def test_runs_are_compared_with_their_base_on_the_test_split(workspace):
    config = settings_for(workspace)
    made = commands.evaluate_and_report(workspace, config, ["cpu"], (1, 1))
    folder = workspace.evaluations / "eval"
    rows = json.loads((folder / "rows.json").read_text())
    assert made["prompts"] == 2
    assert len(rows) == 2 * (3 * 2 + 1)  # systems by seeds, and the real clip
    by_key = {(r["system"], r["item"], r["seed"]): r for r in rows}
    # A LoRA that has learnt nothing makes the base's very videos, seed for seed: paired seeds.
    for item in {r["item"] for r in rows}:
        for seed in range(2):
            base, lora, full = (by_key[s, item, seed] for s in ("base", "lora", "full"))
            assert base["metrics"] == lora["metrics"]
            assert base["metrics"] != full["metrics"]
        assert by_key["base", item, 0]["metrics"] != by_key["base", item, 1]["metrics"]
    differences = made["compared"]["lora"]
    assert all(c["difference"]["estimate"] == 0 for c in differences.values())
    assert all(c["verdict"] == "no evidence" for c in made["compared"]["full"].values())
    assert made["means"]["real"]["first.psnr"] > 35  # its own first frame, twice through a codec
    assert any("no verdict is possible" in text for text in made["cautions"])
    assert "judge: not run (--judge URL --judge-model NAME)" in made["not_run"]
    page = (workspace.reports / "eval-eval.html").read_text()
    assert "a person walking 1" in page
    assert page.count('class="in-step"') == 2
    section = commands.evaluation_videos(workspace, "eval", 1)  # as the page of rounds has it
    assert section.title == "Videos in step"
    assert section.html.count('class="in-step"') == 1

    # Again: nothing is made; one video gone: it alone is made, byte for byte.
    videos = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (folder / "videos").iterdir()}
    assert len(videos) == 2 * 3 * 2
    lost = sorted(videos)[0]
    lost.unlink()
    again = commands.evaluate_and_report(workspace, config, ["cpu"], (1, 1))
    assert again == made
    for path, (time, data) in videos.items():
        assert path.read_bytes() == data
        assert (path.stat().st_mtime_ns == time) == (path != lost)


@pytest.mark.slow
def test_shards_make_disjoint_parts_that_together_are_everything(workspace):
    config = settings_for(
        workspace, name="parts", systems={"base": str(workspace.root / "model")}, seeds=3
    )
    folder = workspace.evaluations / "parts" / "videos"
    assert commands.evaluate_and_report(workspace, config, ["cpu"], (1, 2)) is None
    first = set(folder.iterdir())
    assert len(first) == 3
    times = {p: p.stat().st_mtime_ns for p in first}
    made = commands.evaluate_and_report(workspace, config, ["cpu"], (2, 2))
    assert made is not None  # the last shard finds all videos there and compares
    assert len(list(folder.iterdir())) == 6
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())


@pytest.fixture
def finished(tmp_path, street):
    """A benchmark of pictures, and two folders of finished videos: one steady, one out of order."""
    rng = np.random.default_rng(0)
    for k, video in enumerate(street):
        prompt = f"bikes pass {k}"
        (tmp_path / "bench").mkdir(exist_ok=True)
        Image.fromarray(video[0]).save(tmp_path / "bench" / f"{prompt}.png")
        order = np.concatenate([[0], 1 + rng.permutation(8)])
        for name, frames in (("steady", video), ("shuffled", video[order])):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{prompt}.mp4").write_bytes(
                encode_video(frames, Fraction(8), conform.pair_encoder(12))
            )
    return tmp_path


def test_finished_videos_out_of_order_are_found_worse(finished):
    result = CliRunner().invoke(
        app,
        [
            "eval",
            "-w",
            str(finished / "w"),
            "--benchmark",
            str(finished / "bench"),
            "--seeds",
            "1",
            "--system",
            f"steady={finished / 'steady'}",
            "--system",
            f"shuffled={finished / 'shuffled'}",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    found = made["compared"]["shuffled"]
    assert found["smooth.residual"]["verdict"] == "worse"
    assert found["smooth.residual"]["losses"] >= 11
    assert found["smooth.residual"]["p_sign"] < 0.01
    assert found["first.psnr"]["verdict"] == "no evidence"  # the first frame was left in place
    assert made["failures"] == []
    # Reported again from what is stored, without the benchmark.
    shutil.rmtree(finished / "bench")
    again = CliRunner().invoke(app, ["eval", "report", "-w", str(finished / "w"), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["compared"] == made["compared"]
    table = (finished / "w" / "eval" / "eval" / "table.md").read_text()
    assert "| smooth.residual ↓ | shuffled |" in table


def test_a_missing_or_damaged_video_is_said_and_the_rest_is_compared(finished):
    (finished / "shuffled" / "bikes pass 0.mp4").unlink()
    (finished / "shuffled" / "bikes pass 2.mp4").unlink()
    (finished / "shuffled" / "bikes pass 1.mp4").write_bytes(b"nonsense")
    config = EvalConfig(
        systems={"a": str(finished / "steady"), "b": str(finished / "shuffled")},
        benchmark=str(finished / "bench"),
        seeds=1,
    )
    made = run.run_evaluation(Workspace(finished / "w"), config)
    missing, damaged = made["failures"]
    assert missing.startswith("b: 2 of 12 videos are missing from")
    assert missing.endswith("for example bikes pass 0-0.mp4")
    assert "bikes pass 1.mp4" in damaged
    assert made["compared"]["b"]["smooth.residual"]["prompts"] == 9


@pytest.mark.slow
def test_real_clips_of_a_benchmark_are_compared_with_the_base_at_its_frame_rate(finished, street):
    """Slow generations against film at twice their rate and size: film moves twice as much."""
    from transformers import VideoMAEConfig, VideoMAEModel

    for k, video in enumerate(street):
        prompt = f"bikes pass {k}"
        (finished / "bench" / f"{prompt}.png").unlink()
        big = video.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=0)  # 128x128, 16 a second
        data = encode_video(np.ascontiguousarray(big), Fraction(16), conform.pair_encoder(1))
        (finished / "bench" / f"{prompt}.mp4").write_bytes(data)
        slow = (video.astype(np.uint16) + video[:1]) // 2  # half of every change since the start
        (finished / "steady" / f"{prompt}.mp4").write_bytes(
            encode_video(slow.astype(np.uint8), Fraction(8), conform.pair_encoder(1))
        )
    settings = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    VideoMAEModel(settings).save_pretrained(finished / "network")
    config = EvalConfig(
        systems={"base": str(finished / "steady")},
        benchmark=str(finished / "bench"),
        seeds=1,
        frechet=f"videomae:{finished / 'network'}",
    )
    made = commands.evaluate_and_report(Workspace(finished / "w"), config, ["cpu"], (1, 1))
    means = made["means"]
    assert means["real"]["motion.difference"] / means["base"]["motion.difference"] == pytest.approx(
        2, rel=0.1
    )
    assert made["real"]["motion.difference"]["verdict"] == "more"
    assert made["real"]["motion.difference"]["prompts"] == 12
    assert made["compared"] == {}
    found = made["frechet"]
    assert found["name"].startswith("frechet.videomae@")
    assert (found["features"], found["videos"]) == (16, {"real": 12, "base": 12})
    assert found["distance"]["base"] > 0
    page = (finished / "w" / "reports" / "eval-eval.html").read_text()
    assert "Against 12 real clips, in 16 features. With fewer videos than features," in page
    # Film is noisier than its own slow copy, and the reader is told what that makes of praise.
    worse = [metric for metric, c in made["real"].items() if c["verdict"] == "worse"]
    assert "flash.flicker" in worse
    assert f"By {', '.join(worse)} the real clips are worse than base" in made["cautions"][-1]
    assert not any("differ in form" in text for text in made["cautions"])
    rows = json.loads((finished / "w" / "eval" / "eval" / "rows.json").read_text())
    assert {tuple(row["form"]) for row in rows} == {(64, 64, 9, 8.0)}


def test_videos_of_different_form_are_not_compared_in_silence(finished, street):
    for k, video in enumerate(street):
        data = encode_video(
            np.ascontiguousarray(video[:7, :48]), Fraction(8), conform.pair_encoder(12)
        )
        (finished / "shuffled" / f"bikes pass {k}.mp4").write_bytes(data)
    config = EvalConfig(
        systems={"a": str(finished / "steady"), "b": str(finished / "shuffled")},
        benchmark=str(finished / "bench"),
        seeds=1,
    )
    caution = run.run_evaluation(Workspace(finished / "w"), config)["cautions"][-1]
    assert "64x64, 9 frames at 8 a second: a; 64x48, 7 frames at 8 a second: b" in caution


def test_what_the_user_got_wrong_is_one_clear_line(workspace, tmp_path):
    for chosen, message in [
        ({"base": "nothing-here"}, "no model named 'nothing-here'"),
        ({"base": str(tmp_path)}, "neither a pipeline nor videos"),
    ]:
        with pytest.raises(UserError, match=message):
            plan.plan_evaluation(workspace, EvalConfig(systems=chosen))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "nobody asked.mp4").write_bytes(b"x")
    with pytest.raises(
        UserError, match="base: no video in .* has the name of one of the 2 prompts"
    ):
        plan.plan_evaluation(workspace, EvalConfig(systems={"base": str(tmp_path / "videos")}))
    (workspace.runs / "young").mkdir(exist_ok=True)
    (workspace.runs / "young" / "config.toml").write_text("[train]\nmodel = 'tiny'\n")
    with pytest.raises(UserError, match="no weights yet"):
        systems.resolve_system(workspace, "base", "young")
    with pytest.raises(UserError, match="has no clip in the split 'validation'"):
        plan.plan_evaluation(workspace, settings_for(workspace, split="validation"))
    with pytest.raises(UserError, match="none of the 2 clips is large and long enough"):
        plan.plan_evaluation(workspace, settings_for(workspace, frames=17))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "prompts.txt").write_text("a person walks\n")
    with pytest.raises(UserError, match="base starts from a first frame, and 1 prompts have none"):
        plan.plan_evaluation(workspace, settings_for(workspace, benchmark=str(tmp_path / "words")))
    with pytest.raises(UserError, match="`real` is reserved"):
        EvalConfig(systems={"real": "tiny"})


def test_a_lora_of_the_second_transformer_says_so_where_it_is_loaded(tmp_path):
    place = Workspace(tmp_path / "w")
    model = tiny_pipelines.save("wan2.2-t2v", tmp_path / "wan")
    spec = load.read_spec(str(model), expert="low")
    second = load.load_transformer(spec, torch.float32)
    weights.add_lora(second, 2, 2.0, 0.0, family_of(spec).TARGETS)
    trained = {n: p.detach() for n, p in second.named_parameters() if p.requires_grad}
    run_folder = place.runs / "late"
    weights.save_weights(trained, second, spec, run_folder / "weights")
    settings = TrainConfig(model=str(model), name="late", expert="low")
    (run_folder / "config.toml").write_text(configs.settings_to_toml("train", settings))
    system = systems.resolve_system(place, "a", "late")
    pipe = load.load_pipeline(system.model, lora=system.lora)
    adapted = {
        part: any("lora" in n for n, _ in getattr(pipe, part).named_parameters())
        for part in ("transformer", "transformer_2")
    }
    assert adapted == {"transformer": False, "transformer_2": True}


def test_dry_run_counts_and_writes_nothing(workspace, tmp_path):
    result = CliRunner().invoke(
        app,
        [
            "eval",
            "-w",
            str(workspace.root),
            "--system",
            f"base={workspace.root / 'model'}",
            "--system",
            "lora=lora",
            "--seeds",
            "4",
            "--name",
            "unmade",
            "--dry-run",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["videos_to_make"] == 2 * 2 * 4
    assert not (workspace.evaluations / "unmade").exists()


def test_the_captioner_of_the_clips_cannot_be_the_judge(workspace, finished):
    config = configs.build_settings(
        EvalConfig,
        {
            "systems": {"a": str(finished / "steady"), "b": str(finished / "shuffled")},
            "benchmark": str(finished / "bench"),
            "seeds": 1,
            "prompts": 1,
            "name": "judged",
            "judge": {"url": "http://127.0.0.1:9/v1", "model": "someone/watcher-7b"},
        },
    )
    with pytest.raises(UserError, match="also wrote or filtered the data"):
        run.run_evaluation(workspace, config)


def test_judge_and_open_clip_reach_the_table_and_nothing_is_asked_twice(finished, tmp_path):
    import open_clip
    import torch
    from safetensors.torch import save_model

    torch.manual_seed(0)
    weights = tmp_path / "clip.safetensors"
    save_model(open_clip.create_model("ViT-S-32-alt", pretrained=None), str(weights))
    server = Server()
    config = configs.build_settings(
        EvalConfig,
        {
            "systems": {"a": str(finished / "steady"), "b": str(finished / "shuffled")},
            "benchmark": str(finished / "bench"),
            "seeds": 1,
            "prompts": 2,
            "clip": f"ViT-S-32-alt:{weights}",
            "judge": {"url": server.url, "model": "bright-8b"},
        },
    )
    made = run.run_evaluation(Workspace(finished / "w"), config)
    server.http.shutdown()  # from here on nobody answers
    assert len(server.requests) == 2 * 2  # prompts by runs; both systems in one request
    assert made["judge"]["agreement"]["motion"] > 0.9  # brightness does not depend on the order
    assert 0 < made["means"]["a"]["judge.motion"] < 10
    assert "clip.text" in made["compared"]["b"]
    assert run.run_evaluation(Workspace(finished / "w"), config) == made


@pytest.fixture
def two_revisions(tmp_path, monkeypatch):
    """The Hub id lab/tiny in the cache, with other weights on the branch v1 than on main."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "hub" / "models--lab--tiny"
    (place / "refs").mkdir(parents=True)
    for number, branch in enumerate(("main", "v1")):
        commit = str(number) * 40
        (place / "refs" / branch).write_text(commit)
        tiny_pipelines.save("cogvideox-5b-i2v", place / "snapshots" / commit, seed=number)
    return "lab/tiny"


def test_a_run_is_sampled_from_the_revision_it_was_trained_on(two_revisions, tmp_path, street):
    """And so is the base that `sample` sets beside it; the branch main has other weights."""
    from realdpo.train.evaluate import samples

    place = Workspace(tmp_path / "work")
    run_folder = place.runs / "late"
    spec = load.read_spec(two_revisions, "v1")
    model = load.load_transformer(spec, torch.float32)
    weights.add_lora(model, 4, 4.0, 0.0, family_of(spec).TARGETS)  # as it starts: the identity
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    weights.save_weights(trained, model, spec, run_folder / "weights")
    settings = TrainConfig(model=two_revisions, revision="v1", name="late")
    (run_folder / "config.toml").write_text(configs.settings_to_toml("train", settings))

    named = samples.systems_for(place, ["late"], None, None)
    assert named == {"base": "lab/tiny@revision=v1", "late": "late"}
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "a.txt").write_text("a person walking")
    Image.fromarray(street[0][0]).save(prompts / "a.png")
    config = settings_for(
        place, systems={**named, "now": two_revisions}, benchmark=str(prompts), seeds=1
    )
    planned = plan.plan_evaluation(place, config)
    assert len({task.key for task in planned.tasks}) == 3
    run.generate_videos(planned, ["cpu"], (1, 1))
    base, late, now = (planned.video(task.key).read_bytes() for task in planned.tasks)
    assert base == late
    assert base != now


def test_a_revision_is_refused_where_there_is_none(workspace):
    for text, why in (("lora", "trained on"), (str(workspace.root / "model"), "folder")):
        with pytest.raises(UserError, match=why):
            systems.resolve_system(workspace, "a", f"{text}@revision=v1")


def test_another_dtype_is_another_video_and_every_row_says_which(workspace):
    config = settings_for(
        workspace, systems={"base": str(workspace.root / "model")}, prompts=1, seeds=1, dtype="fp32"
    )
    folder = workspace.evaluations / config.name
    found = {}
    for dtype in ("fp32", "bf16"):
        made = commands.evaluate_and_report(
            workspace, replace(config, dtype=dtype), ["cpu"], (1, 1)
        )
        rows = {r["system"]: r for r in json.loads((folder / "rows.json").read_text())}
        found[rows["base"]["dtype"]] = (folder / rows["base"]["video"]).read_bytes()
        assert made["settings"]["dtype"] == rows["base"]["dtype"]
        assert rows["real"]["dtype"] is None  # film was made by nobody's weights
    assert set(found) == {"float32", "bfloat16"}
    assert found["float32"] != found["bfloat16"]


def test_a_memory_option_that_there_is_not_is_refused_before_anything_is_read():
    result = CliRunner().invoke(app, ["eval", "--system", "a=tiny", "--set", "memory=foo"])
    assert result.exit_code == 1
    assert "no memory option 'foo'" in result.output
    assert "model_cpu_offload" in result.output
