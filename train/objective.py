"""The preference objective: errors of a winner and its losers in; loss, slopes, diagnostics out.

A diffusion model has no cheap likelihood, so its denoising error stands in for it
(Diffusion-DPO, arXiv 2311.12908). With the policy's errors m, the reference's errors r, a winner w
and N losers l, all denoised from the same noise at the same timestep,

    z_n = -beta/2 * ((m_w - r_w) - (m_ln - r_ln))        loss = mean over pairs of -log sigmoid(z_n)

so z_n is the reward margin. It grows if the policy, relative to the reference, predicts the winner
better than the loser. Everything here is pure and keeps the dtype of the errors, which is float32
or float64: at beta 5000 one bfloat16 rounding of an error of 0.1 moves z by 1.2.

Shapes: B samples, N losers. Errors of winners are [B], of losers [B, N].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Objective:
    """The settings of the objective. `realdpo.train.config.TrainConfig` explains each field."""

    beta: float = 2000.0
    sft_weight: float = 0.0
    sdpo_mu: float | None = None


@dataclass(frozen=True)
class Errors:
    """Policy and reference errors of one batch: `win`, `ref_win` [B]; `lose`, `ref_lose` [B, N].

    Raises ValueError for other shapes, which would compare winners with losers of other pairs.
    """

    win: Tensor
    lose: Tensor
    ref_win: Tensor
    ref_lose: Tensor

    def __post_init__(self) -> None:
        batch = self.win.shape
        wrong = self.ref_win.shape != batch or self.ref_lose.shape != self.lose.shape
        if len(batch) != 1 or self.lose.dim() != 2 or self.lose.shape[0] != batch[0] or wrong:
            shapes = {n: list(getattr(self, n).shape) for n in self.__dataclass_fields__}
            raise ValueError(f"winners' errors are [B] and losers' [B, N], not {shapes}")


@dataclass(frozen=True)
class Contrast:
    """The contrast of real clips with the reference's own prediction. See `contrast`.

    gamma: strength, 0 (plain fine-tuning) to below 1. smooth: all noise levels count, with
    DiffusionNFT's weight. above: without smooth, the contrast acts at noise levels u above this.
    """

    gamma: float = 0.75
    above: float = 0.4
    smooth: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma={self.gamma}: the contrast is bounded for 0 <= gamma < 1 only")


def error(prediction: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean squared error of every sample, [B, ...] -> [B], at least in float32.

    Both sides are widened before they are subtracted, and every axis but the first is averaged. So
    neither rounding nor the size of the video affects the logits. `where` gives weights of
    positions, [B, ...], which broadcast to the prediction. For a mean over a region, use 1 inside
    and 0 outside.
    """
    wide = torch.promote_types(prediction.dtype, torch.float32)
    squares = (prediction.to(wide) - target.to(wide)).square()
    if where is None:
        return squares.flatten(1).mean(1)
    share = where.to(wide).expand_as(squares)
    return (squares * share).flatten(1).sum(1) / share.flatten(1).sum(1)


def absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of every sample, [B, ...] -> [B], at least in float32."""
    wide = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(wide) - target.to(wide)).abs().flatten(1).mean(1)


def contrast(
    prediction: Tensor, reference: Tensor, target: Tensor, u: Tensor, settings: Contrast
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, error of the real clip, distance from the reference), each [B], at least float32.

        loss = |v - target|^2 - gamma [u > above] |v - v_ref|^2        (means over elements)

    prediction v, reference v_ref and target are [B, ...], all at one noisy state of the real clip;
    u [B] is its noise level, 0 clean and 1 noise. The real clip is the winner. The loser is the
    reference's prediction of the same noisy clip, so nothing has to be generated.

    The loss is a preference pair with a linear utility, and bounded. For a given noisy state let
    t = E[target]. Up to a constant in v the expected loss is |v - t|^2 - gamma |v - v_ref|^2, whose
    second derivative 2 (1 - gamma) is positive for gamma < 1. Setting its gradient
    2 (v - t) - 2 gamma (v - v_ref) to zero gives its only minimum

        v* = t + gamma / (1 - gamma) (t - v_ref),

    which lies in the same direction as the optimum of plain fine-tuning (gamma = 0: v* = t), and
    beyond it. In densities p* is proportional to p_ref (p_data / p_ref)^(1 / (1 - gamma)).

    The gradient is that of the positive branch of DiffusionNFT (arXiv 2509.16117) with reward 1
    and beta = 1 - gamma, |beta v + (1 - beta) v_ref - target|^2 / beta. The differences are the
    inputs (real clips, and the base as the old policy) and the gate by noise level.

    With `settings.smooth` there is no gate. The loss of every sample is multiplied by
    DiffusionNFT's weight, u / mean |v - target|, which carries no gradient. This is DiffusionNFT's
    loss of clean videos, divided by the sample's own mean absolute error, and written for
    velocities. A clip that is predicted badly then counts less than by its square, so t above is a
    mean that leans towards the median.
    """
    reference = reference.detach()
    win, moved = error(prediction, target), error(prediction, reference)
    if settings.smooth:
        weight = u.to(win) / absolute_error(prediction.detach(), target)
        return weight * (win - settings.gamma * moved), win, moved
    gate = (u.to(moved.device) > settings.above).to(moved.dtype)
    return win - settings.gamma * gate * moved, win, moved


def margins(errors: Errors, beta: float) -> Tensor:
    """Reward margins z, [B, N].

    Above 0, the policy prefers the winner more than the reference does.
    """
    win_gap = (errors.win - errors.ref_win).unsqueeze(1)
    return -0.5 * beta * (win_gap - (errors.lose - errors.ref_lose))


def loss(errors: Errors, objective: Objective) -> Tensor:
    """The loss, a scalar: mean over samples and losers, plus `sft_weight` times the winner's error."""
    pairwise = -logsigmoid(margins(errors, objective.beta))
    return pairwise.mean() + objective.sft_weight * errors.win.mean()


def slopes(errors: Errors, objective: Objective) -> tuple[Tensor, Tensor]:
    """Closed-form derivatives of `loss` by the errors: (by `win` [B], by `lose` [B, N]).

    `(slope * error).sum().backward()` on one branch after another adds up to the gradient of the
    joint loss, so only one branch's activations have to be held.
    """
    z = margins(errors, objective.beta)
    by_lose = -0.5 * objective.beta * torch.sigmoid(-z) / z.numel()
    by_win = objective.sft_weight / z.shape[0] - by_lose.sum(1)
    return by_win, by_lose


def loser_scale(win_residual: Tensor, lose_residual: Tensor, mu: float) -> Tensor:
    """The share of the loser's gradient that keeps the winner's error from rising, [B].

    Diffusion-SDPO (arXiv 2511.03317): with a, b the gradients of winner's and loser's error by the
    model's output, the share is min(1, (1 - mu) |a|^2 / a.b) if they point the same way, else 1.
    The residuals (prediction - target, [B, ...]) are proportional to those gradients, and the
    factor cancels.
    """
    wide = torch.promote_types(win_residual.dtype, torch.float32)
    a, b = win_residual.to(wide).flatten(1), lose_residual.to(wide).flatten(1)
    along = (a * b).sum(1)
    allowed = (1 - mu) * a.square().sum(1) / along.clamp_min(torch.finfo(wide).tiny)
    return torch.where(along > 0, allowed.clamp_max(1.0), torch.ones_like(along))


def scale_gradient(value: Tensor, scale: Tensor) -> Tensor:
    """`value` unchanged, its gradient times `scale`."""
    return value.detach() + scale * (value - value.detach())


def diagnostics(errors: Errors, beta: float) -> dict[str, float]:
    """The diagnostics of a step, as plain numbers averaged over the batch.

    `loser_dominant_ratio` is the share of pairs that count as won although the winner's own error
    rose above the reference's: the margin comes from pushing the loser away. `saturation` is the
    mean sigmoid(-z), the remaining share of the gradient: 0.5 at the start, 0 if pairs are won.
    """
    z = margins(errors, beta)
    win_gap = (errors.win - errors.ref_win).unsqueeze(1).expand_as(z)
    lose_gap = errors.lose - errors.ref_lose
    values = {
        "rewards/win": -0.5 * beta * win_gap,
        "rewards/lose": -0.5 * beta * lose_gap,
        "rewards/margin": z,
        "rewards/accuracy": accuracy(z),
        "error/win": errors.win,
        "error/lose": errors.lose,
        "error/ref_win": errors.ref_win,
        "error/ref_lose": errors.ref_lose,
        "win_gap": win_gap,
        "lose_gap": lose_gap,
        "loser_dominant_ratio": ((z > 0) & (win_gap > 0)).to(z.dtype),
        "saturation": torch.sigmoid(-z),
    }
    return {name: float(value.detach().mean()) for name, value in values.items()}


def accuracy(z: Tensor) -> Tensor:
    """1 for a won margin, 0 for a lost one, 0.5 for a tie, in the shape of `z`."""
    return (z > 0).to(z.dtype) + 0.5 * (z == 0).to(z.dtype)
