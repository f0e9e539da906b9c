"""A second opinion on every caption, by somebody else than its author.

RealDPO judged its results with the model that had filtered its data: where that model is wrong,
the filter lets the mistake in and the judge praises it. A model does not see its own mistakes,
so one that wrote a caption may not check it unless the user insists.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from realdpo import ids, tables
from realdpo.curate.caption import answers, clean, run, show
from realdpo.curate.caption.config import CaptionConfig, VerifyConfig, model_key
from realdpo.errors import UserError
from realdpo.workspace import Workspace

Row = Mapping[str, Any]
Verdict = tuple[float | None, float | None]
"""How well the caption fits the clip, and how surely its action happens; both 0 to 1."""


def verify_captions(ws: Workspace, judge: VerifyConfig, config: CaptionConfig) -> dict[str, Any]:
    """Judge every caption that is not judged yet; stores verify.fit and verify.action.

    `[decide] verify.fit_min` or `verify.action_min` can then drop clips. How the judge is asked
    (frames, concurrency, retries) is as in `config`. Takes the workspace's lock. Raises
    UserError when the judge wrote some of the captions.
    """
    with ws.lock("curate caption --verify"):
        ws.require(ws.clips, "curate ingest FOOTAGE")
        rows = tables.read_table(ws.clips, tables.CLIPS).to_pylist()
        todo = [
            row
            for row in rows
            if row["status"] == "ok" and row.get("keep") is not False and row.get("prompt")
        ]
        if judge.verifier == "open_clip":
            from realdpo.curate import embed

            name, verdicts = embed.caption_verdicts(ws, todo)
            notes: dict[str, str] = {}
        else:
            name, verdicts, notes = _ask(ws, todo, judge, config)
        out = []
        for row in rows:
            fit, action = verdicts.get(row["clip_id"], (None, None))
            out.append({**row, "verify.fit": fit, "verify.action": action})
        tables.write_table(ws.clips, tables.from_rows(tables.CLIPS, out), tables.CLIPS)
    summary = run.summarise_captions([row for row in out if row["clip_id"] in verdicts], config)
    fits = [fit for fit, _ in verdicts.values() if fit is not None]
    actions = [action for _, action in verdicts.values() if action is not None]
    return {
        **summary,
        "verifier": name,
        "judged": len(verdicts),
        "unreadable": len(verdicts) - len(fits),
        "mean_fit": round(fmean(fits), 3) if fits else None,
        "mean_action": round(fmean(actions), 3) if actions else None,
        "worst": [
            {"clip_id": clip_id, "fit": verdicts[clip_id][0], "wrong": notes.get(clip_id, "")}
            for clip_id in sorted(
                (c for c in verdicts if verdicts[c][0] is not None),
                key=lambda c: verdicts[c][0] or 0.0,
            )[:10]
        ],
    }


def refuse_own(verifier: str, rows: Sequence[Row], allowed: bool) -> None:
    """Raise UserError when `verifier` wrote any of the captions that it is to judge."""
    authors = Counter(row.get("captioner") or "" for row in rows)
    own = {
        name: n for name, n in authors.items() if name and model_key(name) == model_key(verifier)
    }
    if own and not allowed:
        name, number = max(own.items(), key=lambda item: item[1])
        raise UserError(
            f"{number} of {len(rows)} captions were written by {name}, which may not judge them: "
            "a model does not see its own mistakes, so its praise would prove nothing",
            "verify with another model, or override this with --set verify.allow_same_model=true",
        )


def parse_judgement(text: str) -> tuple[float | None, float | None, str]:
    """(fit, action, what is wrong) of a judge's answer; fit and action as 0 to 1 or None.

    Takes the first JSON object that holds the two numbers, or `fit: 7` lines. Anything beyond
    0 to 10 is no verdict.
    """
    document: dict[str, Any] = {}
    for match in re.finditer(r"\{[^{}]*\}", text):
        try:
            found = json.loads(match.group())
        except ValueError:
            continue
        if isinstance(found, dict) and {"fit", "action"} & found.keys():
            document = found
            break
    if not document:
        for name, value in re.findall(r"\b(fit|action)\b\W{0,4}(\d+(?:\.\d+)?)", text, re.I):
            document.setdefault(name.lower(), value)
    return (
        _share(document.get("fit")),
        _share(document.get("action")),
        str(document.get("wrong") or "")[:300],
    )


def _share(value: object) -> float | None:
    try:
        number = float(value) / 10  # type: ignore[arg-type]  # what is no number is caught below
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and 0 <= number <= 1 else None


def _ask(
    ws: Workspace, rows: Sequence[Row], judge: VerifyConfig, config: CaptionConfig
) -> tuple[str, dict[str, Verdict], dict[str, str]]:
    import dataclasses

    settings = dataclasses.replace(
        config, captioner=judge.verifier, model=judge.model, prompt=judge.prompt, temperature=0.0
    )
    names = ("seconds", "frames", "hint", "caption")
    text = show.read_question(judge.prompt, "verify.txt")
    show.check_template(text, names)
    sources = {
        row["source_id"]: row for row in tables.read_table(ws.sources, tables.SOURCES).to_pylist()
    }
    # The caption is a part of what was asked: a changed one is judged anew.
    filed = {ids.content_id(clip=row["clip_id"], caption=row["prompt"]): row for row in rows}
    with run.open_captioner(ws, settings, "verify", text) as him:
        refuse_own(him.name, rows, judge.allow_same_model)
        found = answers.load_answers(him.folder, filed)
        todo = [
            {**row, "clip_id": key}
            for key, row in filed.items()
            if key not in found or found[key].error
        ]

        def look(row: Row) -> show.ShownClip:
            frames, seconds = show.clip_frames(
                ws.root, row, sources, settings.frames, settings.short_side
            )
            asked = show.fill_question(text, row, len(frames), seconds, caption=row["prompt"])
            return show.ShownClip(row["clip_id"], frames, seconds, asked)

        run.ask_all(
            todo, look, him.ask, him.folder, workers=him.workers, batch=him.batch, title="verify"
        )
        found = answers.load_answers(him.folder, filed)
    verdicts: dict[str, Verdict] = {}
    notes: dict[str, str] = {}
    for key, row in filed.items():
        said = found.get(key)
        raw = said.raw if said and clean.clean_caption(said.raw).status != clean.REFUSED else ""
        fit, action, wrong = parse_judgement(raw)
        verdicts[row["clip_id"]] = (fit, action)
        notes[row["clip_id"]] = wrong
    return him.name, verdicts, notes
