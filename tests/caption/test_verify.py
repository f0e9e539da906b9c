"""The caption check: by somebody else, judged anew when the caption changes, able to drop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clip_workspace import make_workspace, rows_of
from server import Behaviour, serve

from realdpo.curate import decide
from realdpo.curate.caption import run, verify
from realdpo.curate.caption.config import CaptionConfig, VerifyConfig, model_key
from realdpo.errors import UserError


def settings(server) -> CaptionConfig:
    return CaptionConfig(
        captioner=f"openai:{server.url}", frames=2, short_side=48, timeout=5.0, retries=1
    )


def judge(server, **changes) -> VerifyConfig:
    return VerifyConfig(verifier=f"openai:{server.url}", **changes)


def verdict(fit: float, action: float, wrong: str = "nothing") -> Behaviour:
    return Behaviour(text=json.dumps({"fit": fit, "action": action, "wrong": wrong}))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"fit": 9, "action": 4, "wrong": "no dog"}', (0.9, 0.4, "no dog")),
        ('Sure!\n```json\n{"fit": "10", "action": 0}\n```', (1.0, 0.0, "")),
        ("Fit: 7/10, action: 2.5", (0.7, 0.25, "")),
        ('{"fit": 90, "action": -1}', (None, None, "")),
        ('{"fit": NaN, "action": true}', (None, 0.1, "")),
        ("I cannot tell.", (None, None, "")),
        ('{"a": {"fit": 3, "action": 3}}', (0.3, 0.3, "")),
    ],
)
def test_verdicts_are_read(text: str, wanted: tuple) -> None:
    assert verify.parse_judgement(text) == wanted


def test_same_model_behind_another_door() -> None:
    names = [
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "/models/qwen2.5-vl-7b-instruct/",
        "Qwen/Qwen2.5-VL-7B-Instruct-AWQ",
        "qwen2.5-vl-7b-instruct",
    ]
    assert len({model_key(name) for name in names}) == 1
    assert model_key("Qwen2.5-VL-72B-Instruct") != model_key(names[0])


def test_the_author_may_not_judge(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 3)
    with serve(models=("Qwen/Qwen2.5-VL-7B-Instruct",)) as server:
        run.caption_clips(ws, settings(server))
        asked = len(server.bodies)
        other_door = judge(server, model="qwen2.5-vl-7b-instruct-awq")
        with pytest.raises(UserError, match="does not see its own mistakes") as caught:
            verify.verify_captions(ws, other_door, settings(server))
        assert len(server.bodies) == asked  # refused before anything was spent
        assert "allow_same_model" in (caught.value.hint or "")
        insisted = judge(server, allow_same_model=True)
        verify.verify_captions(ws, insisted, settings(server))
        assert len(server.bodies) == asked + 3


def test_verdicts_are_stored_and_follow_the_caption(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 4)
    with serve() as writer:
        run.caption_clips(ws, settings(writer))
        with serve(
            lambda n, body: verdict(10 - 2 * n, 5) if n != 3 else Behaviour(text="Hm."),
            models=("other-13b",),
        ) as server:
            slow = CaptionConfig(captioner="openai:x", frames=2, short_side=48, concurrency=1)
            summary = verify.verify_captions(ws, judge(server), slow)
            assert "bicycle" in server.bodies[0]["messages"][0]["content"][0]["text"]
            assert (summary["verifier"], summary["judged"]) == ("other-13b", 4)
            assert summary["unreadable"] == 1
            assert summary["mean_fit"] == pytest.approx((1 + 0.8 + 0.6) / 3, abs=1e-3)
            fits = [row["verify.fit"] for row in rows_of(ws)]
            assert fits[:3] == pytest.approx([1.0, 0.8, 0.6])
            assert fits[3] is None
            verify.verify_captions(ws, judge(server), slow)
            assert len(server.bodies) == 4
    with serve(lambda n, body: Behaviour(text="A dog runs."), models=("judge-7b",)) as writer:
        run.caption_clips(ws, settings(writer), recaption=True)
        assert [row["verify.fit"] for row in rows_of(ws)] == [None] * 4  # not of this caption
        with serve(lambda n, body: verdict(1, 0), models=("other-13b",)) as server:
            verify.verify_captions(ws, judge(server), slow)
            assert len(server.bodies) == 4
    run.caption_clips(ws, CaptionConfig())
    assert [row["verify.fit"] for row in rows_of(ws)] == pytest.approx([0.1] * 4)


def test_a_low_verdict_can_drop_the_clip() -> None:
    scores = {"verify.fit": np.array([0.2, 0.9, np.nan], np.float32)}
    reasons = decide.find_reasons(scores, {"verify.fit_min": 0.5}, 3)
    assert [[str(reason) for reason in row] for row in reasons] == [["verify.fit=0.2<0.5"], [], []]
