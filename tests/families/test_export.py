"""An exported LoRA is the same LoRA by other names: back through diffusers' own converters."""

from __future__ import annotations

import json

import pytest
import tiny_pipelines
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from test_weights_files import assert_same, products
from typer.testing import CliRunner

from realdpo import config as configs
from realdpo.cli import app
from realdpo.families import family_of, load
from realdpo.families.weights import add_lora, save_weights
from realdpo.train.config import TrainConfig
from realdpo.workspace import Workspace

# what is trained: all that kohya's converter in diffusers wants of Wan; half of Hunyuan's fused
TARGETS = {
    "wan2.1-i2v": (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_k_proj",
        "add_v_proj",
        "ffn.net.0.proj",
        "ffn.net.2",
    ),
    "wan2.2-t2v": ("to_q", "to_k", "to_v", "to_out.0"),
    "skyreels-t2v": ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
    "ltx-t2v": ("to_q", "to_k", "to_v", "to_out.0"),
    "ltx2-t2v": ("attn1.to_q", "attn2.to_out.0", "ff.net.2", "proj_in"),
    "hunyuan15-t2v": ("to_q", "to_v", "add_k_proj", "to_out.0", "net.0.proj", "net.2"),
    "mochi-t2v": ("to_q", "to_v", "to_out.0", "net.0.proj", "net.2"),
    "cosmos2.5-t2v": ("attn1.to_q", "attn2.to_k", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"),
    "hunyuan-t2v": ("to_q", "to_v", "add_k_proj", "to_out.0"),
    "kandinsky5-t2v": (
        "to_query",
        "to_value",
        "cross_attention.out_layer",
        "feed_forward.in_layer",
    ),
}


@pytest.fixture(scope="module", params=TARGETS)
def run(request, tmp_path_factory):
    """A workspace whose run `walk` holds a LoRA of random numbers, rank 4, alpha 6."""
    root = tmp_path_factory.mktemp("export")
    folder = tiny_pipelines.save(request.param, root / "model")
    place = Workspace(root / "w")
    spec = load.read_spec(str(folder))
    model = load.load_transformer(spec, torch.float32)
    add_lora(model, 4, 6.0, 0.0, TARGETS[request.param])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(std=0.1)
    save_weights(trained, model, spec, place.runs / "walk" / "weights")
    settings = TrainConfig(model=str(folder), name="walk")
    (place.runs / "walk" / "config.toml").write_text(configs.settings_to_toml("train", settings))
    wanted = products(
        load.load_pipeline(str(folder), lora=str(place.runs / "walk/weights")).transformer
    )
    return request.param, folder, place, wanted


def export(place: Workspace, format_: str) -> str:
    result = CliRunner().invoke(
        app,
        [
            "export-lora",
            "walk",
            "-w",
            str(place.root),
            "--format",
            format_,
            "--dtype",
            "float32",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["file"]


# diffusers' own conversion of a whole checkpoint in the authors' layout
CONVERSIONS = {
    "mochi-t2v": "convert_mochi_transformer_checkpoint_to_diffusers",
    "cosmos2.5-t2v": "convert_cosmos_transformer_checkpoint_to_diffusers",
    "ltx2-t2v": "convert_ltx2_transformer_to_diffusers",
    "wan2.1-i2v": "convert_wan_transformer_to_diffusers",
}


class Checkpoint(dict):
    """Weights in the authors' layout of which a few are known; the others are zeros."""

    def pop(self, key: str, *default):
        return super().pop(key, torch.zeros(6, 1))


def test_what_an_export_adds_is_what_diffusers_makes_of_the_authors_layout(run):
    """B A of every exported layer, put through the conversion, is B A of the trained one."""
    name, _, place, wanted = run
    if name not in CONVERSIONS:
        pytest.skip("diffusers has no conversion of this layout, or its loader is the test")
    layers = load_file(export(place, "comfyui"))
    added = Checkpoint(
        {
            key.removeprefix("diffusion_model.").replace(".lora_A", ""): layers[
                key.replace("lora_A", "lora_B")
            ]
            @ down
            for key, down in layers.items()
            if ".lora_A." in key
        }
    )
    found = getattr(single_file_utils, CONVERSIONS[name])(added)
    for module, product in wanted.items():
        torch.testing.assert_close(found[f"{module}.weight"], product)


def nonzero(made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what only fills a fused module up."""
    return {name: product for name, product in made.items() if product.abs().max() > 0}


@pytest.mark.parametrize("format_", ["diffusers", "comfyui", "kohya"])
def test_an_exported_lora_is_loaded_as_what_it_was(run, format_):
    name, folder, place, wanted = run
    file = export(place, format_)
    ours = load.load_pipeline(str(folder), lora=file)
    assert_same(nonzero(products(ours.transformer)), wanted)
    # diffusers' converter of kohya's names takes Wan alone, and only with every layer trained;
    # that of Hunyuan's single blocks holds the released model's width as a constant; Kandinsky has none
    whole = name in ("wan2.1-i2v", "skyreels-t2v")
    unread = ("kandinsky5-t2v", "hunyuan15-t2v", "mochi-t2v", "cosmos2.5-t2v")
    other = name in unread and (format_ != "diffusers" or name == "hunyuan15-t2v")
    if (format_ == "kohya" and not whole) or name == "hunyuan-t2v" or other:
        return
    theirs = load.load_pipeline(str(folder))
    theirs.load_lora_weights(file, adapter_name="round")
    assert_same(nonzero(products(theirs.transformer)), wanted)


def test_diffusers_reads_hunyuans_fused_blocks_as_we_do(run):
    name, folder, place, wanted = run
    if name != "hunyuan-t2v":
        pytest.skip("of Hunyuan's names only")
    layers = load_file(export(place, "comfyui"))
    double = {k: t for k, t in layers.items() if "double_blocks" in k}
    assert any("img_attn_qkv" in key for key in double)
    pipe = load.load_pipeline(str(folder))
    pipe.load_lora_weights(double, adapter_name="round")
    expected = {k: v for k, v in wanted.items() if k.startswith("transformer_blocks")}
    assert_same(nonzero(products(pipe.transformer)), expected)


def test_a_family_without_names_of_its_own_says_so(tmp_path):
    place = Workspace(tmp_path)
    model = load.load_transformer(load.read_spec("tiny"), torch.float32)
    spec = load.read_spec("tiny")
    add_lora(model, 2, 2.0, 0.0, family_of(spec).TARGETS)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    save_weights(trained, model, spec, place.runs / "walk" / "weights")
    settings = TrainConfig(model="tiny", name="walk")
    (place.runs / "walk" / "config.toml").write_text(configs.settings_to_toml("train", settings))
    for name, words in (
        ("walk", "has no names of its own"),
        ("none", "runs with LoRA weights: walk"),
    ):
        result = CliRunner().invoke(app, ["export-lora", name, "-w", str(tmp_path)])
        assert result.exit_code == 1
        assert words in result.output.replace("\n", " ")
