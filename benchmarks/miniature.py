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
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(bench.out, bench.plan)
    ) as pool:
        kinds = [(kind, k) for kind in ("generate", "renoise") for k in range(bench.plan.losers)]
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
    shown = [m for m in METRICS if m.name.startswith("true.") or m.name == "smooth.residual"]
    lines = []
    for group, what in (("seen", "Actions among the clips"), ("held-out", "Actions held out")):
        for other in summary["against"]:
            lines += [
                f"{what}, difference to {other}:",
                "",
                "| arm | " + " | ".join(f"{m.name} {_ARROWS[m.direction]}" for m in shown) + " |",
                "|---|" + "---|" * len(shown),
            ]
            for name, means in summary["means"].items():
                cells = []
                for m in shown:
                    text = f"{means[group][m.name]:.3g}"
                    compared = summary["against"][other].get(name, {}).get(group, {}).get(m.name)
                    if compared:
                        d = compared["difference"]
                        mark = {"better": " ▲", "worse": " ▼"}.get(compared["verdict"], "")
                        text += f" ({d['estimate']:+.2g} [{d['low']:.2g}, {d['high']:.2g}]){mark}"
                    cells.append(text)
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
            lines.append("")
    lines += [f"- {name}: {note}" for name, note in notes.items()]
    return "\n".join(lines) + "\n"


_ARROWS = {-1: "↓", 0: "", 1: "↑"}


def page(bench: Bench, summary: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Everything on one page: table, differences, training, clips in step."""
    notes = {arm.name: arm.note for arm in arms.arms()}
    sections = [
        report.Section(
            "Means over prompts",
            report.table(
                [
                    {"arm": name, "prompts": group, **numbers}
                    for name, groups in summary["means"].items()
                    for group, numbers in groups.items()
                ]
            ),
        )
    ]
    for other, table in summary["against"].items():
        rows = [
            {
                "arm": name, "what": notes.get(name, ""), "prompts": group, "metric": metric,
                "difference": c["difference"]["estimate"], "low": c["difference"]["low"],
                "high": c["difference"]["high"], "win rate": c["win_rate"]["estimate"],
                "p (Holm)": c["p_adjusted"], "verdict": c["verdict"],
                "prompts needed": c["prompts_needed"],
                "by seed": ", ".join(f"{v:+.3g}" for v in c["by_seed"]),
            }
            for name, groups in table.items()
            for group, by_metric in groups.items()
            for metric, c in by_metric.items()
        ]  # fmt: skip
        sections.append(report.Section(f"Paired differences to {other}", report.table(rows)))
    sections.append(
        report.Section(
            "Training, mean of the last ten steps",
            report.table(
                [
                    {"arm": k, **v, "seconds": summary["seconds"][k]}
                    for k, v in summary["training"].items()
                ]
            ),
        )
    )
    gaps = {
        name: (range(len(units[0]["lines"])), [line["win_gap"] for line in units[0]["lines"]])
        for name, units in results.items()
        if units[0]["lines"] and "win_gap" in units[0]["lines"][0]
    }
    sections.append(
        report.Section(
            "Winner's error above the reference", report.lines(gaps, x="step", y="win_gap")
        )
    )
    shown = [n for n in ("base", "sft", "realdpo", "released", "shortcut") if n in results]
    videos = {name: np.load(bench.units / f"{name}-0.npy") for name in shown}
    for k in range(0, len(bench.test), max(1, len(bench.test) // 8)):
        clip = bench.test[k]
        large = [("true", clip.frames), *((name, videos[name][k]) for name in shown)]
        players = [
            (label, encode(frames.repeat(6, axis=1).repeat(6, axis=2), figures.FPS))
            for label, frames in large
        ]
        sections.append(report.Section(clip.caption, report.in_step(players, figures.FPS)))
    return report.page("The claim in miniature", sections, subtitle=f"{bench.plan}")


if __name__ == "__main__":
    main()
