"""The method's claim in miniature: does preference training on real clips mend motion?

    python benchmarks/miniature.py --out miniature            about 40 minutes on two cores
    python benchmarks/miniature.py --out miniature --quick    about 5, too short for verdicts

A small CogVideoX image-to-video transformer is trained on drawn figures whose motion is mostly
damaged (trembling, freezes, lost order, limbs that change length), so that it fails as large
models do. Then every arm gets the same true clips and the same number of steps: plain
fine-tuning (SFT), preference training (RealDPO), its published settings, and ablations.
Because the figures are drawn, joints are known, and motion is judged by them beside the metrics
that `realdpo eval` has.

figures.py draws, damages and reads back; small_model.py makes the base; arms.py trains and measures
every arm and seed; this file runs them, a process on each core, and compares. What is finished is
kept in --out: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import arms
import figures
import numpy as np
import torch
from arms import METRICS, Arm, Bench, Plan
from markupsafe import Markup

from realdpo import report
from realdpo.files import write_text
from realdpo.media.encode import encode
from realdpo.train.evaluate import statistics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("miniature"))
    parser.add_argument("--quick", action="store_true", help="a few minutes; plumbing, no verdicts")
    parser.add_argument("--arms", help="only these, separated by commas")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="change the plan, such as steps=100 or base.steps=2000",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    plan = changed(arms.QUICK if given.quick else Plan(), given.set)
    chosen = [a for a in arms.arms() if not given.arms or a.name in given.arms.split(",")]
    bench = Bench(given.out, plan)
    torch.set_num_threads(given.workers)
    bench.base()
    results = run(bench, chosen, given.workers)
    summary = analyse(bench, results)
    summary["total_seconds"] = time.monotonic() - bench.began
    write_text(given.out / "miniature.json", json.dumps(summary, indent=1))
    table = markdown(summary, {arm.name: arm.note for arm in chosen})
    write_text(given.out / "miniature.md", table)
    write_text(given.out / "miniature.html", page(bench, summary, results))
    print(table)
    print(f"page: {given.out / 'miniature.html'}")


def changed(plan: Plan, changes: Sequence[str]) -> Plan:
    """The plan with KEY=VALUE texts applied; keys of the base's plan begin with `base.`"""
    for text in changes:
        key, value = text.split("=", 1)
        part, key = (plan.base, key[5:]) if key.startswith("base.") else (plan, key)
        made: Any = dataclasses.replace(part, **{key: type(getattr(part, key))(float(value))})
        plan = made if part is plan else dataclasses.replace(plan, base=made)
    return plan


def run(bench: Bench, chosen: Sequence[Arm], workers: int) -> dict[str, list[dict[str, Any]]]:
    """Numbers of all arms and seeds, the base first; what is missing is made, a process a core."""
    wanted = [(arm, seed) for arm in (None, *chosen) for seed in range(bench.plan.seeds)]
    todo = [unit for unit in wanted if not bench.file(*unit).exists()]
    if todo:
        with ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin, initargs=(bench.out, bench.plan)
        ) as pool:
            kinds = itertools.product(("generate", "renoise"), range(bench.plan.losers))
            list(pool.map(_make_losers, kinds))
            list(pool.map(_make_unit, todo))
    results: dict[str, list[dict[str, Any]]] = {}
    for arm, seed in wanted:
        unit = json.loads(bench.file(arm, seed).read_text(encoding="utf-8"))
        results.setdefault(arm.name if arm else "base", []).append(unit)
    return results


_bench: Bench  # of a worker process


def _begin(out: Path, plan: Plan) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = Bench(out, plan)


def _make_losers(which: tuple[str, int]) -> None:
    _bench.make_losers(*which)


def _make_unit(which: tuple[Arm | None, int]) -> None:
    _bench.unit(*which)


def values_of(units: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray:
    """[prompts, seeds]"""
    return np.array([[row.get(metric, np.nan) for row in unit["rows"]] for unit in units]).T


def analyse(bench: Bench, results: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means, paired differences to base and to SFT with intervals and verdicts, by metric."""
    n = bench.plan.prompts_seen
    groups = {"seen": slice(0, n), "held-out": slice(n, None)}
    summary: dict[str, Any] = {"plan": dataclasses.asdict(bench.plan), "means": {}, "against": {}}
    classifier = arms.fit_classifier(600)
    truth = [arms.measure(clip.frames, clip, classifier) for clip in bench.test]
    everything = {"true clips": [{"rows": truth}], **results}
    for name, units in everything.items():
        summary["means"][name] = {
            group: {m.name: _mean(values_of(units, m.name)[part]) for m in METRICS}
            for group, part in groups.items()
        }
    for other in ("base", "sft"):
        table: dict[str, Any] = {}
        for name, units in results.items():
            if name in ("base", other):
                continue
            table[name] = {}
            for group, part in groups.items():
                family = [
                    (
                        m.name,
                        statistics.paired(
                            values_of(units, m.name)[part], values_of(results[other], m.name)[part]
                        ),
                        m.direction,
                    )
                    for m in METRICS
                ]
                compared = statistics.compare(family)
                table[name][group] = {
                    m.name: {
                        **dataclasses.asdict(c),
                        "by_seed": _by_seed(units, results[other], m.name, part),
                    }
                    for m, c in zip(METRICS, compared, strict=True)
                }
        summary["against"][other] = table
    last = {k: [u["lines"][-10:] for u in v if u["lines"]] for k, v in results.items()}
    summary["training"] = {
        name: {
            key: float(np.mean([line[key] for lines in unit for line in lines]))
            for key in ("loss", "rewards/accuracy", "win_gap", "lose_gap", "loser_dominant_ratio")
            if key in unit[0][0]
        }
        for name, unit in last.items()
        if unit
    }
    summary["seconds"] = {
        name: float(np.mean([u["train_seconds"] for u in units])) for name, units in results.items()
    }
    return summary


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _by_seed(units: Any, others: Any, metric: str, part: slice) -> list[float]:
    difference = values_of(units, metric)[part] - values_of(others, metric)[part]
    return [_mean(column) for column in difference.T]


def markdown(summary: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """Means of prompts nothing was trained on, and the paired differences with their intervals."""
    lines = []
    for group, other in itertools.product(GROUPS, summary["against"]):
        rows = compared(summary, group, other)
        lines += [
            f"{GROUPS[group]}, difference to {other}:",
            "",
            "| " + " | ".join(rows[0]) + " |",
            "|---" * len(rows[0]) + "|",
            *("| " + " | ".join(row.values()) + " |" for row in rows),
            "",
        ]
    lines += [f"- {name}: {note}" for name, note in notes.items()]
    return "\n".join(lines) + "\n"


def compared(summary: Mapping[str, Any], group: str, other: str) -> list[dict[str, str]]:
    """A row an arm: its means, differences to `other` with intervals, and what they prove."""
    rows = []
    for name, means in summary["means"].items():
        row = {"arm": name}
        for m in METRICS:
            text = f"{means[group][m.name]:.3g}"
            found = summary["against"][other].get(name, {}).get(group, {}).get(m.name)
            if found:
                d = found["difference"]
                mark = {"better": " ▲", "worse": " ▼"}.get(found["verdict"], "")
                text += f" ({d['estimate']:+.2g}, {d['low']:+.2g} to {d['high']:+.2g}){mark}"
            row[f"{m.name} {_ARROWS[m.direction]}".strip()] = text
        rows.append(row)
    return rows


GROUPS = {"seen": "Actions among the clips", "held-out": "Actions held out"}
_ARROWS = {-1: "↓", 0: "", 1: "↑"}
_PLOTTED = ("true.roughness", "true.bone", "true.distance", "true.lost")


def page(bench: Bench, summary: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Everything on one page: the arms, differences, clips in step, training."""
    notes = {arm.name: arm.note for arm in arms.arms() if arm.name in results}
    shown = [n for n in ("base", "sft", "realdpo", "no-sft-term", "released") if n in results]
    videos = {name: np.load(bench.units / f"{name}-0.npy") for name in shown}
    players = Markup("")
    for k in range(0, len(bench.test), max(1, len(bench.test) // 6)):
        clip = bench.test[k]
        films = {"true": clip.frames, **{name: videos[name][k] for name in shown}}
        large = {name: f.repeat(6, axis=1).repeat(6, axis=2) for name, f in films.items()}
        players += Markup("<h3>{}</h3>").format(clip.caption)
        players += report.in_step(
            [(name, encode(frames, figures.FPS)) for name, frames in large.items()], figures.FPS
        )
    gaps = {
        name: (range(len(units[0]["lines"])), [line["win_gap"] for line in units[0]["lines"]])
        for name, units in results.items()
        if units[0]["lines"] and "win_gap" in units[0]["lines"][0] and name in shown
    }
    training = [
        {"arm": name, **row, "seconds": summary["seconds"][name]}
        for name, row in summary["training"].items()
    ]
    sections = [
        report.Section("Arms", report.table([{"arm": n, "is": t} for n, t in notes.items()])),
        report.Section("Differences to the base", _intervals(summary)),
        report.Section("In step", players),
        *(
            report.Section(
                f"{words}, difference to {other}", report.table(compared(summary, group, other))
            )
            for other in summary["against"]
            for group, words in GROUPS.items()
        ),
        report.Section("Training, mean of the last ten steps", report.table(training)),
        report.Section(
            "Winner's error above the reference", report.lines(gaps, x="step", y="win_gap")
        ),
    ]
    return report.page("The claim in miniature", sections, subtitle=f"{bench.plan}")


def _intervals(summary: Mapping[str, Any]) -> Markup:
    """Every arm's difference to the base with its interval, a chart for each metric of joints."""
    from matplotlib.figure import Figure

    against = summary["against"]["base"]
    figure = Figure(figsize=(10, 1 + 0.28 * len(against)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(_PLOTTED), sharey=True), _PLOTTED, strict=True):
        for place, groups in enumerate(reversed(against.values())):
            d = groups["seen"][metric]["difference"]
            axes.plot([d["low"], d["high"]], [place, place], color=report.SERIES[0])
            axes.plot(d["estimate"], place, "o", markersize=4, color=report.SERIES[0])
        axes.axvline(0, color=report.MUTED, linewidth=0.8)
        axes.set_yticks(range(len(against)), list(reversed(against)))
        axes.set_title(f"{metric}, less is better", fontsize=9)
        axes.tick_params(labelsize=8)
    return report.figure(figure, alt="differences of every arm to the base")


if __name__ == "__main__":
    main()
