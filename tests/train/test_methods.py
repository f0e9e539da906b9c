"""Every objective is one class: what it needs, its step, its held-out figure, its words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from realdpo.train.config import TrainConfig
from realdpo.train.held_out import Table
from realdpo.train.methods import METHODS

ROOT = Path(__file__).parents[2]


def test_the_objectives_that_can_be_chosen_are_those_that_there_are():
    assert sorted(get_args(get_type_hints(TrainConfig)["objective"])) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_card_can_say_what_was_trained(name):
    assert METHODS[name].card.count("{}") == 1
    assert METHODS[name].card.endswith(".")


def test_nothing_else_asks_which_objective_a_run_has():
    asks = re.compile(r"objective\s*(?:==|!=|in|not in)\s*[\"'(\[{]")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for room in ("curate", "pairs", "realdpo", "train")
        for path in sorted((ROOT / room).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asks.search(line)
    ]
    assert not found, "say it in train/methods.py: " + ", ".join(found)


@pytest.mark.parametrize("name", METHODS)
def test_a_policy_that_is_the_base_lowers_nothing_yet(name):
    """At the base the contrast is the plain error, and a preference costs ln 2."""
    config = TrainConfig(objective=name, held_out_levels=2, sft_weight=0.0)
    win = torch.tensor([[0.5, 0.25], [0.125, 0.25]], dtype=torch.float64)
    table = Table(win, win.unsqueeze(2) + 0.5, win + 1, torch.zeros_like(win))
    expected = torch.tensor([0.375, 0.1875], dtype=torch.float64)
    if name == "dpo":
        expected = torch.full((2,), 0.6931471805599453, dtype=torch.float64)
    torch.testing.assert_close(config.method.lowered(table, table), expected)
