"""A local loser's loss looks at the region that was made anew, and at nothing else."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import shards
import torch

from realdpo import tables
from realdpo.regions import Region
from realdpo.train import checkpoint, draws, latents, objective, step
from realdpo.train.config import TrainConfig
from realdpo.train.loop import Trainer

HERE = Region((0.5, 1.0), (0.0, 0.5), (0.25, 0.75))
ELSEWHERE = Region((0.0, 1.0), (0.5, 1.0), (0.5, 1.0))


def local(root, regions):
    """A workspace whose pairs' losers were made anew in these regions."""
    made = shards.workspace(root, train=1, validation=1)
    for path in made.pair_data.glob("*.parquet"):
        rows = tables.read_table(path, tables.PAIR_SHARD).to_pylist()
        told = [r and {n: list(v) for n, v in vars(r).items()} for r in regions]
        rows = [{**row, "regions": told} for row in rows]
        tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, rows), tables.PAIR_SHARD)
    return made


@pytest.fixture
def config(model):
    return TrainConfig(
        objective="dpo", model=str(model), steps=2, rank=2, checkpoint_every=2, held_out_levels=1
    )


def test_a_region_lies_where_its_shares_say() -> None:
    assert HERE.spans(4, 8, 8) == (slice(2, 4), slice(0, 4), slice(2, 6))
    assert Region((0.99, 1.0), (0, 0.01), (0, 1)).spans(3, 4, 4)[:2] == (slice(2, 3), slice(0, 1))


def test_an_error_within_a_region_is_the_mean_over_it() -> None:
    random = torch.Generator().manual_seed(0)
    given, wanted = torch.randn(2, 2, 3, 4, 5, 5, generator=random).unbind(0)
    where = torch.zeros(2, 1, 4, 5, 5)
    where[0, :, 2:, :2, 1:3], where[1] = 1.0, 1.0
    found = objective.error(given, wanted, where=where)
    expected = [
        (given - wanted)[0, :, 2:, :2, 1:3].square().mean(),
        (given - wanted)[1].square().mean(),
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_region_travels_from_the_shard_to_the_loss(tmp_path, config) -> None:
    trainer = Trainer(local(tmp_path, [HERE, HERE]), config)
    batch = trainer.batch(0)
    assert batch.regions == (HERE,)
    whole = replace(batch, regions=())
    for clean in (batch.win, batch.lose[:, 0]):
        found, _ = step.branch_error(trainer.model, trainer.task, batch, clean)
        _, residual = step.branch_error(trainer.model, trainer.task, whole, clean)
        frames, rows, columns = HERE.spans(residual.shape[1], *residual.shape[3:])
        inside = residual[:, frames, :, rows, columns]  # CogVideoX keeps frames before channels
        assert inside[0].numel() < residual[0].numel() / 4
        torch.testing.assert_close(found, inside.square().flatten(1).mean(1))
    plain = step.sft_step(trainer.model, trainer.task, batch, lambda loss: loss.backward())
    with torch.no_grad():
        error, _ = step.branch_error(trainer.model, trainer.task, whole, batch.win)
    assert plain.loss == pytest.approx(float(error))


@pytest.mark.parametrize(
    ("regions", "expected"),
    [((HERE, HERE), HERE), ((HERE, ELSEWHERE), None), ((HERE, None), None), ((), None)],
)
def test_losers_of_other_regions_are_compared_as_a_whole(regions, expected) -> None:
    latent = torch.zeros(3, 4, 5, 5)
    sample = latents.Sample(latent, latent.expand(2, *latent.shape), {}, {}, regions)
    batch = draws.collate_samples([(sample, draws.Choice((0, 1), 0, 0.5, latent))])
    assert batch.regions == ((expected,) if expected else ())


def test_shards_without_regions_are_still_read(tmp_path, config) -> None:
    made = shards.workspace(tmp_path, train=1, validation=1)
    for path in made.pair_data.glob("*.parquet"):
        old = pq.read_table(path).drop_columns(["regions"])
        metadata = {**old.schema.metadata, tables.VERSION_KEY: b"1"}
        pq.write_table(old.replace_schema_metadata(metadata), path)
    assert Trainer(made, config).batch(0).regions == ()


def test_a_region_gives_the_same_gradient_together_and_one_by_one(tmp_path, config) -> None:
    made = local(tmp_path, [HERE, HERE])
    grads = []
    for rung in ("side-by-side", "one-by-one"):
        changed = replace(config, memory=rung, name=rung, sdpo_mu=0.5)
        trainer = Trainer(made, changed)
        with torch.no_grad():
            for name, p in checkpoint.trained_parameters(trainer.inner):
                if "lora_B" in name:
                    p.normal_(generator=torch.Generator().manual_seed(1))
        trainer._backward(trainer.batch(0))
        grads.append({n: p.grad for n, p in checkpoint.trained_parameters(trainer.inner)})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-6)
        assert grad.abs().max() > 0
