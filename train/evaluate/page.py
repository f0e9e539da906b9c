"""The report of an evaluation on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from realdpo import report
from realdpo.train.evaluate import summary
from realdpo.train.evaluate.config import REAL
from realdpo.train.evaluate.metrics import BY_NAME
from realdpo.train.evaluate.summary import count_noun


def evaluation_page(
    folder: Path,
    made: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, str],
    shown: int = 12,
) -> str:
    """The page of the evaluation in `folder`, from its summary, rows, and prompts by item.

    The page plays the videos of at most `shown` prompts.
    """
    sections = comparison_sections(made)
    if "frechet" in made:
        sections.append(
            report.Section("Frechet distance to the real clips", _frechet(made["frechet"]))
        )
    if "judge" in made:
        sections.append(report.Section("Agreement of the judge with itself", _judge(made["judge"])))
    if "study" in made:
        sections.append(report.Section("People", _people(made["study"])))
    sections.append(videos_section(folder, made, rows, prompts, shown))
    sections.append(report.Section("Systems and settings", _what(made)))
    size = (
        f"{count_noun(made['prompts'], 'prompt')}, {count_noun(made['seeds'], 'seed')} each; "
        f"compared with {made['base']}"
    )
    return report.render_page(f"Evaluation {made['name']}", sections, size)


def videos_section(
    folder: Path,
    made: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, str],
    shown: int,
) -> report.Section:
    """Players of at most `shown` prompts of an evaluation: the real clip and every system."""
    players = _players(folder, rows, prompts, list(made["systems"]), shown, made["fps"])
    return report.Section("Videos in step", players)


def comparison_sections(made: Mapping[str, Any]) -> list[report.Section]:
    """Sections that compare the systems: verdicts, means, intervals, and all numbers."""
    return [
        report.Section("Verdicts", _verdicts(made)),
        report.Section("Means", _means(made)),
        report.Section("Paired differences to " + made["base"], _differences(made)),
        report.Section("All comparisons", _comparisons(made)),
    ]


def _verdicts(made: Mapping[str, Any]) -> Markup:
    rows = []
    for name, by_metric in summary.compared_systems(made).items():
        told: dict[str, list[str]] = {}
        for metric, c in by_metric.items():
            told.setdefault(c["verdict"], []).append(metric)
        rows.append(
            {"system": name}
            | {
                verdict: ", ".join(told.get(verdict, [])) or "–"
                for verdict in ("better", "worse", "more", "less", "no evidence")
            }
        )
    notes = Markup("").join(Markup("<p>{}</p>").format(text) for text in made["cautions"])
    return report.render_table(rows) + notes


def _means(made: Mapping[str, Any]) -> Markup:
    """One row per metric and one column per system. Amount of motion comes beside smoothness."""
    rows = [
        {"metric": m["name"], "better": summary.ARROWS[m["direction"]]}
        | {name: numbers.get(m["name"]) for name, numbers in made["means"].items()}
        | {"meaning": ", ".join(t for t in (m["meaning"], m["unit"]) if t)}
        for m in made["metrics"]
    ]
    return report.render_table(rows)


def _differences(made: Mapping[str, Any]) -> Markup:
    """One panel per metric that differs: each system's mean difference, its interval, and zero."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Film lies so far off that it would hide the differences between the systems.
    compared = made["compared"] or {REAL: made["real"]}
    parts = []
    for metric in (m["name"] for m in made["metrics"]):
        found = [(name, by_metric.get(metric)) for name, by_metric in compared.items()]
        drawn = [(n, c) for n, c in found if c and c["difference"]["low"] is not None]
        if not any(c["difference"]["low"] or c["difference"]["high"] for _, c in drawn):
            continue  # unknown, or the same everywhere
        fig = Figure(figsize=(3.4, 0.7 + 0.26 * len(drawn)), layout="constrained")
        axes = fig.add_subplot()
        colours = {"better": report.SERIES[2], "worse": report.MARK}
        for k, (_, c) in enumerate(drawn):
            d = c["difference"]
            colour = colours.get(c["verdict"], report.MUTED)
            axes.plot([d["low"], d["high"]], [k, k], color=colour, linewidth=2)
            axes.plot([d["estimate"]], [k], "o", color=colour, markersize=5)
        axes.axvline(0, color=report.INK, linewidth=0.8)
        axes.set_yticks(range(len(drawn)), [n for n, _ in drawn], fontsize=8)
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        arrow = {1: " (more is better)", -1: " (less is better)", 0: ""}[BY_NAME[metric].direction]
        axes.set_title(f"{metric}{arrow}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        parts.append(report.render_figure(fig, alt=f"differences in {metric}"))
    if not parts:
        return Markup("<p>Too few prompts for intervals.</p>")
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem"
    key = (
        "Mean difference with its 95 % interval. Green: better after correction. Red: worse. Grey: "
        "no evidence, or no direction is better."
    )
    return Markup('<p>{}</p><div style="{}">{}</div>').format(key, grid, Markup("").join(parts))


def _comparisons(made: Mapping[str, Any]) -> Markup:
    rows = summary.table_rows(made)
    shown = [key for key in rows[0] if key not in ("system", "mean", "base")] if rows else []
    parts = [
        Markup("<h3>{}</h3>").format(name)
        + report.render_table([row for row in rows if row["system"] == name], shown)
        for name in summary.compared_systems(made)
    ]
    return Markup("").join(parts)


def _frechet(found: Mapping[str, Any]) -> Markup:
    rows = [
        {"system": name, found["name"]: distance, "videos": found["videos"][name]}
        for name, distance in found["distance"].items()
    ]
    real, size = found["videos"][REAL], found["features"]
    note = f"Against {count_noun(real, 'real clip')}, in {size} features. "
    if min(found["videos"].values()) <= size:
        note += (
            "With fewer videos than features, the distance is far too large: compare only systems "
            "with equally many videos."
        )
    return Markup("<p>{}</p>").format(note) + report.render_table(rows)


def _judge(judge: Mapping[str, Any]) -> Markup:
    note = ""
    if judge["used_as"]:
        note = f"This judge also made the data ({judge['used_as']}), so its praise is circular."
    rows = [{"aspect": a, "alpha (1 is perfect)": v} for a, v in judge["agreement"].items()]
    return Markup("<p>{} in {} runs. {}</p>").format(
        judge["model"], judge["runs"], note
    ) + report.render_table(rows)


def _people(study: Mapping[str, Any]) -> Markup:
    rows = [
        {"system": s["system"], "strength": s["estimate"], "low": s["low"], "high": s["high"]}
        for s in study["strengths"]
    ]
    told = "no pair was judged twice"
    if study["agreement"] is not None:
        told = f"agreement (Krippendorff's alpha) {study['agreement']:.2f}"
    if study["chose_left"] is not None:
        told += f"; the left side was chosen in {study['chose_left']:.0%} of cases"
    text = (
        f"{count_noun(study['votes'], 'vote')} by {count_noun(study['raters'], 'rater')} "
        f"({study['excluded']} left out for failing attention checks); {told}."
    )
    return Markup("<p>{}</p>").format(text) + report.render_table(rows)


def _players(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, str],
    systems: Sequence[str],
    shown: int,
    fps: float,
) -> Markup:
    """Seed 0 of each prompt: the real clip, if any, and every system, in step."""
    parts = []
    for item, prompt in list(prompts.items())[:shown]:
        clips = []
        for name in (REAL, *systems):
            row = next(
                (r for r in rows if r["system"] == name and r["item"] == item and r["seed"] == 0),
                None,
            )
            if row is not None and (folder / row["video"]).is_file():
                clips.append((name, (folder / row["video"]).read_bytes()))
        if clips:
            heading = Markup("<p><em>{}</em></p>").format(prompt or item)
            parts.append(heading + report.in_step(clips, fps))
    return Markup("").join(parts) or Markup("<p>The videos are no longer there.</p>")


def _what(made: Mapping[str, Any]) -> Markup:
    lines = [
        *(f"System {name}: {text}" for name, text in made["systems"].items()),
        f"Sampling: {made['settings']}" if made["settings"] else "Finished videos only.",
        "Intervals: bootstrap over prompts (BCa, widened for few prompts), after averaging over "
        "seeds. "
        "Tests: randomisation of signs over prompts, with Holm's correction over all metrics and "
        "systems "
        "(real clips are a family of their own). "
        '"needed": number of prompts that would show an effect of the observed size with power 0.8.',
        *made["not_run"],
        *made["failures"],
    ]
    return Markup("<ul>{}</ul>").format(
        Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    )
