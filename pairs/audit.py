"""Can winners be told from losers without looking at motion? Then training would learn that.

The test works on differences within a pair: for every loser the winner's numbers minus its own,
and the same with the sign turned, which a logistic regression without intercept must tell apart.
Folds are by pair, so that no pair is judged by a model that has seen it. An area under the curve
(AUC) of 0.5 is chance, 1 is certainty. Motion is reported apart: there the sides should differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.ledger import Ledger
from realdpo.pairs.statistics import FEATURES, FILE, FIRST, GRID, MOTION, WHOLE, measure
from realdpo.progress import bar, say
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Groups = npt.NDArray[np.int64]

Pair = tuple[Mapping[str, float], Sequence[Mapping[str, float]]]
"""A winner's numbers and those of its losers."""

MEASURES = 3  # version of the numbers; part of the key under which they are kept
FEWEST = 8  # pairs for a cross-validated verdict
_MOST = 4000  # pairs looked at; more sharpen nothing
_MOST_LATENTS = 200
_BOOTSTRAPS = 500
_ORDER = ("clean", "suspicious", "shortcut")


@dataclass(frozen=True)
class Rule:
    """shortcut: an AUC from which training would learn it. suspicious: from which to look."""

    shortcut: float = 0.9
    suspicious: float = 0.7


def measure_rows(
    workspace: Workspace, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """The numbers of every video of `rows`, by file name; what is known is not measured again."""
    names = {n for row in rows for n in [row.get("win"), *(row.get("lose") or [])] if n}
    keys = {name: f"{MEASURES}.{name}" for name in sorted(names)}
    with Ledger(workspace.step("audit")) as ledger:
        todo = [name for name, key in keys.items() if ledger.get(key) is None]
        if todo:
            with bar("audit", len(todo), "videos") as advance:
                for name in todo:
                    path = workspace.pair_videos / name
                    if not path.is_file():
                        raise UserError(
                            f"{path} is not there", "run `realdpo pairs build` again to make it"
                        )
                    ledger.put(keys[name], measure(path.read_bytes()))
                    advance()
        return {name: ledger.get(key) for name, key in keys.items()}


def columns(row: Mapping[str, Any], measured: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """A pair's audit columns: by how much its losers exceed its winner, on average."""
    win = measured.get(row.get("win") or "")
    losers = [measured[name] for name in row.get("lose") or [] if name in measured]
    if not win or not losers:
        return {}
    names = [*FEATURES, *MOTION]
    return {
        f"audit.{name}": sum(lose[name] - win[name] for lose in losers) / len(losers)
        for name in names
    }


def audit_rows(
    workspace: Workspace,
    rows: Sequence[Mapping[str, Any]],
    measured: Mapping[str, dict[str, float]],
    rule: Rule = Rule(),
) -> dict[str, Any]:
    """Audit accepted pairs and their cached latents, keep it as audit.json, say it, return it."""
    from realdpo.pairs import latents

    chosen = sorted(rows, key=lambda r: r["pair_id"])[:_MOST]
    same_first_frame = {row.get("task") for row in rows} == {"i2v"}
    pairs = [(measured[row["win"]], [measured[n] for n in row["lose"]]) for row in chosen]
    found = audit(pairs, same_first_frame, rule)
    encoded = list(latents.cached(workspace, chosen[:_MOST_LATENTS]))
    if encoded:
        inside = latents.audit_latents(encoded, same_first_frame)
        found["latents"] = inside
        if inside["verdict"] != "clean":
            found["verdict"] = max(found["verdict"], inside["verdict"], key=_ORDER.index)
            found["summary"] = f"{inside['summary']} In the videos: {found['summary']}"
    write_text(workspace.audit, json.dumps(found, indent=2, sort_keys=True) + "\n")
    say(f"audit of {found['pairs']} pairs: {found['verdict']}. {found['summary']}")
    return found


def audit_workspace(workspace: Workspace, rule: Rule = Rule()) -> dict[str, Any]:
    """Audit the pairs of a workspace as its tables have them.

    Raises UserError when there are no pairs or a video is missing.
    """
    from realdpo import tables

    workspace.require(workspace.pairs, "pairs build")
    rows = [
        row
        for row in tables.read(workspace.pairs, tables.PAIRS).to_pylist()
        if row["status"] == "ok"
    ]
    return audit_rows(workspace, rows, measure_rows(workspace, rows), rule)


def audit(pairs: Sequence[Pair], same_first_frame: bool, rule: Rule = Rule()) -> dict[str, Any]:
    """The verdict on pairs of (winner's numbers, its losers' numbers).

    same_first_frame: image-to-video, where the first frame is the same picture on both sides.
    auc is what all numbers together achieve, with auc_low and auc_high (95 % by bootstrap over
    pairs); preparation_auc is what those achieve that only the preparation of the videos can
    have caused: of the first frame and the file, for text-to-video all. verdict: `shortcut`
    when the preparation tells the sides apart, `suspicious` when their look does, else `clean`.
    features: strongest first, each in words. motion: reported apart. Deterministic.
    Raises UserError when there is no pair.
    """
    import numpy as np

    if not pairs:
        raise UserError("there are no pairs to audit", "make some with: realdpo pairs build")
    names = [*FILE, *WHOLE, *(FIRST if same_first_frame else ())]
    differences, groups = _differences(pairs, names)
    tolerance = np.array([FEATURES[name].tolerance for name in names])
    # in units of the tolerance, and none within it
    beyond = np.sign(differences) * np.maximum(0.0, np.abs(differences) / tolerance - 1)
    prepared = [k for k, name in enumerate(names) if name in FILE or name in FIRST]
    found: dict[str, Any] = {
        "pairs": len(pairs),
        "losers": len(groups),
        "method": "cross-validated logistic regression by pair"
        if len(pairs) >= FEWEST
        else f"agreement of the differences, there being fewer than {FEWEST} pairs",
    }
    found |= told_apart("", beyond, groups)
    found |= told_apart("preparation_", beyond[:, prepared] if same_first_frame else beyond, groups)
    found["features"] = _strongest(names, differences, beyond)
    found["first_frame_difference"] = _first_frames(pairs)
    found["motion"] = _motion(pairs)
    found["verdict"] = verdict(found, rule)
    found["summary"] = _summary(found)
    return found


def told_apart(prefix: str, beyond: Floats, groups: Groups) -> dict[str, Any]:
    """AUC and its interval (None for a handful of pairs) under keys that begin with `prefix`."""
    low = high = None
    if groups.max() + 1 >= FEWEST:
        scores = cross_validated(beyond, groups)
        value = round(auc(scores), 4)
        low, high = auc_interval(scores, groups)
    else:
        value = _few(beyond)
    return {f"{prefix}auc": value, f"{prefix}auc_low": low, f"{prefix}auc_high": high}


def cross_validated(differences: Floats, groups: Groups, folds: int = 5) -> Floats:
    """Out-of-fold scores of the differences [N, K]; above 0 says that the winner was recognised.

    groups [N]: the pair of each difference. Every loser of a pair weighs its share of the pair.
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
        # a feature that differs in one outlier only must not dominate: bound it
        known = np.clip(known, -3, 3)
        model = LogisticRegression(fit_intercept=False, C=1.0, max_iter=1000)
        model.fit(
            np.concatenate([known, -known]),
            np.repeat([1, 0], len(known)),
            sample_weight=np.tile(weights[train], 2),
        )
        scores[test] = np.clip(differences[test] / scale, -3, 3) @ model.coef_[0]
    return scores


def auc(scores: Floats) -> float:
    """Chance that a difference scores above one with its sign turned; ties count half."""
    import numpy as np

    ordered = np.sort(scores)
    above = len(scores) - np.searchsorted(ordered, -scores, side="right")
    equal = np.searchsorted(ordered, -scores, side="right") - np.searchsorted(
        ordered, -scores, side="left"
    )
    return float((above + 0.5 * equal).sum() / len(scores) ** 2)


def auc_interval(scores: Floats, groups: Groups) -> tuple[float, float]:
    """95 % interval of the AUC by drawing pairs, with all their losers, with replacement."""
    import numpy as np

    random = np.random.default_rng(0)
    count = int(groups.max()) + 1
    members = [np.flatnonzero(groups == g) for g in range(count)]
    values = [
        auc(scores[np.concatenate([members[g] for g in random.integers(0, count, count)])])
        for _ in range(_BOOTSTRAPS)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def _differences(pairs: Sequence[Pair], names: list[str]) -> tuple[Floats, Groups]:
    """Winner minus loser [N, K], and the pair of each row; file size for what is shown."""
    import numpy as np

    wins = np.array([[win[n] for n in names] for win, losers in pairs for _ in losers])
    loses = np.array([[lose[n] for n in names] for _, losers in pairs for lose in losers])
    groups = np.array([k for k, (_, losers) in enumerate(pairs) for _ in losers])
    differences = wins - loses
    # How large a file is follows from how much moves and how sharp it is. What follows is taken
    # off, by the slope over all videos, so that a still loser is not caught by its file size.
    index = names.index("size")
    causes = ("motion", "sharpness", "noise")
    x = np.array([[win[c] - lose[c] for c in causes] for win, losers in pairs for lose in losers])
    every = [v for win, losers in pairs for v in (win, *losers)]
    all_x = np.array([[v[c] for c in causes] for v in every])
    all_y = np.array([v["size"] for v in every])
    design = np.column_stack([all_x, np.ones(len(all_x))])
    if len(every) > 4 * design.shape[1]:
        slope = np.linalg.lstsq(design, all_y, rcond=None)[0]
        differences[:, index] -= x @ slope[:-1]
    else:
        differences[:, index] = 0.0  # too few videos to know what a size should be
    return differences, groups


def _few(beyond: Floats) -> float:
    """For a handful of pairs: how surely the clearest feature has one sign, as an AUC.

    beyond [N, K]: differences in units of their tolerance. With mean m and spread s of the
    differences the sides overlap like two normal distributions that lie 2m apart:
    AUC = Phi(sqrt(2) m / s). A spread below the tolerance is chance, so s is 1 at least.
    """
    import math

    import numpy as np

    mean = np.abs(beyond.mean(axis=0))
    spread = beyond.std(axis=0, ddof=1) if len(beyond) > 1 else np.zeros(beyond.shape[1])
    ratio = float((mean / np.maximum(spread, 1.0)).max())
    return round(0.5 * (1 + math.erf(min(ratio, 30.0))), 4)


def _strongest(names: list[str], differences: Floats, beyond: Floats) -> list[dict[str, Any]]:
    """Every feature with how often and by how much the losers differ, clearest first."""
    import numpy as np

    found = []
    for k, name in enumerate(names):
        feature = FEATURES[name]
        share = float((beyond[:, k] < 0).mean())  # the loser has more
        less = float((beyond[:, k] > 0).mean())
        typical = float(np.median(-differences[:, k]))
        word = feature.more if share >= less else feature.less
        words = f"losers are {word} in {max(share, less):.0%} of cases (median {typical:+.3g}"
        found.append(
            {
                "name": name,
                "group": feature.group,
                "auc": round(0.5 + abs(share - less) / 2, 4),
                "loser_minus_winner": round(typical, 4),
                "words": f"{words} {feature.unit}".rstrip() + ")"
                if max(share, less)
                else "no difference that matters",
            }
        )
    return sorted(found, key=lambda f: (-f["auc"], f["name"]))


def _first_frames(pairs: Sequence[Pair]) -> float:
    """Mean difference in brightness of the two sides' first frames over 16 fields, of 255."""
    import numpy as np

    apart = [
        np.mean([abs(win[name] - lose[name]) for name in GRID])
        for win, losers in pairs
        for lose in losers
    ]
    return round(float(np.median(apart)), 3)


def _motion(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How much more or less the losers move: the difference that is wanted."""
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


def verdict(found: Mapping[str, Any], rule: Rule) -> str:
    """clean, suspicious or shortcut, from auc and preparation_auc with their intervals."""

    def at_least(prefix: str, level: float, surely: float) -> bool:
        value, low = found[f"{prefix}auc"], found[f"{prefix}auc_low"]
        return value >= level and (low is None or low > surely)

    if at_least("preparation_", rule.shortcut, rule.suspicious):
        return "shortcut"
    if at_least("", rule.suspicious, 0.5) or at_least("preparation_", rule.suspicious, 0.5):
        return "suspicious"
    return "clean"


def _summary(found: Mapping[str, Any]) -> str:
    low, high = found["auc_low"], found["auc_high"]
    interval = f" ({low:.2f} to {high:.2f})" if low is not None else ""
    start = {
        "clean": "The sides are not told apart without looking at motion",
        "suspicious": "The sides look different apart from their motion",
        "shortcut": "The sides were not prepared alike: a model would learn that instead of motion",
    }[found["verdict"]]
    clear = [f["words"] for f in found["features"] if f["auc"] >= 0.65][:3]
    why = ": " + "; ".join(clear) if clear and found["verdict"] != "clean" else ""
    return f"{start} (AUC {found['auc']:.2f}{interval}){why}."
