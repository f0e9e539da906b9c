"""Captioning a workspace: what is asked, what is kept, what survives."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clip_workspace import make_workspace, rows_of
from server import GOOD, Behaviour, serve

from realdpo import tables
from realdpo.curate.caption import answers, edits, run, show
from realdpo.curate.caption.config import CaptionConfig
from realdpo.errors import UserError
from realdpo.workspace import Workspace


def config(server, **changes) -> CaptionConfig:
    settings = {"frames": 2, "short_side": 48, "timeout": 5.0, "retries": 2, **changes}
    return CaptionConfig(captioner=f"openai:{server.url}", **settings)


def test_frames_are_spread_over_the_clip(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 2, uncut=1)
    cut, uncut = rows_of(ws)
    sources = {uncut["source_id"]: {"path": str(bikes)}}
    for row in (cut, uncut):
        frames, seconds = show.clip_frames(ws.root, row, sources, 5, 48)
        assert frames.shape[0] == 5
        assert min(frames.shape[1:3]) == 48
        assert seconds == pytest.approx(24 / 25, abs=1e-6)
    many, _ = show.clip_frames(ws.root, cut, {}, 100, 48)
    assert len(many) == 25
    assert np.array_equal(many[[0, 6, 12, 18, 24]], show.clip_frames(ws.root, cut, {}, 5, 48)[0])
    one, _ = show.clip_frames(ws.root, cut, {}, 1, 48)
    assert np.array_equal(one, many[:1])


def test_keywords_need_no_model(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 3)
    summary = run.caption_clips(ws, CaptionConfig())
    assert summary["status"] == {"ok": 3}
    for row in rows_of(ws):
        assert row["prompt"] == "Bikes are in view. The themes are street and city."
        assert (row["captioner"], row["caption_status"]) == ("keywords", "ok")
        assert row["caption.tokens"] > 5
        assert row["luma.mean"] >= 90  # the scores of others stay


def test_only_what_is_missing_is_asked(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 6)
    table = tables.read_table(ws.clips, tables.CLIPS).to_pylist()
    table[5]["keep"] = False
    table[4]["status"] = "failed"
    tables.write_table(ws.clips, tables.from_rows(tables.CLIPS, table), tables.CLIPS)
    with serve() as server:
        first = run.caption_clips(ws, config(server, price_in=2.0, price_out=10.0))
        again = run.caption_clips(ws, config(server))
        assert len(server.bodies) == 4
        other = run.caption_clips(ws, config(server, frames=3))
        assert len(server.bodies) == 8  # another question is another answer
    assert (first["asked"], again["asked"], again["already_there"]) == (4, 0, 4)
    assert first["usd"] == pytest.approx(4 * (900 * 2 + 17 * 10) / 1e6, abs=1e-6)
    assert other["asked"] == 4
    rows = rows_of(ws)
    assert [row["prompt"] for row in rows] == [GOOD] * 4 + [None] * 2
    assert {row["captioner"] for row in rows[:4]} == {"judge-7b"}


def test_bad_answers_are_judged_kept_and_asked_again_on_demand(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 5)
    bad = [
        Behaviour(text="I'm sorry, but I can't help with that."),
        Behaviour(text="A man walks. He turns and", finish="length"),
        Behaviour(text=""),
        Behaviour(400, error="image too large"),
    ]
    with serve(lambda n, body: bad[n] if n < 4 else Behaviour()) as server:
        settings = config(server, concurrency=1)
        summary = run.caption_clips(ws, settings)
        assert summary["status"] == {"refused": 1, "truncated": 1, "empty": 1, "error": 1, "ok": 1}
        rows = rows_of(ws)
        assert rows[0]["caption_raw"].startswith("I'm sorry")
        assert rows[1]["prompt"] == "A man walks."
        assert "image too large" in rows[3]["caption_raw"]
        run.caption_clips(ws, settings)
        assert len(server.bodies) == 6  # an error is tried again by itself, a paid answer is not
        assert run.caption_clips(ws, settings, only_failed=True)["asked"] == 3
        assert run.caption_clips(ws, settings, only_failed=True)["asked"] == 0
        assert run.caption_clips(ws, settings, recaption=True)["asked"] == 5
        assert run.caption_clips(ws, settings)["asked"] == 0
    assert Counter(row["caption_status"] for row in rows_of(ws)) == {"ok": 5}


def test_a_stopped_recaption_is_gone_on_with(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 8)
    with serve(lambda n, body: Behaviour(401) if n == 11 else Behaviour()) as server:
        settings = config(server, concurrency=1)
        run.caption_clips(ws, settings)
        with pytest.raises(UserError, match="no access"):
            run.caption_clips(ws, settings, recaption=True)
        assert run.caption_clips(ws, settings)["asked"] == 5  # three of eight had been asked anew
        assert run.caption_clips(ws, settings)["asked"] == 0


def test_a_dead_server_ends_the_run_and_keeps_what_there_is(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 30)
    with serve(lambda n, body: Behaviour() if n < 10 else Behaviour(500)) as server:
        settings = config(server, concurrency=2, retries=0)
        with pytest.raises(UserError, match="one after the other"):
            run.caption_clips(ws, settings)
        assert len(server.bodies) < 20
    with serve() as server:
        assert run.caption_clips(ws, config(server, concurrency=2))["already_there"] == 10


def test_a_clip_that_cannot_be_read_stops_nothing(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 3)
    (tmp_path / rows_of(ws)[0]["path"]).write_bytes(b"no video")
    with serve() as server:
        summary = run.caption_clips(ws, config(server))
    assert summary["status"] == {"error": 1, "ok": 2}
    assert "cannot be read" in rows_of(ws)[0]["caption_raw"]


def test_sixteen_in_flight_and_no_more(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 40)
    all_there = threading.Barrier(16)

    def plan(n, body):
        if n < 16:
            all_there.wait(30)  # nobody is answered before sixteen are waiting
        return Behaviour(delay=0.02)

    with serve(plan) as server:
        run.caption_clips(ws, config(server, frames=1, timeout=60.0))
    assert server.most_in_flight == 16
    assert len(server.bodies) == 40


def test_an_answer_is_on_disk_before_the_next_is_asked(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 6)
    on_disk: list[int] = []

    def plan(n, body):
        on_disk.append(len(list(ws.step("caption").rglob("*.json"))))
        return Behaviour()

    with serve(plan) as server:
        run.caption_clips(ws, config(server, concurrency=1))
    assert on_disk == list(range(6))


def test_kill_9_loses_no_paid_answer(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 60)
    served = threading.Event()

    def plan(n, body):
        if n == 25:
            served.set()
        return Behaviour(delay=0.02)

    code = (
        "import sys; from pathlib import Path; from realdpo.curate.caption import run, config\n"
        "from realdpo.workspace import Workspace\n"
        "run.caption_clips(Workspace(Path(sys.argv[1])), config.CaptionConfig(captioner='openai:' +"
        " sys.argv[2], frames=2, short_side=48, concurrency=4))"
    )
    with serve(plan) as server:
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url])
        assert served.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(0.2)
        before = len(server.bodies)
        kept = len(list(ws.step("caption").rglob("*.json")))
        assert before - 4 <= kept <= before  # only what was in flight may be asked twice
        summary = run.caption_clips(ws, config(server, max_tokens=320, frames=2))
        assert summary["asked"] == 60 - kept
        assert len(server.bodies) == before + 60 - kept
    assert not list(ws.step("caption").rglob("*.tmp")) or kept < before
    assert {row["caption_status"] for row in rows_of(ws)} == {"ok"}


def test_edits_win_and_survive(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path / "w", bikes, 4)
    run.caption_clips(ws, CaptionConfig())
    sheet = tmp_path / "captions.csv"
    assert edits.give_out(sheet, rows_of(ws)) == 4
    lines = sheet.read_text().splitlines()
    clip_id = rows_of(ws)[1]["clip_id"]
    at = next(i for i, line in enumerate(lines) if line.startswith(clip_id))
    lines[at] = lines[at].replace("Bikes are in view. The themes are street and city.", "A, b.", 1)
    lines[at] = lines[at].replace(",A, b.", ',"She waves, twice."', 1)
    sheet.write_text("\n".join(lines))
    assert edits.take_in_edits(ws, sheet, rows_of(ws)) == (1, 3)
    for _ in range(2):
        run.caption_clips(ws, CaptionConfig(), recaption=True)
        assert [r["captioner"] for r in rows_of(ws)] == ["keywords", "edit", "keywords", "keywords"]
        assert rows_of(ws)[1]["prompt"] == "She waves, twice."
    with serve() as server:
        run.caption_clips(ws, config(server), recaption=True)
    assert [row["captioner"] for row in rows_of(ws)] == ["judge-7b", "edit", "judge-7b", "judge-7b"]
    run.caption_clips(ws, CaptionConfig())  # a model's caption is not undone by the default either
    assert [row["captioner"] for row in rows_of(ws)] == ["judge-7b", "edit", "judge-7b", "judge-7b"]
    row = {**rows_of(ws)[1], "clip_id": "other encode settings"}
    assert edits.find_edit(edits.load_edits(ws), row) == "She waves, twice."


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,b\n1,2\n", "needs the columns"), ("clip_id,prompt\nnope,Hi.\n", "line 2: no clip nope")],
)
def test_a_wrong_sheet_is_named(tmp_path: Path, bikes: Path, text: str, said: str) -> None:
    ws = make_workspace(tmp_path, bikes, 1)
    sheet = tmp_path / "in.csv"
    sheet.write_text(text)
    with pytest.raises(UserError, match=said):
        edits.take_in_edits(ws, sheet, rows_of(ws))
    assert not edits.edits_path(ws).exists()


def test_captions_longer_than_the_text_encoder_are_reported(tmp_path: Path, bikes: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 2)
    long = " ".join(f"The man lifts object number {i}." for i in range(60))
    with serve(lambda n, body: Behaviour(text=long if n == 0 else GOOD)) as server:
        summary = run.caption_clips(ws, config(server, concurrency=1))
    assert summary["tokens"]["too_long"] == [rows_of(ws)[0]["clip_id"]]
    assert summary["tokens"]["longest"] > 226


def test_a_damaged_answer_counts_as_none(tmp_path: Path) -> None:
    answers.save_answer(tmp_path, "abcd", answers.CaptionAnswer(raw="x", asked_at=1.0))
    assert answers.load_answers(tmp_path, ["abcd", "none"])["abcd"].raw == "x"
    file = next(tmp_path.rglob("*.json"))
    document = json.loads(file.read_text())
    assert document == dataclasses.asdict(answers.CaptionAnswer(raw="x", asked_at=1.0))
    file.write_text(file.read_text()[:10])
    assert answers.load_answers(tmp_path, ["abcd"]) == {}


def test_the_workspace_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="curate ingest|clips.parquet"):
        run.caption_clips(Workspace(tmp_path), CaptionConfig())
