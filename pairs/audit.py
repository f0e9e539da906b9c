"""Can winners be told from losers without looking at motion? Training would learn that shortcut.

A permutation test over pairs (see `permutation`) decides whether they can. If the sides are alike,
it reports a finding at most one time in twenty. The area under the curve (AUC) says how well they
can: 0.5 is chance, 1 is certainty. A logistic regression without intercept on the differences
within pairs judges all numbers together. Its folds are by pair, so no pair is judged by a model
that has seen it. Motion is reported separately, because there the sides should differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realdpo import integrity
from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.ledger import Ledger
from realdpo.pairs import permutation
from realdpo.pairs.permutation import ALPHA
from realdpo.pairs.statistics import (
    FEATURES,
    FILE,
    FIRST,
    GRID,
    LOOK,
    MOTION,
    ONE_SPEED,
    REMEDIES,
    SPEED,
    WHOLE,
    measure_video_file,
)
from realdpo.progress import progress_bar, say
from realdpo.rows import PairRow
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Groups = npt.NDArray[np.int64]

Pair = tuple[Mapping[str, float], Sequence[Mapping[str, float]]]
"""The numbers of a winner, and those of its losers."""

MEASURES = 4  # version of the numbers; part of the key under which they are stored
FEWEST = 8  # pairs for a cross-validated AUC
_MOST = 4000  # most pairs that are looked at; more would not add precision
_MOST_LATENTS = 200
_BOOTSTRAPS = 500
CLEAN, TOO_FEW, SUSPICIOUS, SHORTCUT = "clean", "too few", "suspicious", "shortcut"
_ORDER = (CLEAN, TOO_FEW, SUSPICIOUS, SHORTCUT)


@dataclass(frozen=True)
class Rule:
    """shortcut: the AUC from which training would learn it. suspicious: the AUC from which to look.

    Both count only for a significant difference, with a p-value of at most 0.05.
    """

    shortcut: float = 0.9
    suspicious: float = 0.7


def measure_rows(workspace: Workspace, rows: Sequence[PairRow]) -> dict[str, dict[str, float]]:
    """The numbers of every video of `rows`, by file name. Known ones are not measured again."""
    names = {n for row in rows for n in [row.get("win"), *(row.get("lose") or [])] if n}
    keys = {name: f"{MEASURES}.{name}" for name in sorted(names)}
    with Ledger(workspace.step("audit")) as ledger:
        todo = [name for name, key in keys.items() if ledger.get(key) is None]
        if todo:
            with progress_bar("audit", len(todo), "videos") as advance:
                for name in todo:
                    data = integrity.read_pair_file(workspace, name)
                    ledger.put(keys[name], measure_video_file(data))
                    advance()
        return {name: ledger.get(key) for name, key in keys.items()}


def audit_columns(
    row: PairRow, measured: Mapping[str, dict[str, float]]
) -> dict[str, float | None]:
    """The audit columns of a pair: by how much its losers exceed its winner, on average.

    A number that could not be measured is None and never left out, because all shards need the same
    columns.
    """
    names = [*FEATURES, *MOTION]
    found: dict[str, float | None] = {f"audit.{name}": None for name in names}
    win = measured.get(row.get("win") or "")
    losers = [measured[name] for name in row.get("lose") or [] if name in measured]
    if not win or not losers:
        return found
    for name in names:
        mean = sum(lose[name] - win[name] for lose in losers) / len(losers)
        if math.isfinite(mean):
            found[f"audit.{name}"] = mean
    return found


def audit_rows(
    workspace: Workspace,
    rows: Sequence[PairRow],
    measured: Mapping[str, dict[str, float]],
    rule: Rule = Rule(),
) -> dict[str, Any]:
    """Audit accepted pairs and their cached latents. Writes audit.json, logs and returns it."""
    from realdpo.pairs import latents

    chosen = sorted(rows, key=lambda r: r["pair_id"])[:_MOST]
    same_first_frame = {row.get("task") for row in rows} == {"i2v"}
    pairs = [(measured[row["win"]], [measured[n] for n in row["lose"]]) for row in chosen]
    found = audit_pairs(pairs, same_first_frame, rule)
    encoded = list(latents.cached_latents(workspace, chosen[:_MOST_LATENTS]))
    if encoded:
        inside = latents.audit_latents(encoded, same_first_frame)
        found["latents"] = inside
        if inside["verdict"] not in (CLEAN, TOO_FEW):
            found["verdict"] = max(found["verdict"], inside["verdict"], key=_ORDER.index)
            found["summary"] = f"{inside['summary']} In the videos: {found['summary']}"
    write_text(workspace.audit, json.dumps(found, indent=2, sort_keys=True) + "\n")
    say(f"audit of {found['pairs']} pairs: {found['verdict']}. {found['summary']}")
    return found


def audit_workspace(
    workspace: Workspace, rule: Rule = Rule(), strong: bool = False, network: str = ""
) -> dict[str, Any]:
    """Audit the pairs in the tables of a workspace.

    strong: also train a small network as an upper bound, under the key `strong`. It does not affect
    the verdict. network: the frozen feature network for it (`discriminator.load_features`). Raises
    UserError if there are no pairs or a video is missing.
    """
    from realdpo import tables

    workspace.require(workspace.pairs, "pairs build")
    rows = [
        row
        for row in tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
        if row["status"] == "ok"
    ]
    found = audit_rows(workspace, rows, measure_rows(workspace, rows), rule)
    if strong or network:
        from realdpo.pairs import discriminator

        found["strong"] = discriminator.judge_rows(workspace, rows, network)
        write_text(workspace.audit, json.dumps(found, indent=2, sort_keys=True) + "\n")
    return found


def audit_pairs(
    pairs: Sequence[Pair], same_first_frame: bool, rule: Rule = Rule()
) -> dict[str, Any]:
    """The verdict on pairs of (winner's numbers, its losers' numbers).

    same_first_frame: image-to-video, where the first frame is the same picture on both sides.
    verdict: `shortcut` if the preparation of the videos tells the sides apart (in image-to-video
    the first frame and the file, else everything except numbers that motion may change),
    `suspicious` if their look does, `clean` if nothing does, `too few` if the pairs are too few to
    tell. p: chance of so clear a difference if there is none, over all numbers. preparation_p: the
    same for the numbers of the preparation. auc: AUC of all numbers together, with auc_low and
    auc_high (95 % by bootstrap over pairs; None for fewer than 8 pairs), and preparation_auc.
    features: the surest first, each with its p, its AUC, words and a remedy. motion: reported
    separately. not_measured: numbers that pairs lack, because their videos are too small, too short
    or never still, and the number of such pairs. Deterministic. Raises UserError if there is no
    pair.
    """
    import numpy as np

    if not pairs:
        raise UserError("there are no pairs to audit", "make some with: realdpo pairs build")
    names = [*FILE, *WHOLE, *(FIRST if same_first_frame else ()), *LOOK, *SPEED]
    values = _values(pairs, names)
    measured = [np.isfinite(v).all(axis=0) for v in values]
    for v, known in zip(values, measured, strict=True):
        v[:, ~known] = 0.0  # a number that one side lacks tells nothing about the pair
    tolerance = np.array([FEATURES[name].tolerance for name in names])
    caused = {*FILE, *FIRST} if same_first_frame else {*FILE, *FIRST, *WHOLE}
    prepared = [k for k, name in enumerate(names) if name in caused]
    steady = [k for k, name in enumerate(names) if name in SPEED]
    told = told_apart(values, tolerance, prepared, steady)
    found: dict[str, Any] = {
        "pairs": len(pairs),
        "losers": sum(len(v) - 1 for v in values),
        **told.found,
        "features": _surest(names, values, told, caused),
        "not_measured": {
            name: int(missing)
            for name, missing in zip(names, len(pairs) - np.sum(measured, axis=0), strict=True)
            if missing
        },
        "first_frame_difference": _first_frames(pairs),
        "motion": _motion(pairs),
    }
    found["verdict"] = audit_verdict(found, rule)
    found["summary"] = _summary(found)
    return found


@dataclass(frozen=True)
class Told:
    """How well the sides are told apart. found: for the report. p, aucs: of each feature [K].

    beyond [N, K]: winner minus loser for every loser, in tolerances; 0 within the tolerance.
    """

    found: dict[str, Any]
    p: Floats
    aucs: Floats
    beyond: Floats


def told_apart(
    values: Sequence[Floats], tolerance: Floats, prepared: Sequence[int], steady: Sequence[int] = ()
) -> Told:
    """Test the values [1 + N, K] of each pair, with the winner first.

    prepared: features that only the preparation can have changed. steady: as in
    `permutation.compare_sides`; they are not part of the AUC of all features together.
    """
    import numpy as np

    others = [k for k in range(len(tolerance)) if k not in steady]
    parts = {"": others, "preparation_": list(prepared)}
    asked = [prefix for prefix, part in parts.items() if part]
    test = permutation.compare_sides(
        values, tolerance, steady, ONE_SPEED, groups=[parts[prefix] for prefix in asked]
    )
    together = dict(zip(asked, test.together, strict=True))
    differences = np.concatenate([v[:1] - v[1:] for v in values])
    groups = np.repeat(np.arange(len(values)), [len(v) - 1 for v in values])
    beyond = np.sign(differences) * np.maximum(0.0, np.abs(differences) / tolerance - 1)
    aucs = 0.5 + np.abs(np.sign(beyond).mean(axis=0)) / 2
    found: dict[str, Any] = {
        "smallest_p": test.smallest,
        "method": "permutation of the winner within each pair,   "
        + ("all ways" if test.exact else "2,000 ways drawn"),
    }
    for prefix, part in parts.items():
        low = high = value = None
        if len(values) >= FEWEST and part:
            scores = cross_validated(beyond[:, part], groups)
            value = round(difference_auc(scores), 4)
            low, high = auc_interval(scores, groups)
        looked = part if prefix else range(beyond.shape[1])
        sure = [k for k in looked if test.p[k] <= ALPHA]
        found |= {
            f"{prefix}p": round(
                float(min([together.get(prefix, 1.0), *(test.p[k] for k in looked)])), 5
            ),
            f"{prefix}clearest": round(float(max(aucs[k] for k in sure)), 4) if sure else 0.5,
            f"{prefix}auc": value,
            f"{prefix}auc_low": low,
            f"{prefix}auc_high": high,
        }
    return Told(found, test.p, aucs, beyond)


def cross_validated(differences: Floats, groups: Groups, folds: int = 5) -> Floats:
    """Out-of-fold scores of the differences [N, K]. Above 0, the winner was recognised.

    groups [N]: the pair of each difference. The losers of a pair share the weight of one pair.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(len(differences))
    weights = 1.0 / np.bincount(groups)[groups]
    for train, test in GroupKFold(min(folds, len(set(groups)))).split(differences, groups=groups):
        scale = np.sqrt((differences[train] ** 2).mean(axis=0))
        scale[scale == 0] = 1.0
        known = differences[train] / scale
        # bound each feature, so that a single outlier cannot dominate
        known = np.clip(known, -3, 3)
        model = LogisticRegression(fit_intercept=False, C=1.0, max_iter=1000)
        model.fit(
            np.concatenate([known, -known]),
            np.repeat([1, 0], len(known)),
            sample_weight=np.tile(weights[train], 2),
        )
        scores[test] = np.clip(differences[test] / scale, -3, 3) @ model.coef_[0]
    return scores


def difference_auc(scores: Floats) -> float:
    """Chance that a difference scores above one with the opposite sign. Ties count half."""
    import numpy as np

    ordered = np.sort(scores)
    above = len(scores) - np.searchsorted(ordered, -scores, side="right")
    equal = np.searchsorted(ordered, -scores, side="right") - np.searchsorted(
        ordered, -scores, side="left"
    )
    return float((above + 0.5 * equal).sum() / len(scores) ** 2)


def auc_interval(scores: Floats, groups: Groups) -> tuple[float, float]:
    """95 % interval of the AUC, by drawing pairs with all their losers, with replacement."""
    import numpy as np

    random = np.random.default_rng(0)
    count = int(groups.max()) + 1
    members = [np.flatnonzero(groups == g) for g in range(count)]
    values = [
        difference_auc(
            scores[np.concatenate([members[g] for g in random.integers(0, count, count)])]
        )
        for _ in range(_BOOTSTRAPS)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def _values(pairs: Sequence[Pair], names: list[str]) -> list[Floats]:
    """The numbers [1 + N, K] of each pair, the winner first, with file size relative to content."""
    import numpy as np

    values = [np.array([[v[n] for n in names] for v in (win, *losers)]) for win, losers in pairs]
    # The size of a file depends on its motion and sharpness. That part is subtracted, by the slope
    # over all videos, so a still loser is not found by its file size.
    index = names.index("size")
    every = [v for win, losers in pairs for v in (win, *losers)]
    causes = np.array([[v[c] for c in ("motion", "sharpness", "noise")] for v in every])
    design = np.column_stack([causes, np.ones(len(every))])
    if len(every) > 4 * design.shape[1]:
        sizes = np.array([v["size"] for v in every])
        left = sizes - design @ np.linalg.lstsq(design, sizes, rcond=None)[0]
    else:
        left = np.zeros(len(every))  # too few videos to predict a size
    start = 0
    for each in values:
        each[:, index] = left[start : start + len(each)]
        start += len(each)
    return values


def _surest(
    names: list[str], values: Sequence[Floats], told: Told, caused: set[str]
) -> list[dict[str, Any]]:
    """Every feature, the surest first, with its p-value and the losers' difference."""
    import numpy as np

    gaps = np.concatenate([v[1:] - v[:1] for v in values])  # loser minus winner
    found = []
    for k, name in enumerate(names):
        feature = FEATURES[name]
        more, less = (float((told.beyond[:, k] * side < 0).mean()) for side in (1, -1))
        typical = float(np.median(gaps[:, k]))
        word = feature.more if more >= less else feature.less
        words = f"losers are {word} in {max(more, less):.0%} of cases (median {typical:+.3g}"
        found.append(
            {
                "name": name,
                "group": feature.group,
                "preparation": name in caused,
                "p": round(float(told.p[k]), 5),
                "auc": round(float(told.aucs[k]), 4),
                "loser_minus_winner": round(typical, 4),
                "words": f"{words} {feature.unit}".rstrip() + ")"
                if max(more, less)
                else "no difference that matters",
                "remedy": REMEDIES[feature.group] if told.p[k] <= ALPHA else None,
            }
        )
    return sorted(found, key=lambda f: (f["p"], -f["auc"], not f["preparation"], f["name"]))


def _first_frames(pairs: Sequence[Pair]) -> float:
    """Mean difference in brightness of the sides' first frames, over 16 fields, of 255."""
    import numpy as np

    apart = [
        np.mean([abs(win[name] - lose[name]) for name in GRID])
        for win, losers in pairs
        for lose in losers
    ]
    return round(float(np.median(apart)), 3)


def _motion(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How much more or less the losers move: the difference that should be there."""
    import numpy as np

    ratios = np.array(
        [np.exp(lose["motion"] - win["motion"]) for win, losers in pairs for lose in losers]
    )
    middle = float(np.median(ratios))
    return {
        "loser_over_winner": round(middle, 4),
        "losers_moving_less": round(float((ratios < 1).mean()), 4),
        "words": f"losers move {middle:.2f} times as much as their winners (median); "
        f"{(ratios < 1).mean():.0%} move less",
    }


def audit_verdict(found: Mapping[str, Any], rule: Rule) -> str:
    """clean, too few, suspicious or shortcut, from the p-values and the AUCs that count."""

    def reaches(prefix: str, level: float) -> bool:
        together = found[f"{prefix}auc"] or 0.5
        sure = found[f"{prefix}p"] <= ALPHA
        holds: bool = sure and max(together, found[f"{prefix}clearest"]) >= level
        return holds

    if found["smallest_p"] > ALPHA:
        return TOO_FEW
    if reaches("preparation_", rule.shortcut):
        return SHORTCUT
    if reaches("", rule.suspicious):
        return SUSPICIOUS
    return CLEAN


def _summary(found: Mapping[str, Any]) -> str:
    if found["verdict"] == TOO_FEW:
        losers = max(1, round(found["losers"] / found["pairs"]))
        return (
            "There are too few pairs to tell: even the clearest difference would only reach p = "
            f"{found['smallest_p']:.2g}. With {_counted(losers, 'loser')} each, "
            f"{permutation.pairs_needed(losers)} pairs can tell."
        )
    chance = f"p = {found['p']:.2g}"
    if found["auc"] is not None:
        low, high = found["auc_low"], found["auc_high"]
        chance += f", AUC {found['auc']:.2f} ({low:.2f} to {high:.2f})"
    start = {
        CLEAN: "Without looking at motion, the sides cannot be told apart",
        SUSPICIOUS: "The sides look different, apart from their motion",
        SHORTCUT: (
            "The sides were not prepared alike, and a model would learn that instead of motion"
        ),
    }[found["verdict"]]
    clear = [f for f in found["features"] if f["remedy"]][:3]
    if not clear and found["verdict"] in (SUSPICIOUS, SHORTCUT):
        return f"{start} ({chance}): no single number shows it, but all of them together do."
    if not clear or found["verdict"] == CLEAN:
        return f"{start} ({chance})."
    why = "; ".join(f["words"] for f in clear)
    remedies = dict.fromkeys(f["remedy"] for f in clear)
    return f"{start} ({chance}): {why}. Remedy: {'; '.join(remedies)}."


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("s" if number != 1 else "")
