"""What a run hands over: the average of its weights, of the best step, and the base competes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from realdpo.families.base import Family
from realdpo.train import log, loop, setup
from realdpo.train.config import PRESETS, TrainConfig
from realdpo.train.methods import ContrastMethod
from realdpo.train.reference import Reference


def test_a_young_average_follows_and_an_old_one_is_slow():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = Reference(model, "ema", 0.5, every=1, warm=True)
    expected = 0.0
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(step)
        kept = min(0.5, (1 + step) / (10 + step))  # 2/11 at first, 0.5 from step 8
        expected = kept * expected + (1 - kept) * step
        assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    with average.active():
        assert float(model.weight) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight) == 19


@pytest.mark.parametrize(("best", "better"), [(2, True), (2, False), (4, True)])
def test_the_best_step_is_handed_over_and_the_base_competes(
    fresh, model, monkeypatch, capsys, best, better
):
    measured = iter([0, 2, 4, 0])
    keys = {0: [1.0 if better else -2.0], 2: [0.0], 4: [-1.0 if best == 4 else 0.5]}
    monkeypatch.setattr(ContrastMethod, "rank", lambda self, summary: keys[next(measured)])
    config = TrainConfig(
        model=str(model),
        steps=4,
        rank=4,
        lr=1e-3,
        warmup=1,
        checkpoint_every=1,
        held_out_every=2,
        held_out_levels=1,
        data="pairs",
    )
    made = loop.run_training(fresh, config)
    name = f"step-{best:06d}"
    assert (made.handed_over, made.better_than_base) == (name, better)
    given = load_file(made.weights / "pytorch_lora_weights.safetensors")
    average = load_file(made.folder / "checkpoints" / name / "average.safetensors")
    raw = load_file(made.folder / "checkpoints" / name / "pytorch_lora_weights.safetensors")
    for layer, tensor in average.items():
        layer = f"transformer.{layer.replace('.default.', '.')}"
        assert torch.equal(given[layer], tensor)
    assert any(not torch.equal(given[n], raw[n]) for n in given)
    assert ("no step was better than the base" in capsys.readouterr().err) is not better


def test_the_held_out_check_measures_the_average(fresh, model):
    settings = {
        "model": str(model),
        "steps": 3,
        "rank": 4,
        "lr": 1e-2,
        "warmup": 0,
        "held_out_every": 3,
        "held_out_levels": 1,
        "data": "pairs",
        "objective": "sft",
        "schedule": "constant",
    }
    errors = [
        log.read_log(
            loop.run_training(fresh, TrainConfig(**settings, name=name, policy_ema=ema)).folder
            / "held_out.jsonl"
        )[-1]["winner_error"]
        for name, ema in (("raw", 0.0), ("hardly", 1e-9), ("averaged", 0.9))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)
    assert errors[2] != pytest.approx(errors[0], rel=1e-6)


def test_targets_by_kind_and_by_name():
    class Some(Family):
        FEED_FORWARD = ("net.2",)

    def layers(*targets):
        return setup.lora_targets(TrainConfig(targets=targets), Some)

    assert layers("attention", "feed-forward") == ("to_q", "to_k", "to_v", "to_out.0", "net.2")
    assert layers("proj_out") == ("proj_out",)
    assert layers() == layers("attention") == Some.TARGETS
    assert TrainConfig().targets == ("attention", "feed-forward")
    assert PRESETS["realdpo-paper"]["targets"] == ("attention",)
