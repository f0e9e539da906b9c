"""The method's claim in miniature: does training on real clips mend motion, and what mends most?

    python benchmarks/miniature.py --out miniature            the arms that matter, two bases, two worlds
    python benchmarks/miniature.py --out miniature --quick    the way, too short for verdicts
    python benchmarks/miniature.py --out sweep --sweep        settings of the objectives, on other prompts
    python benchmarks/miniature.py --out large --scale large  about 100 million parameters; for a GPU

A small CogVideoX image-to-video transformer is trained on drawn figures whose motion is mostly
damaged (trembling, freezes, lost order, limbs that change length), so that it fails as large
models do. Then every arm gets the same true clips: plain fine-tuning (SFT), the contrast,
preference training on generated losers, guidance while sampling, further rounds. Because all is
drawn, joints are known, and motion is judged by them beside the metrics that `realdpo eval` has.

worlds.py says what is drawn, figures.py draws, damages and reads back; small_model.py makes the
base; arms.py trains and measures every arm and seed; this file runs them and compares. What is
finished is kept in --out: the same command goes on.
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

from realdpo import progress, report
from realdpo.files import write_text
from realdpo.media.encode import encode_video
from realdpo.train.evaluate import statistics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("miniature"))
    parser.add_argument("--quick", action="store_true", help="a few minutes; plumbing, no verdicts")
    parser.add_argument("--scale", choices=("small", "large"), default="small")
    parser.add_argument("--sweep", action="store_true", help="settings on other prompts")
    parser.add_argument("--arms", help="only these, separated by commas; `all`: every arm there is")
    parser.add_argument(
        "--bases",
        default="figures:0,figures:1,machines:0",
        metavar="WORLD:SEED,...",
        help="the first takes all arms, the others the few that matter",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the plan, such as length=0.5 or base.steps=2000",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    progress.speak_on_stderr()
    began = time.monotonic()
    plan = arms.QUICK if given.quick else arms.LARGE if given.scale == "large" else Plan()
    plan = changed(plan, given.set)
    known = arms.sweep() if given.sweep else arms.arms()
    if given.sweep:
        plan = dataclasses.replace(plan, prompt_seed=arms.CHOOSING)
    wanted = given.arms.split(",") if given.arms else ["all"] if given.sweep else arms.WHOLE
    if "all" not in wanted:
        if unknown := set(wanted) - {arm.name for arm in known}:
            parser.error(f"no such arm: {', '.join(sorted(unknown))}")
        known = [arm for arm in known if arm.name in wanted]
    bases = given.bases.split(",")[: 1 if given.quick or given.sweep else None]
    tables, pages = {}, []
    for number, text in enumerate(bases):
        world, seed = text.split(":")
        base = dataclasses.replace(plan.base, world=world, seed=int(seed))
        chosen = [a for a in known if not number or a.name in arms.CORE]
        bench = Bench(given.out, dataclasses.replace(plan, base=base))
        torch.set_num_threads(given.workers)
        bench.base()
        results = run(bench, chosen, given.workers)
        tables[text] = analyse(bench, results)
        pages.append((f"{world}, base {seed}", bench, tables[text], results))
        said = markdown(tables[text], {arm.name: told(arm, plan) for arm in chosen})
        write_text(given.out / f"miniature-{world}-{seed}.md", said)
        print(f"## {world}, base {seed}\n\n{said}", flush=True)
    made = {"bases": tables, "total_seconds": time.monotonic() - began}
    write_text(given.out / "miniature.json", json.dumps(made, indent=1))
    write_text(given.out / "miniature.html", page(pages))
    print(f"page: {given.out / 'miniature.html'}")


def told(arm: Arm, plan: Plan) -> str:
    """What an arm is and what it costs."""
    if not arm.steps:
        return arm.note
    steps = arms.settings_of(arm, plan).steps
    return f"{arm.note}; {steps} steps at {arm.lr:g}, {steps * arm.forwards} forwards of a batch"


def changed(plan: Plan, changes: Sequence[str]) -> Plan:
    """The plan with KEY=VALUE texts applied; keys of the base's plan begin with `base.`"""
    for text in changes:
        key, value = text.split("=", 1)
        part, key = (plan.base, key[5:]) if key.startswith("base.") else (plan, key)
        made: Any = dataclasses.replace(part, **{key: type(getattr(part, key))(float(value))})
        plan = made if part is plan else dataclasses.replace(plan, base=made)
    return plan


def run(bench: Bench, chosen: Sequence[Arm], workers: int) -> dict[str, list[dict[str, Any]]]:
    """Numbers of all arms and seeds, the base first; what is missing is made, a process a core.

    A seed at a time: a run that is cut short has compared all arms by fewer seeds.
    """
    wanted = [(arm, seed) for seed in range(bench.plan.seeds) for arm in (None, *chosen)]
    todo = [unit for unit in wanted if not bench.is_made(*unit)]
    if todo and workers == 1:
        for unit in todo:
            bench.unit(*unit)
    elif todo:
        with ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin, initargs=(bench.out, bench.plan)
        ) as pool:
            if any(arm and arm.needs_losers for arm, _ in todo):
                pool.submit(_make_losers).result()
            # Arms that take another's weights come after it, whichever process made them.
            for first in (True, False):
                list(pool.map(_make_unit, [u for u in todo if (not (u[0] and u[0].of)) == first]))
    results: dict[str, list[dict[str, Any]]] = {}
    for arm, seed in wanted:
        unit = json.loads(bench.file(arm, seed).read_text(encoding="utf-8"))
        unit["joints"] = np.load(bench.joints_file(arm, seed))
        results.setdefault(arm.name if arm else "base", []).append(unit)
    return results


_bench: Bench  # of a worker process


def _begin(out: Path, plan: Plan) -> None:
    global _bench
    torch.set_num_threads(1)
    progress.speak_on_stderr()
    _bench = Bench(out, plan)


def _make_losers() -> None:
    _bench.losers()


def _make_unit(which: tuple[Arm | None, int]) -> None:
    _bench.unit(*which)


def values_of(units: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray:
    """[prompts, seeds]"""
    return np.array([[row.get(metric, np.nan) for row in unit["rows"]] for unit in units]).T


def values_of_both(
    bench: Bench, units: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """A metric of two arms, each [prompts, seeds]."""
    if name != "true.shared":
        return values_of(units, name), values_of(others, name)
    both = [
        [
            figures.shared_distance(j, o, clip.joints)
            for j, o, clip in zip(a, b, bench.test, strict=True)
        ]
        for a, b in ((u["joints"], o["joints"]) for u, o in zip(units, others, strict=True))
    ]
    one, two = np.array(both).transpose(2, 1, 0)
    return one, two


def analyse(bench: Bench, results: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means, paired differences to base and to SFT with intervals and verdicts, by metric."""
    n = bench.plan.prompts_seen
    groups = {"seen": slice(0, n), "held-out": slice(n, None)}
    summary: dict[str, Any] = {"plan": dataclasses.asdict(bench.plan), "means": {}, "against": {}}
    truth = [arms.measure(clip.frames, clip, bench.classifier, bench.world) for clip in bench.test]
    ideal = [
        arms.measure(other.frames, clip, bench.classifier, bench.world)
        for other, clip in zip(bench.other_tempo, bench.test, strict=True)
    ]
    everything = {"true clips": [{"rows": truth}], "other tempo": [{"rows": ideal}], **results}
    for name, units in everything.items():
        summary["means"][name] = {
            group: {m.name: _mean(values_of(units, m.name)[part]) for m in METRICS}
            for group, part in groups.items()
        }
    for other in (name for name in ("base", "sft", "sft-fast") if name in results):
        table: dict[str, Any] = {}
        for name, units in results.items():
            if name in ("base", other):
                continue
            table[name] = {}
            both = {m.name: values_of_both(bench, units, results[other], m.name) for m in METRICS}
            for group, part in groups.items():
                pairs = {metric: (one[part], two[part]) for metric, (one, two) in both.items()}
                family = [
                    (m.name, statistics.paired_differences(*pairs[m.name]), m.direction)
                    for m in METRICS
                ]
                compared = statistics.compare_systems(family)
                table[name][group] = {
                    m.name: {**dataclasses.asdict(c), "by_seed": _by_seed(*pairs[m.name])}
                    for m, c in zip(METRICS, compared, strict=True)
                }
        summary["against"][other] = table
    summary["left"] = _left(bench, results, groups)
    last = {k: [u["lines"][-10:] for u in v if u["lines"]] for k, v in results.items()}
    summary["training"] = {
        name: {
            key: float(np.mean([line[key] for lines in unit for line in lines]))
            for key in ("loss", "error/win", "moved", "rewards/accuracy", "loser_dominant_ratio")
            if key in unit[0][0]
        }
        for name, unit in last.items()
        if unit
    }
    summary["seconds"] = {
        name: float(np.mean([u["train_seconds"] for u in units])) for name, units in results.items()
    }
    return summary


def _left(
    bench: Bench, results: Mapping[str, Any], groups: Mapping[str, slice]
) -> dict[str, dict[str, dict[str, float]]]:
    """Squared distance to the truth by temporal frequency, of the videos of training seed 0."""
    videos = {name: np.load(bench.units / f"{name}-0.npy") for name in results}
    videos = {"other tempo": np.stack([clip.frames for clip in bench.other_tempo]), **videos}
    left: dict[str, dict[str, dict[str, float]]] = {}
    for name, made in videos.items():
        rows = [
            figures.error_by_frequency(figures.read_joints(frames), clip.joints)
            for frames, clip in zip(made, bench.test, strict=True)
        ]
        left[name] = {
            group: {band: _mean(np.array([row[band] for row in rows[part]])) for band in rows[0]}
            for group, part in groups.items()
        }
    return left


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _by_seed(one: np.ndarray, two: np.ndarray) -> list[float]:
    """Mean difference of each seed; one, two: [prompts, seeds]."""
    return [_mean(column) for column in (one - two).T]


def markdown(summary: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """Means of prompts nothing was trained on, and the paired differences with their intervals."""
    lines = []
    for group, other in itertools.product(GROUPS, summary["against"]):
        title = f"{GROUPS[group]}, difference to {other}"
        lines += _table(title, compared(summary, group, other))
    for group, words in GROUPS.items():
        title = (
            f"{words}, squared distance to the truth in px² by temporal frequency, training seed 0"
        )
        lines += _table(title, _left_rows(summary, group))
    lines += [f"- {name}: {note}" for name, note in notes.items()]
    return "\n".join(lines) + "\n"


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The lines of a Markdown table under its title."""
    return [
        f"{title}:",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|---" * len(rows[0]) + "|",
        *("| " + " | ".join(row.values()) + " |" for row in rows),
        "",
    ]


def compared(summary: Mapping[str, Any], group: str, other: str) -> list[dict[str, str]]:
    """A row an arm: its means, differences to `other` with intervals, and what they prove."""
    rows = []
    for name, means in summary["means"].items():
        row = {"arm": name}
        for m in METRICS:
            text = "" if np.isnan(means[group][m.name]) else f"{means[group][m.name]:.3g}"
            found = summary["against"][other].get(name, {}).get(group, {}).get(m.name)
            if found:
                d = found["difference"]
                mark = {"better": " ▲", "worse": " ▼"}.get(found["verdict"], "")
                text += f" ({d['estimate']:+.2g}, {d['low']:+.2g} to {d['high']:+.2g}){mark}"
            row[f"{m.name} {_ARROWS[m.direction]}".strip()] = text
        rows.append(row)
    return rows


def _left_rows(summary: Mapping[str, Any], group: str) -> list[dict[str, str]]:
    return [
        {"arm": name, **{band: f"{value:.3g}" for band, value in bands[group].items()}}
        for name, bands in summary["left"].items()
    ]


GROUPS = {"seen": "Actions among the clips", "held-out": "Actions held out"}
_ARROWS = {-1: "↓", 0: "", 1: "↑"}
_PLOTTED = ("true.roughness", "true.bone", "true.distance", "true.lost")


def page(parts: Sequence[tuple[str, Bench, Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Everything on one page: the arms, and by base differences, clips in step, training."""
    first = parts[0][3]
    notes = [
        {"arm": a.name, "is": told(a, parts[0][1].plan)}
        for a in (*arms.arms(), *arms.sweep())
        if a.name in first
    ]
    sections = [report.Section("Arms", report.render_table(notes))]
    for title, bench, summary, results in parts:
        training = [
            {"arm": name, **row, "seconds": summary["seconds"][name]}
            for name, row in summary["training"].items()
        ]
        sections += [
            report.Section(f"{title}: differences to the base", _intervals(summary)),
            report.Section(f"{title}: in step", _players(bench, results)),
            *(
                report.Section(
                    f"{title}: {words}, difference to {other}",
                    report.render_table(compared(summary, group, other)),
                )
                for other in summary["against"]
                for group, words in GROUPS.items()
            ),
            *(
                report.Section(
                    f"{title}: {words}, squared distance to the truth by temporal frequency, px²",
                    report.render_table(_left_rows(summary, group)),
                )
                for group, words in GROUPS.items()
            ),
            report.Section(f"{title}: training, last ten steps", report.render_table(training)),
        ]
    return report.render_page("The claim in miniature", sections, subtitle=f"{parts[0][1].plan}")


def _players(bench: Bench, results: Mapping[str, Any]) -> Markup:
    shown = [n for n in ("base", "sft", "contrast", "sft-guided", "paper") if n in results]
    videos = {name: np.load(bench.units / f"{name}-0.npy") for name in shown}
    players = Markup("")
    for k in range(0, len(bench.test), max(1, len(bench.test) // 6)):
        clip = bench.test[k]
        films = {"true": clip.frames, **{name: videos[name][k] for name in shown}}
        large = {name: f.repeat(6, axis=1).repeat(6, axis=2) for name, f in films.items()}
        players += Markup("<h3>{}</h3>").format(clip.caption)
        players += report.in_step(
            [(name, encode_video(frames, figures.FPS)) for name, frames in large.items()],
            figures.FPS,
        )
    return players


def _intervals(summary: Mapping[str, Any]) -> Markup:
    """Every arm's difference to the base with its interval, a chart for each metric of joints."""
    from matplotlib.figure import Figure

    against = summary["against"]["base"]
    if not against:
        return Markup("<p>Only the base was measured.</p>")
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
    return report.render_figure(figure, alt="differences of every arm to the base")


if __name__ == "__main__":
    main()
