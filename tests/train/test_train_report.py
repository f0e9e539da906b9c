"""The page about a run: its warnings say what the numbers say, and it stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from realdpo.errors import UserError
from realdpo.train import loop, report
from realdpo.train.config import TrainConfig
from realdpo.workspace import Workspace


def steps(count=60, **change):
    """Lines of a sound run, changed by functions of the step."""
    sound = {
        "loss": lambda s: 0.69 - 0.001 * s,
        "rewards/accuracy": lambda s: 0.5 + 0.004 * s,
        "win_gap": lambda s: -1e-4,
        "loser_dominant_ratio": lambda s: 0.1,
        "saturation": lambda s: 0.4,
        "seconds": lambda s: 1.0,
    }
    return [
        {"step": s, **{k: f(s) for k, f in {**sound, **change}.items()}}
        for s in range(1, count + 1)
    ]


def held(**change):
    last = {
        "step": 60,
        "accuracy": 0.8,
        "control_accuracy": 0.6,
        "winner_change": -0.01,
        "loser_change": 0.02,
        "loser_error": 0.3,
        "winner_error": 0.2,
        "winner_error_base": 0.202,
        "pairs": 40,
        "accuracy_by_level": [0.8, 0.8, 0.8, 0.8],
        "margin": 0.1,
        "winner_change_by_level": [0, 0, 0, 0],
        "loser_dominant_ratio": 0.1,
    }
    return [{**last, "step": 0, "accuracy": 0.5, "winner_change": 0.0}, {**last, **change}]


def test_a_sound_run_has_no_warnings():
    assert report.run_warnings(steps(), held()) == []


def test_pushing_losers_away_is_told_in_words():
    bad = steps(
        **{
            "rewards/accuracy": lambda s: 1.0 if s >= 12 else 0.5,
            "win_gap": lambda s: 1e-3 * s,
            "loser_dominant_ratio": lambda s: 1.0,
        }
    )
    (found,) = report.run_warnings(bad, held())
    assert found.startswith("Accuracy is 1.0 from step 12 on, and the winner's error rises")
    assert "pushes losers away" in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"winner_change": 0.03}, "rose by 3.0% and so did the loser's"),
        ({"winner_change": 0.03, "loser_change": -0.1}, "predicts real clips worse"),
        ({"accuracy": 0.52}, "no better than a guess"),
        ({"control_accuracy": 0.79}, "losers of other prompts just as often"),
        ({"accuracy_by_level": [1.0, 0.9, 0.5, 0.4]}, "The gain is in texture"),
        ({"pairs": 4}, "Only 4 pairs or clips are held out"),
    ],
)
def test_held_out_warnings(change, words):
    found = report.run_warnings(steps(), held(**change))
    assert any(words in text for text in found), found


def test_a_saturated_preference_says_since_when_and_what_still_trains():
    spent = {"saturation": lambda s: 0.5 if s < 12 else 0.02, "loss/preference": lambda s: 0.02}
    (found,) = report.run_warnings(steps(**spent, loss=lambda s: 75.02), held())
    assert found.startswith(
        "The preference has saturated: 4% of its first gradient is left, and less than 20%"
    )
    assert "since about step 9" in found  # steps 9 to 28: three at 1, 17 at 0.04: 0.184
    assert "only the winner's own error still trains" in found
    (found,) = report.run_warnings(steps(**spent, loss=lambda s: 0.02), held())
    assert "steps teach little" in found
    assert report.run_warnings(steps(saturation=lambda s: 0.11), held()) == []
    assert report.run_warnings(steps(19, saturation=lambda s: 0.0), held()) == []
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert "\n## When the preference saturates\n" in docs


def test_a_reference_that_stands_still():
    (found,) = report.run_warnings(steps(reference_update=lambda s: 0.0), held())
    assert "does not move" in found


def test_no_such_run(tmp_path):
    with pytest.raises(UserError, match="nothing"):
        report.write_train_report(Workspace(tmp_path), "nothing")


def test_the_page_of_a_real_run_with_videos(fresh, model):
    config = TrainConfig(
        model=str(model),
        objective="dpo",
        steps=3,
        rank=2,
        held_out_levels=2,
        held_out_every=2,
        validation_videos=1,
        validation_steps=2,
        validation_guidance=1.5,
        name="<b>",
    )
    summary = loop.run_training(fresh, config)
    names = sorted(p.name for p in (summary.folder / "videos").iterdir())
    assert names == ["00-base.mp4", "00-real.mp4", "00-step-000003.mp4", "00.txt"]
    prompt = (summary.folder / "videos" / "00.txt").read_text()
    rows = pq.read_table(fresh.pair_data).to_pylist()
    (row,) = [row for row in rows if row["prompt"] == prompt]
    assert (summary.folder / "videos" / "00-real.mp4").read_bytes() == row["win"]["bytes"]
    path, found = report.write_train_report(fresh, "<b>")
    page = path.read_text()
    assert "<b></h" not in page  # the run's name is text, not markup
    assert page.count("<video") == 3
    assert page.index("<figcaption>real") < page.index("<figcaption>base")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert any("are held out" in text for text in found)
    assert json.loads((summary.folder / "summary.json").read_text())["steps"] == 3
