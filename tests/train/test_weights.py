"""Trained weights in files, experts, and pairs that do not fit the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import shards
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from realdpo.errors import UserError
from realdpo.families import load, trainable_family
from realdpo.families.weights import save_weights
from realdpo.train import checkpoint, loop, noise
from realdpo.train.config import TrainConfig
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
        model=str(model), weights="full", lr=1e-4, steps=2, held_out_pairs=0, warmup=0,
        memory="checkpointing", policy_ema=0.0,
    )  # fmt: skip
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
