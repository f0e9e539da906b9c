"""The page on which you look at pairs and judge them: real and generated videos side by side.

You download your choices as a file for `realdpo pairs build --apply-review`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from realdpo import ids, integrity, report, tables
from realdpo.errors import UserError
from realdpo.pairs.statistics import FEATURES, MOTION, SPEED
from realdpo.rows import PairRow
from realdpo.workspace import Workspace


def write_pairs_report(workspace: Workspace, target: Path | None = None, limit: int = 60) -> Path:
    """Write the page of a workspace's pairs and return its path.

    limit: number of pairs on the page, spread evenly over all. Their videos are embedded. Raises
    UserError if there are no pairs.
    """
    workspace.require(workspace.pairs, "pairs build")
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    shown = [row for row in rows if row["win"] and row["lose"]]
    if not shown:
        raise UserError(f"{workspace.pairs} holds no pair with videos", "realdpo pairs build")
    if len(shown) > limit:
        shown = [shown[k * len(shown) // limit] for k in range(limit)]
    verdict = {}
    if workspace.audit.is_file():
        verdict = json.loads(workspace.audit.read_text(encoding="utf-8"))
    some = f"{len(shown)} of {len(rows)} pairs" if len(rows) > 1 else "1 pair"
    first = shown[0]
    page = report.render_page(
        "Pairs",
        [
            report.Section("Audit", _audit(verdict)),
            report.Section("Pairs", _pairs(workspace, shown)),
        ],
        subtitle=f"{some} of {first['model']}, round {first['round']}: "
        "the real clip and what the model made of its prompt.",
    )
    return report.write_page(target or workspace.reports / "pairs.html", page)


def _audit(found: Mapping[str, Any]) -> Markup:
    """The audit's findings, the strongest first."""
    if not found:
        return Markup(
            "<p>These pairs are not audited yet: run <code>realdpo pairs audit</code>.</p>"
        )
    rows = [
        {
            "number": f["name"].replace("_", " "),
            "cause": f["group"],
            "p": f["p"],
            "AUC": f["auc"],
            "loser - winner": f["loser_minus_winner"],
            "in words": f["words"],
            "what to do": f["remedy"] or "",
        }
        for f in found["features"]
        if f["auc"] > 0.55
    ]
    head = Markup("<p><strong>{}</strong>: {}</p><p>Motion, which should differ: {}.</p>").format(
        found["verdict"].capitalize(), found["summary"], found["motion"]["words"]
    )
    # Otherwise the summary above mentions the latents.
    if "latents" in found and found["latents"]["verdict"] == "clean":
        head += Markup("<p>Cached latents: {}</p>").format(found["latents"]["summary"])
    if not rows:
        return head + Markup("<p>No single number tells the sides apart.</p>")
    return head + report.render_table(rows)


def _pairs(workspace: Workspace, rows: Sequence[PairRow]) -> Markup:
    style = _resource("review.css")
    script = _resource("review.js")
    tools = Markup(
        '<div class="tools" data-set="{}"><input name="search" type="search" '
        'placeholder="search prompts and ids" aria-label="search">{}{}{}<output></output>'
        '<button type="button">Download choices</button></div>'
        '<p class="keys"><kbd>j</kbd> <kbd>k</kbd> next, previous; <kbd>space</kbd> play; '
        "<kbd>a</kbd> accept, <kbd>r</kbd> reject, <kbd>f</kbd> flag, <kbd>u</kbd> undo; "
        "<kbd>/</kbd> search. Then <code>realdpo pairs build --apply-review review.json</code>.</p>"
    ).format(
        ids.content_id(pairs=[row["pair_id"] for row in rows]),
        _choices("split", "any split", {row["split"] for row in rows}),
        _choices("strategy", "any strategy", {s for row in rows for s in row["strategy"] or []}),
        _choices("choice", "any choice", {"accept", "reject", "flag", "none"}),
    )
    items = Markup("").join(_pair(workspace, row) for row in rows)
    # the script comes last, because it looks for the pairs above it. Both files ship with realdpo.
    return Markup("<style>{}</style>{}{}<script>{}</script>").format(
        Markup(style),  # noqa: S704 - our own files
        tools,
        items,
        Markup(script),  # noqa: S704 - our own files
    )


def _pair(workspace: Workspace, row: PairRow) -> Markup:
    losers = list(row["lose"])
    strategies = list(row["strategy"] or ["generate"] * len(losers))
    clips = [("real", integrity.read_pair_file(workspace, row["win"]))]
    for k, (name, strategy) in enumerate(zip(losers, strategies, strict=False)):
        clips.append((f"loser {k}, {strategy}", integrity.read_pair_file(workspace, name)))
    steps = f"{row['steps']} steps, guidance {row['guidance']:g}; " if row["steps"] else ""
    known = ", ".join(str(seed) for seed in row["seeds"] or ())
    facts = (
        f"{row['pair_id']}; {row['split']}; {row['width']}x{row['height']}, {row['frames']} frames "
        f"at {row['fps']:g}; {steps}" + (f"seeds {known}; " if known else "") + _difference(row)
    )
    return Markup(
        '<article class="pair" id="{}" data-split="{}" data-strategy="{}" data-before="{}" '
        'data-text="{}"><span class="choice"></span><p class="prompt">{}</p>{}'
        '<p class="facts">{}</p></article>'
    ).format(
        row["pair_id"],
        row["split"],
        " ".join(sorted(set(strategies))),
        row["review"] or "",
        f"{row['prompt']} {row['pair_id']} {row['clip_id']}".lower(),
        row["prompt"],
        report.in_step(clips, row["fps"]),
        facts + (f" {row['error']}" if row["error"] else ""),
    )


def _difference(row: Mapping[str, Any]) -> str:
    """The audit's numbers of one pair that exceed the tolerance, in words."""
    words = []
    for name, feature in {**MOTION, **FEATURES}.items():
        value = row.get(f"audit.{name}")
        if value is None or name.startswith("first_") or abs(value) <= feature.tolerance:
            continue
        if name in SPEED:  # about all pairs together
            continue
        words.append(f"{feature.more if value > 0 else feature.less} ({value:+.2g})")
    return "losers are " + ", ".join(words) if words else "no measured number differs"


def _choices(name: str, any_: str, values: set[str]) -> Markup:
    options = Markup("").join(
        Markup("<option>{}</option>").format(value) for value in sorted(values)
    )
    return Markup(
        '<select name="{}" aria-label="{}"><option value="">{}</option>{}</select>'
    ).format(name, name, any_, options)


def _resource(name: str) -> str:
    return resources.files("realdpo.pairs").joinpath(name).read_text(encoding="utf-8")
