"""Iterative self-correction: rounds of training, each from the last round's weights.

Before and after each round, the quantity that training lowers is measured on held-out clips. A
round helps if the interval of the paired difference lies below zero and the gain is at least a
tenth of the first round's. The first round that does not help is the last. Stopping is a choice
made on the data, so videos are compared on the validation split, and the test split is left for
`realdpo eval`. Every round is an ordinary run, so a finished round is not repeated.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from realdpo import progress, report
from realdpo.config import settings_to_toml
from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.train.config import TrainConfig
from realdpo.workspace import Workspace

Against = Literal["base", "last"]

# A round that gains less than this share of the first one's gain is not worth its time.
LEAST_SHARE = 0.1

PLAYERS = 6  # number of prompts whose videos are on the page

# Training's name for each reference: `frozen` is the model with which a round begins.
REFERENCES: Mapping[Against, Literal["auto", "frozen"]] = {"base": "auto", "last": "frozen"}


@dataclass(frozen=True)
class Round:
    """The result of one round. All figures are of held-out clips, or None if nothing was held out.

    change: change of the quantity that training lowers, mean over clips, with the ends of its 95 %
    interval, which are infinite with two clips or fewer. helped: whether the interval lies below
    zero and the gain is at least `LEAST_SHARE` of the first round's; None if the interval is
    infinite. error_change: relative change of the error on real clips against the base.
    """

    number: int
    run: str
    start: str
    steps: int
    before: float | None
    after: float | None
    change: tuple[float, float, float] | None
    helped: bool | None
    error_change: float | None
    better_than_base: bool | None


def run_rounds(
    workspace: Workspace,
    config: TrainConfig,
    count: int,
    *,
    against: Against = "base",
    prompts: int = 8,
    keep_going: bool = False,
    processes: int = 1,
    devices: Sequence[str] = ("cpu",),
) -> dict[str, Any]:
    """Train up to `count` rounds, compare them, and write the page. The same call continues.

    config: settings of every round; `-round-1` and so on follows the name (`run_name`). With the
    objective `dpo`, the first round takes the workspace's pairs. Before each later round, the last
    round's model generates the losers again, with the settings of the pairs. against: the reference
    of a round: the base, or the last round's model. prompts: number of validation prompts for
    videos after each round; 0 makes none. keep_going: train all rounds, whether they help or not.
    processes: number of processes that train a round.

    Returns the content of `rounds.json`: `rounds`, the `best` run (empty: the base), and `page`.
    """
    if count < 1:
        raise UserError(f"{count} rounds", "ask for at least 1")
    if config.expert == "both":
        raise UserError("rounds train one expert at a time", 'give --set expert="high" or "low"')
    if against not in REFERENCES:
        raise UserError(
            f"there is no reference {against!r}", f"references: {', '.join(REFERENCES)}"
        )
    if config.method.needs_losers and config.weights == "full" and count > 1:
        raise UserError(
            "rounds with generated losers need adapters",
            "leave out --set weights=full, or use --set objective=contrast, which generates "
            "nothing",
        )
    if against == "last":
        progress.say(
            "rounds against the last model ruined the motion in our experiment "
            "(docs/miniature.md). Look at the videos of every round, or leave out --reference last"
        )
    folder = workspace.root / "rounds" / config.run_name
    rounds: list[Round] = []
    start, compared, unseen = config.start, None, ""
    for number in range(1, count + 1):
        name = f"{config.run_name}-round-{number}"
        wanted = replace(config, name=name, start=start, reference=REFERENCES[against])
        progress.say(f"round {number} of {count}: {name}, from {start or 'the base'}")
        finished = _is_finished(workspace, wanted)
        if not finished:
            if number > 1 and config.method.needs_losers:
                _make_losers(workspace, start, number, devices)
            _train(workspace, wanted, folder, processes)
        rounds.append(_judge(workspace, wanted, number, rounds[0] if rounds else None))
        progress.say(_line(rounds[-1]))
        ends = number == count or (rounds[-1].helped is False and not keep_going)
        # Rounds that an earlier call finished are compared when the first new one is done.
        if prompts and (ends or not finished):
            compared, unseen = _compare(workspace, config, rounds, prompts, devices)
        made = _write(workspace, folder, config, against, rounds, compared, unseen)
        if ends and number < count:
            progress.say(f"round {number} no longer helps; --keep-going trains the others as well")
            break
        start = name
    return made


def _is_finished(workspace: Workspace, config: TrainConfig) -> bool:
    """Whether an earlier call trained this round.

    Raises UserError if its settings were different.
    """
    from realdpo.train import identity

    run = workspace.runs / config.run_name
    if not (run / "summary.json").is_file():
        return False
    identity.require_same_settings(run, config)
    done = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    if done["steps"] < config.steps and not done["stopped"]:
        return False
    progress.say(f"{run.name} is finished")
    return True


def _make_losers(workspace: Workspace, last: str, number: int, devices: Sequence[str]) -> None:
    """Run `pairs build` again with the model of the run `last`."""
    from realdpo.config import resolve_settings
    from realdpo.pairs.building import build_pairs
    from realdpo.pairs.config import BuildConfig

    file = workspace.config_file("pairs build")
    if not file.is_file():
        raise UserError(
            f"{workspace.root} has no pairs that were built here, so round {number} does not know "
            "how to make its losers",
            "run `realdpo pairs build` first, or use --set objective=contrast",
        )
    settings = resolve_settings(BuildConfig, section="pairs", file=file)
    weights = str(workspace.runs / last / "weights")
    build_pairs(workspace, replace(settings, lora=weights, round=number), devices=",".join(devices))


def _train(workspace: Workspace, config: TrainConfig, folder: Path, processes: int) -> None:
    """Train one round, in several processes through `realdpo train`."""
    from realdpo.train import loop

    if processes == 1:
        with workspace.lock("train"):
            loop.run_training(workspace, config)
        return
    settings = folder / f"{config.run_name}.toml"
    write_text(settings, settings_to_toml("train", config))
    command = [sys.executable, "-m", "realdpo", "train", "-w", str(workspace.root)]
    command += ["--config", str(settings), "--num-processes", str(processes)]
    if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"{config.run_name} ended with exit code {code}", "see its message above")


def _judge(
    workspace: Workspace, config: TrainConfig, number: int, first: Round | None = None
) -> Round:
    """The result of a finished round on held-out clips, from its log."""
    from realdpo.train.evaluate.statistics import bootstrap_interval
    from realdpo.train.runs import Run

    run = Run(workspace.runs / config.run_name)
    summary = run.summary
    rows = {int(row["step"]): row for row in run.held_out.rows()}
    given = summary["handed_over"].removeprefix("step-")
    before, after = rows.get(0), rows.get(int(given)) if given else None
    if not before or not after:
        return Round(number, run.name, config.start, summary["steps"], *[None] * 6)
    change = bootstrap_interval(np.array(after["by_pair"]) - np.array(before["by_pair"]))
    enough = LEAST_SHARE * first.change[0] if first and first.change else 0.0
    helped = change.high < 0 and change.estimate <= enough
    return Round(
        number,
        run.name,
        config.start,
        summary["steps"],
        float(np.mean(before["by_pair"])),
        float(np.mean(after["by_pair"])),
        (change.estimate, change.low, change.high),
        helped if math.isfinite(change.high) else None,
        after["winner_change"],
        summary["better_than_base"],
    )


def _line(done: Round) -> str:
    if done.change is None or done.before is None or done.after is None:
        return f"{done.run}: no clips were held out, so you cannot tell whether it helped"
    verdict = {True: "helped", False: "no evidence that it helped", None: "too few clips to tell"}
    return (
        f"{done.run}: {done.before:.5f} -> {done.after:.5f} on held-out clips "
        f"({_interval(done.change)}): {verdict[done.helped]}"
    )


def _interval(change: tuple[float, float, float]) -> str:
    mean, low, high = change
    return f"{mean:+.5f}" + (f", {low:+.5f} to {high:+.5f}" if math.isfinite(high) else "")


def find_best(rounds: Sequence[Round]) -> str:
    """The run to use: the last round before the first that did not help. Empty: the base.

    If there are too few clips to tell, a lower mean counts as help.
    """
    best = ""
    for done in rounds:
        lower = done.change is not None and done.change[0] < 0
        if not (lower if done.helped is None else done.helped):
            break
        best = done.run
    return best


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _advice(rounds: Sequence[Round], best: str) -> str:
    if not best:
        return "No round was better than the base: use the base."
    if any(done.helped is None for done in rounds):
        return (
            "Too few clips were held out to tell whether a round helped. By the mean alone, use "
            f"{best}, but look at its videos first."
        )
    return f"Use {best}."


def _compare(
    workspace: Workspace,
    config: TrainConfig,
    rounds: Sequence[Round],
    prompts: int,
    devices: Sequence[str],
) -> tuple[dict[str, Any] | None, str]:
    """Run `realdpo eval` on the base and all rounds, on validation prompts, or say why not."""
    from realdpo.train.evaluate import commands
    from realdpo.train.evaluate.config import EvalConfig

    settings = EvalConfig(
        name=f"{config.run_name}-rounds",
        split="validation",
        prompts=prompts,
        seeds=1,
        task=config.task,
        systems={"base": config.model, **{f"round-{r.number}": r.run for r in rounds}},
    )
    try:
        with workspace.lock(f"eval --name {settings.name}"):
            return commands.evaluate_and_report(workspace, settings, devices, (1, 1)), ""
    except UserError as error:
        progress.say(f"no videos were compared: {error.message}")
        return None, error.message


def _write(
    workspace: Workspace,
    folder: Path,
    config: TrainConfig,
    against: Against,
    rounds: Sequence[Round],
    compared: Mapping[str, Any] | None,
    unseen: str,
) -> dict[str, Any]:
    page = workspace.reports / f"rounds-{config.run_name}.html"
    evaluation = f"{config.run_name}-rounds" if compared else None
    made: dict[str, Any] = {
        "rounds": [asdict(done) for done in rounds],
        "best": find_best(rounds),
        "reference": against,
        "eval": evaluation,
        "page": str(page),
    }
    write_text(folder / "rounds.json", json.dumps(made, indent=1))
    videos = _videos(workspace, evaluation, unseen)
    report.write_page(page, build_page(config, against, rounds, compared, videos))
    return made


def _videos(workspace: Workspace, evaluation: str | None, unseen: str) -> report.Section:
    """The videos of the base and of every round in step, or why there are none."""
    from realdpo.train.evaluate import commands

    if evaluation is None:
        return report.Section("Videos", _sentence(unseen) if unseen else "No videos were made.")
    return commands.evaluation_videos(workspace, evaluation, PLAYERS)


def build_page(
    config: TrainConfig,
    against: Against,
    rounds: Sequence[Round],
    compared: Mapping[str, Any] | None,
    videos: report.Section,
) -> str:
    """One page for all rounds: their results on held-out clips, and their videos compared."""
    best = find_best(rounds)
    words = Markup("<p>{}</p>").format(_advice(rounds, best))
    verdict = {True: "helped", False: "no evidence", None: "too few clips"}
    table = [
        {
            "round": done.number,
            "run": done.run,
            "from": done.start or "the base",
            "steps": done.steps,
            "before": done.before,
            "after": done.after,
            "change, 95 % interval": _interval(done.change) if done.change else None,
            "verdict": verdict[done.helped] if done.change else "nothing held out",
            "error on real clips": None
            if done.error_change is None
            else f"{done.error_change:+.2%}",
        }
        for done in rounds
    ]
    note = Markup("<p>{}</p>").format(
        f"Before and after: the value that {config.objective} lowers, on held-out clips, with the "
        "reference "
        f"“{against}”. A round helped if the interval of the change lies below zero and the gain "
        f"is at least {LEAST_SHARE:.0%} of the first round's. The error "
        "on real clips is compared with the base's."
    )
    sections = [report.Section("Rounds", words + report.render_table(table) + note)]
    if len(rounds) > 1 and all(done.after is not None for done in rounds):
        xs = [float(done.number) for done in rounds]
        sections.append(
            report.Section(
                "Held-out clips",
                report.plot_lines(
                    {
                        "before": (xs, [float(done.before or 0) for done in rounds]),
                        "after": (xs, [float(done.after or 0) for done in rounds]),
                    },
                    f"value that {config.objective} lowers, by round",
                ),
            )
        )
    sections.append(videos)
    if compared:
        from realdpo.train.evaluate import page

        sections += page.comparison_sections(compared)
    return report.render_page(f"Rounds of {config.run_name}", sections)
