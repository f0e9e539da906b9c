"""Waiting on servers: which answers pass by themselves, how long to wait, how often to ask.

One set of rules for everybody who speaks HTTP: a server that is busy is asked again, when it says
so and not before; one that says no is not.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import realdpo

PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses of RFC 9110 and RFC 6585 that say nothing about the request: ask again later."""

LONGEST = 3600.0
"""Seconds; a server that asks to wait longer is left for another run."""

CONTACT = "REALDPO_CONTACT"
"""Environment variable with a mail or web address at which a server's owner can reach the user."""


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later: time-outs, too many requests, server errors."""
    return status in PASSING or status > 504


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that an answer's headers ask to wait, at least 0; None when they do not say.

    Retry-After may be a number of seconds or a date (RFC 9110, 10.2.3). Without it, the Hub's
    `RateLimit: "api";r=0;t=55` says how many seconds its window still lasts, when nothing is
    left in it. headers: of any letter case.
    """
    named = {name.lower(): value for name, value in headers.items()}
    value = str(named.get("retry-after") or "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return _window(str(named.get("ratelimit") or ""))
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - (now or datetime.now(timezone.utc))).total_seconds())


def _window(rate_limit: str) -> float | None:
    """The `t` of a RateLimit header (draft-ietf-httpapi-ratelimit-headers) whose `r` is 0."""
    parts = dict(re.findall(r"\b([rt])\s*=\s*(\d+)", rate_limit))
    return float(parts["t"]) if parts.get("r") == "0" and "t" in parts else None


def seconds_to_wait(attempt: int, asked: float | None = None, most: float = 60.0) -> float:
    """Seconds to wait after failed attempt number `attempt`, counted from 1.

    As long as the server asked, and up to a quarter of a second more, so that not everybody
    comes back at once; else between half and all of 1, 2, 4 ... seconds, `most` at most.
    """
    if asked is not None:
        return asked + random.uniform(0, 0.25)  # noqa: S311 - spreads the load; nothing secret
    return min(2.0 ** (attempt - 1), most) * random.uniform(0.5, 1)  # noqa: S311 - spreads the load; nothing secret


class Pace:
    """Lets a request through every `seconds` at most; call `wait` before each."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.seconds = seconds
        self._clock, self._sleep = clock, sleep
        self._next = 0.0

    def wait(self) -> None:
        """Sleep until the next request may go."""
        if (left := self._next - self._clock()) > 0:
            self._sleep(left)
        self._next = self._clock() + self.seconds

    def hold(self, seconds: float) -> None:
        """Let the next request wait this long from now, because a quota is used up."""
        self._next = max(self._next, self._clock() + seconds)


def user_agent(contact: str = "") -> str:
    """Who asks, as servers that are free for all want to know: `realdpo/0.1.0 (contact)`.

    contact: a mail or web address; else that of REALDPO_CONTACT, if any.
    """
    contact = contact or os.environ.get(CONTACT, "")
    return f"realdpo/{realdpo.__version__}" + (f" ({contact})" if contact else "")
