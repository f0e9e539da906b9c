"""What may differ when a run goes on, what is refused, and that a failed start binds nobody."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from realdpo import tables
from realdpo.errors import UserError
from realdpo.train import draws, identity, latents, log, loop, stops
from realdpo.train.config import TrainConfig, read_stored
from realdpo.train.loop import Trainer


@pytest.fixture
def config(model) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        objective="dpo",
        steps=1,
        rank=2,
        warmup=0,
        held_out_levels=1,
        held_out_pairs=1,
        condition_draws=0,
        schedule="constant",
    )


def rewrite(workspace, split, change):
    """The rows of a shard after `change` (rows -> rows)."""
    path = next(workspace.pair_data.glob(f"{split}-*"))
    rows = change(tables.read_table(path, tables.PAIR_SHARD).to_pylist())
    tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, rows), tables.PAIR_SHARD)


@pytest.fixture
def own(work, tmp_path):
    """A workspace whose pairs may be changed, with the shared latents."""
    from realdpo.workspace import Workspace

    shutil.copytree(work.root / "pairs", tmp_path / "pairs")
    (tmp_path / "steps").symlink_to(work.root / "steps", target_is_directory=True)
    return Workspace(tmp_path)


def test_a_start_that_fails_binds_nobody_to_its_settings(fresh, config, monkeypatch):
    def fails(*_):
        raise UserError("no start")

    monkeypatch.setattr(stops, "reference_apart", fails)
    with pytest.raises(UserError, match="no start"):
        loop.run_training(fresh, replace(config, rank=4))
    monkeypatch.undo()
    assert loop.run_training(fresh, config).steps == 1


def test_what_changes_nothing_learnt_may_change(fresh, config, model):
    loop.run_training(fresh, replace(config, batch=2))
    linked = fresh.root / "the same model"
    linked.symlink_to(model)
    other = replace(
        config, steps=2, model=str(linked), memory="one-by-one", batch=1, accumulation=2
    )
    assert loop.run_training(fresh, other).steps == 2


def test_another_base_or_other_pairs_are_refused(own, config, model, tmp_path):
    loop.run_training(own, config)
    with pytest.raises(UserError, match=r"took 1 pairs per step .* take 2"):
        loop.run_training(own, replace(config, steps=2, accumulation=2))

    other = tmp_path / "other"
    shutil.copytree(model, other)
    weights = next((other / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="started on weights that differ"):
        loop.run_training(own, replace(config, steps=2, model=str(other)))

    rewrite(own, "train", lambda rows: rows[1:])
    with pytest.raises(UserError, match="started on 4 pairs, and the workspace now has 3"):
        loop.run_training(own, replace(config, steps=2))
    rewrite(own, "train", lambda rows: [{**row, "pair_id": row["pair_id"][::-1]} for row in rows])
    with pytest.raises(UserError, match="started on 4 pairs"):
        loop.run_training(own, replace(config, steps=2))


def test_other_held_out_pairs_are_refused(own, config):
    loop.run_training(own, config)
    rewrite(own, "validation", lambda rows: rows[::-1])
    with pytest.raises(
        UserError, match="1 held-out pairs, and the workspace now has as many others"
    ):
        loop.run_training(own, replace(config, steps=2))


def test_every_pair_brings_its_own_losers(own, config, said):
    rewrite(own, "train", lambda rows: [{**rows[0], "lose": rows[0]["lose"][:1]}, *rows[1:]])
    trainer = Trainer(own, config)
    assert "1 of 4 pairs have fewer than 2 losers" in said()
    trainer.start_or_resume()
    used = {trainer.batch(micro).lose.shape[1] for micro in range(4)}
    assert used == {1, 2}
    trainer.config = replace(config, accumulation=4)
    values = trainer.train_step()  # ragged numbers are averaged pair by pair
    assert values["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)
    Trainer(own, replace(config, batch=2, name="two"))
    assert "every step uses 1" in said()
    even = draws.make_batch(trainer.pairs, range(2), replace(config, batch=2))
    assert even.lose.shape[1] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "t2v"}, "is of the task t2v"),
        ({"model": "THUDM/CogVideoX-2b"}, "has losers of the model THUDM/CogVideoX-2b"),
    ],
)
def test_pairs_of_another_task_or_model_are_refused_unless_insisted(own, config, change, words):
    rewrite(own, "train", lambda rows: [rows[0], {**rows[1], **change}])
    with pytest.raises(UserError, match=rf"{words}.*\(1 of 5 pairs\)"):
        loop.run_training(own, config)
    from realdpo.families import load

    spec = load.read_spec(config.model)
    latents.refuse_other_model(own, spec, replace(config, allow_other_model=True))
    if "model" in change:  # plain training learns nothing from losers
        latents.refuse_other_model(own, spec, replace(config, objective="sft"))


def test_logs_are_json_everywhere_and_trackers_know_the_run(tmp_path):
    asked = {}

    class Accelerator:
        def init_trackers(self, *names, **keys):
            asked.update(keys, names=names)

        def log(self, *_, **__): ...

    written = log.Log(tmp_path / "one", 0, True, Accelerator(), TrainConfig(name="one"))
    written.step({"step": 1, "loss": 0.5, "grad_norm": math.inf})
    strict = lambda name: pytest.fail(f"{name} is no JSON")
    text = (tmp_path / "one" / "log.jsonl").read_text()
    assert json.loads(text, parse_constant=strict)["grad_norm"] is None
    assert math.isnan(log.read_log(tmp_path / "one" / "log.jsonl")[0]["grad_norm"])
    assert asked["init_kwargs"]["wandb"]["name"] == "one"
    assert asked["init_kwargs"]["wandb"]["resume"] == "allow"
    assert asked["config"]["beta"] == TrainConfig().beta
    assert all(isinstance(v, (int, float, str, bool)) for v in asked["config"].values())


def test_a_digest_sees_ids_order_and_losers(tmp_path):
    pair = latents.Pair("a", "c", "s", "p", 8.0, Path("w"), (Path("l"),), (), (1,), (8, 8, 9), None)
    other = replace(pair, pair_id="b")
    known = identity.digest_pairs([pair, other])
    assert identity.digest_pairs([pair, other]) == known
    assert identity.digest_pairs([other, pair]) != known
    assert identity.digest_pairs([replace(pair, lose=()), other]) != known


def test_a_run_of_an_earlier_version_goes_on_with_settings_that_are_gone(tmp_path):
    then = {"model": "tiny", "loss": "sigmoid", "weighting": "uniform", "timestep_bins": 8}
    assert read_stored(then, "config.toml") == TrainConfig(model="tiny")
    with pytest.raises(UserError, match="hinge|loss"):
        read_stored({**then, "loss": "hinge"}, "config.toml")
