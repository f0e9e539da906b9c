"""The objectives as a run uses them: their needs, their step, and their held-out figure.

To add an objective, write its class here, its formula in `objective`, and its name in
`TrainConfig.objective`. No other code asks which objective a run has. The imports inside the
methods keep this file free of torch, because model cards and settings read it too.
"""

from __future__ import annotations

import abc
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from torch import Tensor

    from realdpo.train.config import TrainConfig
    from realdpo.train.held_out import Table
    from realdpo.train.reference import Reference
    from realdpo.train.step import Bank, StepOutcome, TrainTask


@dataclass(frozen=True)
class StepContext:
    """Everything that a run passes to a step.

    backward: function that takes a scalar loss and accumulates its gradient. together: whether
    winner and losers go through the model in one batch. apart: context for every backward of a step
    but the last, in which processes do not exchange gradients. bank: stored reference errors, if
    any.
    """

    model: Any
    task: TrainTask
    reference: Reference | None
    backward: Callable[[Tensor], None]
    together: bool
    apart: Callable[[], contextlib.AbstractContextManager[Any]]
    bank: Bank | None = None


class Method(abc.ABC):
    """One objective. A subclass defines how it differs from plain training on real clips.

    needs_losers: whether it trains on pairs with generated losers. needs_reference: whether it
    compares the policy with another model. needs_distance: whether its held-out figure needs the
    distance of predictions from the reference. usual_loss: the least loss that counts as usual when
    a sudden rise is judged. card: the end of a sentence in the model card, with `{}` for the data.
    limit: text of the card under limitations.
    """

    needs_losers: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    needs_distance: ClassVar[bool] = False
    usual_loss: ClassVar[float] = 0.0
    card: ClassVar[str]
    limit: ClassVar[str] = ""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abc.abstractmethod
    def step(self, at: StepContext, batch: Any) -> StepOutcome:
        """Accumulate the gradient of a micro-batch (`draws.Batch`)."""

    def lowered(self, now: Table, base: Table) -> Tensor:
        """The figure that training lowers, for each of P held-out pairs: [P]."""
        return now.win.mean(1)

    def figures(self, lowered: Tensor, now: Table, base: Table) -> dict[str, float]:
        """Further numbers of this objective for the held-out log. lowered: that of `now`, [P]."""
        return {}

    def rank(self, summary: Mapping[str, Any]) -> list[float]:
        """The key by which held-out summaries are compared. The smallest is the best."""
        return [statistics.fmean(summary["by_pair"])]


class SftMethod(Method):
    """Plain fine-tuning, the control for the other objectives."""

    card = "fine-tuned on {}, without a preference."

    def step(self, at: StepContext, batch: Any) -> StepOutcome:
        from realdpo.train.step import sft_step

        return sft_step(at.model, at.task, batch, at.backward, self.config.plain_weight)


class ContrastMethod(Method):
    """Real clips against the reference's own prediction. See `objective.contrast`."""

    needs_reference = True
    needs_distance = True
    card = (
        "trained by contrast on {}: each real clip is preferred to what the base model predicts "
        "for the same noisy clip. The method is [RealDPO](https://arxiv.org/abs/2510.14955) with "
        "implicit losers; its gradient is that of the positive branch of "
        "[DiffusionNFT](https://arxiv.org/abs/2509.16117)."
    )
    limit = (
        "The contrast moves further from the base than plain fine-tuning does. Compare the amount "
        "of motion with real footage, and try prompts that are unlike the training clips."
    )

    def step(self, at: StepContext, batch: Any) -> StepOutcome:
        from realdpo.train.step import contrast_of_config, contrast_step

        assert at.reference is not None
        settings, weight = contrast_of_config(self.config), self.config.plain_weight
        return contrast_step(at.model, at.task, batch, settings, at.reference, at.backward, weight)

    def lowered(self, now: Table, base: Table) -> Tensor:
        import torch

        from realdpo.train.held_out import held_out_levels

        config, u = self.config, torch.tensor(held_out_levels(self.config))
        if config.contrast_weight == "smooth":  # the base's errors do not change during training
            weight = u / base.win.mean(0).sqrt()
            return (weight * (now.win - config.gamma * now.moved)).mean(1)
        return (now.win - config.gamma * (u > config.contrast_above) * now.moved).mean(1)

    def figures(self, lowered: Tensor, now: Table, base: Table) -> dict[str, float]:
        return {
            "contrast": float(lowered.mean()),
            "contrast_base": float(self.lowered(base, base).mean()),
            "moved": float(now.moved.mean()),
        }


class DpoMethod(Method):
    """Real clips against generated losers. See `objective.loss`."""

    needs_losers = True
    needs_reference = True
    usual_loss = math.log(2)  # the preference loss of a model that is its reference
    card = (
        "trained by preference ([RealDPO](https://arxiv.org/abs/2510.14955)) on {}: the real clip "
        "wins over what the model made of the same prompt."
    )
    limit = (
        "Winners are real footage and losers are generated: training may prefer the look of "
        "footage as much as its motion. The control above shows how much."
    )

    def step(self, at: StepContext, batch: Any) -> StepOutcome:
        from realdpo.train.step import aim_of, dpo_step, reference_errors

        assert at.reference is not None
        ref_win, ref_lose = reference_errors(
            at.model, at.task, batch, at.reference, at.together, at.bank
        )
        return dpo_step(
            at.model,
            at.task,
            batch,
            aim_of(self.config),
            ref_win,
            ref_lose,
            at.backward,
            together=at.together,
            apart=at.apart,
        )

    def lowered(self, now: Table, base: Table) -> Tensor:
        from torch.nn.functional import softplus

        from realdpo.train.held_out import margins_of

        preference = softplus(-margins_of(now, base, self.config.beta)).mean((1, 2))
        return preference + self.config.sft_weight * now.win.mean(1)

    def rank(self, summary: Mapping[str, Any]) -> list[float]:
        """First those whose winner's error did not rise, among them the highest accuracy."""
        worse = float(summary["winner_change"] > 0)
        return [worse, -summary["accuracy"], summary["winner_error"]]


METHODS: Mapping[str, type[Method]] = {
    "contrast": ContrastMethod,
    "dpo": DpoMethod,
    "sft": SftMethod,
}
