"""Model repositories: safetensors only, a card that says what training did, an example that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_workspaces as workspaces
import loopback_hub
import pytest
import tiny_pipelines
import yaml

from realdpo import ids
from realdpo.errors import UserError
from realdpo.publish import hub as pushing
from realdpo.publish import model_card
from realdpo.publish.hub import PushConfig

REPO = "someone/actions-lora"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.save("cogvideox-5b-i2v", tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def trained(made: workspaces.Made, base: Path) -> workspaces.Made:
    """A run as `realdpo train` leaves it: real adapter weights and logs of known numbers."""
    import torch
    from diffusers import CogVideoXImageToVideoPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    run = made.workspace.runs / "dpo"
    torch.manual_seed(0)
    transformer = CogVideoXImageToVideoPipeline.from_pretrained(base).transformer
    transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q"]))
    CogVideoXImageToVideoPipeline.save_lora_weights(
        run / "weights", transformer_lora_layers=get_peft_model_state_dict(transformer)
    )
    (run / "config.toml").write_text(
        f'[train]\nmodel = "{base}"\nweights = "lora"\nobjective = "dpo"\nbeta = 2000.0\nrank = 2\n'
    )
    steps = [{"step": step, "loss": 0.69 - step / 1000} for step in range(1, 31)]
    checks = [
        {
            "step": 0,
            "accuracy": 0.5,
            "control_accuracy": 0.5,
            "winner_error": 0.4,
            "winner_change": 0.0,
            "pairs": 2,
        },
        {
            "step": 30,
            "accuracy": 0.875,
            "control_accuracy": 0.75,
            "winner_error": 0.42,
            "winner_change": 0.05,
            "pairs": 2,
        },
    ]
    for name, rows in (("log", steps), ("held_out", checks)):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_the_card_says_what_the_objective_was_and_nothing_of_another(
    trained: workspaces.Made,
) -> None:
    assert "wins over what the model made of the same prompt" in plan_of(trained).readme
    run = trained.workspace.runs / "dpo"
    settings = (run / "config.toml").read_text()
    (run / "summary.json").write_text(json.dumps({"train_pairs": 7}))
    row = {"step": 0, "winner_error": 0.4, "winner_change": 0.0, "contrast": 0.4, "pairs": 40}
    rows = [row, {**row, "step": 30, "contrast": 0.35}]
    (run / "held_out.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (run / "config.toml").write_text(settings.replace('"dpo"', '"contrast"'))
    card = plan_of(trained, dataset="someone/actions").readme
    assert "trained by contrast on 7 real clips of [someone/actions]" in card
    assert "https://arxiv.org/abs/2509.16117" in card
    assert "On 40 held-out clips" in card
    assert "what the contrast lowers | 0.4 | 0.35" in card
    assert "osers are generated" not in card
    assert "Accuracy" not in card
    (run / "config.toml").write_text(settings.replace('"dpo"', '"sft"'))
    assert "fine-tuned on 7 real clips, without a preference" in plan_of(trained).readme


def test_files_for_other_tools_are_published_beside_the_weights(trained: workspaces.Made) -> None:
    run = trained.workspace.runs / "dpo"
    assert "export/" not in plan_of(trained).readme
    (run / "export").mkdir()
    weights = run / "weights" / "pytorch_lora_weights.safetensors"
    for name in ("dpo-comfyui", "dpo-kohya"):
        (run / "export" / f"{name}.safetensors").write_bytes(weights.read_bytes())
    plan = plan_of(trained)
    assert {f.path for f in plan.files} > {
        f"export/dpo-{n}.safetensors" for n in ("comfyui", "kohya")
    }
    assert "`export/dpo-comfyui.safetensors`, for ComfyUI" in plan.readme
    assert f"load_lora_weights('{REPO}')" in plan.readme
    # what an earlier training left there is of other weights
    later = (run / "export" / "dpo-kohya.safetensors").stat().st_mtime + 10
    os.utime(weights, (later, later))
    assert not any(f.path.startswith("export/") for f in plan_of(trained).files)


def plan_of(made: workspaces.Made, **settings: Any) -> pushing.PushPlan:
    return pushing.plan_push(made.workspace, REPO, PushConfig(what="model", **settings))[0]


def test_the_card_gives_both_sides_of_the_evidence(trained: workspaces.Made) -> None:
    plan = plan_of(trained, dataset="someone/actions")
    header = yaml.safe_load(plan.readme.split("---\n")[1])
    assert header["pipeline_tag"] == "image-to-video"
    assert header["library_name"] == "diffusers"
    assert header["datasets"] == ["someone/actions"]
    assert "base_model" not in header  # a folder of this machine is nobody else's base
    assert "| accuracy against the base model | 0.5 | 0.875 |" in plan.readme
    assert "| accuracy of the control | 0.5 | 0.75 |" in plan.readme
    assert "winner's held-out error rose" in plan.readme
    assert "held-out clips are few" in plan.readme
    assert "No evaluation of generated videos was made" in plan.readme
    assert str(trained.workspace.root) not in plan.readme
    assert "/models" not in plan.readme  # nor the base model's folder


def test_the_example_is_for_the_class_and_the_transformer_that_were_trained() -> None:
    sample = {
        "task": "i2v",
        "prompt": "a man, walking",
        "width": 832,
        "height": 480,
        "frames": 81,
        "fps": 24.0,
        "steps": 40,
        "guidance": 3.5,
    }
    told = {"realdpo.pipeline": "WanImageToVideoPipeline", "realdpo.component": "transformer_2"}
    text = model_card._example("me/lora", "Wan-AI/x", None, True, sample, told)
    assert 'WanImageToVideoPipeline.from_pretrained("Wan-AI/x"'.replace('"', "'") in text
    assert "pipe.load_lora_weights('me/lora', load_into_transformer_2=True)" in text
    assert '    prompt="a man, walking",' in text
    assert "    width=832," in text
    told = {"realdpo.pipeline": "HunyuanVideo15ImageToVideoPipeline"}
    text = model_card._example("me/lora", "hunyuanvideo-community/x", None, True, sample, told)
    assert "pipe.transformer.load_lora_adapter('me/lora', weight_name=" in text
    # its size is the picture's, and its guidance a part of the pipeline
    assert "width=" not in text
    assert "guidance_scale" not in text
    compile(text, "example", "exec")


def test_evaluations_of_the_run_come_into_its_card(trained: workspaces.Made) -> None:
    for name, run, mean in (("first", "dpo", 1.25), ("second", "sft", 7.5)):
        folder = trained.workspace.evaluations / name
        folder.mkdir(parents=True)
        (folder / "table.md").write_text(f"| metric | mean |\n|---|---|\n| motion | {mean} |\n")
        (folder / "summary.json").write_text(json.dumps({"systems": {"base": "tiny", "x": run}}))
    readme = plan_of(trained).readme
    assert "| motion | 1.25 |" in readme
    assert "7.5" not in readme
    assert "No evaluation of generated videos" not in readme


def test_pickles_are_not_published(trained: workspaces.Made) -> None:
    (trained.workspace.runs / "dpo" / "weights" / "optimizer.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="not safetensors"):
        plan_of(trained)


def test_several_runs_need_a_choice(trained: workspaces.Made) -> None:
    (trained.workspace.runs / "sft" / "weights").mkdir(parents=True)
    with pytest.raises(UserError, match="choose one with --run|several runs"):
        plan_of(trained)
    assert plan_of(trained, run="dpo").files
    with pytest.raises(UserError, match="has no weights"):
        plan_of(trained, run="nothing")


@pytest.mark.slow
def test_pushed_weights_come_back_and_the_cards_example_runs(
    hub: loopback_hub.Hub,
    api: Any,
    trained: workspaces.Made,
    base: Path,
    environment: dict[str, str],
) -> None:
    plan = plan_of(trained)
    pushed = pushing.push_repository(api, plan, PushConfig())
    weights = trained.workspace.runs / "dpo" / "weights" / "pytorch_lora_weights.safetensors"
    assert set(pushed.uploaded) == {
        weights.name,
        "README.md",
        "images/first_frame.png",
        "images/training.png",
    }
    checked = pushing.verify_push(api, plan, pushed.commit)
    assert checked["weights"] == {weights.name: weights.stat().st_size}
    assert ids.bytes_hash(hub.files(REPO, "models")[weights.name]) == ids.file_hash(weights)

    (example,) = re.findall(r"```python\n(.*?)```", plan.readme, re.DOTALL)
    # Without a GPU, in the folder where the base model's name leads to it, and at its own size.
    example = example.replace('pipe.to("cuda")\n', "").replace("bfloat16", "float32")
    example = re.sub(r"width=\d+, height=\d+", "width=64, height=64", example)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=base.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (base.parent / "video.mp4").stat().st_size > 1000
