"""Guidance by the base: the formula, in the pipeline's own call, for adapters and for all weights."""

from __future__ import annotations

import pytest
import tiny_pipelines
import torch

from realdpo.errors import UserError
from realdpo.families import family_of, load, weights
from realdpo.families.guide import adapters_off, guide_by_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.save("cogvideox-5b", tmp_path_factory.mktemp("guide") / "model")


def tuned(folder):
    """The pipeline with adapters that do something, and what it calls its transformer with."""
    pipe = load.load_pipeline(str(folder), device="cpu")
    family = family_of(load.spec_of_pipeline(pipe))
    weights.add_lora(pipe.transformer, 2, 2.0, 0.0, family.TARGETS)
    random = torch.Generator().manual_seed(0)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=random)
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    return pipe, seen


def video(pipe, steps=1):
    made = pipe(
        "a person walks", height=64, width=64, num_frames=9, num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    )  # fmt: skip
    return made.frames


@torch.no_grad()
def test_what_comes_out_is_moved_on_from_the_base(folder):
    pipe, seen = tuned(folder)
    video(pipe)
    asked = seen[0]
    model = pipe.transformer
    own = model(**asked)[0]
    with adapters_off(model):
        base = model(**asked)[0]
    assert (own - base).abs().max() > 1e-3
    assert guide_by_base(pipe, 2.0) == ["transformer"]
    torch.testing.assert_close(model(**asked)[0], own + 2 * (own - base))
    as_object = model(**{**asked, "return_dict": True}).sample
    torch.testing.assert_close(as_object, own + 2 * (own - base))


def test_all_weights_are_guided_by_a_second_transformer_and_give_the_same(folder):
    pipe, _ = tuned(folder)
    plain = video(pipe, 2)
    guide_by_base(pipe, 1.5)
    guided = video(pipe, 2)
    assert (guided - plain).abs().max() > 1e-3
    whole, _ = tuned(folder)
    whole.transformer.merge_and_unload = None
    for layer in whole.transformer.modules():
        if hasattr(layer, "merge") and hasattr(layer, "lora_A"):
            layer.merge()
    base = load.load_transformer(load.read_spec(str(folder)), torch.float32)
    guide_by_base(whole, 1.5, {"transformer": base})
    torch.testing.assert_close(video(whole, 2), guided, atol=1e-4, rtol=1e-4)


def test_strength_nought_changes_nothing_and_a_base_cannot_be_guided(folder):
    pipe, _ = tuned(folder)
    plain = video(pipe)
    guide_by_base(pipe, 0.0)
    assert torch.equal(video(pipe), plain)
    with pytest.raises(UserError, match="has no LoRA"):
        guide_by_base(load.load_pipeline(str(folder), device="cpu"), 1.0)
