"""The blind study: fair, durable, safe for many at once, and usable in a real browser."""

from __future__ import annotations

import collections
import json
import shutil
import threading
import urllib.error
import urllib.request
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest

from realdpo.media import decode
from realdpo.media.encode import encode_video
from realdpo.train.evaluate import study


@pytest.fixture(scope="module")
def videos(tmp_path_factory, bikes):
    """Rows of two systems on nine prompts, real footage in small; `calm` shows less of it."""
    folder = tmp_path_factory.mktemp("videos")
    shown = [f.rgb for f in decode.decode_frames(bikes, size=(152, 64), end=Fraction(4))]
    rows, prompts = [], {}
    for k in range(9):
        piece = np.stack(shown[k * 9 : k * 9 + 8])[:, :, :96]
        prompts[f"item{k}"] = f"<b>bikes</b> pass {k}"
        for name, frames in (("calm", piece), ("wild", piece[::-1])):
            path = folder / f"{name}-{k}.mp4"
            path.write_bytes(encode_video(np.ascontiguousarray(frames), 8))
            rows.append({"system": name, "item": f"item{k}", "seed": 0, "video": str(path)})
    return rows, prompts


@pytest.fixture
def running(tmp_path, videos):
    rows, prompts = videos
    made = study.Study(tmp_path, study.make_trials(tmp_path, rows, ["calm", "wild"], prompts))
    server = study.make_study_server(made)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(url, **headers):
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)


def post(url, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30)


def side_of(made, rater, trial_id, wanted):
    """The side on which this rater sees system `wanted`."""
    trial = made.trials[trial_id]
    return "left" if (wanted == trial.first) != made.swapped(rater, trial) else "right"


def vote_all(made, url, rater, choose):
    while True:
        shown = json.load(get(f"{url}/api/next?rater={rater}"))
        if shown["finished"]:
            return
        trial = made.trials[shown["trial"]]
        answer = side_of(made, rater, shown["trial"], choose(trial))
        post(
            f"{url}/api/vote",
            {"rater": rater, "trial": shown["trial"], "answer": answer, "seconds": 1},
        )


def test_sides_and_order_differ_by_rater_and_names_give_nothing_away(running):
    made, url = running
    assert len(made.trials) == 9 + 2  # two attention checks
    orders = {tuple(t.trial_id for t in made.order(f"r{k}")) for k in range(8)}
    assert len(orders) == 8
    swaps = [made.swapped(f"r{k}", t) for k in range(40) for t in made.trials.values()]
    assert 0.4 < np.mean(swaps) < 0.6
    shown = json.load(get(f"{url}/api/next?rater=r1"))
    text = json.dumps({k: v for k, v in shown.items() if k != "prompt"})
    assert not any(word in text for word in ("calm", "wild", "shuffled", "item"))
    clip = get(f"{url}/{shown['left']}")
    assert clip.headers["Content-Type"] == "video/mp4"
    whole = clip.read()
    part = get(f"{url}/{shown['left']}", Range="bytes=10-19")
    assert (part.status, part.read()) == (206, whole[10:20])


def test_many_raters_at_once_lose_no_vote_and_come_back_where_they_were(running):
    made, url = running
    raters = [f"rater{k}" for k in range(8)]
    threads = [
        threading.Thread(target=vote_all, args=(made, url, r, lambda t: t.first))
        for r in raters[:-1]
    ]
    for thread in threads:
        thread.start()
    # The last one votes thrice, goes away, and the server is started anew from the file.
    for _ in range(3):
        shown = json.load(get(f"{url}/api/next?rater=rater7"))
        body = {"rater": "rater7", "trial": shown["trial"], "answer": "tie", "seconds": 2}
        post(f"{url}/api/vote", body)
        post(f"{url}/api/vote", body)  # a double click counts once
    for thread in threads:
        thread.join()
    votes = pq.read_table(made.path).to_pylist()
    assert collections.Counter(v["rater"] for v in votes) == {
        **dict.fromkeys(raters, 11),
        "rater7": 3,
    }
    assert all(v["score"] == 1.0 for v in votes if v["rater"] != "rater7")
    again = study.Study(made.folder, list(made.trials.values()))
    assert again.next("rater7")["done"] == 3
    assert again.next("rater0")["finished"]
    assert again.next("rater7")["trial"] == made.next("rater7")["trial"]


def test_results_favour_the_preferred_and_leave_out_who_did_not_look(running):
    made, url = running
    for k in range(5):
        vote_all(made, url, f"careful{k}", lambda t: t.first if t.check else "wild")
    vote_all(made, url, "careless", lambda t: "shuffled" if t.check else "calm")
    found = study.summarise_votes(study.read_votes(made.path), ["calm", "wild"])
    assert (found["raters"], found["excluded"], found["votes"]) == (5, 1, 45)
    strength = {s["system"]: s for s in found["strengths"]}
    assert strength["wild"]["low"] > 0 > strength["calm"]["high"]
    assert found["agreement"] == 1.0
    assert 0.2 < found["chose_left"] < 0.8


def test_agreement_is_that_of_coins_or_of_people_whatever_system_is_called_first():
    rng = np.random.default_rng(0)

    def agreement(chance, names=("a", "b")):
        votes = [
            {
                "rater": f"r{r}",
                "trial": f"t{t}",
                "item": f"i{t}",
                "first": names[0],
                "second": names[1],
                "left": names[0],
                "check": False,
                "score": float((rng.random() < chance) == (names[0] == "a")),
            }
            for r in range(6)
            for t in range(200)
        ]
        return study.summarise_votes(votes, ["a", "b"])["agreement"]

    assert agreement(0.5) == pytest.approx(0, abs=0.03)
    # Two who prefer `a` with probability 0.9 agree in 0.82 of cases, coins in 0.5.
    assert agreement(0.9) == pytest.approx(0.64, abs=0.04)
    assert agreement(0.9, ("b", "a")) == pytest.approx(0.64, abs=0.04)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        {"rater": "a b", "trial": "x", "answer": "left"},
        {"rater": "ok", "trial": "unknown", "answer": "left"},
        {"rater": "ok", "answer": "left"},
    ],
)
def test_malformed_votes_are_refused_and_change_nothing(running, body):
    made, url = running
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{url}/api/vote", body)
    assert refused.value.code == 400
    assert not made.path.exists()
    for path in ("/video/../secret", "/video/" + "0" * 24 + ".mp4", "/secret", "/api/next?rater="):
        with pytest.raises(urllib.error.HTTPError):
            get(url + path)


@pytest.mark.slow
def test_three_people_vote_in_a_browser_at_the_same_time(running):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    made, url = running
    keys = {"left": "ArrowLeft", "right": "ArrowRight"}
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pages = {}
        for rater in ("ann", "bob", "cyd"):
            page = browser.new_context().new_page()
            page.goto(url)
            page.fill("#name", rater)
            page.click("#start button")
            pages[rater] = page
        for turn in range(11):  # in turns: three open sessions, none knows of the others
            for rater, page in pages.items():
                page.wait_for_selector("#trial:not([hidden])")
                page.wait_for_function(
                    f"document.querySelector('#count').textContent === '{turn} of 11' "
                    "&& document.body.dataset.trial && shownAt > 0"
                )
                trial = page.evaluate("document.body.dataset.trial")
                if turn == 0:
                    assert page.inner_text("#prompt").startswith("<b>bikes</b>")  # escaped
                    page.wait_for_function("document.querySelector('#left').currentTime > 0")
                side = side_of(made, rater, trial, made.trials[trial].first)
                if rater == "cyd":
                    page.click(f"button[data-answer={side}]")
                else:
                    page.keyboard.press(keys[side])
                if turn == 4 and rater == "bob":
                    page.wait_for_function(
                        "document.querySelector('#count').textContent === '5 of 11'"
                    )
                    page.reload()  # goes on where it was, without asking for the name
        for page in pages.values():
            page.wait_for_selector("#done:not([hidden])")
        browser.close()
    votes = study.read_votes(made.path)
    assert len(votes) == 33
    assert all(v["score"] == 1.0 for v in votes)
    assert all(0 < v["seconds"] < 600 for v in votes)
