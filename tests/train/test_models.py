"""Every model family, with a small model of the real class: our forward is the pipeline's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import shards
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from realdpo.errors import UserError
from realdpo.families import load, trainable_family
from realdpo.families.sample import settings_from
from realdpo.families.weights import save_weights
from realdpo.train import checkpoint, loop, noise
from realdpo.train.config import TrainConfig
from realdpo.train.loop import Trainer

# family -> (a legal number of frames, names of the pipeline's own latents in its hidden states)
FRAMES = {"ltx": 9, "mochi": 7}
NAMES = list(tiny_pipelines.PIPELINES)


def frames_of(name: str) -> int:
    return next((n for family, n in FRAMES.items() if name.startswith(family)), 9)


def arguments_of(family, name: str) -> dict:
    guidance = 6.0 if name.startswith("hunyuan") else 1.0
    settings = settings_from(
        family.traits, width=64, height=64, frames=frames_of(name), fps=8.0, guidance=guidance
    )
    return family.arguments(settings)


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return tiny_pipelines.save(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def pairs(name, tmp_path_factory):
    image = "i2v" in name
    root = tmp_path_factory.mktemp("work")
    return shards.workspace(
        root, train=1, validation=0, losers=1, frames=frames_of(name), image=image
    )


@pytest.fixture(scope="module")
def trainer(name, folder, pairs) -> Trainer:
    config = TrainConfig(
        model=str(folder), rank=4, lr=3e-3, warmup=0, beta=100.0, sft_weight=0.0, held_out_pairs=0,
        condition_draws=0, steps=12, spike=0.0,
    )  # fmt: skip
    return Trainer(pairs, config)


def test_forward_equals_the_pipelines_own_transformer_call(name, folder, trainer):
    """Run the real pipeline, keep one call of its transformer, and repeat it through ours."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    family = trainer.task.family
    spec = family.spec
    calls, image = [], "i2v" in name
    hook = getattr(pipe, spec.component).register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    frame = shards.clip(0, 3.0)[0]
    options = {"image": Image.fromarray(frame)} if image else {}
    options |= {"num_frames": frames_of(name)} | arguments_of(family, name)
    made = pipe(
        prompt="a man walking", height=64, width=64, num_inference_steps=2, output_type="latent",
        **options,
    )  # fmt: skip
    if name.startswith("hunyuan"):  # one of its kinds cuts frames off, and is asked for more
        assert made.frames.shape[2] == 3
    hook.remove()
    assert calls
    kwargs, theirs = calls[-1]
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1).float() / 127.5 - 1
    with torch.no_grad():
        inputs = family.embed(pipe, "a man walking", pixels if image else None)
        if image:
            shown = family.condition(pipe.vae, pixels[None], frames_of(name))
            inputs |= {n: t[0] for n, t in shown.items()}
    inputs["fps"] = torch.tensor(8.0)
    inputs = {n: t[None] for n, t in inputs.items()}
    noisy, timestep = kwargs["hidden_states"], kwargs["timestep"]
    if name.startswith("cogvideox") and image:
        noisy, given = noisy.chunk(2, dim=2)
        # The pipeline samples the posterior of the first frame where the cache takes its mode.
        inputs["image_latents"] = given[:, 0]
        assert not given[:, 1:].any()
    elif name.startswith("wan") and image:
        torch.testing.assert_close(noisy[:, 16:], inputs["condition"], atol=1e-5, rtol=1e-4)
        noisy = noisy[:, :16]
    elif name == "hunyuan-i2v":
        torch.testing.assert_close(noisy[:, :, :1], inputs["first_latent"], atol=1e-5, rtol=1e-4)
    elif name == "hunyuan-i2v-concat":
        noisy, given, mask = noisy.split([4, 4, 1], dim=1)
        torch.testing.assert_close(given[:, :, :1], inputs["first_latent"], atol=1e-5, rtol=1e-4)
        assert mask[:, :, 0].all()
        assert not mask[:, :, 1:].any()
        assert not given[:, :, 1:].any()
    elif name.startswith("ltx"):
        grid = (2, 2, 2)
        noisy = pipe._unpack_latents(noisy, *grid)
        theirs = pipe._unpack_latents(theirs, *grid)
        inputs["first_latent"] = noisy[:, :, :1]
        timestep = timestep.max().view(1)
    with torch.no_grad():
        ours = family.forward(getattr(pipe, spec.component), noisy, timestep, inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_legal_lengths_come_back_from_the_vae_whole(folder, trainer):
    """A legal number of frames decodes to as many; CogVideoX's 4k+1 with k odd does not."""
    vae = DiffusionPipeline.from_pretrained(folder).vae
    family = trainer.task.family
    step = family.traits.frame_step

    def decoded(frames: int) -> int:
        with torch.no_grad():
            latents = vae.encode(torch.zeros(1, 3, frames, 32, 32)).latent_dist.mode()
            return vae.decode(latents).sample.shape[2]

    assert [decoded(1 + step * k) for k in (1, 2, 3)] == [1 + step * k for k in (1, 2, 3)]
    if family.NAME == "cogvideox":
        assert decoded(1 + step // 2) == step


def test_encoding_is_undone_by_the_pipelines_decoding_scale(name, folder, trainer):
    """Latents have the scale that the pipeline expects to decode: roughly that of the raw posterior."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    family = trainer.task.family
    spec = family.spec
    video = torch.rand(1, 3, frames_of(name), 64, 64) * 2 - 1
    with torch.no_grad():
        raw = pipe.vae.encode(video).latent_dist.mode()
        ours = family.padded(family.encode(pipe.vae, video))
    if name.startswith("cogvideox"):
        extra = ours.shape[1] - raw.shape[2]
        back = ours[:, extra:].permute(0, 2, 1, 3, 4) / pipe.vae_scaling_factor_image
    elif name.startswith("wan"):
        mean, std = (
            torch.tensor(spec.vae[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std")
        )
        back = ours * std + mean
    elif name.startswith("ltx"):
        back = pipe._denormalize_latents(ours, pipe.vae.latents_mean, pipe.vae.latents_std, 1.0)
    elif name.startswith("mochi"):
        mean, std = (
            torch.tensor(spec.vae[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std")
        )
        back = ours * std / spec.vae["scaling_factor"] + mean
    else:
        back = ours / spec.vae["scaling_factor"]
    torch.testing.assert_close(back, raw, atol=1e-5, rtol=1e-4)


def test_steps_lower_the_loss_and_diffusers_loads_the_adapters(
    name, folder, trainer, pairs, tmp_path
):
    """Steps on one batch lower its loss; the saved adapters give the same output in a pipeline."""
    trainer.start_or_resume()
    first = trainer.batch(0)
    trainer.batch = lambda micro: first  # one batch, again and again
    losses = [trainer.train_step()["loss"] for _ in range(6)]
    assert losses[0] == pytest.approx(0.693147, abs=1e-4)
    assert losses[-1] < losses[0]
    family = trainer.task.family
    spec = family.spec
    weights = {n: p.detach() for n, p in checkpoint.trained(trainer.inner)}
    save_weights(weights, trainer.inner, spec, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.load_lora_weights(tmp_path)
    level = noise.levels(trainer.task.process, first.u)
    noisy = noise.mix(first.win, first.noise, level)
    with torch.no_grad():
        ours = family.forward(trainer.inner, noisy, level.timestep.float(), first.inputs)
        theirs = family.forward(pipe.transformer, noisy, level.timestep.float(), first.inputs)
        pipe.unload_lora_weights()
        base = family.forward(pipe.transformer, noisy, level.timestep.float(), first.inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours, base, atol=1e-5)


def test_alpha_survives_saving(model, work, tmp_path):
    config = TrainConfig(model=str(model), rank=4, alpha=32.0, steps=1, held_out_pairs=0)
    trainer = Trainer(work, config, runs=tmp_path)
    with torch.no_grad():
        for n, p in checkpoint.trained(trainer.inner):
            if "lora_B" in n:
                p.normal_()
    weights = {n: p.detach() for n, p in checkpoint.trained(trainer.inner)}
    save_weights(weights, trainer.inner, trainer.task.family.spec, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(model)
    pipe.load_lora_weights(tmp_path)
    scales = {m.scaling["default_0"] for m in pipe.transformer.modules() if hasattr(m, "scaling")}
    assert scales == {8.0}


def test_full_weights_are_a_transformer_folder(work, model, tmp_path):
    config = TrainConfig(
        model=str(model), weights="full", lr=1e-4, steps=2, held_out_pairs=0, warmup=0,
        gradient_checkpointing=True,
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
        level = noise.levels(trainer.task.process, torch.linspace(0, 0.999, 50))
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
        loop.run(work, TrainConfig(model=str(model)))


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
