"""The commands of `realdpo eval`, between the command line and the parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realdpo import progress, report
from realdpo.errors import UserError
from realdpo.train.evaluate.config import REAL, EvalConfig
from realdpo.workspace import Workspace


def preview_evaluation(workspace: Workspace, config: EvalConfig) -> dict[str, Any]:
    """A preview of an evaluation. Nothing is written."""
    from realdpo.train.evaluate import plan

    systems, items = plan.systems_of(workspace, config), plan.items_of(workspace, config)
    makers = [s for s in systems if not s.videos]
    return {
        "systems": {s.name: s.videos or s.lora or s.transformer or s.model for s in systems},
        "prompts": len(items),
        "seeds": config.seeds,
        "videos_to_make": len(items) * config.seeds * len(makers),
    }


def preview_text(found: dict[str, Any]) -> str:
    return (
        f"{len(found['systems'])} systems on {found['prompts']} prompts, {found['seeds']} seeds: "
        f"{found['videos_to_make']} videos to make"
    )


def evaluate_and_report(
    workspace: Workspace, config: EvalConfig, devices: Sequence[str], shard: tuple[int, int]
) -> dict[str, Any] | None:
    """Run an evaluation and write its page.

    Returns the summary, or None after a shard of videos.
    """
    from realdpo.train.evaluate import run

    made = run.run_evaluation(workspace, config, devices=devices, shard=shard)
    if made is not None:
        write_eval_report(workspace, config.name, 12)
    return made


def write_eval_report(
    workspace: Workspace, name: str, players: int, to: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write the page of an evaluation under reports/, or the page `to`.

    Returns its path and its content as values.
    """
    from realdpo.train.evaluate import page

    folder, made, rows = _finished(workspace, name)
    if (folder / "study" / "votes.parquet").is_file():
        made["study"] = study_results(workspace, name, [])
    path = to or workspace.reports / f"eval-{name}.html"
    report.write_page(path, page.evaluation_page(folder, made, rows, _prompts(folder), players))
    return path, made


def evaluation_videos(workspace: Workspace, name: str, shown: int) -> report.Section:
    """A section for another page: the videos of at most `shown` prompts of an evaluation."""
    from realdpo.train.evaluate import page

    folder, made, rows = _finished(workspace, name)
    return page.videos_section(folder, made, rows, _prompts(folder), shown)


def closing_words(workspace: Workspace, name: str, made: dict[str, Any]) -> str:
    """The closing lines of an evaluation: table with verdicts, failures, and the page's path."""
    from realdpo.train.evaluate import summary

    lines = [summary.summary_markdown(made)]
    lines += [f"not measured: {text}" for text in made["failures"][:5]]
    if len(made["failures"]) > 5:
        lines.append(f"not measured: {len(made['failures']) - 5} more, see the page")
    lines.append(f"page: {workspace.reports / f'eval-{name}.html'}")
    return "\n".join(lines)


def serve_study(
    workspace: Workspace, name: str, systems: Sequence[str], host: str, port: int
) -> None:
    """Serve the study until Ctrl-C."""
    from realdpo.train.evaluate import study

    folder, made, rows = _finished(workspace, name)
    known = [*made["systems"], REAL]
    chosen = list(systems) or list(made["systems"])
    if strange := [s for s in chosen if s not in known]:
        raise UserError(f"{folder} has no system {strange[0]!r}", f"known: {', '.join(known)}")
    rows = [{**row, "video": str(folder / row["video"])} for row in rows]
    trials = study.make_trials(folder / "study", rows, chosen, _prompts(folder))
    running = study.Study(folder / "study", trials)
    server = study.make_study_server(running, host, port)
    progress.say(
        f"http://{host}:{server.server_port}/  ({len(trials)} pairs; press Ctrl-C to stop)"
    )
    progress.say(f"votes: {running.path}")
    try:
        server.serve_forever()
    finally:
        server.server_close()


def study_results(workspace: Workspace, name: str, systems: Sequence[str]) -> dict[str, Any]:
    """The results of a study, from its votes."""
    from realdpo.train.evaluate import study, summary

    path = _folder(workspace, name) / "study" / "votes.parquet"
    votes = study.read_votes(path)
    if not votes:
        raise UserError(
            f"{path} holds no votes", f"collect some with: realdpo eval study -w {workspace.root}"
        )
    voted = dict.fromkeys(s for v in votes if not v["check"] for s in (v["first"], v["second"]))
    found: dict[str, Any] = summary.plain_values(
        study.summarise_votes(votes, list(systems) or list(voted))
    )
    return found


def study_text(found: dict[str, Any]) -> str:
    alpha = "unknown" if found["agreement"] is None else f"{found['agreement']:.2f}"
    lines = [
        f"{found['votes']} votes, {found['raters']} raters, {found['excluded']} left out; "
        f"agreement {alpha}"
    ]
    for s in found["strengths"]:
        ends = "" if s["low"] is None else f"  ({s['low']:+.2f} to {s['high']:+.2f})"
        lines.append(f"{s['system']:<16} {s['estimate']:+.2f}{ends}")
    return "\n".join(lines)


def _finished(workspace: Workspace, name: str) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """Folder, summary and rows of a finished evaluation. Raises UserError if there is none."""
    folder = _folder(workspace, name)
    made = json.loads((folder / "summary.json").read_text())
    return folder, made, json.loads((folder / "rows.json").read_text())


def _folder(workspace: Workspace, name: str) -> Path:
    folder = workspace.evaluations / name
    if not (folder / "summary.json").is_file():
        raise UserError(
            f"{workspace.root} has no evaluation {name!r}",
            f"make it with: realdpo eval --system base=... -w {workspace.root}",
        )
    return folder


def _prompts(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "prompts.json").read_text())
    return found
