"""A whole micro-batch against one written out here: noise, target, reference, losses, gradient.

Nothing is shared with the product but the call of the transformer, whose keywords
`test_families.py` compares with the pipelines' own. Two samples of two losers, adapters that are
not at their start, a reference with the adapters off.
"""

from __future__ import annotations

import math

import pytest
import tiny_pipelines
import torch

from realdpo.families import family_of, load
from realdpo.memory import RUNGS
from realdpo.train import noise, objective, setup, step
from realdpo.train.config import TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.reference import Reference

U = torch.tensor([0.35, 0.8], dtype=torch.float64)  # below and above the gate
BETA = 40.0


class Hand:
    """The small model of a family with random adapters, and a batch for it."""

    def __init__(self, name: str, folder) -> None:
        tiny_pipelines.save(name, folder)
        self.spec = load.read_spec(str(folder))
        self.family = family_of(self.spec)
        self.pipe = load.load_pipeline(str(folder), "float32")
        config = TrainConfig(model=str(folder), rank=2, alpha=4.0)
        self.model = setup.make_policy(config, self.spec, torch.device("cpu"), RUNGS[0])
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in self.adapters():
                parameter.normal_(0, 0.05)
            frames = max(self.family.traits.frame_step + 1, self.family.traits.least_frames)
            side = max(64, 2 * self.family.traits.size_step)
            videos = torch.rand(6, frames, 3, side, side).mul(2).sub(1).movedim(1, 2)
            made = self.family.padded(self.family.encode(self.pipe.vae, videos))
            texts = [self.family.embed(self.pipe, text, None) for text in ("a man", "a red bike")]
            inputs = {k: torch.stack([t[k] for t in texts]) for k in texts[0]}
        inputs["fps"] = torch.tensor([8.0, 8.0])
        self.batch = Batch(
            made[:2], made[2:].unflatten(0, (2, 2)), torch.randn(made[:2].shape), U, inputs
        )
        tokens = made[0].numel() // made.shape[3 - self.family.TIME_AXIS]
        self.task = step.TrainTask(self.family, noise.from_scheduler(self.spec.scheduler, tokens))

    def adapters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def levels(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """signal, sigma and clock at U, from the scheduler's own tables."""
        scheduler, config = self.pipe.scheduler, self.pipe.scheduler.config
        if config.get("prediction_type") == "v_prediction":
            clock = (U * len(scheduler.alphas_cumprod)).long()
            power = scheduler.alphas_cumprod[clock].double()
            return power.sqrt(), (1 - power).sqrt(), clock
        shift = config.get("flow_shift", config.get("shift", 1.0))
        if config.get("use_dynamic_shifting"):  # as LTX's pipeline has it, a line by the tokens
            near, far = config["base_image_seq_len"], config["max_image_seq_len"]
            rise = (config["max_shift"] - config["base_shift"]) / (far - near)
            tokens = self.batch.win.shape[1]
            shift = math.exp(config["base_shift"] + rise * (tokens - near))
        sigma = shift * U / (1 + (shift - 1) * U)
        clock = 1000 * (1 - sigma if config.get("invert_sigmas") else sigma)
        return 1 - sigma, sigma, clock.float()

    def residual(self, clean: torch.Tensor, adapted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Prediction and target, [B, ...]."""
        wide = lambda x: x.view(-1, *[1] * (clean.dim() - 1)).float()
        signal, sigma, clock = self.levels()
        noisy = wide(signal) * clean + wide(sigma) * self.batch.noise
        if self.task.process.prediction == "v":
            target = wide(signal) * self.batch.noise - wide(sigma) * clean
        else:
            target = self.batch.noise - clean
            target = -target if self.task.process.reverse else target
        if not adapted:
            self.model.disable_adapters()
        out = self.family.forward(self.model, noisy, clock, self.batch.inputs)
        if not adapted:
            self.model.enable_adapters()
            out = out.detach()
        return out, target

    def error(self, clean: torch.Tensor, adapted: bool) -> torch.Tensor:
        out, target = self.residual(clean, adapted)
        return ((out - target) ** 2).sum(tuple(range(1, out.dim()))) / out[0].numel()

    def slopes(self) -> torch.Tensor:
        found = torch.cat([p.grad.flatten() for p in self.adapters()])
        self.model.zero_grad()
        return found


FAMILIES = ["cogvideox-5b", "wan2.1-t2v", "mochi-t2v", "ltx-t2v", "hunyuan-t2v", "skyreels-t2v"]


@pytest.fixture(scope="module", params=FAMILIES)
def hand(request, tmp_path_factory) -> Hand:
    return Hand(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("mu", [None, 0.1])
def test_preference_against_generated_losers(hand, together, mu) -> None:
    batch, aim = hand.batch, objective.Objective(BETA, 3.0, mu)
    win, ref_win = (hand.error(batch.win, adapted) for adapted in (True, False))
    loss = 3.0 * win.mean()
    a = torch.sub(*hand.residual(batch.win, True)).detach().flatten(1)
    for n in range(2):
        lose, ref_lose = (hand.error(batch.lose[:, n], adapted) for adapted in (True, False))
        if mu is not None:
            b = torch.sub(*hand.residual(batch.lose[:, n], True)).detach().flatten(1)
            along = (a * b).sum(1)
            kept = torch.where(
                along > 0, ((1 - mu) * (a * a).sum(1) / along).clamp(max=1.0), torch.ones(2)
            )
            lose = lose.detach() + kept * (lose - lose.detach())
        z = -BETA / 2 * ((win - ref_win) - (lose - ref_lose))
        loss = loss + torch.log(1 + torch.exp(-z)).mean() / 2
    loss.backward()
    expected = hand.slopes()
    before = step.reference_errors(
        hand.model, hand.task, batch, Reference(hand.model, "adapter-off"), together, None
    )
    made = step.dpo_step(
        hand.model, hand.task, batch, aim, *before, lambda x: x.backward(), together=together
    )
    assert made.loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(hand.slopes(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("smooth", [False, True])
def test_contrast_with_the_base(hand, smooth) -> None:
    batch, settings = hand.batch, objective.Contrast(0.75, 0.4, smooth)
    win = hand.error(batch.win, True)
    out, target = hand.residual(batch.win, True)
    apart = (out - hand.residual(batch.win, False)[0]) ** 2
    moved = apart.sum(tuple(range(1, out.dim()))) / out[0].numel()
    if smooth:
        weight = U / (out.detach() - target).abs().flatten(1).mean(1)
        loss = (weight * (win - 0.75 * moved)).mean()
    else:
        loss = (win - 0.75 * torch.tensor([0.0, 1.0]) * moved).mean()
    loss.backward()
    expected = hand.slopes()
    made = step.contrast_step(
        hand.model,
        hand.task,
        batch,
        settings,
        Reference(hand.model, "adapter-off"),
        lambda x: x.backward(),
    )
    assert made.loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(hand.slopes(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


def test_plain_fine_tuning(hand) -> None:
    loss = hand.error(hand.batch.win, True).mean()
    loss.backward()
    expected = hand.slopes()
    made = step.sft_step(hand.model, hand.task, hand.batch, lambda x: x.backward())
    assert made.loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(hand.slopes(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
