"""The miniature: figures whose joints are known, damage that is seen, and the whole in a nutshell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

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
