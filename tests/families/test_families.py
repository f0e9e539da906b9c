"""Every family with a small model of the real classes: one test for all of them.

What training gives the transformer is what the pipeline gives it; videos are those of the
pipeline; what is trained and saved is what is loaded and sampled from.
"""

from __future__ import annotations

import dataclasses
import json
import re
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shards
import tiny_pipelines
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from typer.testing import CliRunner

import realdpo
from realdpo.cli import app
from realdpo.curate.config import TARGETS
from realdpo.errors import UserError
from realdpo.families import FAMILIES, family_of, load, trainable_family
from realdpo.families.sample import generate_video, settings_from
from realdpo.families.spec import spec_of_pipeline, with_task
from realdpo.families.weights import load_lora, save_weights
from realdpo.ids import seed_of
from realdpo.media.decode import read_clip
from realdpo.media.encode import EncodeSettings, encode_video
from realdpo.memory import RUNGS
from realdpo.pairs import conform
from realdpo.pairs.generate import regenerate_video, roundtrip_video, to_tensor
from realdpo.publish import model_card
from realdpo.regions import Region
from realdpo.train import (
    checkpoint,
    estimate,
    latents,
    noise,
    numbers,
    objective,
    setup,
    step,
    videos,
)
from realdpo.train.config import TrainConfig
from realdpo.train.draws import Batch, Choice, collate_samples
from realdpo.train.reference import Reference
from realdpo.workspace import Workspace

PROMPT = "a man walking"
# published as one folder of the text-to-video class (or of one class) for both tasks
SHARED = {
    "ltx-i2v": "ltx-t2v",
    "ltx-condition-i2v": "ltx-condition-t2v",
    "wan2.2-5b-i2v": "wan2.2-5b-t2v",
    "ltx2.3-i2v": "ltx2.3-t2v",
    "sana-video-i2v": "sana-video-t2v",
    "cosmos2.5-i2v": "cosmos2.5-t2v",
}
NAMES = list(tiny_pipelines.PIPELINES | SHARED)
# what a user would hand to the pipeline's own call beside prompt, picture, size, frames and steps
DIRECT = {
    "cogvideox": {"max_sequence_length": 16},
    "ltx": {"frame_rate": 8.0},
    "ltx-condition": {"decode_timestep": 0.05, "decode_noise_scale": 0.025},
    "hunyuan-i2v-concat": {"num_frames": 9},
    # its guidance is a part of the pipeline, and its size that of the picture
    "hunyuan15": {"guidance_scale": None},
    "skyreels-t2v": {"flow_shift": 8.0},
    "skyreels-i2v": {"flow_shift": 5.0},
    "hunyuan15-i2v": {"width": None, "height": None},
    "kandinsky5": {"max_sequence_length": 256},
    "sana-video": {"frames": 5, "num_frames": None, "use_resolution_binning": False},
}


class Case:
    """One small pipeline; what is made of it is made once."""

    def __init__(self, name: str, folder) -> None:
        self.name, self.folder = name, tiny_pipelines.save(SHARED.get(name, name), folder)
        self.task = "i2v" if name in SHARED else None
        self.spec = load.read_spec(str(self.folder), task=self.task)
        self.family = family_of(self.spec)
        self.frames = max(self.family.traits.frame_step + 1, self.family.traits.least_frames)
        self.side = max(64, 2 * self.family.traits.size_step)
        self.clip = shards.clip(0, 3.0, size=self.side, frames=self.frames)
        self.image = self.clip[0] if self.family.task == "i2v" else None
        self.shape = {"width": self.side, "height": self.side, "frames": self.frames, "fps": 8.0}

    @cached_property
    def pipe(self):
        return self.load()

    def load(self, dtype: str = "float32"):
        pipe = load.load_pipeline(str(self.folder), dtype, task=self.task)
        if self.family.NAME == "hunyuan15":
            pipe.tokenizer_max_length = 16  # 1000 in the released one: minutes on a CPU
        return pipe

    def embed(self, pipe, prompt: str) -> dict[str, torch.Tensor]:
        pixels = latents._pixels(self.clip[:1])[:, 0]
        with torch.no_grad():
            return self.family.embed(pipe, prompt, None if self.image is None else pixels)

    def inputs(self, pipe, prompt: str) -> dict[str, torch.Tensor]:
        pixels = latents._pixels(self.clip[:1])[:, 0]
        made = self.embed(pipe, prompt)
        # what an estimate of memory counts on: of the longest prompt
        told = self.family.prompt_shapes()
        assert told.keys() == made.keys()
        assert all(s <= m for n, t in made.items() for s, m in zip(t.shape, told[n], strict=True))
        with torch.no_grad():
            if self.image is not None:
                shown = self.family.condition(pipe.vae, pixels[None], self.frames)
                made |= {name: tensor[0] for name, tensor in shown.items()}
        return {n: t[None] for n, t in (made | {"fps": torch.tensor(8.0)}).items()}

    def settings(self, **changes):
        return settings_from(self.family, **self.shape, **changes)


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def calls_of(transformer, run) -> list[dict]:
    """What the transformer was called with while `run` ran, and what it answered."""
    calls = []

    def keep(_, args, kwargs, out) -> None:
        # copies: a pipeline may write into its latents
        given = {**dict(zip(("hidden_states",), args, strict=False)), **kwargs}
        kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        calls.append({**kept, "": out[0]})

    hook = transformer.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    finally:
        hook.remove()
    return calls


def is_nothing(value) -> bool:
    return value is None or (isinstance(value, dict) and not value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_gives_the_transformer_what_its_pipeline_gives_it(case, dtype, monkeypatch):
    """All keywords and the answer, for a short, an empty and a long prompt."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_, **__: self.mode())
    pipe = case.pipe if dtype == "float32" else case.load(dtype)
    family, spec = case.family, case.spec
    transformer = getattr(pipe, spec.component)
    loose = {"atol": 1e-6, "rtol": 1e-5} if dtype == "float32" else {"atol": 2e-2, "rtol": 2e-2}
    guidance = 6.0 if spec.transformer.get("guidance_embeds") else 1.0
    settings = case.settings(steps=2, guidance=guidance)
    if family.NAME == "ltx-condition":  # what the pipeline does to a picture and training does not
        settings = dataclasses.replace(settings, call={"image_cond_noise_scale": 0.0})
    sound = family.NAME == "ltx2"  # held in training; the pipeline's last call isolates the two
    if sound:
        off = dict.fromkeys(("stg_scale", "audio_stg_scale"), 0.0)
        only = {"modality_scale": 2.0, "audio_guidance_scale": 1.0, **off}
        settings = dataclasses.replace(settings, call={**settings.call, **only})
    for prompt in (PROMPT, "", "a man walking on the street " * 100)[
        : 3 if dtype == "float32" else 1
    ]:
        sample = lambda: generate_video(pipe, family, prompt, case.image, 0, settings)  # noqa: B023 - called in this turn
        theirs = calls_of(transformer, sample)[-1]
        hidden, timestep = theirs["hidden_states"], theirs["timestep"]
        with torch.no_grad():
            clean = family.padded(family.encode(pipe.vae, latents._pixels(case.clip)[None]))
        if hidden.ndim == 3 or family.NAME == "kandinsky5":
            hidden = tiny_pipelines.unpacked(pipe, hidden, clean)
        axis = 2 if family.TIME_AXIS == 1 else 1
        noisy = hidden.narrow(axis, 0, clean.shape[axis])
        clock = timestep.flatten().max().view(1)
        clock = clock * 1000 if family.NAME == "cosmos2.5" else clock  # told the level itself
        inputs = case.inputs(pipe, prompt)
        run = lambda: family.forward(transformer, noisy, clock, inputs)  # noqa: B023 - called in this turn
        (ours,) = calls_of(transformer, run)
        for key in theirs.keys() | ours.keys():
            their, our = theirs.get(key), ours.get(key)
            if sound and (
                key.startswith("audio_") or key == "fps"
            ):  # the coordinates hold the rate
                continue
            if is_nothing(their) and is_nothing(our):
                continue
            if isinstance(their, torch.Tensor):
                our = our.expand_as(their) if our.ndim == their.ndim else our
                torch.testing.assert_close(
                    our.to(their.dtype), their, **loose, msg=lambda m, key=key: f"{key}: {m}"
                )
            elif isinstance(their, (tuple, list)):
                for a, b in zip(our, their, strict=True):
                    torch.testing.assert_close(
                        torch.as_tensor(a).float().squeeze(), torch.as_tensor(b).float().squeeze()
                    )
            else:
                assert our == their, key


def test_encoding_is_undone_by_decoding_and_legal_shapes_come_back_whole(case):
    traits, family, vae = case.family.traits, case.family, case.pipe.vae
    assert traits.task == ("i2v" if "i2v" in case.name else "t2v")
    loaded = with_task(spec_of_pipeline(case.pipe), case.task)
    assert family_of(loaded).traits == traits  # a plan needs no weights
    for frames in (case.frames, case.frames + traits.frame_step):
        clip = latents._pixels(shards.clip(1, 2.0, size=case.side, frames=frames))[None]
        with torch.no_grad():
            raw = vae.encode(clip).latent_dist.mode()
            ours = family.encode(vae, clip)
            seen = []
            whole = vae.decode
            vae.decode = lambda z, *a, **k: seen.append(z) or whole(z, *a, **k)  # noqa: B023 - called in this turn
            try:
                decoded = family.decode(vae, ours)
            finally:
                del vae.decode
        assert decoded.shape == clip.shape
        # these decode what was noised a little, or whose first frames were moved
        if not vae.config.get("timestep_conditioning") and case.name != "kandinsky5-i2v":
            torch.testing.assert_close(seen[0], raw, atol=1e-5, rtol=1e-4)
    counted = estimate.shapes_of(case.spec, case.side, case.side, case.frames)
    with torch.no_grad():
        clean = family.padded(family.encode(vae, latents._pixels(case.clip)[None]))
    assert counted.latent == clean.shape[1:]
    with pytest.raises(UserError, match="multiples|sizes? only"):
        traits.check(case.side + 2, case.side, case.frames)
    with pytest.raises(UserError, match="plus 1"):
        traits.check(case.side, case.side, case.frames + 1)


def test_a_generator_that_reproduces_the_clip_gives_the_winners_bytes(case, monkeypatch):
    """Both sides are decoded alike: by the same scale, decode timestep and decode noise."""
    pipe, family = case.pipe, case.family
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_, **__: self.mode())
    noise_of = lambda shape, **_: torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for module in ("pipeline_ltx", "pipeline_ltx_condition", "pipeline_ltx_image2video"):
        monkeypatch.setattr(f"diffusers.pipelines.ltx.{module}.randn_tensor", noise_of)
    with torch.no_grad():
        clean = family.encode(pipe.vae, to_tensor(pipe, case.clip))
    packed = family.pack(pipe, clean)

    def perfect(self, prediction, timestep, sample, *_, **__):
        # a pipeline that holds the first frame asks for the rest alone
        last = clean.permute(0, 2, 3, 4, 1)
        known = (packed, clean, clean[:, :, 1:], last, last[:, 1:])
        found = [t for t in known if t.shape == sample.shape]
        # a pipeline may step its sound as well
        return (found[0].clone() if found else sample), None

    def perfect_dpm(self, prediction, before, timestep, back, sample, *_, **__):
        return packed.clone(), None

    dpm = type(pipe.scheduler).__name__ == "CogVideoXDPMScheduler"
    monkeypatch.setattr(type(pipe.scheduler), "step", perfect_dpm if dpm else perfect)
    settings = case.settings(steps=2)
    if family.NAME == "ltx-condition":
        settings = dataclasses.replace(
            settings, call={**settings.call, "image_cond_noise_scale": 0.0}
        )
    made = generate_video(pipe, family, PROMPT, case.image, 1, settings)
    winner = roundtrip_video(pipe, family, case.clip)
    apart = np.abs(made.astype(int) - winner).max()
    # pipelines multiply where we divide, which tips a rounding now and then
    assert apart <= 1
    assert (made != winner).mean() < (0.1 if case.name == "hunyuan-i2v-concat" else 1e-3)


@pytest.mark.slow
def test_videos_are_the_pipelines_own_and_regions_are_kept(case, monkeypatch):
    pipe, family, settings = case.pipe, case.family, case.settings(steps=2)
    made = generate_video(pipe, family, PROMPT, case.image, 1, settings)
    assert made.shape == case.clip.shape
    named = {k: v for key, v in DIRECT.items() if case.name.startswith(key) for k, v in v.items()}
    if case.image is not None:
        named["image"] = Image.fromarray(case.image)
    if family.NAME != "hunyuan":
        named["negative_prompt"] = family.traits.negative_prompt or None
    shift = named.pop("flow_shift", None)
    if shift:
        own, kind = pipe.scheduler, type(pipe.scheduler)
        pipe.scheduler = kind.from_config(own.config, flow_shift=shift)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # some parts of diffusers draw from the global generator
        arguments = {
            "prompt": PROMPT,
            "width": case.side,
            "height": case.side,
            "num_frames": case.frames,
            "num_inference_steps": 2,
            "guidance_scale": family.traits.guidance,
            "generator": torch.Generator().manual_seed(1),
            "output_type": "np",
            **family.traits.call,
            **named,
        }
        direct = pipe(**{k: v for k, v in arguments.items() if v is not None}).frames[0]
    pipe.scheduler = own if shift else pipe.scheduler
    assert np.array_equal(made, (np.asarray(direct) * 255).round().clip(0, 255).astype(np.uint8))
    assert not np.array_equal(made, generate_video(pipe, family, PROMPT, case.image, 2, settings))

    # the start of a renoised video lies the nearer to the real clip the less noise is asked for
    assert roundtrip_video(pipe, family, case.clip).shape == case.clip.shape
    if family.TAKES_LATENTS:
        check_renoised(case, monkeypatch, settings)
    if family.KEEPS_REGIONS:
        check_regions(case, monkeypatch)
    form = conform.Form(case.side, case.side, case.frames, Fraction(8))
    video, fps = read_clip(
        conform.encode_side(conform.with_first_frame(made, case.image), form, 12)
    )
    assert (video.shape, fps) == (made.shape, 8)


def check_renoised(case: Case, monkeypatch, settings) -> None:
    """The start lies the nearer to the real clip the less noise is asked for; one prompt encoding."""
    pipe, family = case.pipe, case.family
    packed, pack = [], family.pack
    monkeypatch.setattr(family, "pack", lambda p, z: packed.append(z) or pack(p, z))
    eight = case.settings(steps=8)
    encoded = []
    spy = pipe.encode_prompt
    pipe.encode_prompt = lambda *a, **k: encoded.append(1) or spy(*a, **k)
    generate_video(pipe, family, PROMPT, case.image, 1, settings)
    usual = len(encoded)
    asked = (0.3, 1.0)
    used = [
        regenerate_video(pipe, family, PROMPT, case.clip, 1, eight, s)[1].strength for s in asked
    ]
    assert used == pytest.approx(asked, abs=0.1)  # in more steps, where eight do not reach it
    del pipe.encode_prompt
    assert len(encoded) == 3 * usual, "a renoised loser encodes its prompt once"
    assert used[0] < 0.85 * used[1]
    with torch.no_grad():
        clean = family.encode(pipe.vae, to_tensor(pipe, case.clip))
    little, much = ((start - clean).norm() for start in packed)
    assert little < 0.95 * much


def check_regions(case: Case, monkeypatch) -> None:
    """Outside its region a local video is decoded from the real clip's own latents."""
    pipe, family, eight = case.pipe, case.family, case.settings(steps=8)
    decoded, decode = [], pipe.vae.decode
    monkeypatch.setattr(
        pipe.vae, "decode", lambda z, *rest, **more: decoded.append(z) or decode(z, *rest, **more)
    )
    roundtrip_video(pipe, family, case.clip)
    regenerate_video(pipe, family, PROMPT, case.clip, 1, eight, 1.0)
    regenerate_video(
        pipe, family, PROMPT, case.clip, 1, eight, 1.0, Region((0, 1), (0, 0.5), (0, 0.5))
    )
    kept, whole, local = (z[:, :, -decoded[0].shape[2] :] for z in decoded)
    apart = [(z - kept).abs()[:, :, 1:] for z in (whole, local)]  # the first frame is given
    edge = kept.shape[3] // 2
    outside = [z[..., edge:, :].max() for z in apart]
    assert outside[1] < 1e-4 < 0.1 < outside[0]
    assert apart[1][..., :edge, :edge].mean() > 0.05


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_what_is_trained_is_saved_loaded_and_sampled(case, weights, tmp_path):
    """Steps on one pair lower its preference loss and its plain loss; a pipeline loads the rest."""
    family, spec = case.family, case.spec
    config = TrainConfig(model=str(case.folder), weights=weights, rank=4, alpha=8.0)
    model = setup.make_policy(config, spec, torch.device("cpu"), RUNGS[0])
    with torch.no_grad():
        lose = torch.flip(latents._pixels(case.clip), (1,))[None]
        win, lose = (
            family.padded(family.encode(case.pipe.vae, video))
            for video in (latents._pixels(case.clip)[None], lose)
        )
    process = noise.from_scheduler(
        spec.scheduler, win[0].numel() // win.shape[3 - family.TIME_AXIS]
    )
    grain = torch.randn(win.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(
        win, lose[:, None], grain, torch.tensor([0.5]).double(), case.inputs(case.pipe, PROMPT)
    )
    task = step.TrainTask(family, process)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3 if weights == "lora" else 3e-4)
    before = Reference(model, "adapter-off" if weights == "lora" else "frozen")
    losses = []
    for _ in range(5):
        outcome = step.sft_step(model, task, batch, lambda loss: loss.backward())
        losses.append(outcome.loss)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    outcome = step.contrast_step(
        model, task, batch, objective.Contrast(), before, lambda loss: loss.backward()
    )
    assert 0 < float(outcome.moved) < 10
    assert outcome.loss < float(outcome.errors.win)
    optimizer = torch.optim.AdamW(parameters, lr=3e-4 if weights == "lora" else 3e-5)
    optimizer.zero_grad()
    with before.active():
        ref_win, ref_lose = (
            step.branch_error(model, task, batch, video)[0]
            for video in (batch.win, batch.lose[:, 0])
        )
    losses = []
    for _ in range(2):
        outcome = step.dpo_step(
            model,
            task,
            batch,
            objective.Objective(beta=10.0),
            ref_win,
            ref_lose[:, None],
            lambda loss: loss.backward(),
            together=True,
        )
        losses.append(outcome.loss)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    if weights == "lora":
        assert numbers.adapter_size(model) == pytest.approx(size_of_change(model), rel=1e-3)
    save_weights(dict(checkpoint.trained_parameters(model)), model, spec, tmp_path)
    level = noise.noise_levels(process, batch.u)
    noisy, clock = noise.mix_noise(win, grain, level), level.timestep.float()
    pipe = load.load_pipeline(str(case.folder), task=case.task)
    base = family.forward(pipe.transformer, noisy, clock, batch.inputs)
    if weights == "lora":
        assert load_lora(pipe, str(tmp_path))[spec.component] == len(parameters) // 2
        theirs = getattr(pipe, spec.component)
    else:
        theirs = type(model).from_pretrained(tmp_path / spec.component)
    with torch.no_grad():
        ours = family.forward(model, noisy, clock, batch.inputs)
        loaded = family.forward(theirs, noisy, clock, batch.inputs)
    torch.testing.assert_close(loaded, ours, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, base, atol=1e-5)
    if weights == "lora":  # and by diffusers itself, as the card of the weights says
        plain = load.load_pipeline(str(case.folder))
        line = model_card._loading(type(plain).__name__, spec.component, str(tmp_path))
        assert ("load_lora_adapter" in line) == (not hasattr(plain, "load_lora_weights"))
        exec(line, {"pipe": plain})
        with torch.no_grad():
            again = family.forward(plain.transformer, noisy, clock, batch.inputs)
        torch.testing.assert_close(again, ours, atol=1e-5, rtol=1e-4)
        check_validation_videos(
            case, dict(checkpoint.trained_parameters(model)), config, pipe, tmp_path
        )


def size_of_change(model) -> float:
    """Norm of what peft itself adds to all weights."""
    total = 0.0
    for module in model.modules():
        if "default" in getattr(module, "lora_A", {}):
            total += float(module.get_delta_weight("default").square().sum())
    return total**0.5


def check_validation_videos(case: Case, trained, config, tuned, folder: Path) -> None:
    """The base and the tuned model of one prompt and seed, which a pipeline with the LoRA makes too."""
    place = Workspace(folder / "w")
    place.pair_data.mkdir(parents=True)
    real = encode_video(case.clip, 8, EncodeSettings())
    row = {"pair_id": "p", "win": {"bytes": real, "path": None}}
    pq.write_table(pa.Table.from_pylist([row]), place.pair_data / "pairs.parquet")
    Image.fromarray(case.clip[0]).save(folder / "first.png")
    pair = latents.Pair(
        "p",
        "c",
        "s",
        PROMPT,
        8.0,
        folder,
        (),
        (),
        (),
        (case.side, case.side, case.frames),
        folder / "first.png" if case.image is not None else None,
    )
    config = dataclasses.replace(config, validation_steps=2, validation_guidance=1.0)
    cpu = torch.device("cpu")
    videos.generate_validation_videos(
        trained, case.spec, [pair], config, place, folder, "step", cpu
    )
    assert videos.file_of(folder, "00-real").read_bytes() == real
    base, made = (
        read_clip(videos.file_of(folder, f"00-{n}").read_bytes())[0] for n in ("base", "step")
    )
    assert base.shape == made.shape == case.clip.shape
    seed = seed_of("validation video", "p")
    settings = case.settings(steps=2, guidance=1.0)
    again = generate_video(tuned, case.family, PROMPT, case.image, seed, settings)
    again = read_clip(encode_video(again, 8, EncodeSettings()))[0]
    assert np.abs(again.astype(int) - made).max() <= 3
    assert not np.array_equal(made, base)


def test_the_video_of_ltx2_does_not_hear_the_sound_and_the_sound_stays_as_it_is(tmp_path):
    """What training calls gives the same for any sound; all weights but the sound's are open."""
    folder = tiny_pipelines.save("ltx2-t2v", tmp_path)
    spec = load.read_spec(str(folder))
    model = setup.make_policy(
        TrainConfig(model=str(folder), weights="full"), spec, torch.device("cpu"), RUNGS[0]
    )
    names = dict(model.named_parameters())
    open_ = {name for name, parameter in names.items() if parameter.requires_grad}
    inputs = {
        "prompt_embeds": torch.randn(1, 16, 8),
        "prompt_mask": torch.ones(1, 16, dtype=torch.int64),
        "fps": torch.tensor([8.0]),
    }
    family = family_of(spec)
    forward = lambda: family.forward(
        model, torch.ones(1, 8, 2, 2, 2), torch.tensor([500.0]), inputs
    )
    before = forward()
    before.square().sum().backward()
    assert {name for name, parameter in names.items() if parameter.grad is not None} == open_
    with torch.no_grad():
        for name in names.keys() - open_:
            names[name].add_(1.0)
    assert torch.equal(forward(), before)
    lora = setup.make_policy(TrainConfig(model=str(folder)), spec, torch.device("cpu"), RUNGS[0])
    assert not any(p.requires_grad and "audio" in n for n, p in lora.named_parameters())


def test_prompts_of_their_own_length_do_not_share_a_forward():
    latent = torch.zeros(3, 4, 5, 5)
    samples = [
        latents.Sample(latent, latent[None], {"text": torch.zeros(length, 4)}, {})
        for length in (7, 9)
    ]
    choice = Choice((0,), 0, 0.5, latent)
    assert collate_samples([(samples[0], choice)] * 2).inputs["text"].shape == (2, 7, 4)
    with pytest.raises(UserError, match="of their own length") as refused:
        collate_samples([(sample, choice) for sample in samples])
    assert "batch=1" in str(refused.value.hint)


def test_every_family_has_a_small_pipeline():
    tried = {type(family_of(dataclasses.replace(spec))) for spec in map(_spec_of, NAMES)}
    assert set(FAMILIES) <= tried


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("Kandinsky6TI2VAPipeline", "Kandinsky 6 is known and not trained here"),
        ("Cosmos3OmniPipeline", "Cosmos3 is known and not trained here"),
        ("MiniMaxH3Pipeline", "MiniMax H3 is known and not trained here"),
        ("MotifVideoPipeline", "Motif-Video is known and not trained here"),
        ("HeliosPipeline", "Helios is known and not trained here"),
        ("AllegroPipeline", "it cannot be trained here"),
    ],
)
def test_what_is_not_trained_is_said_in_one_line_with_the_families_that_are(
    pipeline, words, tmp_path
):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    asked = ["train", "-w", str(tmp_path / "w"), "--model", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    told = " ".join(result.output.split())
    assert result.exit_code == 1
    assert words in told
    assert "families that are trained: cogvideox, wan, ltx" in told
    assert "Traceback" not in told


def test_kandinskys_sparse_checkpoints_are_sampled_only():
    spec = spec_of_pipeline(tiny_pipelines.kandinsky5(attention="nabla"))
    assert family_of(spec).traits.frames == 241
    with pytest.raises(UserError, match="sparse attention"):
        trainable_family(spec)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("wan2.1", "wan2.1-t2v"),
        ("wan2.2-5b", "wan2.2-5b-t2v"),
        *((name, f"{name}-t2v") for name in ("skyreels", "ltx", "ltx2", "hunyuan", "hunyuan15")),
        *((name, f"{name}-t2v") for name in ("mochi", "kandinsky5", "sana-video", "cosmos2.5")),
    ],
)
def test_clips_are_cut_to_the_shape_that_the_family_makes(target, name):
    traits, cut = family_of(_spec_of(name)).traits, TARGETS[target]
    assert (cut.width, cut.height, cut.frames) == (traits.width, traits.height, traits.frames)
    assert cut.fps == traits.fps


def test_shared_code_names_no_family():
    """Facts of a model live in its family: nothing else imports one, or compares with its name."""
    root = Path(realdpo.__file__).parent
    names = "|".join({kind.__module__.rpartition(".")[2] for kind in FAMILIES})
    named = re.compile(
        rf"realdpo\.families\.({names})\b|realdpo\.families import .*\b({names})\b"
        rf"|(==|!=|\bin) *\"({names})\b|\"({names})\" *(==|!=|in)\b",
        re.I,
    )
    for place in ("pairs", "train", "publish", "cli", "evaluate", "curate", "."):
        for file in (root / place).glob("**/*.py" if place != "." else "*.py"):
            found = named.search(file.read_text(encoding="utf-8"))
            assert found is None, f"{file}: {found and found.group()}"


def test_every_family_and_class_that_is_trained_stands_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        assert f"| `{family.NAME}` |" in page


def _spec_of(name: str):
    pipe = tiny_pipelines.PIPELINES[SHARED.get(name, name)]()
    return spec_of_pipeline(pipe)
