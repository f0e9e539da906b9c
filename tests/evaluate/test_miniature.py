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


@pytest.fixture(scope="module", params=["figures", "machines"])
def world(figures, request):
    import worlds

    return worlds.BY_NAME[request.param]


def mean_motion(figures, world, clips, name):
    joints = [figures.read_joints(c.frames) for c in clips]
    return np.mean([figures.true_motion(j, world.bones)[name] for j in joints])


def test_joints_read_from_pixels_are_where_they_were_drawn(figures, world):
    clips = figures.make_clips(0, 24, world.actions, make=world.make_clip)
    error = [np.linalg.norm(figures.read_joints(c.frames) - c.joints, axis=-1) for c in clips]
    assert np.nanmedian(error) < 0.8  # of 32 pixels
    assert np.isnan(error).mean() < 0.1  # hidden behind another
    assert np.isnan(figures.read_joints(np.full((3, 32, 32, 3), 120, np.uint8))).all()


def test_true_bones_are_constant_and_every_damage_is_seen(figures, world):
    rng = np.random.default_rng(1)
    sound = [world.make_clip(rng, action, None) for action in world.actions * 3]
    of = lambda clip: figures.true_motion(clip.joints, world.bones)["true.bone"]
    assert max(map(of, sound)) < 1e-6
    rough = mean_motion(figures, world, sound, "true.roughness")
    for damage in figures.DAMAGES:
        rng = np.random.default_rng(1)
        broken = [world.make_clip(rng, action, damage) for action in world.actions * 3]
        assert mean_motion(figures, world, broken, "true.roughness") > 1.05 * rough, damage
        if damage == "stretch":
            bones = mean_motion(figures, world, broken, "true.bone")
            assert bones > 3 * mean_motion(figures, world, sound, "true.bone")


def test_the_camera_of_the_second_world_moves(figures):
    import worlds

    clips = figures.make_clips(2, 8, ("fold",), make=worlds.make_machine)
    pivots = np.stack([clip.joints[:, 0] for clip in clips])  # they stand on the ground
    assert np.linalg.norm(pivots[:, -1] - pivots[:, 0], axis=-1).mean() > 0.8  # pixels


def test_the_first_frame_is_never_damaged(figures):
    m = figures.motion("walk", np.linspace(0, 1, figures.FRAMES))
    lengths = np.ones((figures.FRAMES, 6))
    for damage in figures.DAMAGES:
        changed, bones = figures.damaged(np.random.default_rng(2), m, lengths, damage)
        np.testing.assert_array_equal(changed[0], m[0])
        np.testing.assert_array_equal(bones[0], lengths[0])
        assert not (np.array_equal(changed, m) and np.array_equal(bones, lengths))


def test_another_tempo_changes_the_motion_and_not_the_first_frame(figures, world):
    """What a model without a mistake is measured at: it cannot know the tempo."""
    same = figures.make_clips(5, 6, world.seen, make=world.make_clip)
    other = figures.make_clips(
        5, 6, world.seen, make=world.make_clip, tempo=np.random.default_rng(0)
    )
    for a, b in zip(same, other, strict=True):
        np.testing.assert_array_equal(a.frames[0], b.frames[0])
        assert not np.array_equal(a.frames[-1], b.frames[-1])


def test_errors_by_frequency_add_up_to_the_squared_distance(figures):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(figures.FRAMES, 8, 2))
    off = rng.normal(size=truth.shape)
    parts = figures.error_by_frequency(truth + off, truth)
    assert sum(parts.values()) == pytest.approx(np.square(off).sum(-1).mean())
    shift = figures.error_by_frequency(truth + np.array([3.0, 4.0]), truth)
    assert (shift["place"], shift["fast"]) == (pytest.approx(25), pytest.approx(0, abs=1e-12))
    trembling = (-1.0) ** np.arange(figures.FRAMES)[:, None, None]
    shares = figures.error_by_frequency(truth + trembling, truth)
    assert shares["fast"] > 0.9 * sum(shares.values())
    lost = truth.copy()
    lost[0] = np.nan
    assert all(np.isnan(v) for v in figures.error_by_frequency(lost, truth).values())


def test_a_contrast_in_bands_leaves_the_rest_of_the_motion(figures):
    """A cosine of three half periods is fast, of one slow; what stands still is neither."""
    import losses

    at = (torch.arange(8) + 0.5) * torch.pi / 8
    still, slow, fast = torch.ones(8), torch.cos(at), torch.cos(3 * at)
    d = (still + slow + fast).view(1, 8, 1)
    only = losses.keep_bands(d, lambda count: torch.arange(count) > 2)
    torch.testing.assert_close(only.view(8), fast, atol=1e-5, rtol=0)
    rest = losses.keep_bands(d, lambda count: torch.arange(count) <= 2)
    torch.testing.assert_close(rest.view(8), still + slow, atol=1e-5, rtol=0)


def test_a_joint_that_only_one_video_shows_does_not_count(figures):
    truth = np.zeros((2, 2, 2))
    one = np.array([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 3.0], [np.nan, np.nan]]])
    two = np.array([[[np.nan, np.nan], [0.0, 5.0]], [[0.0, 7.0], [0.0, 9.0]]])
    assert figures.shared_distance(one, two, truth) == (2.0, 6.0)
    nothing = np.full_like(truth, np.nan)
    assert np.isnan(figures.shared_distance(one, nothing, truth)).all()


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
    import small_model

    plan = small_model.BasePlan(layers=1, heads=1)
    model = small_model.new_model(plan).eval()
    clips = figures.make_clips(4, 3, tuple(figures.ACTIONS))
    latents = small_model.fit_code(clips).encode(np.stack([clip.frames for clip in clips]))
    inputs = small_model.inputs_of(
        latents, [clip.caption for clip in clips], small_model.text_embeddings()
    )
    three = small_model.sample(model, inputs, 5, 2)
    one = small_model.sample(model, {k: v[:1] for k, v in inputs.items()}, 5, 2)
    assert torch.allclose(three[:1], one, atol=1e-5)
    assert not torch.allclose(three[:1], small_model.sample(model, inputs, 6, 2)[:1], atol=1e-2)
    held = small_model.sample(model, inputs, 5, 2, held=latents[:, :5])
    assert torch.equal(held[:, :5], latents[:, :5])
    assert not torch.allclose(held[:, 5:], three[:, 5:], atol=1e-3)
    # A clip that is hardly noised comes back; one from noise alone does not depend on it.
    near = small_model.sample(model, inputs, 5, 10, latents, strength=0.1)
    assert (near - latents).std() < 0.7 * (three - latents).std()


def test_arms_are_the_products_settings_and_cost_what_they_say(figures):
    import arms

    by_name = {arm.name: arm for arm in arms.arms()}
    assert len(by_name) == len(arms.arms())
    assert all(not arm.of or arm.of in by_name for arm in by_name.values())
    config = arms.settings_of(by_name["lora-contrast"], arms.Plan())
    preset = arms.TrainConfig()
    for name in ("objective", "gamma", "contrast_above", "schedule", "policy_ema"):
        assert getattr(config, name) == getattr(preset, name), name
    paper = arms.settings_of(by_name["paper"], arms.Plan())
    assert (paper.beta, paper.sft_weight, paper.policy_ema) == (2000, 500, 0)
    released = arms.settings_of(by_name["released"], arms.Plan())
    assert (released.beta, released.t_high, released.sft_weight) == (5000, 0.5, 0)
    costs = {n: a.steps * a.forwards for n, a in by_name.items()}
    assert costs["sft"] == costs["contrast"] == costs["paper"] == costs["released"] == 2400
    assert (
        costs["ddo"]
        == costs["spin"]
        == costs["contrast-trusted"]
        == costs["contrast-smooth"]
        == costs["continuation"]
        == 2400
    )
    assert costs["sft-long"] == 4800


def test_other_losses_begin_as_their_formulas_say(figures):
    """At the reference: what each is worth there, and that the pair's logistic form pulls as SFT."""
    import arms
    import losses
    import small_model

    from realdpo.train.draws import Batch
    from realdpo.train.reference import Reference

    torch.manual_seed(0)
    model = small_model.new_model(small_model.BasePlan(layers=1, heads=1))
    clips = figures.make_clips(4, 3, tuple(figures.ACTIONS))
    win = small_model.fit_code(clips).encode(np.stack([clip.frames for clip in clips]))
    inputs = small_model.inputs_of(win, [c.caption for c in clips], small_model.text_embeddings())
    grain, own = torch.randn(win.shape), torch.randn(win.shape)
    batch = Batch(win, own[:, None], grain, torch.tensor([0.2, 0.5, 0.9]), inputs)
    task, config = small_model.task_of(model), arms.settings_of(arms.Arm("x", ""), arms.Plan())
    anchor = Reference(model, "frozen", config.ema_rate, config.ema_every)
    made, slopes = {}, {}
    for name in ("", *losses.LOSSES):
        model.zero_grad()
        if name:
            made[name] = losses.train_step(name, model, task, batch, config, anchor)
        else:
            made[name] = arms.step.sft_step(model, task, batch, arms.backward)
        slopes[name] = torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )
    assert made["sigmoid"].loss == pytest.approx(np.log(2), rel=1e-4)
    assert made["ddo"].loss == pytest.approx(2 * np.log(2), rel=1e-4)
    assert made["trusted"].loss == pytest.approx(config.plain_weight * made[""].loss, rel=1e-4)
    torch.testing.assert_close(
        slopes["sigmoid"], losses.BETA / 2 * slopes[""], rtol=1e-3, atol=1e-4
    )


def test_adapters_scaled_twice_move_twice_as_far(figures, tmp_path):
    """As the arm `lora-scaled` does it, against the product of the two factors."""
    import arms
    import small_model

    plan = small_model.BasePlan(layers=1, heads=1)
    start = arms.Arm("x", "", rank=2)
    torch.manual_seed(0)
    model = small_model.new_model(plan)
    arms.open_weights(model, start)
    stored = {n: torch.randn_like(p) for n, p in model.named_parameters() if p.requires_grad}
    layer = model.transformer_blocks[0].attn1.to_q
    changes = []
    for scale in (1.0, 2.0):
        arms.place(model, stored, scale)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        changes.append((b @ a).detach().clone())
    torch.testing.assert_close(changes[1], 2 * changes[0])
    whole = small_model.new_model(plan)
    weight = whole.proj_out.weight.detach().clone()
    arms.place(whole, {"proj_out.weight": weight + 1}, 2.0)
    torch.testing.assert_close(whole.proj_out.weight.detach(), weight + 2)


@pytest.mark.slow
def test_the_whole_experiment_in_a_nutshell_goes_on_where_it_stopped(
    figures, tmp_path, monkeypatch
):
    """Of the large scale, whose size alone is cut down."""
    import miniature

    plan = {
        "base.clips": 8,
        "base.steps": 2,
        "base.batch": 2,
        "base.layers": 1,
        "base.heads": 1,
        "pairs": 10,
        "length": 0.004,
        "batch": 2,
        "seeds": 1,
        "prompts_seen": 4,
        "prompts_held_out": 2,
        "sampling_steps": 2,
    }
    chosen = "sft,contrast,sft-guided,sft-scaled,lora-contrast,paper,continuation,round-2"
    arguments = ["miniature", "--out", str(tmp_path), "--scale", "large", "--workers", "1"]
    arguments += ["--bases", "figures:0,machines:0", "--arms", chosen]
    arguments += [w for key, value in plan.items() for w in ("--set", f"{key}={value}")]
    monkeypatch.setattr(sys, "argv", arguments)
    miniature.main()
    summary = json.loads((tmp_path / "miniature.json").read_text())["bases"]
    assert set(summary["figures:0"]["means"]) == {
        "true clips",
        "other tempo",
        "base",
        *chosen.split(","),
    }
    few = {"true clips", "other tempo", "base", "sft", "contrast"}
    assert set(summary["machines:0"]["means"]) == few
    truth = summary["figures:0"]["means"]["true clips"]["seen"]
    assert truth["true.action"] > 0.7
    ideal = summary["figures:0"]["means"]["other tempo"]["seen"]
    assert truth["true.distance"] < ideal["true.distance"]
    assert set(summary["figures:0"]["left"]) == {"other tempo", "base", *chosen.split(",")}
    assert summary["figures:0"]["training"]["contrast"]["moved"] > 0
    assert "contrast" in (tmp_path / "miniature-machines-0.md").read_text()
    assert "in-step" in (tmp_path / "miniature.html").read_text()
    units = sorted(tmp_path.glob("*/*"))
    times = {p: p.stat().st_mtime_ns for p in units}
    next(p for p in units if p.name == "contrast-0.json").unlink()
    miniature.main()
    again = json.loads((tmp_path / "miniature.json").read_text())["bases"]
    assert again["figures:0"]["means"] == summary["figures:0"]["means"]
    kept = [p for p in units if not p.name.startswith("contrast-0")]
    assert all(p.stat().st_mtime_ns == times[p] for p in kept)
