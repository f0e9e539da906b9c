"""Waiting on servers: Retry-After in both forms, growing pauses, a pace."""

from __future__ import annotations

from datetime import datetime, timezone

import httpx
import pytest

from realdpo import waiting


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("Fri, 27 Nov 2026 10:00:30 GMT", 30.0),
        ("Fri, 27 Nov 2026 09:59:00 GMT", 0.0),
        ("soon", None),
        ("", None),
    ],
)
def test_both_forms_of_retry_after(value: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 27, 10, tzinfo=timezone.utc)
    assert waiting.retry_after({"Retry-After": value}, now) == seconds
    assert waiting.retry_after(httpx.Headers({"RETRY-AFTER": value}), now) == seconds


def test_what_passes_by_itself() -> None:
    assert all(waiting.is_passing(status) for status in (408, 429, 500, 502, 503, 504, 520))
    assert not any(waiting.is_passing(status) for status in (200, 400, 401, 403, 404, 410, 501))


def test_pauses_double_up_to_the_most_and_obey_the_server() -> None:
    for attempt, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 60)):
        assert longest / 2 <= waiting.seconds_to_wait(attempt) <= longest
    assert 300 <= waiting.seconds_to_wait(1, asked=300) <= 300.25


def test_a_pace_spaces_requests_and_forgives_slow_ones() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = waiting.Pace(2.0, clock=lambda: now[0], sleep=sleep)
    pace.wait()
    now[0] += 0.5
    pace.wait()
    now[0] += 5
    pace.wait()
    assert slept == [1.5]


def test_the_user_agent_says_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(waiting.CONTACT, raising=False)
    assert waiting.user_agent().startswith("realdpo/")
    assert "(" not in waiting.user_agent()
    monkeypatch.setenv(waiting.CONTACT, "me@example.org")
    assert waiting.user_agent().endswith(" (me@example.org)")
    assert waiting.user_agent("https://example.org").endswith(" (https://example.org)")


def test_the_hubs_own_header_says_when_its_window_ends() -> None:
    assert waiting.retry_after({"RateLimit": '"api";r=0;t=55'}) == 55
    assert waiting.retry_after({"ratelimit": '"api";r=12;t=55'}) is None  # there is some left
    assert waiting.retry_after({"RateLimit": '"api";r=0;t=55', "Retry-After": "3"}) == 3
    assert waiting.retry_after({"RateLimit": "nonsense"}) is None
