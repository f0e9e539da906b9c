"""`realdpo sample`: systems side by side, guidance, and how far a run moved from its base."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_pipelines
import torch
from PIL import Image
from typer.testing import CliRunner

from realdpo import config as configs
from realdpo.cli import app
from realdpo.errors import UserError
from realdpo.families import family_of, load, weights
from realdpo.media.decode import read_clip
from realdpo.train.config import TrainConfig
from realdpo.train.evaluate import samples, systems
from realdpo.workspace import Workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with a small pipeline and runs of it: adapters, and a whole transformer."""
    made = Workspace(tmp_path_factory.mktemp("sample"))
    folder = tiny_pipelines.save("cogvideox-5b-i2v", made.root / "model")
    spec = load.read_spec(str(folder))
    random = torch.Generator().manual_seed(0)
    for name in ("lora", "full"):
        model = load.load_transformer(spec, torch.float32)
        if name == "lora":
            weights.add_lora(model, 4, 4.0, 0.0, family_of(spec).TARGETS)
            for n, p in model.named_parameters():
                if "lora_B" in n:
                    p.data = 0.2 * torch.randn(p.shape, generator=random)
            trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        else:
            model.proj_out.weight.data += 0.3 * torch.randn(
                model.proj_out.weight.shape, generator=random
            )
            trained = {n: p.detach() for n, p in model.named_parameters()}
        weights.save_weights(trained, model, spec, made.runs / name / "weights")
        settings = TrainConfig(model=str(folder), name=name)
        (made.runs / name / "config.toml").write_text(configs.settings_to_toml("train", settings))
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(made.root / "first.png")
    return made


SHAPE = ["--set", "width=64", "--set", "height=64", "--set", "frames=9", "--steps", "2"]


def run(place, *arguments):
    return CliRunner().invoke(
        app, ["sample", "-w", str(place.root), *arguments, *SHAPE, "--devices", "cpu"]
    )


def test_a_run_its_base_and_guidance_side_by_side_once(place):
    arguments = [
        "--run",
        "lora",
        "--guide",
        "2",
        "--system",
        "twice=lora@scale=2",
        "--prompt",
        "a person waves",
        "--image",
        str(place.root / "first.png"),
        "--json",
    ]
    result = run(place, *arguments)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert list(made["videos"]) == ["base", "lora", "lora-guided", "twice"]
    moved = {row["system"]: row["difference"] for row in made["moved"]}
    assert 0 < moved["lora"] < moved["lora-guided"]
    assert moved["lora"] < moved["twice"] != moved["lora-guided"]
    files = {n: paths[0] for n, paths in made["videos"].items()}
    assert "a-person-waves" in files["lora"]
    assert read_clip(files["lora-guided"])[0].shape == (9, 64, 64, 3)
    page = (place.reports / "sample-samples.html").read_text()
    assert page.count('class="in-step"') == 1
    assert "lora@guide=2" in page
    videos = place.root / "samples" / "samples" / "videos"
    times = {p: p.stat().st_mtime_ns for p in videos.iterdir()}
    next(iter(times)).unlink()
    again = json.loads(run(place, *arguments).stdout)
    assert again["moved"] == made["moved"]
    changed = [p for p in videos.iterdir() if p.stat().st_mtime_ns != times[p]]
    assert len(changed) == 1


def test_settings_count_when_no_option_was_given(place):
    """An option's default must not win over --set."""
    prompts = ["--prompt", "one", "--prompt", "two", "--image", str(place.root / "first.png")]
    result = run(
        *(place, "--run", "lora", "--no-base", *prompts, "--json"),
        *("--set", "name=fewer", "--set", "prompts=1", "--set", "seeds=2"),
    )
    assert result.exit_code == 0, result.output
    (paths,) = json.loads(result.stdout)["videos"].values()
    assert len(paths) == 2
    assert "samples/fewer/" in paths[0]


def test_the_base_can_be_the_negative_forward(place):
    arguments = [
        "--run",
        "lora",
        "--guide",
        "negative",
        "--prompt",
        "a person waves",
        "--name",
        "by",
        "--image",
        str(place.root / "first.png"),
        "--json",
    ]
    result = run(place, *arguments)
    assert result.exit_code == 0, result.output
    moved = {row["system"]: row["difference"] for row in json.loads(result.stdout)["moved"]}
    assert 0 < moved["lora"] != moved["lora-guided"] > 0
    assert "lora@guide=negative" in (place.reports / "sample-by.html").read_text()


def test_all_weights_are_guided_by_the_base_beside_them(place):
    result = run(
        place,
        "--system",
        "plain=full",
        "--system",
        "none=full@guide=0",
        "--system",
        "far=full@guide=1",
        "--prompt",
        "a person waves",
        "--name",
        "whole",
        "--image",
        str(place.root / "first.png"),
        "--json",
    )
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    moved = {row["system"]: row["difference"] for row in made["moved"]}
    assert moved["plain"] == moved["none"] < moved["far"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "x"], "nothing to sample from"),
        (["--run", "nowhere", "--prompt", "x"], "nowhere"),
        (["--run", "lora", "--prompts", "nowhere.txt"], "cannot read the prompts nowhere.txt"),
        (["--run", "lora", "--image", "nowhere.png"], "has no prompt"),
        (["--run", "lora", "--prompt", "x", "--image", "nowhere.png"], "nowhere.png"),
        (["--run", "lora", "--prompt", "x"], "starts from a first frame"),
        (["--system", "a=lora@guide=x"], "not understood"),
        (["--system", "a=lora@scale=negative"], "not understood"),
        (["--run", "lora", "--guide", "x"], "--guide x is not understood"),
        (["--system", "a=full@scale=2"], "only adapters can be scaled"),
    ],
)
def test_wrong_input_is_one_clear_line(place, arguments, words):
    result = run(place, *arguments)
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_base_has_nothing_to_be_guided_by(place):
    with pytest.raises(UserError, match="only a fine-tuned system"):
        systems.resolve_system(place, "a", f"{place.root / 'model'}@guide=2")
    found = systems.resolve_system(place, "a", "lora@guide=2")
    assert (found.guide, found.scale, found.text) == (2.0, 1.0, "lora@guide=2")
    assert systems.resolve_system(place, "a", "lora@guide=0").text == "lora"
    found = systems.resolve_system(place, "a", "lora@guide=negative,scale=2")
    assert (found.guide, found.scale, found.text) == (
        "negative",
        2.0,
        "lora@guide=negative,scale=2",
    )
    assert list(samples.systems_for(place, ["lora"], None, None, base=False)) == ["lora"]
