"""The summary of an evaluation: means, paired differences to the base with intervals, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from realdpo.train.evaluate import statistics
from realdpo.train.evaluate.config import REAL, EvalConfig
from realdpo.train.evaluate.metrics import BY_NAME, METRICS

if TYPE_CHECKING:
    from realdpo.train.evaluate.plan import EvalPlan

ARROWS = {1: "↑", -1: "↓", 0: ""}  # the better direction
Rows = Sequence[Mapping[str, Any]]


def summarise_evaluation(
    plan: EvalPlan[EvalConfig], rows: Rows, failures: Sequence[str], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """All that a report needs, as plain values."""
    names = [system.name for system in plan.systems]
    items = [item.item_id for item in plan.items]
    base = plan.config.base_name
    measured = {name for row in rows for name in row["metrics"]}
    shown = [m for m in METRICS if m.name in measured]
    means = {
        name: {m.name: _mean(rows, name, m.name) for m in shown}
        for name in (*names, REAL)
        if any(row["system"] == name for row in rows)
    }
    seeds = plan.config.seeds
    systems = compare_metrics(rows, items, [n for n in names if n != base], base, seeds)
    # The distance of the base from film is another question. Its tests must not cost the first
    # power.
    real = compare_metrics(rows, items, [REAL], base, seeds).get(REAL, {})
    found: dict[str, Any] = plain_values(
        {
            "name": plan.config.name,
            "systems": {s.name: s.text for s in plan.systems},
            "base": base,
            "prompts": len(items),
            "seeds": seeds,
            "settings": None
            if plan.settings is None
            else {**asdict(plan.settings), "dtype": plan.config.dtype},
            "metrics": [asdict(m) for m in shown],
            "means": means,
            "fps": float(plan.form.fps),
            "compared": systems,
            "real": real,
            "cautions": [
                *list_cautions(systems or {REAL: real}, means, base, len(items)),
                *unlike_film(real, base),
                *caution_unlike(rows),
            ],
            "not_run": not_run(plan),
            "failures": list(failures),
            **extra,
        }
    )
    return found


def plain_values(value: Any) -> Any:
    """`value` with None for every NaN and infinity, as JSON needs it."""
    if isinstance(value, Mapping):
        return {k: plain_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def values_of(rows: Rows, system: str, metric: str, items: Sequence[str], seeds: int) -> np.ndarray:
    """[prompts, seeds], with NaN where there is no such video or number.

    A real clip has no seed, so its number is repeated for each.
    """
    values = np.full((len(items), seeds), np.nan)
    place = {item: k for k, item in enumerate(items)}
    for row in rows:
        if row["system"] == system and row["item"] in place and row["seed"] < seeds:
            seed = slice(None) if system == REAL else row["seed"]
            values[place[row["item"]], seed] = row["metrics"].get(metric, math.nan)
    return values


def compare_metrics(
    rows: Rows, items: Sequence[str], systems: Sequence[str], base: str, seeds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{system: {metric: comparison}}. All metrics of all systems form one family of tests."""
    keys, family = [], []
    for name in systems:
        for metric in METRICS:
            differences = statistics.paired_differences(
                values_of(rows, name, metric.name, items, seeds),
                values_of(rows, base, metric.name, items, seeds),
            )
            if len(differences):
                keys.append((name, metric.name))
                family.append((metric.name, differences, metric.direction))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, metric_name), result in zip(keys, statistics.compare_systems(family), strict=True):
        found.setdefault(name, {})[metric_name] = asdict(result)
    return found


def list_cautions(
    compared: Mapping[str, Mapping[str, Mapping[str, Any]]],
    means: Mapping[str, Mapping[str, float]],
    base: str,
    prompts: int,
) -> list[str]:
    """Cautions that a reader must know before believing a verdict, in plain words."""
    found = []
    for name, by_metric in compared.items():
        smoother = [m for m in by_metric if "smooth" in m and by_metric[m]["verdict"] == "better"]
        amount = by_metric.get("motion.difference", {}).get("difference", {}).get("estimate", 0.0)
        before = means.get(base, {}).get("motion.difference", math.nan)
        if smoother and before > 0 and amount < -0.05 * before:
            found.append(
                f"{name} is smoother but moves {-100 * amount / before:.0f} % less than {base}: "
                "standing still is smooth too, so this alone is no gain."
            )
        frozen = by_metric.get("frozen.share", {})
        if frozen.get("verdict") == "worse":
            found.append(f"{name} freezes more often than {base}.")
    tests = sum(len(by_metric) for by_metric in compared.values())
    if not tests:
        return found
    least = math.ceil(1 + math.log2(tests / 0.05))  # two of 2**n sign patterns are extreme
    if prompts < least:
        found.append(
            f"With {count_noun(prompts, 'prompt')} no verdict is possible: {tests} tests need at "
            f'least {least}, so everything is "no evidence" whatever the videos look like.'
        )
    elif prompts < 30:
        found.append(
            f'{prompts} prompts show only large effects. "needed" says how many would be enough.'
        )
    return found


def unlike_film(real: Mapping[str, Mapping[str, Any]], base: str) -> list[str]:
    """A caution for metrics by which real clips score worse than generated videos."""
    worse = [metric for metric, c in real.items() if c["verdict"] == "worse"]
    if not worse:
        return []
    return [
        f"By {', '.join(worse)} the real clips are worse than {base}: a better value there does "
        "not mean closer to film."
    ]


def caution_unlike(rows: Rows) -> list[str]:
    """A caution if the videos differ in size, length or frame rate: most numbers depend on them."""
    found: dict[str, set[str]] = {}
    for row in rows:
        width, height, frames, fps = row["form"]
        form = f"{width}x{height}, {frames} frames at {fps:g} a second"
        found.setdefault(form, set()).add(row["system"])
    if len(found) < 2:
        return []
    told = "; ".join(f"{form}: {', '.join(sorted(names))}" for form, names in found.items())
    return [f"The videos differ in form, so you cannot compare their numbers ({told})."]


def not_run(plan: EvalPlan[EvalConfig]) -> list[str]:
    """The parts of the evaluation that were left out, with the options that run them."""
    config = plan.config
    parts = {
        "fit of text and frames (open_clip)": (config.clip, "--clip ARCHITECTURE:WEIGHTS"),
        "Frechet video distance": (config.frechet, "--frechet NETWORK:WEIGHTS"),
        "VBench": (config.vbench, "--set 'vbench=[\"motion_smoothness\"]' and pip install vbench"),
        "judge": (config.judge.url, "--judge URL --judge-model NAME"),
    }
    return [f"{name}: not run ({how})" for name, (given, how) in parts.items() if not given]


def compared_systems(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{system: {metric: comparison with base}}, with real clips last, if any."""
    real = {REAL: summary["real"]} if summary["real"] else {}
    return {**summary["compared"], **real}


def table_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per system and metric, for tables."""
    rows = []
    for name, by_metric in compared_systems(summary).items():
        for metric, c in by_metric.items():
            rows.append(
                {
                    "system": name,
                    "metric": metric,
                    "better": ARROWS[BY_NAME[metric].direction],
                    "mean": summary["means"][name].get(metric),
                    "base": summary["means"].get(summary["base"], {}).get(metric),
                    "difference": c["difference"]["estimate"],
                    "95 % interval": format_interval(c["difference"]),
                    "win rate": c["win_rate"]["estimate"],
                    "p sign": c["p_sign"],
                    "p (Holm)": c["p_adjusted"],
                    "verdict": c["verdict"],
                    "prompts": c["prompts"],
                    "needed": c["prompts_needed"],
                }
            )
    return rows


def format_interval(d: Mapping[str, float | None]) -> str:
    if d["low"] is None or d["high"] is None:
        return "too few prompts"
    return f"{d['low']:+.3g} to {d['high']:+.3g}"


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """The table for a model card: difference to the base and verdict per system and metric."""
    base = summary["base"]
    lines = [
        f"{count_noun(summary['prompts'], 'prompt')}, {count_noun(summary['seeds'], 'seed')} each, "
        f"against {base}; 95 % intervals over prompts; tests with Holm's correction for their "
        "number.",
        "",
        f"| metric | system | mean | {base} | difference (95 %) | win rate | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table_rows(summary):
        numbers = (_number(row["mean"]), _number(row["base"]))
        lines.append(
            f"| {row['metric']} {row['better']} | {row['system']} | {numbers[0]} | {numbers[1]} | "
            f"{row['difference']:+.3g} ({row['95 % interval']}) | {row['win rate']:.2f} | "
            f"{row['verdict']} |"
        )
    lines += ["", *(f"- {text}" for text in summary["cautions"])]
    return "\n".join(lines).rstrip() + "\n"


def count_noun(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _mean(rows: Rows, system: str, metric: str) -> float:
    by_item: dict[str, list[float]] = {}
    for row in rows:
        value = row["metrics"].get(metric, math.nan)
        if row["system"] == system and not math.isnan(value):
            by_item.setdefault(row["item"], []).append(value)
    return float(np.mean([np.mean(v) for v in by_item.values()])) if by_item else math.nan
