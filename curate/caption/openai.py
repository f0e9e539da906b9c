"""Captions from a server that speaks the OpenAI chat protocol: vLLM, SGLang, Ollama, OpenAI.

The key comes from OPENAI_API_KEY alone, goes into one header, and into no file, message or log.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from realdpo import waiting
from realdpo.curate.caption import show
from realdpo.curate.caption.answers import CaptionAnswer
from realdpo.curate.caption.config import CaptionConfig
from realdpo.errors import UserError

if TYPE_CHECKING:
    import httpx

KEY = "OPENAI_API_KEY"
_BUSY = 409  # what some servers answer while they load the model


def connect_server(url: str, config: CaptionConfig) -> httpx.Client:
    """A client for `url`, which may leave out the `/v1`.

    Raises UserError when the key would travel to a public host unencrypted.
    """
    import httpx

    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"{_shown(url)} is not the address of a server",
            "write it like http://localhost:8000/v1",
        )
    path = parts.path.rstrip("/") or "/v1"
    key = os.environ.get(KEY, "")
    if key and parts.scheme == "http" and not _is_near(parts.hostname):
        raise UserError(
            f"{_shown(url)} is not encrypted, and your key in {KEY} would be readable on the way",
            f"use https://, or unset {KEY} if the server needs no key",
        )
    limits = httpx.Limits(
        max_connections=config.concurrency, max_keepalive_connections=config.concurrency
    )
    return httpx.Client(
        base_url=urlunsplit((parts.scheme, parts.netloc, path, "", "")),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(config.timeout, connect=min(10.0, config.timeout), pool=None),
        limits=limits,
    )


def only_model(client: httpx.Client) -> str:
    """The name of the one model that the server has. Raises UserError when it is not one."""
    import httpx

    try:
        response = client.get("models")
        if response.status_code in (401, 403):
            raise _no_access(client, response)
        names = [str(model["id"]) for model in response.json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{_shown(client.base_url)} does not say which models it has",
            "check that it is running, or name the model with --model",
        ) from None
    if len(names) != 1:
        raise UserError(
            f"{_shown(client.base_url)} has {len(names)} models",
            f"choose one with --model: {', '.join(names[:8])}",
        )
    return names[0]


def ask_server(
    client: httpx.Client,
    model: str,
    config: CaptionConfig,
    shown: show.ShownClip,
    sleep: Callable[[float], None] = time.sleep,
) -> CaptionAnswer:
    """Ask about one clip, again after 429, 5xx, time-outs and broken or unreadable answers.

    Waits as `realdpo.waiting` does, at most `config.max_wait` seconds. When every attempt
    failed, or the server refuses this request for good, the Answer carries `error`. Raises
    UserError for what would fail for every clip: no access, no such model, no credit.
    """
    import httpx

    content: list[dict[str, Any]] = [{"type": "text", "text": shown.question}]
    for frame in shown.frames:
        data = base64.b64encode(show.encode_jpeg(frame)).decode()
        content.append(
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
        )
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
    }
    began = time.monotonic()
    error = ""
    for attempt in range(1, config.retries + 2):
        asked: float | None = None
        try:
            response = client.post("chat/completions", json=body)
        except httpx.TransportError as broken:
            error = f"{type(broken).__name__}: {broken}"
        else:
            if response.status_code == 200:
                answer = _answer(response, model)
                if answer is not None:
                    return _stamped(answer, attempt, began)
                error = "the answer is not a chat completion"
            elif waiting.is_passing(response.status_code) or response.status_code == _BUSY:
                error = _said(client, response)
                if "insufficient_quota" in response.text:
                    raise UserError(
                        f"{_shown(client.base_url)}: the account has no credit left: {error}",
                        "add credit and run the same command again; the answers so far are kept",
                    )
                asked = waiting.retry_after(response.headers)
                if asked is not None and asked > config.max_wait:
                    error = f"the server asks to wait {asked:.0f} s (max_wait {config.max_wait:g})"
                    break
            elif response.status_code in (401, 403):
                raise _no_access(client, response)
            elif response.status_code == 404:
                raise UserError(
                    f"{_shown(client.base_url)}: {_said(client, response)}",
                    "check the base URL (often it ends in /v1) and --model",
                )
            elif _adapted(body, response):
                continue
            elif "content_filter" in response.text or "content_policy" in response.text:
                refused = CaptionAnswer(
                    raw=_said(client, response), finish="content_filter", model=model
                )
                return _stamped(refused, attempt, began)
            else:
                error = _said(client, response)
                break
        if attempt <= config.retries:
            sleep(waiting.seconds_to_wait(attempt, asked, config.max_wait))
    return _stamped(CaptionAnswer(model=model, error=error), attempt, began)


def ask_each(
    client: httpx.Client, model: str, config: CaptionConfig
) -> Callable[[Sequence[show.ShownClip]], list[CaptionAnswer]]:
    """`ask_server` as a function of a batch of clips, which is what captioners are to `run`."""
    return lambda batch: [ask_server(client, model, config, shown) for shown in batch]


def _answer(response: httpx.Response, model: str) -> CaptionAnswer | None:
    try:
        document = response.json()
        choice = document["choices"][0]
        message = choice["message"]
        text = message.get("content")
        refusal = message.get("refusal")
        usage = document.get("usage") or {}
        if isinstance(text, list):  # some servers answer in parts
            text = "".join(part.get("text", "") for part in text)
        return CaptionAnswer(
            raw=str(text or refusal or ""),
            finish="content_filter" if refusal and not text else choice.get("finish_reason"),
            model=model,
            tokens_in=int(usage.get("prompt_tokens") or 0),
            tokens_out=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _stamped(answer: CaptionAnswer, attempts: int, began: float) -> CaptionAnswer:
    import dataclasses

    seconds = round(time.monotonic() - began, 3)
    return dataclasses.replace(answer, attempts=attempts, seconds=seconds, asked_at=time.time())


def _adapted(body: dict[str, Any], response: httpx.Response) -> bool:
    """Newer models take `max_completion_tokens` and no temperature; ask once more their way."""
    if response.status_code != 400:
        return False
    if "max_tokens" in body and "max_completion_tokens" in response.text:
        body["max_completion_tokens"] = body.pop("max_tokens")
        return True
    if "temperature" in body and "temperature" in response.text:
        del body["temperature"]
        return True
    return False


def _no_access(client: httpx.Client, response: httpx.Response) -> UserError:
    return UserError(
        f"{_shown(client.base_url)} gives you no access: {_said(client, response)}",
        f"set {KEY} in the environment to a key that this server accepts",
    )


def _said(client: httpx.Client, response: httpx.Response) -> str:
    """The server's own words, short and without the key, which some servers echo."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    text = " ".join(str(message).split())
    key = client.headers.get("authorization", "").removeprefix("Bearer ")
    if key:
        text = text.replace(key, "***")
    return f"{response.status_code} {text[:200]}".strip()


def _shown(url: object) -> str:
    """An address without user name and password."""
    parts = urlsplit(str(url))
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_near(host: str) -> bool:
    """This machine or its own network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal", ".localhost"))
    return address.is_private or address.is_loopback or address.is_link_local
