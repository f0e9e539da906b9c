"""Trained weights in files, experts, and pairs that do not fit the model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import shards
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from realdpo.errors import UserError
from realdpo.families import load, trainable_family
from realdpo.families.export import export_run
from realdpo.families.weights import LORA_FILE, LOW_LORA_FILE, load_lora, save_weights
from realdpo.publish import model_card
from realdpo.rounds import run_rounds
from realdpo.train import checkpoint, loop, noise, report
from realdpo.train.config import TrainConfig
from realdpo.train.evaluate import systems
from realdpo.train.loop import Trainer


def test_alpha_survives_saving(model, work, tmp_path):
    config = TrainConfig(model=str(model), rank=4, alpha=32.0, steps=1, held_out_pairs=0)
    trainer = Trainer(work, config, runs=tmp_path)
    with torch.no_grad():
        for n, p in checkpoint.trained_parameters(trainer.inner):
            if "lora_B" in n:
                p.normal_()
    weights = {n: p.detach() for n, p in checkpoint.trained_parameters(trainer.inner)}
    save_weights(weights, trainer.inner, trainer.task.family.spec, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(model)
    pipe.load_lora_weights(tmp_path)
    scales = {m.scaling["default_0"] for m in pipe.transformer.modules() if hasattr(m, "scaling")}
    assert scales == {8.0}


def test_full_weights_are_a_transformer_folder(work, model, tmp_path):
    config = TrainConfig(
        model=str(model),
        weights="full",
        lr=1e-4,
        steps=2,
        held_out_pairs=0,
        warmup=0,
        memory="checkpointing",
        policy_ema=0.0,
    )
    trainer = Trainer(work, config, runs=tmp_path)
    trainer.start_or_resume()
    for _ in range(2):
        trainer.after_step(trainer.train_step())
    summary = trainer.finish(None)
    kind = type(trainer.inner)
    loaded = kind.from_pretrained(summary.weights / "transformer")
    for (name, ours), theirs in zip(
        trainer.inner.named_parameters(), loaded.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    pipe = DiffusionPipeline.from_pretrained(model, transformer=loaded)
    assert pipe.transformer is loaded


def test_wan_2_2_trains_the_expert_asked_for_on_its_part_of_the_schedule(tmp_path):
    folder = tiny_pipelines.save("wan2.2-t2v", tmp_path / "model")
    work = shards.workspace(tmp_path / "work", train=1, validation=0, losers=1, image=False)
    for expert, component in (("high", "transformer"), ("low", "transformer_2")):
        config = TrainConfig(
            model=str(folder), expert=expert, held_out_pairs=0, rank=2, name=expert
        )
        trainer = Trainer(work, config)
        assert trainer.task.family.spec.component == component
        level = noise.noise_levels(trainer.task.process, torch.linspace(0, 0.999, 50))
        served = level.timestep >= 875 - 1e-6 if expert == "high" else level.timestep <= 875
        assert served.all()
        stored = load_file(folder / component / "diffusion_pytorch_model.safetensors")
        key = "condition_embedder.text_embedder.linear_1.weight"
        assert torch.equal(dict(trainer.inner.named_parameters())[key], stored[key])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run of both experts: the model's folder, the workspace, the settings, what was made."""
    root = tmp_path_factory.mktemp("both")
    model = tiny_pipelines.save("wan2.2-t2v", root / "model")
    work = shards.workspace(root / "work", train=2, validation=1, losers=1, image=False)
    config = TrainConfig(
        model=str(model),
        expert="both",
        name="two",
        data="pairs",
        rank=2,
        alpha=4.0,
        steps=2,
        lr=5e-2,
        warmup=0,
        policy_ema=0.0,
        held_out_levels=2,
        schedule="constant",
        checkpoint_every=1,
    )
    return model, work, config, loop.run_training(work, config)


def test_both_experts_of_wan_2_2_train_in_one_run_and_load_as_one(both):
    model, work, config, made = both
    assert made.steps == 4
    assert made.experts["high"].after["pairs"] == made.experts["low"].after["pairs"] == 1
    files = {"transformer": LORA_FILE, "transformer_2": LOW_LORA_FILE}
    parts = {"transformer": made.folder / "high", "transformer_2": made.folder / "low"}
    held = {name: load_file(made.weights / file) for name, file in files.items()}
    assert {len(tensors) for tensors in held.values()} == {40}
    assert any(not torch.equal(held["transformer"][n], t) for n, t in held["transformer_2"].items())
    for name, part in parts.items():
        stored = load_file(part / "weights" / LORA_FILE)
        assert all(torch.equal(held[name][n], t) for n, t in stored.items())

    # what is sampled is what was trained: once by diffusers as the card says, once by our loader,
    # once with the products added to the weights by hand
    def video(pipe):
        pipe.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(0)
        call = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 4}
        return pipe("a walk", generator=seed, output_type="latent", **call).frames.float()

    def base():
        return DiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)

    wanted = base()
    for name, tensors in held.items():
        layers = dict(getattr(wanted, name).named_modules())
        for key, down in tensors.items():
            stem, _, factor = key.removeprefix("transformer.").partition(".lora_")
            if factor == "A.weight":
                up = tensors[key.replace("lora_A", "lora_B")]
                layers[stem].weight.data += 4.0 / 2 * up @ down
    (first, second) = re.findall(
        r"pipe\.load_lora_weights\(.*\)",
        model_card._example(str(made.weights), str(model), None, True, None, {}, both=True),
    )
    theirs = base()
    for line in (first, second):
        exec(line, {"pipe": theirs})
    ours = load.load_pipeline(str(model), lora=str(made.weights), dtype="float32", device="cpu")
    frames = video(wanted)
    assert torch.allclose(video(theirs), frames, atol=1e-4)
    assert torch.allclose(video(ours), frames, atol=1e-4)
    one = load.load_pipeline(
        str(model), lora=str(parts["transformer"] / "weights"), dtype="float32", device="cpu"
    )
    assert not torch.allclose(video(one), frames, atol=1e-3)  # the second one counts
    assert not torch.allclose(video(base()), video(one), atol=1e-3)  # and the first

    # other settings are refused; a later run begins from both
    with pytest.raises(UserError, match="was started with rank = 2"):
        loop.run_training(work, replace(config, rank=4))
    later = replace(config, start="two", name="later", expert="low", lr=1e-12, steps=1)
    begun = load_file(loop.run_training(work, later).weights / LORA_FILE)
    assert all(torch.allclose(held["transformer_2"][n], t, atol=1e-6) for n, t in begun.items())

    # a file each for other tools, and a card that shows both
    exported = export_run(work.runs, "two", "comfyui", "float32")
    assert [Path(file).name for file in exported["files"]] == [
        "two_high_noise-comfyui.safetensors",
        "two_low_noise-comfyui.safetensors",
    ]
    joined = ",".join(exported["files"])
    pipe = load.load_pipeline(str(model), lora=joined, dtype="float32", device="cpu")
    assert torch.allclose(video(pipe), frames, atol=1e-4)
    text = model_card.model_card(work, made.folder, "me/two").readme
    assert "high-noise expert: error on real clips" in text
    assert "low-noise expert: error on real clips" in text
    assert "| steps taken, low-noise expert | 2 |" in text
    system = systems.resolve_system(work, "tuned", "two")
    assert load_lora(base(), system.lora) == {"transformer": 20, "transformer_2": 20}
    with pytest.raises(UserError, match="trained two transformers"):
        report.write_train_report(work, "two")
    assert report.write_train_report(work, "two/low")[0].name == "train-two-low.html"


def test_a_run_of_both_experts_goes_on_in_the_expert_where_it_was_stopped(both):
    _, work, config, calm = both
    config = replace(config, name="stopped")
    seen = []

    def stop_in_the_second(values):
        seen.append(values["step"])
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run_training(work, config, on_step=stop_in_the_second)
    assert not (work.runs / "stopped" / "weights").exists()  # half of it is not handed over
    made = loop.run_training(work, config, on_step=lambda values: seen.append(values["step"]))
    assert seen == [1, 2, 1, 2]
    for file in (LORA_FILE, LOW_LORA_FILE):
        ours, theirs = load_file(made.weights / file), load_file(calm.weights / file)
        assert all(torch.equal(theirs[n], t) for n, t in ours.items())


def test_both_experts_are_refused_where_there_is_one(work, model, tmp_path):
    for expert in ("both", "low"):
        with pytest.raises(UserError, match=f"expert = {expert}: .* has one transformer"):
            loop.run_training(work, TrainConfig(model=str(model), expert=expert, name="none"))
    with pytest.raises(UserError, match="expert = both needs weights = lora"):
        TrainConfig(expert="both", weights="full")
    with pytest.raises(UserError, match="rounds train one expert"):
        run_rounds(work, TrainConfig(model=str(model), expert="both"), 2)


def test_unknown_layers_and_pipelines_are_named(work, model, tmp_path):
    config = TrainConfig(model=str(model), targets=("no_such_layer",))
    with pytest.raises(UserError, match="no_such_layer"):
        Trainer(work, config, runs=tmp_path)
    spec = replace(load.read_spec(str(model)), pipeline="StableDiffusionPipeline")
    with pytest.raises(UserError, match="cannot be trained"):
        trainable_family(spec)


@pytest.mark.parametrize(("frames", "nearest"), [(8, "9 or 17"), (13, "9 or 17"), (21, "17 or 25")])
def test_pairs_of_the_wrong_length_are_refused(model, tmp_path, frames, nearest):
    work = shards.workspace(tmp_path / "w", train=1, validation=0, frames=frames)
    with pytest.raises(UserError, match=rf"{frames} frames.*8k\+1 frames \(nearest: {nearest}\)"):
        loop.run_training(work, TrainConfig(model=str(model)))


def test_fingerprint_follows_the_contents(model, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    spec, other = load.read_spec(str(model)), load.read_spec(str(copy))
    assert load.fingerprint_parts(spec, "vae") == load.fingerprint_parts(other, "vae")
    settings = copy / "vae" / "config.json"
    settings.write_text(
        settings.read_text().replace('"scaling_factor": 0.7', '"scaling_factor": 0.8')
    )
    assert load.fingerprint_parts(spec, "vae") != load.fingerprint_parts(other, "vae")
