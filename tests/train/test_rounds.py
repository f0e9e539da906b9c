"""Training on from earlier weights, and rounds of it: what is compared, stopped at, and kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pair_workspace
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from realdpo import cli, rounds, tables
from realdpo.errors import UserError
from realdpo.pairs.building import build_pairs
from realdpo.pairs.config import BuildConfig
from realdpo.rounds import Round, find_best, run_rounds
from realdpo.train import log, loop
from realdpo.train.config import TrainConfig


@pytest.fixture
def config(model) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        steps=2,
        rank=2,
        lr=1e-2,
        warmup=0,
        held_out_every=1,
        held_out_levels=2,
        data="pairs",
        policy_ema=0.0,
        schedule="constant",
        condition_draws=0,
        targets=("attention",),
    )


def adapters(folder):
    return load_file(folder / "weights" / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("reference", ["auto", "frozen"])
def test_a_run_goes_on_from_the_weights_of_another(fresh, config, weights, reference, said):
    config = replace(config, weights=weights, lr=1e-4 if weights == "full" else config.lr)
    first = loop.run_training(fresh, replace(config, name="first"))
    made = loop.run_training(
        fresh, replace(config, name="second", start="first", lr=1e-12, reference=reference)
    )
    # with a learning rate of next to nothing the second run hands over what it began with
    part = "pytorch_lora_weights.safetensors"
    part = part if weights == "lora" else "transformer/diffusion_pytorch_model.safetensors"
    then, now = load_file(first.weights / part), load_file(made.weights / part)
    assert then.keys() == now.keys()
    assert all(torch.allclose(then[n], now[n], atol=1e-6) for n in then)
    assert "training on from" in said()
    # what it begins with is what the first handed over, measured with the same reference
    rows = {row["step"]: row for row in log.read_log(first.folder / "held_out.jsonl")}
    handed_over = rows[int(first.handed_over.removeprefix("step-"))]
    began = log.read_log(made.folder / "held_out.jsonl")[0]
    assert began["winner_error"] == pytest.approx(handed_over["winner_error"], rel=1e-5)
    assert began["winner_change"] == pytest.approx(handed_over["winner_change"], abs=1e-5)
    if reference == "auto":  # the base: how far the first run moved counts
        assert began["contrast"] == pytest.approx(handed_over["contrast"], rel=1e-5)
        assert began["moved"] > 0
    else:  # the reference is what the run began with, so nothing has moved yet
        assert began["moved"] == pytest.approx(0, abs=1e-12)
        assert began["contrast"] == pytest.approx(began["winner_error"])
    assert made.better_than_start is not None
    assert (made.better_than_base is None) == (reference == "frozen")


def test_a_run_that_trains_on_resumes_as_if_never_stopped(fresh, config):
    loop.run_training(fresh, replace(config, name="first", steps=1))
    whole = replace(config, start="first", steps=3, checkpoint_every=1, policy_ema=0.9)
    made = loop.run_training(fresh, replace(whole, name="whole"))
    loop.run_training(fresh, replace(whole, name="parts", steps=1))
    parts = loop.run_training(fresh, replace(whole, name="parts"))
    one, other = adapters(made.folder), adapters(parts.folder)
    assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "nobody"}, "start = nobody is neither a run nor a folder"),
        ({"start": "first", "rank": 4}, "was trained with rank 2, and this run has 4"),
        ({"start": "first", "alpha": 4.0}, "was trained with alpha 32, and this run has 4"),
        ({"start": "first", "targets": ("attention", "feed-forward")}, "it lacks"),
        ({"start": "first", "weights": "full"}, "holds no diffusion_pytorch_model.safetensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(fresh, config, change, message):
    loop.run_training(fresh, replace(config, name="first", steps=1))
    with pytest.raises(UserError, match=message):
        loop.run_training(fresh, replace(config, name="second", steps=1, **change))


def test_rounds_go_on_each_from_the_last_and_are_made_once(fresh, config, said):
    made = run_rounds(fresh, config, 2, prompts=0, keep_going=True)
    names = ["contrast-round-1", "contrast-round-2"]
    assert [r["run"] for r in made["rounds"]] == names
    assert [r["start"] for r in made["rounds"]] == ["", names[0]]
    assert made["rounds"][1]["before"] == pytest.approx(made["rounds"][0]["after"], rel=1e-5)
    written = [(fresh.runs / n / "summary.json").stat().st_mtime_ns for n in names]
    again = run_rounds(fresh, config, 2, prompts=0, keep_going=True)
    assert again == made
    assert [(fresh.runs / n / "summary.json").stat().st_mtime_ns for n in names] == written
    page = (fresh.reports / "rounds-contrast.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)
    with pytest.raises(UserError, match="was started with lr"):
        run_rounds(fresh, replace(config, lr=5e-3), 1, prompts=0)


def test_a_round_that_does_not_help_is_the_last(fresh, config):
    wild = replace(config, lr=3.0, clip=100.0)
    made = run_rounds(fresh, wild, 5, prompts=0)
    helped = [done["helped"] for done in made["rounds"]]
    assert len(helped) < 5
    assert helped == [True] * (len(helped) - 1) + [False]
    assert made["best"] == (f"contrast-round-{len(helped) - 1}" if len(helped) > 1 else "")


@pytest.mark.slow
def test_the_last_rounds_model_makes_the_losers_of_the_next(tmp_path, model, bikes, said):
    work = pair_workspace.fabricate(tmp_path / "work", bikes, clips=4)
    made_by = lambda: {
        (row["round"], row["lora"])
        for row in tables.read_table(work.pairs, tables.PAIRS).to_pylist()
    }
    settings = TrainConfig(
        model=str(model),
        objective="dpo",
        steps=1,
        rank=2,
        lr=1e-3,
        warmup=0,
        held_out_levels=1,
        policy_ema=0.0,
        condition_draws=0,
        targets=("attention",),
    )
    with pytest.raises(UserError, match="no pairs for training"):
        run_rounds(work, settings, 2, prompts=0, keep_going=True)
    build_pairs(work, BuildConfig(model=str(model), losers=1, steps=1), devices="cpu")
    assert {number for number, _ in made_by()} == {1}
    made = run_rounds(work, settings, 2, prompts=0, keep_going=True)
    assert [done["run"] for done in made["rounds"]] == ["dpo-round-1", "dpo-round-2"]
    ((number, lora),) = made_by()
    assert (number, bool(lora)) == (2, True)
    files = {path: path.stat().st_mtime_ns for path in (work.root / "pairs").rglob("*.mp4")}
    assert run_rounds(work, settings, 2, prompts=0, keep_going=True) == made
    assert {p: p.stat().st_mtime_ns for p in (work.root / "pairs").rglob("*.mp4")} == files
    with pytest.raises(UserError, match="need adapters"):
        run_rounds(work, replace(settings, weights="full"), 2)


def test_a_reference_that_follows_is_warned_of(fresh, config, said):
    run_rounds(fresh, config, 1, prompts=0, against="last")
    assert "ruined the motion" in said()


def test_a_gain_far_below_the_first_is_no_help(fresh, config):
    made = run_rounds(fresh, config, 1, prompts=0)
    first = made["rounds"][0]
    assert first["helped"] is True
    # the second round of a rate of next to nothing lowers a little, surely, and to no avail
    slow = replace(config, name="contrast-round-2", start="contrast-round-1", lr=1e-9)
    loop.run_training(fresh, slow)
    second = rounds._judge(fresh, slow, 2, Round(**{**first, "change": tuple(first["change"])}))
    assert abs(second.change[0]) < 0.01 * abs(first["change"][0])
    assert second.helped is False


def round_of(number, helped, mean=-1.0):
    return Round(number, f"r{number}", "", 1, 1.0, 1.0 + mean, (mean, -2, 2), helped, 0.0, None)


def test_the_best_is_the_last_that_helped_in_a_row():
    assert find_best([round_of(1, True), round_of(2, True), round_of(3, False)]) == "r2"
    assert find_best([round_of(1, True), round_of(2, False), round_of(3, True)]) == "r1"
    assert find_best([round_of(1, False)]) == ""
    assert find_best([round_of(1, None), round_of(2, None, 0.1)]) == "r1"  # too few to tell
    nothing = Round(1, "r1", "", 1, None, None, None, None, None, None)
    assert find_best([nothing]) == ""


def test_too_few_clips_give_no_verdict(fresh, config):
    run_rounds(fresh, replace(config, held_out_pairs=2), 1, prompts=0)
    (done,) = json.loads((fresh.root / "rounds/contrast/rounds.json").read_text())["rounds"]
    assert done["helped"] is None
    assert math.isinf(done["change"][2])
    page = (fresh.reports / "rounds-contrast.html").read_text(encoding="utf-8")
    assert "Too few clips were held out to tell" in page
    assert "Use contrast-round-1." not in page


def test_the_command_says_what_is_best_and_what_is_wrong(fresh, config, monkeypatch):
    monkeypatch.setattr(rounds, "_train", lambda *a: (_ for _ in ()).throw(UserError("no")))
    run = CliRunner().invoke
    wrong = run(cli.app, ["rounds", "2", "-w", str(fresh.root), "--reference", "bse"])
    assert wrong.exit_code == 2  # of the command line itself, with the choices
    wrong = run(cli.app, ["rounds", "0", "-w", str(fresh.root)])
    assert wrong.exit_code == 1
