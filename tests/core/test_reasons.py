"""Why a clip was dropped: written once, read once."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realdpo.reasons import Reason, Side, are_judged_anew, count_reasons, parse_reason, reason_names

# One of every kind that a workspace may hold, as earlier versions stored it.
STORED = {
    "motion.subject=0.8<2": Reason("motion.subject", "0.8", "min", "2"),
    "luma.mean=250>235": Reason("luma.mean", "250", "max", "235"),
    "flash.rate=1e+03>3": Reason("flash.rate", "1e+03", "max", "3"),
    "motion.subject=-0.5<1e-05": Reason("motion.subject", "-0.5", "min", "1e-05"),
    "motion.subject=inf>1": Reason("motion.subject", "inf", "max", "1"),
    "motion.subject=unknown": Reason("motion.subject", "unknown"),
    "too_slow=1<8": Reason("too_slow", "1", "min", "8"),
    "per_action=riding a bike>20": Reason("per_action", "riding a bike", "max", "20"),
    "too_short": Reason("too_short"),
    "hdr": Reason("hdr"),
    "license=none": Reason("license", "none"),
    "license=not understood: mine=yours, ages <3": Reason(
        "license", "not understood: mine=yours, ages <3"
    ),
    "known=other/0123abcd": Reason("known", "other/0123abcd"),
    "duplicate=0123abcd": Reason("duplicate", "0123abcd"),
}


@pytest.mark.parametrize("text", STORED)
def test_what_is_stored_is_read_as_it_was_written(text: str) -> None:
    assert parse_reason(text) == STORED[text]
    assert str(STORED[text]) == text


@given(
    st.floats(width=32, allow_nan=False),
    st.sampled_from(["min", "max"]),
    st.floats(width=32, allow_nan=False),
)
def test_every_broken_threshold_comes_back(value: float, side: Side, bound: float) -> None:
    reason = Reason("a.b", f"{value:.3g}", side, f"{bound:.6g}")
    assert parse_reason(str(reason)) == reason


def test_columns_are_read_as_values_are() -> None:
    texts = list(STORED)
    names = reason_names(pa.array(texts))
    assert names.to_pylist() == [reason.name for reason in STORED.values()]
    anew = [reason.is_judged_anew for reason in STORED.values()]
    assert are_judged_anew(names).to_pylist() == anew
    fixed = {reason.name for reason in STORED.values() if not reason.is_judged_anew}
    assert fixed == {"too_slow", "too_short", "hdr", "license"}


def test_a_clip_counts_once_under_each_name() -> None:
    rows = [["a.b=1<2", "a.b=9>8", "hdr"], None, [], ["hdr"], ["a.b=unknown"]]
    column = pa.chunked_array([rows[:2], rows[2:]], pa.list_(pa.string()))
    assert count_reasons(column) == {"a.b": 2, "hdr": 2}
    assert count_reasons(column.slice(1, 2)) == {}
