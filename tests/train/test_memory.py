"""Memory: estimates against counted bytes, the ladder, blocks in main memory, and running out."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, LTXVideoTransformer3DModel, WanTransformer3DModel
from typer.testing import CliRunner

from realdpo import memory
from realdpo.cli import app
from realdpo.errors import UserError
from realdpo.families import load as loading
from realdpo.families import trainable_family
from realdpo.families.base import Spec
from realdpo.memory import RUNGS, rung_of
from realdpo.train import checkpoint, estimate, latents, loop, setup, step
from realdpo.train.config import TrainConfig
from realdpo.train.loop import Trainer

CPU = torch.device("cpu")
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
COG = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
}

# The real width of each model; two blocks, few tokens.
WIDE = {
    "cogvideox-5b": (
        "CogVideoXPipeline",
        CogVideoXTransformer3DModel,
        COG,
        {
            "num_attention_heads": 48,
            "num_layers": 3,
            "use_rotary_positional_embeddings": True,
            "text_embed_dim": 64,
            "sample_height": 16,
            "sample_width": 16,
        },
        (3, 16, 16, 16),
    ),
    "wan-1.3b": (
        "WanPipeline",
        WanTransformer3DModel,
        FLOW,
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 2, "text_dim": 64},
        (16, 3, 16, 16),
    ),
    "ltx-2b": (
        "LTXPipeline",
        LTXVideoTransformer3DModel,
        FLOW,
        {"num_layers": 2, "caption_channels": 64},
        (128, 3, 10, 10),
    ),
}


def wide(name: str) -> tuple[Spec, estimate.Shapes, torch.nn.Module]:
    """The facts, a pair's shapes, and the real model of some blocks, with its configuration."""
    pipeline, kind, scheduler, settings, latent = WIDE[name]
    torch.manual_seed(0)
    with torch.device("meta"):
        model = kind(**settings)
    parts = {"transformer": dict(model.config), "vae": {}, "scheduler": scheduler}
    if name.startswith("ltx"):
        scaling = [True, True, True, False]
        parts["vae"] = {"patch_size": 4, "patch_size_t": 1, "spatio_temporal_scaling": scaling}
    spec = Spec(pipeline, parts, {"transformer": kind.__name__, "vae": "AutoencoderKL"})
    return spec, estimate.Shapes(latent, trainable_family(spec).prompt_shapes()), model


@pytest.mark.parametrize("name", list(WIDE))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_estimate_is_what_a_real_step_holds(name, checkpointing):
    """Bytes counted on real tensors: while running, and what autograd saved, another way to count."""
    spec, shapes, _ = wide(name)
    # Adapters on feed-forward layers add what lives only within a block: with three blocks it is a
    # fifth of the peak, and autograd does not save it.
    config = TrainConfig(precision="bf16", rank=4, targets=("attention",))
    estimated, _ = estimate._activations(spec, config, shapes, 1, checkpointing, "cpu")

    model = estimate._built(spec, config, dict(spec.transformer))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.01, 0.01)
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    model.train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    work = estimate.branch_work(model, trainable_family(spec), config, shapes, 1, "cpu")
    assert memory.count_peak(work) == pytest.approx(estimated, rel=0.02)

    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        work()
    if not checkpointing:  # else most of the peak is one block computed again
        assert sum(saved.values()) == pytest.approx(estimated, rel=0.15)


@pytest.fixture(scope="module")
def narrow() -> tuple[Spec, estimate.Shapes]:
    """Wan with six small blocks."""
    spec, shapes, _ = wide("wan-1.3b")
    few = {"num_attention_heads": 8, "attention_head_dim": 32, "ffn_dim": 1024, "num_layers": 6}
    return replace(spec, parts={**spec.parts, "transformer": {**spec.transformer, **few}}), shapes


def test_blocks_add_alike_so_that_few_stand_for_many(narrow):
    spec, shapes = narrow
    config = TrainConfig(rank=4)
    whole = estimate.peak_of_branch(spec, config, dict(spec.transformer), shapes, 1, True, "cuda")
    peak, each = estimate._activations(spec, config, shapes, 1, True, "cuda")
    assert peak == whole
    assert each > 0


def test_the_ladder_goes_down_and_parts_add_up(narrow):
    spec, shapes = narrow
    found = list(estimate.estimate_rungs(spec, TrainConfig(objective="dpo", rank=4), shapes, 3))
    totals = [entry.total for entry in found]
    assert totals == sorted(totals, reverse=True)
    assert [entry.rung for entry in found] == [rung.name for rung in RUNGS]
    one = {entry.rung: entry for entry in found}
    adapters = one["one-by-one"].trained / 4
    assert one["one-by-one"].moments == 8 * adapters
    assert one["8bit"].weights < 0.7 * one["one-by-one"].weights
    assert one["4bit"].weights < 0.5 * one["one-by-one"].weights
    assert one["blocks"].weights < 0.5 * one["one-by-one"].weights
    assert "activations" in one["blocks"].line
    # all weights, in shards and not, with the activations counted above
    full, counted = TrainConfig(weights="full"), {(2, True): (1e6, 1e3)}
    share = {"processes": 2, "sharded": True}
    halves = estimate.estimate_step(spec, full, shapes, 1, RUNGS[1], counted=counted, **share)
    whole = estimate.estimate_step(spec, full, shapes, 1, RUNGS[1], counted=counted)
    assert halves.moments == whole.moments / 2
    assert whole.moments == 2 * whole.weights
    assert whole.reference == whole.weights


def test_the_first_way_that_fits_is_taken(narrow, monkeypatch):
    spec, shapes = narrow
    monkeypatch.setattr(estimate, "_activations", lambda *a: (a[3] * 1e9, 1e6))
    choose = lambda room: estimate.first_that_fits(
        spec, TrainConfig(objective="dpo", rank=4), shapes, 3, RUNGS, room
    )
    assert choose(1e12).rung == "side-by-side"
    assert choose(3e9).rung == "one-by-one"
    assert choose(1.0).rung == "blocks"


def test_the_estimate_leaves_no_tensor_without_contents_behind(model):
    spec = loading.read_spec(str(model))
    shapes = estimate.shapes_of(spec, 64, 64, 9)
    list(estimate.estimate_rungs(spec, TrainConfig(), shapes, 2, RUNGS[:1]))
    from realdpo.families import cogvideox

    assert cogvideox._rotary_of.cache_info().currsize == 0
    assert torch.nonzero(torch.tensor([0, 1])).tolist() == [[1]]


def test_shapes_are_those_that_encoding_makes(fresh, model):
    spec = loading.read_spec(str(model))
    pair = latents.prepare_pairs(fresh, spec, TrainConfig(model=str(model)), CPU)["train"][0]
    guessed, read = estimate.shapes_of(spec, 64, 64, 9), estimate.shapes_of_pair(pair)
    assert guessed.latent == read.latent
    assert guessed.inputs == read.inputs
    assert guessed.encoding > 0


# Blocks in main memory


def with_adapters(spec, settings, apart: bool):
    torch.manual_seed(1)
    made = WanTransformer3DModel(**settings).requires_grad_(False)
    setup.open_weights(made, TrainConfig(rank=4), spec)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    made.enable_gradient_checkpointing()
    made.train()
    if apart:
        memory.keep_blocks_apart(made, CPU)
    return made


SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 512,
    "num_layers": 6,
    "rope_max_seq_len": 32,
}


def test_blocks_in_main_memory_train_as_if_they_were_on_the_device():
    spec = Spec("WanPipeline", {"transformer": {}, "vae": {}, "scheduler": FLOW})
    inputs = {
        "hidden_states": torch.randn(1, 16, 2, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 4, 16),
        "return_dict": False,
    }
    ends = []
    for apart in (False, True):
        made = with_adapters(spec, SMALL, apart)
        trained = [p for p in made.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        losses = []
        for _ in range(3):
            loss = made(**inputs)[0].square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(made(**inputs)[0].square().mean().item())
        ends.append((losses, [p.detach().clone() for p in trained]))
        frozen = [p for p in made.parameters() if not p.requires_grad]
        assert all(isinstance(p, torch.nn.Parameter) for p in frozen)  # back in their places
    assert ends[0][0] == ends[1][0]
    assert ends[0][0][0] != ends[0][0][-1]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_at_most_two_blocks_are_on_the_device_in_either_pass():
    spec = Spec("WanPipeline", {"transformer": {}, "vae": {}, "scheduler": FLOW})
    made = with_adapters(spec, SMALL, True)
    here: list = []
    most = []
    real = memory._Carrier.fetch

    def counted(self):
        before = self.coming
        real(self)
        if before is None:
            here.extend(weakref.ref(t) for t in self.coming)
            gc.collect()
            alive = sum(t.nbytes for r in here if (t := r()) is not None)
            most.append(alive / sum(p.nbytes for p in self.masters))

    memory._Carrier.fetch = counted
    try:
        made(
            hidden_states=torch.randn(1, 16, 2, 4, 4),
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.randn(1, 4, 16),
            return_dict=False,
        )[0].sum().backward()
    finally:
        memory._Carrier.fetch = real
    assert len(most) >= 2 * SMALL["num_layers"]
    assert max(most) <= 3.01  # the one whose gradient runs out, the one in use, the next


def test_everything_of_a_forward_is_on_the_device_that_was_asked_for():
    """On a simulated GPU, which refuses tensors of two devices."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    spec = Spec("WanPipeline", {"transformer": {}, "vae": {}, "scheduler": FLOW})
    device = torch.device("cuda")
    with torch.device("meta"):
        made = WanTransformer3DModel(**SMALL).requires_grad_(False)
        setup.open_weights(made, TrainConfig(rank=4), spec)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        estimate._fake(made)
        carriers = memory.keep_blocks_apart(made, CPU)  # without a GPU there are no streams
        for carrier in carriers:
            carrier.device = device
        for part in made.modules():
            for name, p in list(part._parameters.items()):
                if p is not None and id(p) not in made._kept_apart:
                    moved = torch.empty(p.shape, dtype=p.dtype, device=device)
                    part._parameters[name] = torch.nn.Parameter(moved, p.requires_grad)
            for name, b in list(part._buffers.items()):
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=device)
        out = made(
            hidden_states=torch.empty(1, 16, 2, 4, 4, device=device),
            timestep=torch.empty(1, device=device),
            encoder_hidden_states=torch.empty(1, 4, 16, device=device),
            return_dict=False,
        )[0]
    assert out.device.type == "cuda"
    assert {p.device.type for p in carriers[0].masters} == {"cpu"}


# Running out


@pytest.fixture
def config(model) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        objective="dpo",
        steps=2,
        rank=2,
        warmup=0,
        held_out_levels=1,
        held_out_pairs=1,
        condition_draws=0,
    )


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    ("where", "name", "words", "hint"),
    [
        (latents, "video_latents", "while encoding the pairs", "vae_tiling=true"),
        (
            step,
            "dpo_step",
            "while taking step 1 with --memory side-by-side",
            "--memory checkpointing",
        ),
        (
            loop.held_out,
            "measure_shared",
            "while measuring held-out pairs",
            "--memory checkpointing",
        ),
        (loop.setup, "make_policy", "while loading the model", "--memory checkpointing"),
    ],
)
def test_memory_that_runs_out_is_one_line_with_the_way_on(
    tmp_path, model, monkeypatch, where, name, words, hint
):
    import shards

    shards.workspace(tmp_path, train=1, validation=1, losers=1)
    monkeypatch.setattr(where, name, out_of_memory)
    done = CliRunner().invoke(
        app,
        [
            "train",
            "-w",
            str(tmp_path),
            "--model",
            str(model),
            "--steps",
            "1",
            "--set",
            "rank=2",
            "--objective",
            "dpo",
        ],
    )
    assert done.exit_code == 1
    assert words in done.output
    assert hint in done.output.replace("\n", " ")
    assert "Traceback" not in done.output


def test_a_trial_climbs_down_until_it_fits_and_says_so(fresh, config, monkeypatch, said):
    """On the largest pair, with nothing exchanged, and the run goes on as if nothing had been."""
    tried = []
    real = Trainer._backward

    def tight(self, batch, model=None):
        if model is not None:  # the trial; it must not go through a wrapper that exchanges
            assert model is self.inner
            tried.append(self.rung.name)
            real(self, batch, model)
            if len(tried) < 3:
                out_of_memory()
        return real(self, batch, model)

    monkeypatch.setattr(Trainer, "_tries", lambda self: True)
    monkeypatch.setattr(Trainer, "_backward", tight)
    trainer = Trainer(fresh, config)
    trainer.start_or_resume()
    assert tried == ["side-by-side", "checkpointing", "one-by-one"]
    told = said()
    assert "side-by-side does not fit; now branches side by side, gradient checkpointing" in told
    assert "now one branch at a time" in told
    assert all(p.grad is None for _, p in checkpoint.trained_parameters(trainer.inner))
    assert trainer.inner.is_gradient_checkpointing
    assert trainer.train_step()["step"] == 1


def test_a_rung_that_needs_another_model_loads_it(fresh, config, monkeypatch):
    tried = []

    def tight(self):
        tried.append(self.rung.name)
        return self.rung.blocks

    plain = loop.run_training(fresh, replace(config, name="plain", memory="one-by-one"))
    monkeypatch.setattr(Trainer, "_tries", lambda self: True)
    monkeypatch.setattr(Trainer, "_fits", tight)
    rungs = [rung_of("one-by-one"), rung_of("blocks")]
    monkeypatch.setattr(loop.setup, "allowed_rungs", lambda *_: rungs)
    summary = loop.run_training(fresh, replace(config, name="tight"))
    assert tried[-1] == "blocks"
    assert summary.after["winner_error"] == pytest.approx(plain.after["winner_error"], rel=1e-6)


def test_when_the_last_rung_does_not_fit_that_is_said(fresh, config, monkeypatch):
    monkeypatch.setattr(Trainer, "_tries", lambda self: True)
    monkeypatch.setattr(Trainer, "_fits", lambda self: False)
    with pytest.raises(UserError, match="trial step with --memory checkpointing") as caught:
        loop.run_training(fresh, replace(config, memory="checkpointing"))
    assert "--memory one-by-one" in caught.value.hint
    monkeypatch.setattr(loop.setup, "allowed_rungs", lambda *_: list(RUNGS[:3]))
    with pytest.raises(UserError, match="with --memory one-by-one") as caught:
        loop.run_training(fresh, config)
    assert "leanest" in caught.value.hint


def test_full_training_has_no_base_to_quantise(fresh, config):
    names = [rung.name for rung in setup.allowed_rungs(replace(config, weights="full"), False)]
    assert names == ["side-by-side", "checkpointing", "one-by-one"]
    with pytest.raises(UserError, match="need weights = lora"):
        replace(config, weights="full", memory="4bit")


def test_memory_is_flat_over_steps(fresh, config):
    """As many tensors are alive after the tenth step as after the third."""
    trainer = Trainer(fresh, replace(config, steps=10, losers=1))
    trainer.start_or_resume()
    alive = []
    for number in range(10):
        trainer.after_step(trainer.train_step())
        if number in (2, 9):
            gc.collect()
            alive.append(sum(isinstance(o, torch.Tensor) for o in gc.get_objects()))
    assert alive[1] <= alive[0]


def test_dry_run_prints_the_estimate_by_part_for_a_card(fresh, model):
    done = CliRunner().invoke(
        app,
        [
            "train",
            "-w",
            str(fresh.root),
            "--model",
            str(model),
            "--dry-run",
            "--gpu",
            "24",
            "--objective",
            "dpo",
        ],
    )
    assert done.exit_code == 0, done.output
    for part in ("weights", "activations", "moments", "reserve", "encoding", "blocks", "fits"):
        assert part in done.output
    assert not Path(fresh.root / "runs").exists()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_without_a_gpu_is_refused_in_one_line(model, bits):
    spec = loading.read_spec(str(model))
    with pytest.raises(UserError, match=f"a base in {bits} bits needs a GPU"):
        loading.load_transformer(spec, torch.float32, bits, CPU)
