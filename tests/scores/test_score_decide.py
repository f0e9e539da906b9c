"""Decision: thresholds on stored numbers, every reason, copies, calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realdpo import tables
from realdpo.curate import calibrate, decide
from realdpo.errors import UserError
from realdpo.workspace import Workspace


def clips(*rows: dict, **every) -> pa.Table:
    base = {"source_id": "s", "start_s": 0.0, "end_s": 2.0, "status": "ok", "reasons": []}
    return tables.from_rows(
        tables.CLIPS, [{"clip_id": f"c{i}", **base, **every, **row} for i, row in enumerate(rows)]
    )


def test_every_broken_threshold_is_a_reason() -> None:
    table = clips(
        {"motion.subject": 0.5, "black.share": 0.0},
        {"motion.subject": 0.01, "black.share": 0.4},
        {"motion.subject": 0.5, "black.share": None},
        {"motion.subject": None, "black.share": 0.0},
    )
    after = decide.decide_clips(table, {"motion.subject_min": 0.2, "black.share_max": 0.1})
    assert after["keep"].to_pylist() == [True, False, True, False]
    # Motion without a camera to measure it against is not let in; other unknowns drop nothing.
    assert after["reasons"].to_pylist()[3] == ["motion.subject=unknown"]
    assert after["reasons"].to_pylist()[1] == ["black.share=0.4>0.1", "motion.subject=0.01<0.2"]


def test_a_value_on_the_threshold_passes() -> None:
    # 0.1 is not the same number in float32 and float64.
    after = decide.decide_clips(clips({"black.share": 0.1}), {"black.share_max": 0.1})
    assert after["keep"].to_pylist() == [True]


def test_a_reason_never_shows_two_equal_numbers() -> None:
    value = float(np.nextafter(np.float32(0.2), np.float32(0)))
    reason = decide.decide_clips(clips({"motion.subject": value}), {"motion.subject_min": 0.2})[
        "reasons"
    ]
    shown, limit = reason.to_pylist()[0][0].removeprefix("motion.subject=").split("<")
    assert float(shown) < float(limit)


def test_deciding_twice_is_deciding_once_and_foreign_reasons_stay() -> None:
    table = clips({"reasons": ["too_short"], "motion.subject": 0.001}, {"motion.subject": 1.0})
    once = decide.decide_clips(table)
    assert once["reasons"].to_pylist()[0] == ["too_short", "motion.subject=0.001<0.04"]
    assert decide.decide_clips(once).equals(once)
    off = decide.decide_clips(once, {"motion.subject_min": "off"})
    assert off["reasons"].to_pylist()[0] == ["too_short"]


def test_of_copies_the_larger_then_longer_is_kept() -> None:
    table = clips(
        {"source.short_side": 480.0, "end_s": 2.0},
        {"source.short_side": 1080.0, "end_s": 2.0},
        {"source.short_side": 1080.0, "end_s": 3.0},
        {"source.short_side": 2160.0, "black.share": 1.0},
    )
    after = decide.decide_clips(table, links=[(0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3)])
    assert after["duplicate_of"].to_pylist() == ["c2", "c2", None, None]
    assert after["reasons"].to_pylist()[0] == ["duplicate=c2"]
    # The best one is black, and must not take the good ones with it.
    assert after["keep"].to_pylist() == [False, False, True, False]


def test_a_chain_of_copies_keeps_its_far_end() -> None:
    table = clips({"end_s": 4.0}, {"end_s": 3.0}, {"end_s": 2.0})
    after = decide.decide_clips(table, links=[(0, 1), (1, 2)])
    assert after["keep"].to_pylist() == [True, False, True]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("motion.subjct_mn", 1.0, "motion.subject_min"),
        ("motion", 1.0, "not a threshold"),
        ("motion.subject_min", "much", "not a number"),
        ("motion.subject_min", True, "not a number"),
    ],
)
def test_a_wrong_threshold_is_one_clear_line(key: str, value: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        decide.merge_thresholds({key: value})
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_settings_files_and_sets_meet(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[decide]\nmotion.subject_min = 0.7\n"black.share_max" = "off"\n')
    limits = decide.merge_thresholds(decide.load_overrides(file, ["motion.subject_min=0.9"]))
    assert limits["motion.subject_min"] == 0.9
    assert "black.share_max" not in limits
    again = tmp_path / "again.toml"
    again.write_text(
        decide.thresholds_to_toml({"motion.subject_min": 0.9, "black.share_max": "off"})
    )
    assert decide.merge_thresholds(decide.load_overrides(again, [])) == limits


def test_a_workspace_is_judged_anew(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    with pytest.raises(UserError, match="not there"):
        decide.decide_workspace(place)
    tables.write_table(
        place.clips, clips({"motion.subject": 0.1}, {"motion.subject": 0.9}), tables.CLIPS
    )
    assert decide.decide_workspace(place, {"motion.subject_min": 0.5}, write=False)["kept"] == 1
    assert tables.read_table(place.clips, tables.CLIPS)["keep"].to_pylist() == [None, None]
    result = decide.decide_workspace(place, {"motion.subject_min": 0.5})
    assert result["dropped"] == {"motion.subject": 1}
    assert tables.read_table(place.clips, tables.CLIPS)["keep"].to_pylist() == [False, True]
    assert decide.decide_workspace(place)["kept"] == 2


def test_defaults_have_a_source_and_the_docs_name_only_scores_there_are() -> None:
    from realdpo.curate.scores import NAMES, nsfw, people, text

    known = {*NAMES, *people.NAMES, *text.NAMES, *nsfw.NAMES, "source.short_side"}
    assert {limit.score for limit in decide.LIMITS} <= known
    assert all(limit.source for limit in decide.LIMITS)


def many(count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    return clips(
        *(
            {
                "motion.subject": float(rng.gamma(2, 0.1)),
                "black.share": float(max(0, rng.normal(-0.1, 0.1))),
                "detail.sharpness": float(rng.beta(6, 3)),
                "reasons": ["too_short"] if rng.random() < 0.1 else [],
            }
            for _ in range(count)
        )
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 100))
def test_a_proposal_keeps_at_least_what_was_wanted_and_hardly_more(seed: int, share: int) -> None:
    table = many(120, seed)
    scores = decide.score_arrays(table)
    free = np.array([not row for row in table["reasons"].to_pylist()])
    wanted = min(int(free.sum()), max(1, 120 * share // 100))
    limits = calibrate.propose_thresholds(scores, free, decide.merge_thresholds(), wanted)
    kept = int((calibrate.passes_limits(scores, limits, 120) & free).sum())
    assert wanted <= kept <= wanted + 4


def test_a_written_proposal_keeps_what_it_says(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    tables.write_table(place.clips, many(200, 3), tables.CLIPS)
    found = calibrate.calibrate_thresholds(place, "25%")
    file = tmp_path / "t.toml"
    file.write_text(calibrate.proposal_to_toml(found))
    assert decide.decide_workspace(place, decide.load_overrides(file, []))["kept"] == found.kept
    assert 50 <= found.kept <= 54


def test_the_nearest_clips_of_each_side() -> None:
    table = clips(*({"motion.subject": v} for v in (0.1, 0.3, 0.19, 0.22)))
    (found,) = calibrate.look_at_thresholds(
        decide.score_arrays(table), table["clip_id"].to_pylist(), {"motion.subject_min": 0.2}
    )
    assert [clip for clip, _ in found.kept_side] == ["c3", "c1"]
    assert [clip for clip, _ in found.dropped_side] == ["c2", "c0"]
    assert (found.alone, found.only) == (0.5, 2)


@pytest.mark.parametrize("keep", ["0", "many", "-3", "0%", "101%", "1.5", ""])
def test_a_yield_that_means_nothing_is_refused(keep: str) -> None:
    with pytest.raises(UserError, match="--keep"):
        calibrate.wanted_clips(keep, 100)
    assert calibrate.wanted_clips("30%", 50) == 15
    assert calibrate.wanted_clips("5000", 50) == 50
