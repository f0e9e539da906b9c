"""The page of a run: a summary in plain words, the curves, and the generated videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from realdpo import report
from realdpo.errors import UserError
from realdpo.train import log
from realdpo.workspace import Workspace

Row = Mapping[str, Any]
WINDOW = 20  # steps that a curve and a judgement are averaged over
SPENT = 0.2  # share of the preference's first gradient below which it counts as saturated


def write_train_report(
    workspace: Workspace, run: str, to: Path | None = None
) -> tuple[Path, list[str]]:
    """Write reports/train-<run>.html, or the page `to`; return its path and the warnings on it.

    Raises UserError if there is no such run, or if it has not made a step yet.
    """
    folder = workspace.runs / run
    steps = log.read_log(folder / "log.jsonl")
    held = log.read_log(folder / "held_out.jsonl")
    if not steps and (folder / "high" / "log.jsonl").is_file():
        raise UserError(
            f"the run {run} trained two transformers",
            f"name one of them to get its page: {run}/high or {run}/low",
        )
    if not steps:
        known = sorted(p.parent.name for p in workspace.runs.glob("*/log.jsonl"))
        raise UserError(
            f"{workspace.runs} holds no run {run!r} that has made a step",
            f"runs: {', '.join(known)}"
            if known
            else f"train one: realdpo train -w {workspace.root}",
        )
    found = run_warnings(steps, held)
    sections = [
        report.Section("In words", _words(folder, steps, held, found)),
        report.Section("Held-out pairs", _held_out(held)),
    ]
    if videos := _videos(folder / "videos"):
        sections.append(report.Section("Real, and generated at fixed seeds", videos))
    sections += [
        report.Section("Training", _curves(steps)),
        report.Section("By noise level", _levels(steps, held)),
        report.Section("Settings", _settings(folder / "config.toml")),
    ]
    path = to or workspace.reports / f"train-{run.replace('/', '-')}.html"
    report.write_page(path, report.render_page(f"Training run {run}", sections, str(folder)))
    return path, found


def run_warnings(steps: Sequence[Row], held: Sequence[Row]) -> list[str]:
    """Warnings that follow from the numbers of a run, each in a few sentences. Pure."""
    found = []
    if pushed := _pushes_losers(steps):
        found.append(pushed)
    if held and held[-1]["step"]:
        found += _held_out_warnings(held)
    if saturated := _saturated(steps):
        found.append(saturated)
    updates = [row["reference_update"] for row in steps if "reference_update" in row]
    if updates and not any(updates):
        found.append("The moving reference does not move. See docs/training.md, Reference.")
    return found


def _pushes_losers(steps: Sequence[Row]) -> str | None:
    """A known failure: every pair is won because the loser's error grows, and winners get worse."""
    for start in range(len(steps) - WINDOW + 1):
        window = steps[start : start + WINDOW]
        if (_mean(window, "rewards/accuracy") or 0) >= 0.99:
            break
    else:
        return None
    late = steps[-WINDOW:]
    gap, share = _mean(late, "win_gap"), _mean(late, "loser_dominant_ratio")
    if gap is None or share is None or gap <= 0 or share < 0.5:
        return None
    return (
        f"Accuracy is 1.0 from step {steps[start]['step']} on, and the winner's error rises "
        f"({gap:+.2g} against the reference, in {share:.0%} of the pairs won). The model pushes "
        "losers away and does not learn from winners. Add sft_weight or sdpo_mu, lower lr, or "
        "audit the pairs for a shortcut. See docs/training.md, When both errors rise."
    )


def _saturated(steps: Sequence[Row]) -> str | None:
    """Whether the preference has saturated: little of its first gradient is left."""
    shares = [2 * row["saturation"] for row in steps if "saturation" in row]
    means = [sum(shares[i : i + WINDOW]) / WINDOW for i in range(len(shares) - WINDOW + 1)]
    if not means or means[-1] >= SPENT:
        return None
    start = next(i for i, mean in enumerate(means) if mean < SPENT)
    late = steps[-WINDOW:]
    rest = (_mean(late, "loss") or 0) - (_mean(late, "loss/preference") or 0)
    anchored = "loss/preference" in late[-1] and rest > 1e-6
    still = (
        "only the winner's own error still trains the model, as in SFT"
        if anchored
        else "further steps teach little"
    )
    return (
        f"The preference has saturated: {means[-1]:.0%} of its first gradient is left, and less "
        f"than {SPENT:.0%} since about step {steps[start]['step']}. The pairs are won, and "
        f"{still}. Lower beta, make harder pairs, or stop here. See docs/training.md, When the "
        "preference saturates."
    )


def _held_out_warnings(held: Sequence[Row]) -> list[str]:
    last, found = held[-1], []
    if "contrast" in last and last["contrast"] >= last["contrast_base"]:
        found.append(
            f"On held-out clips, the contrast is {last['contrast']:.5f} and not below the base's "
            f"{last['contrast_base']:.5f}. The model has learnt nothing that carries over to "
            "unseen clips. Train on more clips, for fewer steps, or with a lower lr."
        )
    if "contrast" in last and last["winner_change"] > 0.005:
        found.append(
            f"The error on held-out clips rose by {last['winner_change']:.1%}. The contrast aims "
            "beyond the clips' average, so expect this late in training. The motion may be "
            "exaggerated. Compare the videos with `realdpo eval`, or lower gamma."
        )
    elif last["winner_change"] > 0.005:
        both = " and so did the loser's" if last.get("loser_change", 0) > 0 else ""
        found.append(
            f"On held-out pairs the winner's error rose by {last['winner_change']:.1%}{both}. The "
            "tuned model predicts real clips worse than the base does. An earlier checkpoint may "
            "be better."
        )
    if "accuracy" in last and last["accuracy"] <= 0.55:
        found.append(
            f"Held-out accuracy against the base is {last['accuracy']:.2f}, no better than a "
            "guess. The model has learnt nothing yet that carries over to unseen pairs."
        )
    control = last.get("control_accuracy")
    if control is not None and last["accuracy"] > 0.6 and control >= last["accuracy"] - 0.05:
        found.append(
            f"The model prefers winners to losers of other prompts just as often ({control:.2f}; "
            f"own losers {last['accuracy']:.2f}). So part of what it has learnt is how generated "
            "video looks, whatever the prompt. You may want that, or it may be a shortcut: run "
            "`realdpo pairs audit`."
        )
    by_level = last.get("accuracy_by_level", [])
    if len(by_level) >= 4 and last["accuracy"] > 0.6:
        high = sum(by_level[-2:]) / 2
        if high <= 0.55:
            found.append(
                "At the highest noise levels, which decide layout and motion, accuracy is "
                f"{high:.2f}. The gain is in texture. Raise t_high or use timesteps = logit-normal."
            )
    if last["pairs"] < 10:
        found.append(
            f"Only {last['pairs']} pairs or clips are held out. That is too few to tell small "
            "differences."
        )
    return found


def _words(folder: Path, steps: Sequence[Row], held: Sequence[Row], found: Sequence[str]) -> Markup:
    facts = [f"{steps[-1]['step']} steps, {_mean(steps, 'seconds') or 0:.2f} s each."]
    if held:
        last = held[-1]
        facts.append(
            f"Held out: {last['pairs']}. The real clips' error was {last['winner_error_base']:.5f} "
            f"before and is {last['winner_error']:.5f} ({last['winner_change']:+.2%})."
        )
        if "accuracy" in last:
            facts.append(
                f"Accuracy is {last['accuracy']:.3f} against the base (0.5 before training)."
            )
        if "contrast" in last:
            facts.append(
                f"The contrast, which training lowers, went from {last['contrast_base']:.5f} to "
                f"{last['contrast']:.5f}."
            )
    summary = folder / "summary.json"
    if summary.is_file() and (stopped := json.loads(summary.read_text()).get("stopped")):
        facts.append(f"Stopped early: {stopped}.")
    items = [Markup("<li><strong>Warning.</strong> {}</li>").format(text) for text in found]
    items = items or [Markup("<li>No warnings.</li>")]
    return Markup("<p>{}</p><ul>{}</ul>").format(" ".join(facts), Markup("").join(items))


def _held_out(held: Sequence[Row]) -> Markup:
    if not held:
        return Markup("<p>No pairs or clips were held out.</p>")
    wanted = {
        "step": "step",
        "accuracy": "accuracy",
        "control_accuracy": "control",
        "margin": "margin",
        "winner_change": "winner's error",
        "contrast": "contrast",
        "loser_change": "loser's error",
        "loser_dominant_ratio": "won by pushing",
    }
    accuracy = {
        "own losers": _series(held, "accuracy"),
        "losers of other prompts": _series(held, "control_accuracy"),
    }
    change = {"winner": _series(held, "winner_change"), "loser": _series(held, "loser_change")}
    change = {name: line for name, line in change.items() if line[0]}
    contrast = {"contrast": _series(held, "contrast"), "error": _series(held, "winner_error")}
    charts = [report.plot_lines(change, "Error relative to the base", "step", "relative change")]
    if accuracy["own losers"][0]:
        charts.insert(
            0,
            report.plot_lines(accuracy, "Accuracy against the base", "step", "share of pairs won"),
        )
    if contrast["contrast"][0]:
        charts.append(report.plot_lines(contrast, "Contrast and error", "step", ""))
    wanted = {k: name for k, name in wanted.items() if any(k in row for row in held)}
    rows = [{k: _shown(k, row.get(k)) for k in wanted} for row in held]
    return _side_by_side(charts) + report.render_table(rows, wanted)


def _curves(steps: Sequence[Row]) -> Markup:
    charts = [
        ("Preference loss", ["loss/preference"]),
        ("Total loss", ["loss"]),
        ("Accuracy against the reference", ["rewards/accuracy", "loser_dominant_ratio"]),
        ("Rewards", ["rewards/win", "rewards/lose", "rewards/margin"]),
        ("Gaps to the reference", ["win_gap", "lose_gap"]),
        ("Errors", ["error/win", "error/lose", "error/ref_win", "error/ref_lose"]),
        ("Gradient norm before clipping", ["grad_norm"]),
        ("Remaining gradient, sigmoid(-margin)", ["saturation"]),
        ("Distance", ["distance/base", "distance/reference"]),
        ("Distance of predictions from the reference", ["distance/prediction"]),
    ]
    made = []
    for title, names in charts:
        series = {name: _smooth(*_series(steps, name)) for name in names}
        series = {name: line for name, line in series.items() if line[0]}
        if series:
            made.append(report.plot_lines(series, f"{title} (mean of {WINDOW} steps)", "step"))
    return _side_by_side(made)


def _levels(steps: Sequence[Row], held: Sequence[Row]) -> Markup:
    names = sorted({name for row in steps for name in row if name.startswith("accuracy/t")})
    series = {n.removeprefix("accuracy/"): _smooth(*_series(steps, n)) for n in names}
    series = {name: line for name, line in series.items() if len(line[0]) > 1}
    parts = []
    if series:
        parts.append(report.plot_lines(series, "Accuracy in training by noise level", "step"))
    if held and held[-1].get("winner_change_by_level"):
        last = held[-1]
        changes, won = last["winner_change_by_level"], last.get("accuracy_by_level")
        rows = [
            {
                "noise level": f"{(k + 0.5) / len(changes):.2f}",
                **({"held-out accuracy": won[k]} if won else {}),
                "winner's error": _shown("winner_change", change),
            }
            for k, change in enumerate(changes)
        ]
        parts.append(report.render_table(rows))
    return Markup("").join(parts) or Markup("<p>Nothing was measured by noise level.</p>")


def _videos(folder: Path) -> Markup:
    parts = []
    for first in sorted(folder.glob("*-base.mp4")):
        number = first.name.split("-")[0]
        prompt = (folder / f"{number}.txt").read_text(encoding="utf-8")
        tuned = sorted(folder.glob(f"{number}-step-*.mp4"))
        shown = [path for path in (folder / f"{number}-real.mp4", first) if path.is_file()]
        clips = [(p.stem[len(number) + 1 :], p.read_bytes()) for p in (*shown, *tuned)]
        parts.append(Markup("<h3>{}</h3>").format(prompt) + report.in_step(clips))
    return Markup("").join(parts)


def _settings(path: Path) -> Markup:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return Markup("<pre>{}</pre>").format(text)


def _side_by_side(charts: Sequence[Markup]) -> Markup:
    """The charts, two in a row where the page is wide enough."""
    grid = "display:grid;gap:0 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))"
    return Markup('<div style="{}">{}</div>').format(grid, Markup("").join(charts))


def _shown(name: str, value: float | None) -> float | str | None:
    """A number as a table shows it: changes in per cent, with their sign."""
    return f"{value:+.2%}" if value is not None and name.endswith("_change") else value


def _series(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    known = [row for row in rows if row.get(name) is not None]
    return [row["step"] for row in known], [row[name] for row in known]


def _smooth(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """Trailing means of `WINDOW` values. A single step sees few pairs and is mostly noise."""
    means = [sum(ys[max(0, i + 1 - WINDOW) : i + 1]) / min(i + 1, WINDOW) for i in range(len(ys))]
    return xs, means


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None
