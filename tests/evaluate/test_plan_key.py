"""A video of an evaluation is known by everything that makes it another one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from realdpo.families.sample import GenerationSettings
from realdpo.pairs.conform import Form
from realdpo.train.evaluate import plan
from realdpo.train.evaluate.benchmark import Item
from realdpo.train.evaluate.config import EvalConfig
from realdpo.train.evaluate.systems import System


def test_a_video_is_made_anew_for_another_version_seed_setting_or_dtype(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = GenerationSettings(64, 64, 9, 8.0, 4, 6.0)
    planned = plan.EvalPlan(
        Path("eval"), EvalConfig(dtype="float32"), (), (), settings, Form(64, 64, 9, Fraction(8))
    )
    system, item = System("base", "base", model="tiny"), Item("one", "A man walks.")

    def key(planned: plan.EvalPlan = planned) -> str:
        return plan._task(planned, system, item, 0).key

    first = key()
    assert key() == first
    config = planned.config
    others = [
        replace(planned, config=replace(config, seed=config.seed + 1)),
        replace(planned, config=replace(config, dtype="bfloat16")),
        replace(planned, settings=replace(settings, steps=5)),
    ]
    keys = {first, *map(key, others)}
    monkeypatch.setattr(plan, "VERSION", 99)
    keys.add(key())
    assert len(keys) == 5
