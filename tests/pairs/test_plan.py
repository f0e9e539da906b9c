"""Ids, seeds and strategies follow from what a pair is made of; shapes from the model's files."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import tiny_pipelines
from pair_workspace import fabricate

from realdpo import tables
from realdpo.errors import UserError
from realdpo.families import Spec, family_of
from realdpo.families.fingerprint import fingerprint_weights
from realdpo.families.load import locate_model
from realdpo.families.memory import OutOfMemory, choose_memory, memory_told, next_memory
from realdpo.families.spec import spec_of_folder
from realdpo.pairs.config import BuildConfig, parse_strategies
from realdpo.pairs.plan import plan_loser, plan_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipelines.save("cogvideox-5b", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, bikes):
    return fabricate(tmp_path_factory.mktemp("work"), bikes)


def ids_of(workspace, **changes) -> list[str]:
    return [task.pair_id for task in plan_pairs(workspace, BuildConfig(**changes)).tasks]


def test_a_setting_that_changes_the_videos_changes_every_id(workspace, model) -> None:
    base = {"model": str(model), "steps": 4}
    same = ids_of(workspace, **base)
    assert ids_of(workspace, **base, dtype="fp32", memory="none", losers=7) == same
    for change in (
        {"steps": 5},
        {"guidance": 1.0},
        {"seed": 1},
        {"round": 2},
        {"width": 48, "height": 48},
        {"roundtrip_win": False},
        {"strategies": {"renoise": 1.0}},
        {"negative_prompt": "blurry"},
        {"crf": 20},
        {"dtype": "bf16"},
        {"quantization": {"quant_backend": "bitsandbytes_4bit"}},
        {"call": {"attention_kwargs": {}}},
        {"scheduler": {"snr_shift_scale": 2.0}},
    ):
        assert not set(ids_of(workspace, **{**base, **change})) & set(same), change


def test_guidance_by_the_base_is_part_of_the_id(workspace, model, tmp_path) -> None:
    (tmp_path / "lora.safetensors").write_bytes(b"weights")
    base = {"model": str(model), "steps": 4, "lora": str(tmp_path / "lora.safetensors")}
    made = [set(ids_of(workspace, **base, guide=g)) for g in (1.0, 2.0, "negative")]
    assert len(set.union(*made)) == 3 * len(made[0])
    assert ids_of(workspace, **base, guide=0.0) == ids_of(workspace, **base)
    for wrong in ({"guide": -1.0}, {"guide": "positive"}):
        with pytest.raises(UserError, match="guide"):
            BuildConfig(**{**base, **wrong})
    with pytest.raises(UserError, match="only a fine-tuned system"):
        BuildConfig(model=str(model), guide=1.0)


def test_weights_are_part_of_the_id(workspace, tmp_path) -> None:
    folders = [
        tiny_pipelines.save("cogvideox-5b-i2v", tmp_path / str(seed) / "model", seed)
        for seed in (0, 0, 1)[1:]
    ]
    again = tiny_pipelines.save("cogvideox-5b-i2v", tmp_path / "again" / "model", 0)
    assert fingerprint_weights(folders[0]) == fingerprint_weights(again)
    assert fingerprint_weights(folders[0]) != fingerprint_weights(folders[1])
    assert ids_of(workspace, model=str(folders[0])) == ids_of(workspace, model=str(again))
    assert locate_model(str(again)).id == "model"  # not its path, which differs between machines


def test_losers_do_not_depend_on_how_many_there_are() -> None:
    few, many = BuildConfig(losers=2), BuildConfig(losers=9)
    assert [plan_loser("ab", k, few) for k in range(2)] == [
        plan_loser("ab", k, many) for k in range(2)
    ]
    assert len({plan_loser("ab", k, many).seed for k in range(9)}) == 9
    assert all(0 <= plan_loser("ab", k, many).seed < 2**63 for k in range(9))


def test_strategies_are_mixed_by_their_weights() -> None:
    config = BuildConfig(strategies=parse_strategies("generate=2,renoise=1,local"))
    made = [plan_loser("ab", k, config) for k in range(4000)]
    share = {s: sum(m.strategy == s for m in made) / 4000 for s in config.strategies}
    assert share == pytest.approx({"generate": 0.5, "renoise": 0.25, "local": 0.25}, abs=0.03)
    for one in made:
        if one.strategy == "renoise":
            assert 0.65 <= one.strength <= 0.8
        if one.region is not None:
            for low, high in (one.region.time, one.region.rows, one.region.columns):
                assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    ("name", "size_step", "frame_step"),
    [
        ("cogvideox-2b", 16, 8),
        ("cogvideox1.5-i2v", 16, 8),
        ("wan2.1-t2v", 16, 4),
        ("ltx-i2v", 32, 8),
        ("hunyuan-t2v", 16, 4),
        ("hunyuan-i2v", 16, 4),
        ("mochi-t2v", 16, 6),
    ],
)
def test_legal_shapes_come_from_the_models_own_files(tmp_path, name, size_step, frame_step) -> None:
    traits = family_of(spec_of_folder(tiny_pipelines.save(name, tmp_path))).traits
    assert (traits.size_step, traits.frame_step) == (size_step, frame_step)
    assert traits.task == ("i2v" if "i2v" in name else "t2v")
    assert traits.legal_frames(2 * frame_step) == frame_step + 1
    assert traits.legal_frames(frame_step) == 0
    assert traits.legal_size(100, 70) == (100 - 100 % size_step, 70 - 70 % size_step)
    with pytest.raises(UserError, match="multiples"):
        traits.check(size_step + 2, size_step, frame_step + 1)
    with pytest.raises(UserError, match="plus 1"):
        traits.check(size_step, size_step, frame_step)


def test_released_cogvideox_gets_its_own_shape() -> None:
    # config.json of THUDM/CogVideoX-5b-I2V, in what matters here
    spec = Spec(
        "CogVideoXImageToVideoPipeline",
        {
            "vae": {"block_out_channels": [128, 256, 256, 512], "temporal_compression_ratio": 4},
            "transformer": {
                "patch_size": 2,
                "sample_width": 90,
                "sample_height": 60,
                "sample_frames": 49,
                "patch_size_t": None,
                "use_learned_positional_embeddings": True,
            },
        },
    )
    traits = family_of(spec).traits
    assert (traits.width, traits.height, traits.frames, traits.fps) == (720, 480, 49, 8)
    assert (traits.steps, traits.guidance) == (50, 6.0)
    # its positions were learned: diffusers refuses every other size
    assert traits.legal_size(1280, 720) == (720, 480)
    assert traits.legal_size(704, 480) == (0, 0)
    with pytest.raises(UserError, match="cannot make 704x480") as caught:
        traits.check(704, 480, 49)
    assert caught.value.hint == "the only legal size is 720x480"


def test_clips_that_do_not_fit_say_why(workspace, model) -> None:
    with pytest.raises(UserError, match="fewer than the 16 needed"):
        plan_pairs(workspace, BuildConfig(model=str(model), fps=16.0))
    with pytest.raises(UserError, match="too small"):
        plan_pairs(workspace, BuildConfig(model=str(model), width=128))
    with pytest.raises(UserError, match="cannot make 50x64") as caught:
        plan_pairs(workspace, BuildConfig(model=str(model), width=50))
    assert caught.value.hint == "the nearest legal size is 48x64"


def test_a_model_that_is_no_video_pipeline_is_refused(workspace, tmp_path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="does not know|does not make video"):
        plan_pairs(workspace, BuildConfig(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losers": 0}, "losers=0"),
        ({"strategies": {"dream": 1.0}}, "no strategy 'dream'"),
        ({"strategies": {"local": 0.0}}, "at least one weight"),
        ({"strength": (0.9, 0.1)}, "low <= high"),
        ({"memory": "magic"}, "memory option 'magic'"),
        ({"dtype": "int8"}, "dtype='int8'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        BuildConfig(**changes)


def test_memory_options_follow_the_room_there_is() -> None:
    five_b = {"transformer": 11 << 30, "text_encoder": 9 << 30, "vae": 1 << 29}
    assert choose_memory(five_b, 79 << 30) == ()
    assert choose_memory(five_b, 31 << 30) == ("vae_tiling",)
    assert choose_memory(five_b, 23 << 30)[0] == "model_cpu_offload"
    assert choose_memory(five_b, 8 << 30)[0] == "sequential_cpu_offload"


def test_every_memory_option_is_tried_before_smaller_videos() -> None:
    tried, used = [], ()
    while (following := next_memory(used, "cuda:1")) is not None:
        used = tuple(following.split(","))
        tried.append(used[0])
        assert BuildConfig(memory=following).memory == following
    assert tried == ["vae_tiling", "model_cpu_offload", "sequential_cpu_offload"]
    # what `auto` may have chosen already
    assert next_memory(("vae_tiling",), "cuda:0").startswith("model_cpu_offload,")
    assert (
        next_memory(("model_cpu_offload",), "cuda:0") == "model_cpu_offload,vae_tiling,vae_slicing"
    )
    assert next_memory((), "cpu") == "vae_tiling,vae_slicing"
    assert next_memory(("vae_tiling",), "cpu") is None
    pipe = SimpleNamespace(memory_options=("vae_tiling",))
    ran_out = pytest.raises(OutOfMemory, match="^cpu ran out of memory with vae_tiling$")
    with ran_out as caught, memory_told(pipe, "cpu"):
        raise MemoryError
    assert "smaller videos" in str(caught.value.hint)
    with pytest.raises(RuntimeError, match="shapes differ"), memory_told(pipe, "cpu"):
        raise RuntimeError("shapes differ")


def test_the_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BuildConfig().losers = 2


def test_clips_without_a_prompt_give_no_pair_and_say_what_to_do(tmp_path, bikes, model) -> None:
    workspace = fabricate(tmp_path / "w", bikes, clips=2)
    rows = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    rows[0]["prompt"] = None
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    config = BuildConfig(model=str(model), losers=1, steps=1)
    unfit = [task.unfit for task in plan_pairs(workspace, config).tasks if task.unfit]
    assert unfit == ["the clip has no prompt"]
    rows[1]["prompt"] = None
    tables.write_table(workspace.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    with pytest.raises(UserError, match="none of the 2 clips has a prompt") as refused:
        plan_pairs(workspace, config)
    assert "curate caption" in str(refused.value.hint)
