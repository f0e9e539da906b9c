"""The loop: exact resume, faults, and what a run leaves behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realdpo.errors import UserError
from realdpo.families import load
from realdpo.train import checkpoint, held_out, latents, log, loop, step
from realdpo.train.config import PRESETS, TrainConfig
from realdpo.train.loop import Trainer
from realdpo.train.reference import Reference
from realdpo.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(model) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        objective="dpo",
        steps=4,
        rank=4,
        lr=1e-3,
        warmup=2,
        losers=2,
        sft_weight=0.0,
        schedule="constant",
        checkpoint_every=2,
        held_out_every=2,
        held_out_levels=2,
        keep_checkpoints=9,
    )


def final(workspace: Workspace, name="dpo") -> dict[str, torch.Tensor]:
    return load_file(workspace.runs / name / "weights" / "pytorch_lora_weights.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_run_leaves_logs_checkpoints_and_weights(fresh, config):
    summary = loop.run_training(fresh, config)
    lines = log.read_log(summary.folder / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    for name in (
        "rewards/win",
        "rewards/lose",
        "rewards/margin",
        "rewards/accuracy",
        "error/win",
        "error/lose",
        "error/ref_win",
        "error/ref_lose",
        "win_gap",
        "lose_gap",
        "saturation",
        "loss/preference",
        "loser_dominant_ratio",
        "grad_norm",
        "distance/base",
        "seconds",
        "lr",
        "peak_memory_gb",
    ):
        assert name in lines[-1]
    assert lines[-1]["distance/base"] > lines[0]["distance/base"] > 0
    held = log.read_log(summary.folder / "held_out.jsonl")
    assert [line["step"] for line in held] == [0, 2, 4]
    assert held[0]["accuracy"] == 0.5
    assert held[0]["winner_change"] == 0
    assert held[-1]["winner_change"] != 0
    assert "control_accuracy" in held[-1]
    assert summary.after == {k: v for k, v in held[-1].items() if k != "step"}
    assert (summary.folder / "metrics.csv").read_text().count("\n") == 5
    assert checkpoint.latest_checkpoint(summary.folder / "checkpoints").name == "step-000004"
    assert summary.held_out_by == "the validation split"


def test_a_shift_that_the_schedule_has_not_is_refused_before_encoding(fresh, config, monkeypatch):
    monkeypatch.setattr(latents, "prepare_pairs", lambda *a, **k: pytest.fail("encoded"))
    with pytest.raises(UserError, match="has no shift"):
        loop.run_training(fresh, replace(config, flow_shift=3.0))


def test_deterministic_kernels_are_asked_for_during_a_run_alone(fresh, config):
    torch.use_deterministic_algorithms(False)  # whatever another test left
    asked = []
    config = replace(config, steps=1, deterministic=True)
    loop.run_training(
        fresh, config, lambda _: asked.append(torch.are_deterministic_algorithms_enabled())
    )
    assert asked == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    loop.run_training(fresh, replace(config, steps=2, deterministic=False))  # free on resume


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reference": "ema", "ema_every": 1, "ema_rate": 0.5, "lora_dropout": 0.3, "beta": 1e-3},
        {"weights": "full", "reference": "ema", "ema_every": 2, "lr": 1e-5},
        {"objective": "sft", "batch": 2},
    ],
)
def test_resume_is_exact(fresh, config, changes):
    if "lora_dropout" in changes:
        changes["beta"] = 1e-6  # the start-up check rightly objects to dropout at a real beta
    whole = replace(config, name="whole", **changes)
    loop.run_training(fresh, whole)
    cut = replace(whole, name="cut")
    trainer = Trainer(fresh, cut)
    trainer.start_or_resume()
    for _ in range(3):  # dies after step 3, one step after its checkpoint
        trainer.after_step(trainer.train_step())
    del trainer
    loop.run_training(fresh, cut)
    ends = [fresh.runs / name / "checkpoints" / "step-000004" for name in ("whole", "cut")]
    for file in sorted(p.relative_to(ends[0]) for p in ends[0].rglob("*.safetensors")):
        assert same(load_file(ends[0] / file), load_file(ends[1] / file)), file
    untimed = [
        [
            {k: v for k, v in line.items() if "second" not in k and k != "peak_memory_gb"}
            for line in log.read_log(fresh.runs / n / "log.jsonl")
        ]
        for n in ("whole", "cut")
    ]
    assert untimed[0] == untimed[1]


def test_other_settings_are_refused_on_resume(fresh, config):
    loop.run_training(fresh, replace(config, steps=1))
    with pytest.raises(UserError, match="beta = 2000.0"):
        loop.run_training(fresh, replace(config, beta=500.0))
    assert loop.run_training(fresh, replace(config, steps=2)).steps == 2


def test_interrupt_saves_and_the_same_command_goes_on(fresh, config, monkeypatch):
    take = Trainer.train_step

    def interrupted(self):
        values = take(self)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return values

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(fresh, config)
    newest = checkpoint.latest_checkpoint(fresh.runs / "dpo" / "checkpoints")
    assert newest.name == "step-000003"
    monkeypatch.undo()
    assert loop.run_training(fresh, config).steps == 4


def test_plain_training_meets_the_clip_as_the_preference_does(fresh, config):
    """Its gradient is beta / 4 times that of the error, and the loss that is told the error."""
    norms = []
    for beta in (4.0, 400.0):
        trainer = Trainer(fresh, replace(config, objective="sft", beta=beta, name=f"sft-{beta}"))
        trainer.start_or_resume()
        values = trainer.train_step()
        assert values["loss"] == values["error/win"]
        norms.append(values["grad_norm"])
    assert norms[1] == pytest.approx(100 * norms[0], rel=1e-4)


def test_nan_stops_and_the_last_checkpoint_stands(fresh, config, monkeypatch):
    trainer = Trainer(fresh, config)
    trainer.start_or_resume()
    for _ in range(2):
        trainer.after_step(trainer.train_step())
    kept = load_file(fresh.runs / "dpo/checkpoints/step-000002/pytorch_lora_weights.safetensors")
    with torch.no_grad():
        next(p for p in trainer.inner.parameters() if p.requires_grad).fill_(torch.nan)
    with pytest.raises(UserError, match=r"step 3: the loss is nan.*step-000002 stands"):
        trainer.train_step()
    newest = checkpoint.latest_checkpoint(fresh.runs / "dpo" / "checkpoints")
    assert same(kept, load_file(newest / "pytorch_lora_weights.safetensors"))


def test_a_spike_stops(fresh, config):
    trainer = Trainer(fresh, replace(config, beta=20000.0, spike=20.0))
    trainer.start_or_resume()
    trainer.recent = [0.69] * 10
    with torch.no_grad():
        for name, p in checkpoint.trained_parameters(trainer.inner):
            if "lora_B" in name:
                p.add_(torch.randn_like(p))
    with pytest.raises(UserError, match="times the usual"):
        for _ in range(8):
            trainer.train_step()


def test_a_full_disk_leaves_the_checkpoint_before(fresh, config, monkeypatch):
    trainer = Trainer(fresh, config)
    trainer.start_or_resume()
    for _ in range(2):
        trainer.after_step(trainer.train_step())
    real = checkpoint._save

    def full(tensors, path):
        real(tensors, path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_save", full)
    trainer.train_step()
    with pytest.raises(UserError, match="No space left"):
        trainer.save()
    folder = fresh.runs / "dpo" / "checkpoints"
    assert [p.name for p in folder.iterdir()] == ["step-000002"]


def test_a_damaged_checkpoint_is_named(fresh, config):
    loop.run_training(fresh, replace(config, steps=2))
    newest = checkpoint.latest_checkpoint(fresh.runs / "dpo" / "checkpoints")
    (newest / "optimizer.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="step-000002"):
        loop.run_training(fresh, config)


def test_an_optimizers_own_kinds_of_state_come_back(fresh, config):
    """bitsandbytes counts its steps in an int and keeps moments in bytes."""
    trainer = Trainer(fresh, config)
    trainer.start_or_resume()
    state = trainer.optimizer.optimizer.state
    for _, p in checkpoint.trained_parameters(trainer.inner):
        state[p] = {"step": 3, "state1": torch.full(p.shape, 7, dtype=torch.uint8)}
    trainer.save()
    again = Trainer(fresh, config)
    again.start_or_resume()
    for _, p in checkpoint.trained_parameters(again.inner):
        found = again.optimizer.optimizer.state[p]
        assert type(found["step"]) is int
        assert found["step"] == 3
        assert found["state1"].dtype == torch.uint8
        assert found["state1"].eq(7).all()


def test_values_that_are_not_finite_are_named_before_the_first_step(fresh, config):
    trainer = Trainer(fresh, config)
    with torch.no_grad():
        next(trainer.inner.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="the loss is nan before the first step"):
        trainer.start_or_resume()


def test_dropout_fails_the_start_up_check(fresh, config):
    changed = replace(config, lora_dropout=0.5, reference="frozen", weights="lora")
    trainer = Trainer(fresh, changed)
    with torch.no_grad():
        for name, p in checkpoint.trained_parameters(trainer.inner):
            if "lora_B" in name:
                p.add_(0.1)
    trainer.reference = Reference(trainer.inner, "frozen")
    with pytest.raises(UserError, match="dropout is active"):
        trainer.start_or_resume()


def test_stop_on_win_gap(fresh, config):
    summary = loop.run_training(fresh, replace(config, stop_on_win_gap=-1.0))
    assert summary.steps == 2
    assert "winner's held-out error" in summary.stopped


def test_held_out_measures_the_same_twice_and_leaves_the_random_state(fresh, config):
    trainer = Trainer(fresh, config)
    trainer.start_or_resume()
    before = torch.get_rng_state()
    first, second = trainer._measure(), trainer._measure()
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])
    found = held_out.summarise_held_out(first, first, config)
    assert found["accuracy"] == found["control_accuracy"] == 0.5


def test_the_bank_saves_reference_forwards_and_changes_nothing(fresh, config, monkeypatch):
    asked = []
    real = step.branch_errors
    banked = replace(
        config, name="bank", reference_bank=2, steps=12, held_out_every=0, held_out_pairs=0
    )
    monkeypatch.setattr(step, "branch_errors", lambda *a: asked.append(1) or real(*a))
    loop.run_training(fresh, banked)
    # two for the start-up check, one for each of 4 pairs x 2 draws; the third epoch asks none
    assert len(asked) == 2 + 8
    first = final(fresh, "bank")
    monkeypatch.setattr(step.Bank, "get", lambda self, key: None)
    loop.run_training(fresh, replace(banked, name="without"))
    assert same(first, final(fresh, "without"))


@pytest.mark.usefixtures("own_accelerator")
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_bfloat16_computes_in_half_and_trains_in_float32(fresh, config, weights):
    half = replace(config, precision="bf16", weights=weights, lr=1e-4, steps=2, name=weights)
    trainer = Trainer(fresh, half)
    assert {p.dtype for _, p in checkpoint.trained_parameters(trainer.inner)} == {torch.float32}
    trainer.start_or_resume()  # policy and reference give ln 2 in bfloat16 too
    before = {n: p.detach().clone() for n, p in checkpoint.trained_parameters(trainer.inner)}
    values = trainer.train_step()
    assert values["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert any(
        not torch.equal(p, before[n]) for n, p in checkpoint.trained_parameters(trainer.inner)
    )
    batch = trainer.batch(0)
    _, residual = step.branch_error(trainer.model, trainer.task, batch, batch.win)
    assert residual.dtype == torch.float32


def test_one_by_one_equals_together(fresh, config):
    for changes in ({}, {"sdpo_mu": 0.5, "sft_weight": 10.0, "batch": 2}):
        grads = []
        for memory in ("side-by-side", "one-by-one"):
            trainer = Trainer(fresh, replace(config, memory=memory, name=memory, **changes))
            trainer.inner.double()
            with torch.no_grad():
                for name, p in checkpoint.trained_parameters(trainer.inner):
                    if "lora_B" in name:
                        p.normal_(generator=torch.Generator().manual_seed(1))
            trainer._backward(_double(trainer.batch(0)))
            grads.append({n: p.grad for n, p in checkpoint.trained_parameters(trainer.inner)})
        for name, grad in grads[0].items():
            torch.testing.assert_close(grad, grads[1][name], rtol=1e-7, atol=1e-9)
            assert grad.abs().max() > 0


def _double(batch):
    inputs = {n: t.double() for n, t in batch.inputs.items()}
    return replace(
        batch,
        win=batch.win.double(),
        lose=batch.lose.double(),
        noise=batch.noise.double(),
        inputs=inputs,
    )


def test_accumulation_equals_a_larger_batch(fresh, config):
    grads = []
    for batch, accumulation in ((4, 1), (1, 4)):
        split = replace(config, batch=batch, accumulation=accumulation, name=f"split-{batch}")
        trainer = Trainer(fresh, split)
        trainer.inner.double()
        for micro in range(accumulation):
            trainer._backward(_double(trainer.batch(micro)))
        grads.append({n: p.grad for n, p in checkpoint.trained_parameters(trainer.inner)})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-7, atol=1e-10)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(fresh, config, model):
    # With a large epsilon Adam is momentum, linear in the gradient: with a small one it would blow
    # up the last digit of a gradient near zero to a whole step.
    common = [
        "-w",
        str(fresh.root),
        "--model",
        str(model),
        "--steps",
        "2",
        "--lr",
        "0.05",
        "--set",
        "adam_eps=1.0",
        "--set",
        "rank=4",
        "--set",
        "warmup=0",
        "--set",
        "held_out_levels=2",
    ]
    run = [sys.executable, "-m", "realdpo", "train", *common]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for extra in (
        ["--name", "one", "--set", "batch=2"],
        ["--name", "two", "--num-processes", "2"],
        ["--name", "two-apart", "--num-processes", "2", "--memory", "one-by-one"],
    ):
        done = subprocess.run(
            [*run, *extra], env=environment, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
    one = final(fresh, "one")
    for name in ("two", "two-apart"):
        other = final(fresh, name)
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-6)
    held = [log.read_log(fresh.runs / name / "held_out.jsonl")[-1] for name in ("one", "two")]
    assert held[0]["winner_error"] == pytest.approx(held[1]["winner_error"], rel=1e-5)
    losses = [log.read_log(fresh.runs / name / "log.jsonl")[-1]["loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(fresh, config, model):
    """SIGKILL in the middle of a real run, twice; the end is that of an undisturbed one."""
    command = [
        sys.executable,
        "-m",
        "realdpo",
        "train",
        "-w",
        str(fresh.root),
        "--model",
        str(model),
        "--steps",
        "12",
        "--set",
        "rank=4",
        "--set",
        "checkpoint_every=1",
        "--set",
        "held_out_pairs=0",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": environment,
        "cwd": ROOT,
    }
    for reached in (2, 6):
        child = subprocess.Popen([*command, "--name", "killed"], **quiet)
        log_file = fresh.runs / "killed" / "log.jsonl"
        while child.poll() is None and len(log.read_log(log_file)) < reached:
            time.sleep(0.005)
        assert child.poll() is None, "ended before it could be killed"
        child.kill()
        assert child.wait() == -signal.SIGKILL
    for name in ("killed", "calm"):
        assert subprocess.run([*command, "--name", name], **quiet).returncode == 0
    assert same(final(fresh, "killed"), final(fresh, "calm"))


def test_latents_are_one_function_and_keyed_by_what_they_are_made_of(fresh, config, model):
    spec = load.read_spec(str(model))
    prepare = lambda c=config: latents.prepare_pairs(fresh, spec, c, torch.device("cpu"))
    pair = prepare()["train"][0]
    times = {p: p.stat().st_mtime_ns for p in fresh.step("latents").iterdir()}
    assert prepare()["train"][0] == pair  # nothing is made again
    assert {p: p.stat().st_mtime_ns for p in fresh.step("latents").iterdir()} == times
    sample = latents.load_sample(pair)
    assert sample.images["image_latents"].shape[0] == 1 + config.condition_draws
    clean = prepare(replace(config, condition_draws=0))["train"][0]
    assert clean.inputs[1] != pair.inputs[1]
    assert clean.win == pair.win
    # the same encoders under a transformer that takes fewer tokens
    fewer = {**spec.transformer, "max_text_seq_length": 8}
    short = replace(spec, parts={**spec.parts, "transformer": fewer})
    other = latents.prepare_pairs(fresh, short, config, torch.device("cpu"))["train"][0]
    assert other.win == pair.win
    assert len(latents.load_sample(other).inputs["prompt_embeds"]) == 8


def test_the_same_file_on_both_sides_gives_the_same_latent(tmp_path, model):
    import shards

    from realdpo import tables

    made = shards.workspace(tmp_path, train=2, validation=0)
    path = next(made.pair_data.glob("train-*"))
    rows = tables.read_table(path, tables.PAIR_SHARD).to_pylist()
    rows[1]["lose"] = [rows[0]["win"]]
    tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, rows), tables.PAIR_SHARD)
    spec = load.read_spec(str(model))
    one, two = latents.prepare_pairs(made, spec, TrainConfig(), torch.device("cpu"))["train"]
    assert torch.equal(latents.load_sample(one).win, latents.load_sample(two).lose[0])
    assert one.win == two.lose[0]
    # In one pair it would be no loser.
    for wrong in ({"lose": [rows[1]["win"]]}, {"prompt": " "}):
        broken = [rows[0], {**rows[1], **wrong}]
        tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, broken), tables.PAIR_SHARD)
        with pytest.raises(UserError, match=rows[1]["pair_id"]):
            latents.prepare_pairs(made, spec, TrainConfig(), torch.device("cpu"))


def test_an_audit_that_could_not_tell_is_said_and_refuses_nothing(tmp_path, capsys):
    made = Workspace(tmp_path)
    made.audit.parent.mkdir(parents=True)
    made.audit.write_text(json.dumps({"verdict": "too few"}))
    latents.refuse_shortcut(made, allowed=False)
    assert "too few pairs" in capsys.readouterr().err


def test_a_found_shortcut_is_refused(tmp_path):
    made = Workspace(tmp_path)
    made.audit.parent.mkdir(parents=True)
    made.audit.write_text(json.dumps({"verdict": "shortcut"}))
    with pytest.raises(UserError, match="trivial statistics"):
        latents.refuse_shortcut(made, allowed=False)
    latents.refuse_shortcut(made, allowed=True)


def test_without_pairs_the_way_to_them_is_named(tmp_path, config):
    with pytest.raises(UserError, match="no pairs") as caught:
        loop.run_training(Workspace(tmp_path), config)
    assert "pairs build" in caught.value.hint


def test_without_a_validation_split_clips_are_held_back(work, model, config):
    spec = load.read_spec(str(model))
    found = latents.prepare_pairs(work, spec, config, torch.device("cpu"))
    train, watched, how = held_out.split_held_out({"train": found["train"]}, 8)
    assert len(watched) == 1
    assert len(train) == 3
    assert not {p.clip_id for p in train} & {p.clip_id for p in watched}
    assert "split" in how


def test_presets_are_valid_and_released_is_the_published_recipe():
    for values in PRESETS.values():
        TrainConfig(**values)
    released = TrainConfig(**PRESETS["realdpo-released"])
    assert (released.beta, released.t_high, released.lr) == (5000.0, 0.5, 1e-6)
    assert (released.reference_mode, released.ema_rate, released.ema_every) == ("ema", 0.999, 100)
    assert released.weights == "full"


@pytest.mark.parametrize(
    ("key", "value"), [("t_low", 1.0), ("beta", 0.0), ("steps", 0), ("sdpo_mu", 2.0)]
)
def test_nonsense_settings_are_refused(key, value):
    with pytest.raises(UserError):
        TrainConfig(**{key: value})
