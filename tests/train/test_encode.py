"""Encoding: shared out, resumable, read back from what is known, and broken files named."""

from __future__ import annotations

import json
import threading

import pytest
import shards
import torch

from realdpo import tables
from realdpo.errors import UserError
from realdpo.families import load as loading
from realdpo.media import decode
from realdpo.train import latents
from realdpo.train.config import TrainConfig

CPU = torch.device("cpu")


@pytest.fixture
def made(tmp_path):
    return shards.workspace(tmp_path, train=3, validation=1, losers=1)


@pytest.fixture
def config(model) -> TrainConfig:
    return TrainConfig(model=str(model), condition_draws=0)


@pytest.fixture
def spec(model):
    return loading.read_spec(str(model))


def refuse_loading(*_):
    raise AssertionError("encoders were loaded although everything is encoded")


def test_shares_wait_for_each_other_without_a_collective(made, config, spec, monkeypatch):
    """Two that begin together get all pairs; afterwards no encoder is loaded and no video read."""
    monkeypatch.setattr(latents, "_POLL_SECONDS", 0.01)
    found = {}

    def work(k):
        found[k] = latents.prepare_pairs(made, spec, config, CPU, share=(k, 2))

    latents.encode_pairs(made, spec, config, CPU, latents.rows_of(made, config), (0, 2))
    first = threading.Thread(target=work, args=(0,))  # waits; loading is not for two threads
    first.start()
    work(1)
    first.join()
    assert found[0] == found[1]
    assert [len(found[0][split]) for split in ("train", "validation")] == [3, 1]
    assert len({pair.pair_id for pairs in found[0].values() for pair in pairs}) == 4
    monkeypatch.setattr(loading, "load_encoders", refuse_loading)
    monkeypatch.setattr(decode, "read_clip", refuse_loading)
    assert latents.prepare_pairs(made, spec, config, CPU) == found[0]


def test_a_share_encodes_its_own_rows_only(made, config, spec):
    rows = latents.rows_of(made, config)
    cache = latents.encode_pairs(made, spec, config, CPU, rows, (1, 2))
    assert [cache.known(row) is not None for row in rows] == [False, True, False, True]


def test_a_damaged_latent_is_made_again(made, config, spec, said):
    pair = latents.prepare_pairs(made, spec, config, CPU)["train"][0]
    whole = pair.win.read_bytes()
    pair.win.write_bytes(whole[:-7])
    with pytest.raises(UserError, match=rf"pair {pair.pair_id}.*{pair.win.name} cannot be read"):
        latents.load_sample(pair)
    latents.prepare_pairs(made, spec, config, CPU)
    assert f"{pair.win} is damaged; it is made again" in said()
    assert pair.win.read_bytes() == whole


def test_a_broken_video_is_named_with_its_pair(made, config, spec):
    path = next(made.pair_data.glob("train-*"))
    rows = tables.read_table(path, tables.PAIR_SHARD).to_pylist()
    rows[1]["lose"][0]["bytes"] = b"rubbish" * 300
    tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, rows), tables.PAIR_SHARD)
    with pytest.raises(UserError, match=rf"pair {rows[1]['pair_id']}: loser 0") as caught:
        latents.prepare_pairs(made, spec, config, CPU)
    assert caught.value.hint


def test_a_changed_shard_is_read_anew(made, config, spec):
    before = latents.prepare_pairs(made, spec, config, CPU)["train"]
    path = next(made.pair_data.glob("train-*"))
    rows = tables.read_table(path, tables.PAIR_SHARD).to_pylist()
    rows[0]["prompt"] = "a person running"
    tables.write_table(path, tables.from_rows(tables.PAIR_SHARD, rows), tables.PAIR_SHARD)
    after = latents.prepare_pairs(made, spec, config, CPU)["train"]
    assert after[0].prompt == "a person running"
    assert after[0].inputs[0] != before[0].inputs[0]
    assert after[0].win == before[0].win


def test_on_a_gpu_latents_are_kept_in_bfloat16_and_widened_when_read(made, config, spec):
    cache = latents.Cache(made.step("latents"), latents.trainable_family(spec), config, CPU)
    cache.dtype = torch.bfloat16
    kept = cache._narrow(torch.tensor([1.0, 1e-3]))
    assert kept.dtype == torch.bfloat16
    assert cache._narrow(torch.tensor([1])).dtype == torch.int64
    assert latents._widened(kept).dtype == torch.float32


def test_the_text_encoders_leave_before_the_vae_comes(made, config, spec, monkeypatch):
    """Where each part is, at every use: never text encoder and VAE on the device together."""
    cache = latents.Cache(made.step("latents"), latents.trainable_family(spec), config, CPU)
    _, row = next(latents._read_rows(latents.rows_of(made, config)))
    cache.prompt(row)
    assert cache._pipe is not None
    assert cache._pipe.vae is None  # kept apart, on the CPU
    cache.drop_text()
    cache.pair(row)
    assert cache._pipe is None


def test_what_is_known_is_json(made, config, spec):
    latents.prepare_pairs(made, spec, config, CPU)
    known = sorted((made.step("latents") / "pairs").glob("*.json"))
    assert len(known) == 4
    assert {"pair_id", "win", "lose", "sizes"} <= json.loads(known[0].read_text()).keys()
