"""The judge against a real HTTP server that answers, throttles, rambles, breaks off and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from judge_server import Server

from realdpo.errors import UserError
from realdpo.train.evaluate import judge as j
from realdpo.train.evaluate.config import JudgeConfig


@pytest.fixture
def serve():
    servers = []

    def start(troubles=()):
        servers.append(Server(troubles))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()


@pytest.fixture
def videos():
    shape = (10, 32, 48, 3)
    return {
        "base": np.full(shape, 51, np.uint8),
        "sft": np.full(shape, 102, np.uint8),
        "dpo": np.full(shape, 204, np.uint8),
    }


def test_scores_come_back_to_the_right_system_whatever_the_order(serve, videos):
    server = serve()
    config = JudgeConfig(url=server.url, model="m")
    first = np.full((32, 48, 3), 7, np.uint8)
    for seed in range(6):
        scores = j.judge_prompt(config, "a person waves", first, videos, seed)
        means = {name: np.mean(list(s.values())) for name, s in scores.items()}
        assert means == pytest.approx({"base": 2.0, "sft": 4.0, "dpo": 8.0}, abs=0.05)
        assert set(scores["dpo"]) == set(j.ASPECTS)
    orders = {
        json.dumps(
            [
                p["image_url"]["url"]
                for p in body["messages"][0]["content"]
                if p["type"] == "image_url"
            ]
        )
        for _, _, body in server.requests
    }
    assert len(orders) > 1  # shuffled
    text = json.dumps([body for _, _, body in server.requests])
    assert not any(name in text for name in ("base:", "sft", "dpo"))  # blind


def test_the_second_turn_shows_the_systems_in_reverse(serve, videos):
    server = serve()
    for pair in (videos, {name: videos[name] for name in ("base", "dpo")}):
        for seed in range(4):
            for turn in range(2):
                j.judge_prompt(JudgeConfig(url=server.url, model="m"), "x", None, pair, seed, turn)
    shown = []
    for _, _, body in server.requests:
        urls = [p["image_url"]["url"] for p in body["messages"][0]["content"] if "image_url" in p]
        shown.append(list(dict.fromkeys(urls)))  # a video here is one picture again and again
    for first, second in zip(shown[::2], shown[1::2], strict=True):
        assert first == second[::-1]
    assert len({tuple(order) for order in shown}) > 4


def test_without_a_first_frame_its_questions_are_not_asked(serve, videos):
    server = serve()
    scores = j.judge_prompt(JudgeConfig(url=server.url, model="m"), "x", None, videos, 0)
    assert set(scores["base"]) == {"text", "motion", "body"}


def test_throttling_dropped_lines_and_rambling_are_survived(serve, videos, monkeypatch):
    monkeypatch.setattr(j.time, "sleep", lambda s: None)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    eleven = json.dumps({k: {a: [11] * 5 for a in j.ASPECTS} for k in "ABC"})
    server = serve([429, 503, "drop", "I cannot judge this.", eleven])
    config = JudgeConfig(url=server.url, model="m", attempts=6)
    scores = j.judge_prompt(config, "x", np.zeros((32, 48, 3), np.uint8), videos, 1)
    assert scores["dpo"]["motion"] == pytest.approx([8.0] * 5)
    assert len(server.requests) == 6
    assert server.requests[0][1]["Authorization"] == "Bearer secret-key"


def test_refusal_and_exhaustion_are_one_clear_error_without_the_key(serve, videos, monkeypatch):
    monkeypatch.setattr(j.time, "sleep", lambda s: None)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    server = serve([401])
    with pytest.raises(UserError, match="401") as refused:
        j.judge_prompt(JudgeConfig(url=server.url, model="m"), "x", None, videos, 0)
    assert "secret-key" not in f"{refused.value.message}{refused.value.hint}"
    assert len(server.requests) == 1
    server = serve([500] * 5)
    with pytest.raises(UserError, match="5 attempts: it answers 500"):
        j.judge_prompt(JudgeConfig(url=server.url, model="m"), "x", None, videos, 0)


def test_a_judge_that_made_the_data_is_refused():
    for used in (
        "transformers:Qwen/Qwen2.5-VL-7B-Instruct",
        "openai:http://localhost:8000/v1 qwen2.5-vl-7b-instruct",
    ):
        with pytest.raises(UserError, match="also wrote or filtered"):
            j.refuse_if_used("Qwen/Qwen2.5-VL-7B-Instruct", [used])
        assert j.used_as("Qwen/Qwen2.5-VL-7B-Instruct", ["keywords", used]) == used
    j.refuse_if_used("OpenGVLab/InternVL3-8B", ["keywords", "transformers:Qwen/Qwen2.5-VL-7B"])


def test_self_agreement_of_equal_opposite_and_random_runs():
    first = np.array([1.0, 3, 5, 7, 9, 2])
    assert j.self_agreement(np.stack([first, first, first])) == pytest.approx(1.0)
    assert j.self_agreement(np.stack([first, 10 - first])) < 0
    assert abs(j.self_agreement(np.random.default_rng(0).random((2, 1500)))) < 0.1


def test_there_are_four_aspects_of_five_questions():
    assert [len(q) for q in j.ASPECTS.values()] == [5, 5, 5, 5]
    assert len({q for questions in j.ASPECTS.values() for q in questions}) == 20
