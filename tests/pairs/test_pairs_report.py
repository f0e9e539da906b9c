"""The page of pairs, in a real browser: it plays, filters, takes keys, and gives a file back."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import pytest
from pair_workspace import footage

from realdpo import ids, tables
from realdpo.pairs import conform
from realdpo.pairs.publish import apply_review, publish_pairs
from realdpo.pairs.report import write_pairs_report
from realdpo.workspace import Workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, bikes) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("work"))
    workspace.pair_videos.mkdir(parents=True)
    form = conform.Form(64, 64, 9, Fraction(8))
    rows = []
    for k, prompt in enumerate(["a <b>bike</b> & a man", "a red car", "a woman & a dog"]):
        clip = footage(bikes, 3 * k, 9, (64, 64), 8)
        names = []
        for video in (clip, clip[[0, *range(8, 0, -1)]], clip[[0, *range(4, 8), *range(1, 5)]]):
            data = conform.encode_side(video, form, 12)
            names.append(f"{ids.bytes_hash(data)}.mp4")
            (workspace.pair_videos / names[-1]).write_bytes(data)
        rows.append(
            {
                "pair_id": ids.content_id(k=k),
                "clip_id": f"clip{k}",
                "prompt": prompt,
                "split": "validation" if k == 2 else "train",
                "status": "ok",
                "win": names[0],
                "lose": names[1:],
                "strategy": ["generate", "renoise" if k == 1 else "generate"],
                "seeds": [k, k + 1],
                "width": 64,
                "height": 64,
                "frames": 9,
                "fps": 8.0,
                "steps": 4,
                "guidance": 6.0,
                "model": "tiny",
                "task": "i2v",
                "round": 1,
            }
        )
    publish_pairs(workspace, rows, shard_rows=8)
    return workspace


def test_the_page_is_whole_and_escapes_prompts(workspace) -> None:
    page = write_pairs_report(workspace).read_text()
    assert "a &lt;b&gt;bike&lt;/b&gt; &amp; a man" in page
    assert "<b>bike</b>" not in page
    assert page.count("data:video/mp4") == 9
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_pairs_are_judged_in_a_browser(workspace, tmp_path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is absent")
    page_file = write_pairs_report(workspace, tmp_path / "pairs.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        page = browser.new_page(accept_downloads=True)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url)
            ),
        )
        page.goto(page_file.as_uri())
        pairs = page.locator(".pair")
        assert pairs.count() == 3
        page.wait_for_function(
            "[...document.querySelectorAll('video')].every(v => v.readyState >= 1)"
        )

        page.keyboard.press("j")
        assert "current" in (pairs.nth(0).get_attribute("class") or "")
        page.keyboard.press(" ")
        page.wait_for_function(
            "[...document.querySelectorAll('.pair.current video')].every(v => v.currentTime > 0.1)"
        )
        times = page.evaluate(
            "[...document.querySelectorAll('.pair.current video')].map(v => v.currentTime)"
        )
        assert max(times) - min(times) < 0.3  # in step
        page.keyboard.press(" ")

        page.keyboard.press("r")  # chooses, and goes on to the next
        assert pairs.nth(0).get_attribute("data-choice") == "reject"
        page.keyboard.press("f")
        page.keyboard.press("a")
        assert [pairs.nth(k).get_attribute("data-choice") for k in range(3)] == [
            "reject",
            "flag",
            "accept",
        ]
        page.keyboard.press("u")
        assert pairs.nth(2).get_attribute("data-choice") == ""

        page.fill("[name=search]", "car")
        assert [pairs.nth(k).is_visible() for k in range(3)] == [False, True, False]
        page.fill("[name=search]", "")
        page.select_option("[name=strategy]", "renoise")
        assert [pairs.nth(k).is_visible() for k in range(3)] == [False, True, False]
        page.select_option("[name=strategy]", "")
        page.select_option("[name=choice]", "reject")
        assert [pairs.nth(k).is_visible() for k in range(3)] == [True, False, False]
        page.select_option("[name=choice]", "")

        with page.expect_download() as download:
            page.get_by_role("button", name="Download choices").click()
        file = tmp_path / "review.json"
        download.value.save_as(file)
        browser.close()
    assert problems == []
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    assert json.loads(file.read_text())["choices"] == {
        rows[0]["pair_id"]: "reject",
        rows[1]["pair_id"]: "flag",
    }
    assert apply_review(workspace, file)[rows[0]["pair_id"]] == "reject"
