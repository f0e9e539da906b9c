"""The reference: what it computes, how its average moves, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from realdpo.errors import UserError
from realdpo.train.reference import Reference


def small(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).to(dtype)


def with_lora() -> nn.Module:
    model = small()
    model.requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"], init_lora_weights=False)
    return inject_adapter_in_model(config, model)


def nudge(model: nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def test_adapters_off_is_bitwise_the_base():
    model = with_lora()
    reference = Reference(model, "adapter-off")
    with reference.active():
        off = model(X)
    torch.testing.assert_close(off, small()(X), rtol=0, atol=0)
    assert not torch.equal(model(X), off)
    model(X).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)
    assert reference.weights == {}  # no second copy of anything


def test_adapter_off_needs_adapters():
    with pytest.raises(UserError, match="LoRA"):
        Reference(small(), "adapter-off")


@pytest.mark.parametrize("make", [small, with_lora])
@pytest.mark.parametrize("mode", ["frozen", "ema"])
def test_copies_answer_as_the_model_did_and_step_back(make, mode):
    model = make()
    reference = Reference(model, mode)
    before = model(X)
    nudge(model)
    after = model(X)
    with reference.active():
        torch.testing.assert_close(model(X), before, rtol=0, atol=0)
        assert not model(X).requires_grad
    torch.testing.assert_close(model(X), after, rtol=0, atol=0)
    model(X).sum().backward()  # gradients still reach the policy


def test_the_module_gets_its_weights_back_when_the_reference_fails():
    model = small()
    reference = Reference(model, "frozen")
    nudge(model)
    after = model(X)
    with pytest.raises(RuntimeError), reference.active():
        model(torch.zeros(1, 3))
    torch.testing.assert_close(model(X), after, rtol=0, atol=0)


def test_moving_average_has_its_closed_form():
    model = small()
    reference = Reference(model, "ema", rate=0.9, every=1)
    start = {n: w.clone() for n, w in reference.weights.items()}
    nudge(model)
    for step in range(1, 21):
        assert reference.update(step) > 0
    for name, parameter in model.named_parameters():
        expected = 0.9**20 * start[name] + (1 - 0.9**20) * parameter.detach()
        torch.testing.assert_close(reference.weights[name], expected, rtol=1e-5, atol=1e-6)


def test_cadence_and_adapter_average():
    model = with_lora()
    reference = Reference(model, "ema", rate=0.5, every=3)
    assert set(reference.weights) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora" in name for name in reference.weights)
    nudge(model)
    assert [reference.update(step) is None for step in range(1, 7)] == [True, True, False] * 2


def test_average_of_bfloat16_weights_moves_because_it_is_kept_in_float32():
    model = small(torch.bfloat16)
    reference = Reference(model, "ema", rate=0.999, every=1)
    assert all(w.dtype == torch.float32 for w in reference.weights.values())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    naive = {n: w.to(torch.bfloat16) for n, w in reference.weights.items()}
    begin = {n: w.clone() for n, w in naive.items()}
    for step in range(1, 101):
        reference.update(step)
        for name, parameter in model.named_parameters():
            naive[name] = 0.999 * naive[name] + 0.001 * parameter.detach()
    # One hundred updates in bfloat16: not one weight has moved. In float32 all of them have.
    assert all(torch.equal(naive[n], begin[n]) for n in naive)
    for name, weight in reference.weights.items():
        relative = (weight / begin[name].float() - 1).abs()
        torch.testing.assert_close(
            relative, torch.full_like(relative, 0.1 * (1 - 0.999**100)), rtol=0.05, atol=5e-4
        )
    with reference.active():
        assert model(X.bfloat16()).dtype == torch.bfloat16


def test_distance_and_load():
    model = small()
    reference = Reference(model, "frozen")
    assert reference.distance() == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert reference.distance() == pytest.approx(0.5, rel=1e-5)
    reference.load({n: p.detach().clone() for n, p in model.named_parameters()})
    assert reference.distance() == 0
    with pytest.raises(UserError, match="does not have the same weights"):
        reference.load({})
