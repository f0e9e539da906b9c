"""LoRA files of common tools are loaded, or refused in one plain line."""

from __future__ import annotations

import shutil

import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file, save_file

from realdpo.errors import UserError
from realdpo.families import family_of, load
from realdpo.families.weights import LORA_FILE, add_lora, load_lora, save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.save("wan2.2-t2v", tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Folders of a LoRA of each expert, alpha 8 at rank 4, whose factors are both not zero."""
    made = {}
    for expert in ("high", "low"):
        spec = load.read_spec(str(folder), expert=expert)
        model = load.load_transformer(spec, torch.float32)
        add_lora(model, 4, 8.0, 0.0, family_of(spec).TARGETS)
        weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for parameter in weights.values():
                parameter.normal_(std=0.1)
        made[expert] = tmp_path_factory.mktemp(expert)
        save_weights(weights, model, spec, made[expert])
    return made


@pytest.mark.parametrize("part", ["vae", "transformer"])
@pytest.mark.parametrize("left", ["nothing", "a pickle", "half a file"])
def test_weights_that_are_missing_or_pickled_are_one_line(folder, tmp_path, part, left):
    """A pickle can run anybody's code when it is read: it is never fallen back on."""
    shutil.copytree(folder, tmp_path / "model")
    (file,) = (tmp_path / "model" / part).glob("*.safetensors")
    weights = load_file(file)
    if left == "half a file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    if left == "a pickle":
        torch.save(weights, file.with_suffix(".bin"))
    spec = load.read_spec(str(tmp_path / "model"))
    loaders = {
        "vae": lambda: load.load_encoders(spec, torch.float32, torch.device("cpu")),
        "transformer": lambda: load.load_transformer(spec, torch.float32),
    }
    for work in (loaders[part], lambda: load.load_pipeline(str(tmp_path / "model"))):
        with pytest.raises(UserError, match="cannot load the model") as refused:
            work()
        assert "safetensors" in str(refused.value.hint)


def products(model) -> dict[str, torch.Tensor]:
    """scale * B @ A of every adapted layer: what a LoRA adds to it."""
    return {
        name: module.scaling["round"]
        * (module.lora_B["round"].weight @ module.lora_A["round"].weight).detach()
        for name, module in model.named_modules()
        if getattr(module, "lora_A", None) and "round" in module.lora_A
    }


def assert_same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    assert found
    for name, product in wanted.items():
        torch.testing.assert_close(found[name], product)


@pytest.mark.parametrize(("expert", "other"), [("low", "transformer"), ("high", "transformer_2")])
def test_a_lora_goes_into_the_transformer_it_was_trained_for(folder, trained, expert, other):
    pipe = load.load_pipeline(str(folder), lora=str(trained[expert]))
    component = {"high": "transformer", "low": "transformer_2"}[expert]
    assert len(products(getattr(pipe, component))) == 16
    assert not products(getattr(pipe, other))


def test_both_experts_are_loaded_by_one_argument_and_twice_the_same_is_refused(folder, trained):
    pipe = load.load_pipeline(str(folder))
    assert load_lora(pipe, f"{trained['high']},{trained['low']}") == {
        "transformer": 16,
        "transformer_2": 16,
    }
    again = load.load_pipeline(str(folder))
    with pytest.raises(UserError, match="two files of .* are for transformer$"):
        load_lora(again, f"{trained['high']},{trained['high']}")


def peft_names(layers):
    return {f"base_model.model.{n.removeprefix('transformer.')}": t for n, t in layers.items()}


def bare_names(layers):
    return {n.removeprefix("transformer."): t for n, t in layers.items()}


def kohya_of_diffusers(layers):
    made = {}
    for name, tensor in layers.items():
        stem, _, factor = name.removeprefix("transformer.").partition(".lora_")
        key = "lora_unet_" + stem.replace(".", "_")
        made[f"{key}.lora_{'down' if factor.startswith('A') else 'up'}.weight"] = tensor
        made[f"{key}.alpha"] = torch.tensor(8.0)
    return made


def comfy_of_wan(layers):
    made = {}
    for name, tensor in layers.items():
        stem, _, factor = name.removeprefix("transformer.").partition(".lora_")
        stem = stem.replace("attn1.to_", "self_attn.").replace("attn2.to_", "cross_attn.")
        stem = stem.replace("out.0", "o")
        made[f"diffusion_model.{stem}.lora_{factor}"] = tensor
        made[f"diffusion_model.{stem}.alpha"] = torch.tensor(8.0)
    return made


@pytest.mark.parametrize("rename", [peft_names, bare_names, kohya_of_diffusers, comfy_of_wan])
def test_names_of_other_tools_give_the_same_lora(folder, trained, tmp_path, rename):
    own = load.load_pipeline(str(folder), lora=str(trained["high"]))
    layers = load_file(trained["high"] / LORA_FILE)
    file = tmp_path / "walk_high_noise.safetensors"
    foreign = {k: t.clone() for k, t in rename(layers).items()}
    scaled = any(key.endswith("alpha") for key in foreign)
    if not scaled:  # these carry no alpha: it is in the second factor
        foreign = {k: t * 2 if "lora_B" in k else t for k, t in foreign.items()}
    save_file(foreign, file)
    pipe = load.load_pipeline(str(folder), lora=str(file))
    assert_same(products(pipe.transformer), products(own.transformer))


def spoil(layers, tmp_path, name="x_high_noise.safetensors", **changes):
    file = tmp_path / name
    save_file({k: t.clone() for k, t in layers.items()}, file, **changes)
    return str(file)


def test_what_does_not_fit_is_refused_in_one_line(folder, trained, tmp_path):
    pipe = load.load_pipeline(str(folder))
    layers = load_file(trained["high"] / LORA_FILE)
    first = next(iter(layers))
    cases = {
        "has other shapes|have other shapes": {**layers, first: layers[first][:, :-1].contiguous()},
        "lack one of their two factors": {k: t for k, t in layers.items() if k != first},
        "1 of 17 layers are not in this model": {
            **layers,
            "transformer.blocks.99.attn1.to_q.lora_A.weight": torch.zeros(4, 24),
            "transformer.blocks.99.attn1.to_q.lora_B.weight": torch.zeros(24, 4),
        },
        "is not plain LoRA": {
            **layers,
            "transformer.blocks.0.attn1.to_q.dora_scale": torch.ones(1),
        },
        "changes the text encoder": {**layers, "text_encoder.q.lora_A.weight": torch.ones(1, 1)},
        "do not fit": {"some.layer.lora_A.weight": torch.ones(1, 1)},
    }
    for words, spoilt in cases.items():
        with pytest.raises(UserError, match=words):
            load_lora(pipe, spoil(spoilt, tmp_path))
    with pytest.raises(UserError, match="does not say for which of the two transformers"):
        load_lora(pipe, spoil(layers, tmp_path, "x.safetensors"))
    (tmp_path / "damaged_high_noise.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged_high_noise"):
        load_lora(pipe, str(tmp_path / "damaged_high_noise.safetensors"))
    one = load.load_pipeline(str(tiny_pipelines.save("wan2.1-t2v", tmp_path / "one")))
    with pytest.raises(UserError, match="is for transformer_2, and this WanPipeline has no such"):
        load_lora(one, str(trained["low"]))
    with pytest.raises(UserError, match="it holds no safetensors file"):
        (tmp_path / "empty").mkdir()
        load_lora(pipe, str(tmp_path / "empty"))
