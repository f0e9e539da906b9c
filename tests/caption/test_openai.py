"""The client against a real HTTP server that answers, throttles, breaks off, fails and refuses."""

from __future__ import annotations

import base64
import email.utils
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server import GOOD, Behaviour, serve

from realdpo.curate.caption import openai
from realdpo.curate.caption.answers import CaptionAnswer
from realdpo.curate.caption.config import CaptionConfig
from realdpo.curate.caption.show import ShownClip
from realdpo.errors import UserError

SHOWN = ShownClip("c0", np.full((3, 32, 48, 3), 200, np.uint8), 1.0, "What happens?")


def config(**changes) -> CaptionConfig:
    return CaptionConfig(captioner="openai:x", **{"timeout": 5.0, "retries": 3, **changes})


def ask(server, waits: list[float] | None = None, **changes) -> CaptionAnswer:
    settings = config(**changes)
    with openai.connect_server(server.url, settings) as client:
        return openai.ask_server(
            client, "judge-7b", settings, SHOWN, sleep=(waits if waits is not None else []).append
        )


def first(*behaviours: Behaviour):
    return lambda n, body: behaviours[n] if n < len(behaviours) else Behaviour()


def test_a_good_answer_and_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openai.KEY, "sk-secret")
    with serve() as server:
        got = ask(server)
    assert (got.raw, got.finish, got.tokens_in, got.tokens_out) == (GOOD, "stop", 900, 17)
    assert server.keys == ["Bearer sk-secret"]
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("judge-7b", 320, 0.1)
    text, *images = body["messages"][0]["content"]
    assert text["text"] == "What happens?"
    assert len(images) == 3
    head, data = images[0]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert picture.shape == (32, 48, 3)
    assert abs(int(picture.mean()) - 200) <= 1


def test_throttled_waits_as_long_as_it_is_told() -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    waits: list[float] = []
    plan = first(
        Behaviour(429, headers={"Retry-After": "7"}), Behaviour(429, headers={"Retry-After": date})
    )
    with serve(plan) as server:
        got = ask(server, waits)
    assert (got.raw, got.attempts) == (GOOD, 3)
    assert 7 <= waits[0] <= 7.25
    assert 17 <= waits[1] <= 20.3


def test_throttled_really_pauses() -> None:
    with serve(first(Behaviour(429, headers={"Retry-After": "0.4"}))) as server:
        settings = config()
        with openai.connect_server(server.url, settings) as client:
            openai.ask_server(client, "judge-7b", settings, SHOWN)
    assert server.times[1] - server.times[0] >= 0.4


def test_a_wait_beyond_the_limit_is_left_for_another_run() -> None:
    with serve(first(Behaviour(429, headers={"Retry-After": "3600"}))) as server:
        got = ask(server)
    assert "3600 s" in got.error
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        Behaviour(500),
        Behaviour(503),
        Behaviour(how="break"),
        Behaviour(how="garbage"),
        Behaviour(how="silent", delay=0.6),
    ],
    ids=["500", "503", "breaks off", "not JSON", "silent"],
)
def test_trouble_is_survived(trouble: Behaviour) -> None:
    waits: list[float] = []
    with serve(first(trouble, trouble)) as server:
        got = ask(server, waits, timeout=0.5)
    assert (got.raw, got.error, got.attempts) == (GOOD, "", 3)
    assert 0 <= waits[0] <= 1
    assert 0 <= waits[1] <= 2


def test_trouble_without_end_is_an_error_not_a_crash() -> None:
    with serve(lambda n, body: Behaviour(500, error="kernel panic")) as server:
        got = ask(server)
    assert got.error == "500 kernel panic"
    assert (got.attempts, len(server.bodies)) == (4, 4)


def test_backoff_grows_and_is_jittered() -> None:
    rounds: list[list[float]] = [[] for _ in range(12)]
    settings = config(retries=4, max_wait=4.0)
    with (
        serve(lambda n, body: Behaviour(502)) as server,
        openai.connect_server(server.url, settings) as client,
    ):
        for waits in rounds:
            openai.ask_server(client, "judge-7b", settings, SHOWN, sleep=waits.append)
    for i, limit in enumerate((1, 2, 4, 4)):
        drawn = [waits[i] for waits in rounds]
        assert max(drawn) <= limit
        assert len(set(drawn)) == len(drawn)
    assert max(w[2] for w in rounds) > 1


def test_refusals() -> None:
    filtered = Behaviour(400, error="content_filter: the prompt was blocked")
    refused = Behaviour(text="", refusal="I can't help with that.")
    with serve(first(filtered, refused)) as server:
        assert ask(server).finish == "content_filter"
        assert ask(server).finish == "content_filter"
    assert len(server.bodies) == 2  # a refusal is an answer; it is not asked again


def test_newer_parameter_names() -> None:
    plan = first(
        Behaviour(400, error="Unsupported parameter: use max_completion_tokens"),
        Behaviour(400, error="temperature does not support 0.1"),
    )
    with serve(plan) as server:
        assert ask(server).raw == GOOD
    assert server.bodies[2]["max_completion_tokens"] == 320
    assert not {"max_tokens", "temperature"} & set(server.bodies[2])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_would_fail_for_all_stops_at_once(status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openai.KEY, "sk-secret")
    with (
        serve(first(Behaviour(status, error="not with sk-secret"))) as server,
        pytest.raises(UserError) as caught,
    ):
        ask(server)
    assert len(server.bodies) == 1
    assert "sk-secret" not in caught.value.message + (caught.value.hint or "")


def test_no_credit_stops_at_once() -> None:
    plan = first(Behaviour(429, error="insufficient_quota"))
    with serve(plan), pytest.raises(UserError, match="no credit") as caught, serve(plan) as server:
        ask(server)
    assert "kept" in (caught.value.hint or "")


def test_a_key_does_not_travel_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openai.KEY, "sk-secret")
    with pytest.raises(UserError, match="not encrypted"):
        openai.connect_server("http://captions.example.com/v1", config())
    for near in ("http://127.0.0.1:1/v1", "http://gpu-box:8000", "http://192.168.1.5:8000/v1"):
        openai.connect_server(near, config()).close()
    openai.connect_server("https://captions.example.com/v1", config()).close()


def test_the_only_model_is_found() -> None:
    with serve() as server, openai.connect_server(server.url, config()) as client:
        assert openai.only_model(client) == "judge-7b"
    with (
        serve(models=("a", "b")) as server,
        openai.connect_server(server.url, config()) as client,
        pytest.raises(UserError, match="2 models") as caught,
    ):
        openai.only_model(client)
    assert "a, b" in (caught.value.hint or "")
    with (
        openai.connect_server(server.url, config()) as client,
        pytest.raises(UserError, match="which"),
    ):
        openai.only_model(client)  # it is down now


def test_prompt_travels_with_the_package() -> None:
    from realdpo.curate.caption import show

    for name in ("prompt.txt", "verify.txt"):
        assert "$seconds" in show.read_question("", name)
    with pytest.raises(UserError, match="cannot read the prompt file"):
        show.read_question(str(Path("no") / "such.txt"), "prompt.txt")
    with pytest.raises(UserError, match="colour"):
        show.check_template("What $colour?", ("seconds",))
