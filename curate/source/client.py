"""Asking a provider's API: at its pace, again when it is busy, and each question only once.

Answers are kept under `steps/source/`, so a run that was stopped, or that is told other limits,
asks only what is new. Keys are sent, and stand in no file, no message and no name of a file.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from realdpo import ids, waiting
from realdpo.errors import UserError
from realdpo.files import write_bytes
from realdpo.progress import say

ATTEMPTS = 6
LONGEST_WAIT = 300.0
"""Seconds; a server that asks for more is left alone, and the user told to come back."""

Params = Mapping[str, str | int | Sequence[str]]


@dataclass(frozen=True)
class ProviderAnswer:
    """A JSON document and when it came (UTC, to the second). text: what came if it is no JSON."""

    document: Any
    retrieved_at: str
    text: str = ""
    status: int = 200


class Client:
    """One provider's API. Close it, or use it as a context manager.

    endpoint: its address without a path. store: folder of the answers. pace: least seconds
    between requests. headers, secret: what gives access; `secret` (a name and value) goes into
    the query of every request. refresh: ask anew what is stored.
    """

    def __init__(
        self,
        provider: str,
        endpoint: str,
        store: Path,
        *,
        pace: float = 1.0,
        contact: str = "",
        headers: Mapping[str, str] | None = None,
        secret: tuple[str, str] | None = None,
        refresh: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        self.provider, self.endpoint = provider, endpoint.rstrip("/")
        self.asked = self.stored = 0
        self._store, self._refresh, self._sleep = store / provider, refresh, sleep
        self._pace = waiting.Pace(pace, sleep=sleep)
        self._used_up_until = 0.0
        self._secret = secret
        self._hidden = [*(headers or {}).values(), *([secret[1]] if secret else [])]
        agent = f"{waiting.user_agent(contact)} httpx/{httpx.__version__}"
        self._http = httpx.Client(
            headers={"User-Agent": agent, **(headers or {})}, timeout=60, follow_redirects=True
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def json(
        self,
        path: str,
        params: Params | None = None,
        *,
        busy: Callable[[Any], str | None] = lambda document: None,
        final: Callable[[int, str], bool] = lambda status, text: False,
    ) -> ProviderAnswer:
        """The answer to one question, stored or fresh.

        busy: why a document means "come back later", which some APIs say with status 200.
        final: whether an error's status and text are an answer to keep (document None) all the
        same. Raises UserError when the server refuses, cannot be reached, or stays busy.
        """
        key = ids.content_id(endpoint=self.endpoint, path=path, params=dict(params or {}))
        file = self._store / f"{key}.json.gz"
        if not self._refresh and (kept := _read(file)) is not None:
            self.stored += 1
            return kept
        answer = self._ask(path, dict(params or {}), busy, final)
        packed = json.dumps(
            [answer.document, answer.retrieved_at, answer.text, answer.status]
        ).encode()
        write_bytes(file, gzip.compress(packed, mtime=0))
        return answer

    def _ask(
        self,
        path: str,
        params: dict[str, Any],
        busy: Callable[[Any], str | None],
        final: Callable[[int, str], bool],
    ) -> ProviderAnswer:
        import httpx

        if self._secret:
            params[self._secret[0]] = self._secret[1]
        where = f"{self.provider} ({urlsplit(self.endpoint).netloc})"
        if (left := self._used_up_until - time.time()) > 0:
            raise UserError(
                f"{where}: your quota is used up for another {left / 60:.0f} minutes",
                "wait, then run the same command again; it continues with the answers so far",
            )
        for attempt in range(1, ATTEMPTS + 1):
            self._pace.wait()
            self.asked += 1
            asked: float | None = None
            try:
                answer = self._http.get(f"{self.endpoint}{path}", params=params)
            except httpx.TransportError as error:
                problem = self._clean(f"{type(error).__name__}: {error}")
            except httpx.InvalidURL as error:
                raise UserError(
                    f"{where}: {self.endpoint} is not a valid address: {error}"
                ) from None
            else:
                asked = waiting.retry_after(answer.headers)
                if answer.is_success:
                    self._heed_quota(answer.headers)
                    document, problem = _document(answer.text)
                    if not problem and (why := busy(document)):
                        problem = why
                    if not problem:
                        return ProviderAnswer(document, _now())
                elif final(answer.status_code, answer.text):
                    return ProviderAnswer(
                        None, _now(), self._clean(answer.text), answer.status_code
                    )
                elif waiting.is_passing(answer.status_code):
                    problem = f"the server answers with status {answer.status_code}"
                else:
                    raise self._refused(where, answer.status_code, answer.text)
            wait = waiting.seconds_to_wait(attempt, asked)
            if wait > LONGEST_WAIT:
                raise UserError(
                    f"{where} is busy and asks you to wait {wait:.0f} s",
                    "wait, then run the same command again; it continues with the answers so far",
                )
            if attempt < ATTEMPTS:
                say(f"{where}: {problem}; trying again in {wait:.0f} s")
                self._sleep(wait)
        raise UserError(
            f"{where} cannot be reached: {problem} ({ATTEMPTS} attempts)",
            "check the network, or run the same command again later; it continues with the answers so far",
        )

    def _heed_quota(self, headers: Mapping[str, str]) -> None:
        """When a window's last request is used up, let the next one go in the next window."""
        try:
            left, reset = (float(headers[f"x-ratelimit-{n}"]) for n in ("remaining", "reset"))
        except (KeyError, ValueError):
            return
        if left != 0:  # -1 is unlimited
            return
        # Seconds at some, a moment of the clock at others.
        seconds = reset - time.time() if reset > 1e9 else reset
        if seconds > LONGEST_WAIT:
            self._used_up_until = time.time() + seconds
        else:
            self._pace.hold(seconds)

    def _refused(self, where: str, status: int, text: str) -> UserError:
        said = " ".join(self._clean(text).split())[:200]
        if self._hidden and (status in (401, 403) or "key" in said.lower()):
            hint = "check the API key"  # Pixabay says so with 400
        elif status in (401, 403):
            hint = "check --contact: the server wants to know who is asking"
        else:
            hint = "check the search words and --set endpoints; the API may have changed"
        return UserError(f"{where} refuses the request with status {status}: {said}", hint)

    def _clean(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "***") if secret else text
        return text


def key_from(variable: str, provider: str, page: str) -> str:
    """The key in an environment variable. Raises UserError that says where to get one."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"{provider} needs an API key in the environment variable {variable}",
            f"get a key at {page}",
        )
    return key


def _read(file: Path) -> ProviderAnswer | None:
    try:
        return ProviderAnswer(*json.loads(gzip.decompress(file.read_bytes())))
    except (OSError, EOFError, ValueError, TypeError):
        return None  # none yet, or damaged: it is asked for again


def _document(text: str) -> tuple[Any, str]:
    try:
        return json.loads(text), ""
    except ValueError:
        return None, f"the answer is not JSON: {' '.join(text.split())[:80]!r}"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
