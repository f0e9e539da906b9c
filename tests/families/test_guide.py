"""Guidance by the base: the formula, in the pipeline's own call, for adapters and for all weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pipelines
import torch

from realdpo.errors import UserError
from realdpo.families import family_of, load, weights
from realdpo.families.guide import adapters_off, guide_by_base, parse_guide
from realdpo.families.spec import spec_of_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.save("cogvideox-5b", tmp_path_factory.mktemp("guide") / "model")


def tuned(folder, **options):
    """The pipeline with adapters that do something, and what it calls its transformer with."""
    pipe = load.load_pipeline(str(folder), device="cpu", **options)
    family = family_of(spec_of_pipeline(pipe))
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
        "a person walks",
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
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


def sampled(pipe, prompt, scale, negative=None, steps=1):
    """The latents of a video; scale: of classifier-free guidance."""
    how = {"guidance_scale": scale}
    if hasattr(pipe, "guider"):
        pipe.guider, how = pipe.guider.new(guidance_scale=scale), {}
    return pipe(
        prompt,
        negative_prompt=negative,
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **how,
    ).frames


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cogvideox-5b", "patch_embed"),  # one forward of a doubled batch
        ("wan2.1-t2v", "patch_embedding"),  # two forwards
        ("hunyuan15-t2v", "x_embedder"),  # two forwards, by a guider
    ],
)
@torch.no_grad()
def test_the_base_is_the_negative_forward_and_no_forward_is_added(tmp_path, name, part):
    pipe, _ = tuned(tiny_pipelines.save(name, tmp_path / "model"))
    prompt, negative, scale = "a person walks", "a street", 4.0
    counted = []
    getattr(pipe.transformer, part).register_forward_pre_hook(
        lambda module, args, kwargs: counted.append(len((*args, *kwargs.values())[-1])),
        with_kwargs=True,
    )
    plain = sampled(pipe, prompt, scale, negative)
    wanted, counted[:] = sum(counted), []
    # a scheduler's first step is affine in the prediction, so the latents obey the formula too
    here = sampled(pipe, prompt, 1.0)
    with adapters_off(pipe.transformer):
        there = sampled(pipe, negative, 1.0)
    counted.clear()
    assert guide_by_base(pipe, "negative") == ["transformer"]
    guided = sampled(pipe, prompt, scale, negative)
    torch.testing.assert_close(guided, there + scale * (here - there), atol=1e-4, rtol=1e-4)
    assert (guided - plain).abs().max() > 1e-2
    assert sum(counted) == wanted
    with pytest.raises(UserError, match="no negative forward"):
        sampled(pipe, prompt, 1.0, steps=2)
    # what failed leaves nothing behind
    again = sampled(pipe, prompt, scale, negative)
    torch.testing.assert_close(again, guided, atol=1e-6, rtol=1e-6)


def test_a_pipeline_that_names_no_negative_forward_is_refused(tmp_path):
    pipe, _ = tuned(tiny_pipelines.save("sana-video-t2v", tmp_path / "model"))
    with pytest.raises(UserError, match="does not tell its negative forward apart"):
        guide_by_base(pipe, "negative")
        sampled(pipe, "a person walks", 4.0)


def test_a_guide_is_a_strength_or_negative():
    assert (parse_guide("negative"), parse_guide("2")) == ("negative", 2.0)
    for wrong in ("positive", "-1", "nan", "inf", ""):
        with pytest.raises(ValueError):
            parse_guide(wrong)


@torch.no_grad()
def test_the_snippet_of_the_docs_runs_and_is_guided(folder, tmp_path):
    text = (ROOT / "docs" / "training.md").read_text()
    snippet = next(part for part in text.split("```python\n")[1:] if "guide_by_base(" in part)
    pipe, _ = tuned(folder)
    trained = {n: p.detach() for n, p in pipe.transformer.named_parameters() if "lora_" in n}
    spec = load.read_spec(str(folder))
    weights.save_weights(trained, pipe.transformer, spec, tmp_path / "weights")
    small = (
        "height=64, width=64, num_frames=9, num_inference_steps=1, output_type='latent', "
        "generator=torch.Generator().manual_seed(0)"
    )
    code = snippet.split("```")[0].replace("work/runs/contrast/weights", str(tmp_path / "weights"))
    assert code.count("pipe(prompt)") == 1
    code = code.replace("pipe(prompt)", f"pipe(prompt, {small})")
    seen = {"model": str(folder), "prompt": "a person walks", "torch": torch}
    exec(code, seen)
    plain, _ = tuned(folder)
    guide_by_base(plain, 2)
    torch.testing.assert_close(seen["video"], video(plain)[0], atol=1e-4, rtol=1e-4)
