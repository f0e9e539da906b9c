"""The miniature: figures whose joints are known, damage that is seen, and the whole in a nutshell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def figures():
    sys.path.insert(0, str(BENCHMARKS))
    import figures

    return figures


def mean_motion(figures, clips, name):
    return np.mean([figures.true_motion(figures.read_joints(c.frames))[name] for c in clips])


def test_joints_read_from_pixels_are_where_they_were_drawn(figures):
    clips = figures.make_clips(0, 24, tuple(figures.ACTIONS))
    error = [np.linalg.norm(figures.read_joints(c.frames) - c.joints, axis=-1) for c in clips]
    assert np.nanmedian(error) < 0.8  # of 32 pixels
    assert np.isnan(error).mean() < 0.1  # hidden behind another
    assert np.isnan(figures.read_joints(np.full((3, 32, 32, 3), 120, np.uint8))).all()


def test_true_bones_are_constant_and_every_damage_is_seen(figures):
    rng = np.random.default_rng(1)
    sound = [figures.make_clip(rng, action) for action in figures.ACTIONS]
    assert max(figures.true_motion(c.joints)["true.bone"] for c in sound) < 1e-6
    rough = mean_motion(figures, sound, "true.roughness")
    for damage in figures.DAMAGES:
        rng = np.random.default_rng(1)
        broken = [figures.make_clip(rng, action, damage) for action in figures.ACTIONS]
        assert mean_motion(figures, broken, "true.roughness") > 1.2 * rough, damage
        if damage == "stretch":
            bones = mean_motion(figures, broken, "true.bone")
            assert bones > 3 * mean_motion(figures, sound, "true.bone")


def test_the_first_frame_is_never_damaged(figures):
    m = figures.motion("walk", np.linspace(0, 1, figures.FRAMES))
    lengths = np.ones((figures.FRAMES, 6))
    for damage in figures.DAMAGES:
        changed, bones = figures.damaged(np.random.default_rng(2), m, lengths, damage)
        np.testing.assert_array_equal(changed[0], m[0])
        np.testing.assert_array_equal(bones[0], lengths[0])
        assert not (np.array_equal(changed, m) and np.array_equal(bones, lengths))


def test_the_code_of_blocks_keeps_the_joints_where_they_are(figures):
    import small_model

    clips = figures.make_clips(3, 60, tuple(figures.ACTIONS))
    code = small_model.fit_code(clips)
    latents = code.encode(np.stack([clip.frames for clip in clips]))
    assert latents.std() == pytest.approx(1, abs=0.1)
    for clip, frames in zip(clips, code.decode(latents), strict=True):
        drawn, read = figures.read_joints(clip.frames), figures.read_joints(frames)
        assert np.nanmedian(np.linalg.norm(drawn - read, axis=-1)) < 0.3  # of 32 pixels


def test_every_model_samples_from_the_same_noise(figures):
    import arms
    import small_model

    plan = small_model.BasePlan(layers=1, heads=1)
    model = small_model.new_model(plan).eval()
    clips = figures.make_clips(4, 3, arms.SEEN)
    latents = small_model.fit_code(clips).encode(np.stack([clip.frames for clip in clips]))
    inputs = small_model.inputs_of(
        latents, [clip.caption for clip in clips], small_model.text_embeddings()
    )
    three = small_model.sample(model, inputs, 5, 2)
    one = small_model.sample(model, {k: v[:1] for k, v in inputs.items()}, 5, 2)
    assert torch.allclose(three[:1], one, atol=1e-5)
    assert not torch.allclose(three[:1], small_model.sample(model, inputs, 6, 2)[:1], atol=1e-2)
    # A clip that is hardly noised comes back; one from noise alone does not depend on it.
    near = small_model.sample(model, inputs, 5, 10, latents, strength=0.1)
    assert (near - latents).std() < 0.7 * (three - latents).std()


def test_arms_differ_from_the_recommended_settings_as_they_say(figures):
    import arms

    by_name = {arm.name: arm for arm in arms.arms()}
    assert len(by_name) == len(arms.arms())
    assert by_name["realdpo"].changes == {}
    released = by_name["released"].changes
    assert (released["beta"], released["t_high"], released["sft_weight"]) == (5000, 0.5, 0)
    assert (released["reference"], released["ema_rate"], released["ema_every"]) == (
        "ema", 0.999, 100,
    )  # fmt: skip
    ones = torch.ones(1, 1, 2, 3, 4, 4)
    assert float(arms.planted_shortcut(ones, ones)[..., 1:, :, :].max()) == pytest.approx(1.17)


@pytest.mark.slow
def test_the_whole_experiment_in_a_nutshell_goes_on_where_it_stopped(
    figures, tmp_path, monkeypatch
):
    import miniature

    plan = [
        "base.clips=8",
        "base.steps=2",
        "base.batch=2",
        "pairs=10",
        "losers=2",
        "steps=2",
    ]
    plan += [
        "batch=2",
        "seeds=1",
        "prompts_seen=10",
        "prompts_held_out=2",
        "sampling_steps=2",
        "base.layers=1",
    ]
    arguments = ["miniature", "--out", str(tmp_path), "--arms", "sft,realdpo,shortcut"]
    arguments += [word for change in plan for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", arguments)
    miniature.main()
    summary = json.loads((tmp_path / "miniature.json").read_text())
    assert set(summary["means"]) == {"true clips", "base", "sft", "realdpo", "shortcut"}
    truth = summary["means"]["true clips"]["seen"]
    assert truth["true.action"] > 0.8
    assert truth["true.roughness"] < summary["means"]["base"]["seen"]["true.roughness"]
    first = summary["training"]["realdpo"]
    assert first["loss"] > 0
    assert "realdpo" in (tmp_path / "miniature.md").read_text()
    assert "in-step" in (tmp_path / "miniature.html").read_text()
    units = sorted(tmp_path.glob("*/*"))
    times = {p: p.stat().st_mtime_ns for p in units}
    next(p for p in units if p.name == "realdpo-0.json").unlink()
    miniature.main()
    again = json.loads((tmp_path / "miniature.json").read_text())
    assert again["means"] == summary["means"]
    kept = [p for p in units if not p.name.startswith("realdpo-0")]
    assert all(p.stat().st_mtime_ns == times[p] for p in kept)
