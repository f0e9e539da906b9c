"""The contrast: its gradient, its minimiser, its relatives, and whole runs of it."""

from __future__ import annotations

import json

import pytest
import torch
from shards import clip_workspace

from realdpo.errors import UserError
from realdpo.train import loop, objective
from realdpo.train.config import TrainConfig
from realdpo.train.objective import Contrast


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slope(of, at: torch.Tensor) -> torch.Tensor:
    leaf = at.clone().requires_grad_(True)
    return torch.autograd.grad(of(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.75, 0.9])
def test_the_gradient_is_the_closed_form_and_that_of_diffusion_nft(gamma: float) -> None:
    v, before, target = drawn(3, 2, 4, 7)  # three tensors [B, ...]
    u = torch.tensor([0.5, 0.9])
    n = v[0].numel()
    found = slope(lambda x: objective.contrast(x, before, target, u, Contrast(gamma, 0.0))[0], v)
    assert torch.allclose(found, 2 * ((v - target) - gamma * (v - before)) / n, atol=1e-14)
    beta = 1 - gamma
    nft = lambda x: ((beta * x + gamma * before - target) ** 2 / beta).flatten(1).mean(1)
    assert torch.allclose(found, slope(nft, v), atol=1e-14)


def test_below_the_gate_it_is_plain_training() -> None:
    v, before, target = drawn(3, 2, 4)
    loss, win, moved = objective.contrast(
        v, before, target, torch.tensor([0.4, 0.41]), Contrast(0.75, 0.4)
    )
    assert loss[0] == win[0]
    assert torch.isclose(loss[1], win[1] - 0.75 * moved[1])


def test_the_reference_gets_no_gradient() -> None:
    v, before, target = (x.requires_grad_(True) for x in drawn(3, 2, 4))
    objective.contrast(v, before, target, torch.ones(2), Contrast())[0].sum().backward()
    assert before.grad is None


def test_its_minimum_is_beyond_the_average_by_gamma() -> None:
    """On a toy where all is known: targets 1 or 3 by chance, a reference that says 1.5.

    t = 2, so v* = 2 + 3 (2 - 1.5) = 3.5 for gamma = 3/4, and plain training stays at 2.
    """
    targets = torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(50)[:, None]
    before = torch.full_like(targets, 1.5)
    for gamma, expected in ((0.0, 2.0), (0.75, 3.5), (0.5, 2.5)):
        v = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([v], lr=0.2)
        for _ in range(300):
            settings = Contrast(gamma, 0.0)
            loss = objective.contrast(
                v.expand_as(targets), before, targets, torch.ones(100), settings
            )[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert v.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gamma", [1.0, -0.1, 2.0])
def test_an_unbounded_contrast_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        Contrast(gamma)
    with pytest.raises(UserError, match="gamma"):
        TrainConfig(gamma=gamma)


def test_errors_of_wrong_shapes_are_refused() -> None:
    one = torch.ones(2)
    with pytest.raises(ValueError, match=r"\[B, N\]"):
        objective.Errors(one, one, one, one)
    with pytest.raises(ValueError, match=r"\[B, N\]"):
        objective.Errors(one, torch.ones(3, 1), one, torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"\[B, N\]"):
        objective.Errors(one, torch.ones(2, 1), one, torch.ones(2, 2))


@pytest.fixture
def settings(model) -> dict:
    return {
        "model": str(model),
        "steps": 4,
        "rank": 2,
        "warmup": 1,
        "held_out_every": 2,
        "held_out_levels": 2,
        "checkpoint_every": 2,
        "lr": 1e-2,
        "schedule": "constant",
    }


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_a_run_from_clips_alone(settings, weights: str, tmp_path) -> None:
    workspace = clip_workspace(tmp_path)
    config = TrainConfig(**settings, weights=weights)
    assert config.objective == "contrast"
    made = loop.run_training(workspace, config)
    assert made.steps == 4
    assert "accuracy" not in made.after
    assert made.before["contrast"] == pytest.approx(made.before["winner_error"])
    assert made.after["contrast"] < made.before["contrast"]
    assert made.after["moved"] > 0
    assert not (tmp_path / "pairs").exists()
    rows = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert rows[0]["distance/prediction"] == pytest.approx(0, abs=1e-10)
    assert rows[-1]["distance/prediction"] > 0


def test_a_stopped_run_goes_on_bit_for_bit(settings, tmp_path) -> None:
    from safetensors.torch import load_file

    whole, halves = clip_workspace(tmp_path / "a"), clip_workspace(tmp_path / "b")
    loop.run_training(whole, TrainConfig(**settings))
    loop.run_training(halves, TrainConfig(**{**settings, "steps": 2}))
    loop.run_training(halves, TrainConfig(**settings))
    names = [
        w.runs / "contrast" / "weights" / "pytorch_lora_weights.safetensors"
        for w in (whole, halves)
    ]
    one, other = map(load_file, names)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pairs_give_their_winners_and_measure_their_losers(settings, fresh) -> None:
    made = loop.run_training(fresh, TrainConfig(**settings))
    assert "accuracy" in made.after
    assert "contrast" in made.after


def test_no_clips_is_one_line(settings, tmp_path) -> None:
    from realdpo.workspace import Workspace

    with pytest.raises(UserError, match="no clips"):
        loop.run_training(Workspace(tmp_path), TrainConfig(**settings, data="clips"))
    with pytest.raises(UserError, match="neither clips nor pairs") as refused:
        loop.run_training(Workspace(tmp_path), TrainConfig(**settings))
    assert "curate ingest" in str(refused.value.hint)
