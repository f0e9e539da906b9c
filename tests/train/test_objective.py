"""The objective against worked numbers, published values of other projects, and its own laws."""

from __future__ import annotations

import math

import pytest
import torch

from realdpo.train import objective
from realdpo.train.objective import Errors, Objective


def errors_of(win, lose, ref_win, ref_lose, dtype=torch.float64) -> Errors:
    """Errors from plain lists; `lose` may be [B] (one loser each) or [B, N]."""
    as_tensor = lambda x: torch.tensor(x, dtype=dtype)
    lose, ref_lose = as_tensor(lose), as_tensor(ref_lose)
    if lose.dim() == 1:
        lose, ref_lose = lose[:, None], ref_lose[:, None]
    return Errors(as_tensor(win), lose, as_tensor(ref_win), ref_lose)


def random_errors(batch=3, losers=2, seed=0) -> Errors:
    draw = torch.Generator().manual_seed(seed)
    one = torch.rand(batch, generator=draw, dtype=torch.float64)
    many = torch.rand(batch, losers, generator=draw, dtype=torch.float64)
    shift = torch.randn(batch, losers, generator=draw, dtype=torch.float64) * 1e-3
    return Errors(
        one.requires_grad_(),
        many.requires_grad_(),
        one.detach() + shift[:, 0],
        many.detach() + shift,
    )


# m_w, m_l, r_w, r_l, beta -> z, loss, dL/dm_w, worked by hand from the formula:
# row 4: d = (0.1 - 0.1002) - (0.1203 - 0.12) = -0.0005, z = -0.5 * 500 * d = 0.125,
# loss = ln(1 + e^-0.125) = 0.632599, slope = 250 * sigmoid(-0.125) = 117.1977.
WORKED = [
    (0.1, 0.1, 0.1, 0.1, 500, 0.0, 0.693147181, 125.0),
    (0.1, 0.1, 0.1, 0.1, 2000, 0.0, 0.693147181, 500.0),
    (0.1, 0.1, 0.1, 0.1, 5000, 0.0, 0.693147181, 1250.0),
    (0.1, 0.1203, 0.1002, 0.12, 500, 0.125, 0.632599035, 117.197657),
    (0.1, 0.1203, 0.1002, 0.12, 2000, 0.5, 0.474076984, 377.540669),
    (0.1, 0.1203, 0.1002, 0.12, 5000, 1.25, 0.251929081, 556.750347),
    (0.1005, 0.12, 0.1, 0.12, 500, -0.125, 0.757599035, 132.802343),
    (0.1005, 0.12, 0.1, 0.12, 2000, -0.5, 0.974076984, 622.459331),
    (0.1005, 0.12, 0.1, 0.12, 5000, -1.25, 1.501929081, 1943.249653),
    (0.101, 0.123, 0.1, 0.12, 500, 0.5, 0.474076984, 94.385167),
    (0.101, 0.123, 0.1, 0.12, 2000, 2.0, 0.126928011, 119.202922),
    (0.101, 0.123, 0.1, 0.12, 5000, 5.0, 0.006715348, 16.732127),
]


@pytest.mark.parametrize("row", WORKED)
def test_worked_numbers(row):
    m_w, m_l, r_w, r_l, beta, z, loss, slope = row
    errors = errors_of([m_w], [m_l], [r_w], [r_l])
    errors.win.requires_grad_()
    assert objective.margins(errors, beta).item() == pytest.approx(z, abs=1e-9)
    value = objective.loss(errors, Objective(beta=beta))
    assert value.item() == pytest.approx(loss, abs=1e-9)
    value.backward()
    assert errors.win.grad.item() == pytest.approx(slope, abs=1e-6)
    by_win, by_lose = objective.slopes(errors, Objective(beta=beta))
    assert by_win.item() == pytest.approx(slope, abs=1e-6)
    assert by_lose.item() == pytest.approx(-slope, abs=1e-6)


@pytest.mark.parametrize("row", [row for row in WORKED if row[0] == 0.101])
def test_winning_by_pushing_the_loser_away_is_named(row):
    m_w, m_l, r_w, r_l, beta, *_ = row
    values = objective.diagnostics(errors_of([m_w], [m_l], [r_w], [r_l]), beta)
    assert values["rewards/accuracy"] == 1.0
    assert values["loser_dominant_ratio"] == 1.0
    assert values["win_gap"] == pytest.approx(0.001)
    honest = objective.diagnostics(errors_of([0.1], [0.1203], [0.1002], [0.12]), beta)
    assert honest["loser_dominant_ratio"] == 0.0


# torchtune's DPO tests (tests/torchtune/rlhf/loss): log-probabilities of three pairs, beta 0.1.
# A squared error stands for -2 log p, so that -0.5 * error is the log-probability.
TUNE = errors_of([1.0, 20.0, 2.0], [0.2, 60.0, 42.0], [1.0, 20.2, 0.2], [0.2, 40.2, 0.2])


def test_torchtune_values():
    z = objective.margins(TUNE, 0.1).squeeze(1)
    torch.testing.assert_close(z, torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    expected = torch.tensor([0.693147, 0.313262, 0.126928], dtype=torch.float64)
    loss = objective.loss(TUNE, Objective(beta=0.1))
    torch.testing.assert_close(loss, expected.mean(), atol=1e-6, rtol=0)


def test_trl_values():
    # TRL's recorded first-step loss (policy = reference) in float32.
    same = errors_of([0.3], [0.4], [0.3], [0.4], torch.float32)
    assert objective.loss(same, Objective()).item() == pytest.approx(0.6931471825, abs=1e-9)


def test_same_weights_give_ln_two_for_any_beta():
    errors = random_errors()
    same = Errors(errors.win, errors.lose, errors.win, errors.lose)
    for beta in (1.0, 500.0, 5000.0):
        assert objective.loss(same, Objective(beta=beta)).item() == math.log(2)


def test_swapping_winner_and_loser_negates_the_margin():
    e = random_errors(losers=1)
    swapped = Errors(e.lose[:, 0], e.win[:, None], e.ref_lose[:, 0], e.ref_win[:, None])
    torch.testing.assert_close(objective.margins(swapped, 2000), -objective.margins(e, 2000))


def test_a_clip_against_itself_teaches_nothing():
    shared = torch.rand(3, dtype=torch.float64, requires_grad=True)
    reference = torch.rand(3, dtype=torch.float64)
    e = Errors(shared, shared[:, None], reference, reference[:, None])
    objective.loss(e, Objective(beta=2000)).backward()
    assert shared.grad.abs().max() == 0


@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
def test_closed_form_slopes_equal_autograd(sft_weight):
    aim = Objective(beta=300.0, sft_weight=sft_weight)
    errors = random_errors()
    objective.loss(errors, aim).backward()
    by_win, by_lose = objective.slopes(errors, aim)
    torch.testing.assert_close(by_win, errors.win.grad)
    torch.testing.assert_close(by_lose, errors.lose.grad)


def test_gradcheck():
    e = random_errors()
    aim = Objective(beta=50.0, sft_weight=0.3)
    assert torch.autograd.gradcheck(
        lambda win, lose: objective.loss(Errors(win, lose, e.ref_win, e.ref_lose), aim),
        (e.win, e.lose),
    )


def test_many_losers_are_the_mean_of_their_pairs():
    e, aim = random_errors(batch=2, losers=4), Objective(beta=700.0)
    by_win, by_lose = objective.slopes(e, aim)
    each = [
        objective.slopes(
            Errors(e.win, e.lose[:, n : n + 1], e.ref_win, e.ref_lose[:, n : n + 1]), aim
        )
        for n in range(4)
    ]
    torch.testing.assert_close(by_win, torch.stack([w for w, _ in each]).mean(0))
    torch.testing.assert_close(by_lose, torch.cat([lose for _, lose in each], 1) / 4)


def test_loss_of_a_batch_is_the_mean_of_its_samples():
    e, aim = random_errors(batch=4), Objective(beta=700.0, sft_weight=0.5)
    one = [
        objective.loss(
            Errors(
                e.win[i : i + 1], e.lose[i : i + 1], e.ref_win[i : i + 1], e.ref_lose[i : i + 1]
            ),
            aim,
        )
        for i in (2, 0, 3, 1)
    ]
    torch.testing.assert_close(objective.loss(e, aim), torch.stack(one).mean())


def test_error_is_one_number_a_sample_in_float32():
    prediction, target = torch.randn(2, 5, 4, 3, 6), torch.randn(2, 5, 4, 3, 6)
    errors = objective.error(prediction.bfloat16(), target)
    assert errors.shape == (2,)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(
        errors, (prediction.bfloat16().float() - target).square().mean((1, 2, 3, 4))
    )
    assert objective.error(prediction.double(), target).dtype == torch.float64


def test_bfloat16_errors_would_move_the_logit_by_more_than_one():
    # Why errors are widened first: neighbouring bfloat16 numbers near 0.1, beta 5000.
    apart = torch.tensor(0.1).bfloat16().float() - torch.tensor(0.1 - 4e-4).bfloat16().float()
    assert 0.5 * 5000 * apart > 1


@pytest.mark.parametrize("mu", [0.0, 0.4, 0.9])
def test_loser_scale(mu):
    win = torch.randn(4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(
        objective.loser_scale(win, win, mu), torch.full((4,), 1 - mu, dtype=torch.float64)
    )
    assert (objective.loser_scale(win, -win, mu) == 1).all()
    assert (objective.loser_scale(win, 1e-6 * win, mu) == 1).all()


def test_loser_scale_keeps_the_winner_from_getting_worse():
    # A linear model y = W x whose loser pulls along the winner: the raw step raises the winner's
    # error to first order, the scaled one does not (the promise of Diffusion-SDPO).
    draw = torch.Generator().manual_seed(3)
    output = torch.randn(1, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    win_target = output.detach() - 0.1 * torch.ones(1, 8, dtype=torch.float64)
    lose_target = output.detach() - torch.ones(1, 8, dtype=torch.float64)

    def winner_after_a_step(scale):
        win, lose = objective.error(output, win_target), objective.error(output, lose_target)
        lose = objective.scale_gradient(lose, scale)
        e = Errors(win, lose[:, None], win.detach(), lose.detach()[:, None])
        (grad,) = torch.autograd.grad(objective.loss(e, Objective(beta=100.0)), output)
        return objective.error(output.detach() - 1e-4 * grad, win_target) - win.detach()

    residuals = output.detach() - win_target, output.detach() - lose_target
    assert winner_after_a_step(torch.ones(1)) > 0
    assert winner_after_a_step(objective.loser_scale(*residuals, 0.1)) < 0


def test_ties_count_half():
    z = torch.tensor([[1.0, -1.0, 0.0]])
    assert objective.accuracy(z).mean() == 0.5
