"""The cards of published datasets and models, filled from the workspace and never by hand.

A card is filled from the tables, the saved settings and the results beside them. The templates in
`data_cards/` hold only text that is true of everything that realdpo publishes.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

import realdpo
from realdpo import licences, tables
from realdpo.config import load_toml
from realdpo.publish import markdown
from realdpo.publish.published import Shards
from realdpo.reasons import Reason, count_reasons, parse_reasons
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    from jinja2 import Template

SHOWN_SOURCES = 50
SHOWN_ACTIONS = 30
SHOWN_SCORES = 9
THUMBNAILS = 24
PICTURES = (
    "images/thumbnails.png",
    "images/scores.png",
    "images/training.png",
    "images/first_frame.png",
)
"""The folder of a card's pictures in a repository."""


@dataclass(frozen=True)
class Card:
    """A README, and the files that it shows or links to, by their path in the repository."""

    readme: str
    files: Mapping[str, bytes]


def dataset_card(
    workspace: Workspace, shards: Sequence[Shards], repo: str, overrides: Sequence[str] = ()
) -> Card:
    """Return the card of a dataset made of these shards.

    `overrides` are the safeguards that the publisher switched off. The card names them at its head.
    """
    by_config = {part.config: part for part in shards}
    facts = {part.config: part.facts() for part in shards}
    main = facts.get("clips", facts.get("pairs"))
    assert main is not None
    sources = source_rows(main)
    clips = tables.read_table(workspace.clips, tables.CLIPS) if workspace.clips.exists() else None
    rules = read_thresholds(workspace, clips)
    scores = _histograms(clips, rules) if clips is not None and "clips" in by_config else None
    thumbnails = _thumbnails(shards)
    files = {"images/thumbnails.png": thumbnails} if thumbnails else {}
    files |= {"images/scores.png": scores} if scores else {}
    attribution = [attribution_line(row) for row in sources]
    files["ATTRIBUTION.md"] = (
        "# Attribution\n\n" + str(markdown.markdown_bullets(attribution)) + "\n"
    ).encode()
    licence = licences.overall_licence([row["license"] for row in sources])
    audit = read_audit(workspace) if "pairs" in by_config else None
    if audit is not None:
        files["pairs/audit.json"] = workspace.audit.read_bytes()
    readme = load_template(
        "dataset.md.j2"
    ).render(
        header=Markup(_dataset_header(repo, shards, licence)),  # noqa: S704 - YAML of our own
        name=repo.split("/")[-1],
        repo=Markup(repo) if re.fullmatch(r"[\w./-]+", repo) else repo,  # noqa: S704 - our own words
        version=realdpo.__version__,
        total=_total(main, sources),
        overrides=[markdown.markdown_text(line) for line in overrides],
        thumbnails=bool(thumbnails),
        clips=_clips_part(by_config["clips"], facts["clips"]) if "clips" in by_config else None,
        pairs=_pairs_part(
            by_config["pairs"], facts["pairs"], audit, _winners_through_vae(workspace)
        )
        if "pairs" in by_config
        else None,
        split_table=_split_table(shards, facts),
        columns_table=_columns_table(shards),
        actions=_actions(main),
        funnel=_funnel_table(clips, rules) if clips is not None else None,
        histograms=bool(scores),
        captions=_captions(main),
        splits=_splits(facts),
        licence_note=_licence_note(licence),
        licence_table=_licence_table(sources),
        attribution=markdown.markdown_bullets(attribution[:SHOWN_SOURCES]),
        attribution_rest=len(attribution) > SHOWN_SOURCES,
        attribution_shown=min(SHOWN_SOURCES, len(attribution)),
        limits=_limits(main, facts.get("pairs")),
        not_done=_not_done(main, clips),
        settings=markdown.markdown_block(saved_settings(workspace, ("curate", "pairs"))),
    )
    return Card(tidy_markdown(readme), files)


# -- facts ---------------------------------------------------------------------------------------


def source_rows(facts: pa.Table) -> list[dict[str, Any]]:
    """One row per source: title, author, licence, url, clips and seconds. Most clips first."""
    rows: dict[str, dict[str, Any]] = {}
    names = ["source_id", "license", "author", "source_url", "title", "frames", "fps"]
    for row in facts.select(names).to_pylist():
        source = rows.setdefault(
            row["source_id"] or "unknown",
            {key: row[key] for key in ("license", "author", "source_url", "title")}
            | {"source_id": row["source_id"] or "unknown", "clips": 0, "seconds": 0.0},
        )
        source["clips"] += 1
        source["seconds"] += (row["frames"] or 0) / (row["fps"] or math.inf)
    return sorted(rows.values(), key=lambda row: (-row["clips"], row["source_id"]))


def attribution_line(source: Mapping[str, Any]) -> Markup:
    """Title, author, source, licence and changes, as CC BY 4.0 section 3(a) requires."""
    licence = licences.read_licence(source["license"])
    title = source["title"] or f"source {source['source_id'][:12]}"
    return Markup(
        "{}{}, {}. Changes: cut into clips, cropped, resized and encoded again, sound removed."
    ).format(
        Markup("“{}”").format(markdown.markdown_link(title, source["source_url"])),
        Markup(" by {}").format(markdown.markdown_text(source["author"]))
        if source["author"]
        else "",
        markdown.markdown_link(f"licence: {licence.name}", licence.url),
    )


def read_thresholds(workspace: Workspace, clips: pa.Table | None) -> dict[str, dict[str, float]]:
    """The thresholds of the decision: {score: {"min": ..., "max": ...}}.

    They come from the saved settings of `curate decide`, which hold every threshold, even one that
    dropped nothing. Thresholds that only the clips' reasons name are added.
    """
    found: dict[str, dict[str, float]] = {}
    saved = workspace.root / "config" / "curate-decide.toml"
    document = load_toml(saved) if saved.exists() else {}
    values = document.get("thresholds") or document.get("decide", {})
    for key, value in _flat(values):
        score, _, side = key.rpartition("_")
        if side in ("min", "max") and "." in score and isinstance(value, (int, float)):
            found.setdefault(score, {})[side] = float(value)
    for reason in set() if clips is None else set(itertools.chain(*_reasons(clips))):
        if reason.is_score and reason.side and reason.bound:
            found.setdefault(reason.name, {}).setdefault(reason.side, float(reason.bound))
    return found


def funnel_rows(clips: pa.Table, rules: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Rows {step, dropped, alone, left}: from every clip found to those that were kept.

    `dropped` counts clips to which a rule applies, and `alone` those to which no other rule
    applies.
    """
    total = clips.num_rows
    rows: list[dict[str, Any]] = [{"step": "clips found", "left": total}]
    failed = sum(status != "ok" for status in clips["status"].to_pylist())
    if failed:
        rows.append({"step": "could not be measured", "dropped": failed, "alone": failed})
    broken = [{_rule_of(reason) for reason in reasons} for reasons in _reasons(clips)]
    counts = Counter(rule for row in broken for rule in row)
    alone = Counter(next(iter(row)) for row in broken if len(row) == 1)
    thresholds: dict[tuple[str, ...], str] = {
        (score, side): f"{score} {'<' if side == 'min' else '>'} {value:g}"
        for score, sides in rules.items()
        for side, value in sides.items()
        if score in clips.schema.names  # a threshold on a score that was not measured drops nothing
    }
    for rule, label in sorted(thresholds.items(), key=lambda item: -counts[item[0]]):
        rows.append(
            {
                "step": markdown.markdown_code(label),
                "dropped": counts.pop(rule, 0),
                "alone": alone[rule],
            }
        )
    for rule, count in counts.most_common():
        rows.append({"step": " ".join(rule), "dropped": count, "alone": alone[rule]})
    kept = sum(bool(keep) for keep in clips["keep"].to_pylist())
    rows.append({"step": "kept", "left": kept})
    return rows


def read_audit(workspace: Workspace) -> dict[str, Any] | None:
    """The saved verdict of `pairs audit`, or None if there is none."""
    if not workspace.audit.exists():
        return None
    found: dict[str, Any] | None = json.loads(workspace.audit.read_text(encoding="utf-8"))
    return found


def saved_settings(workspace: Workspace, commands: Iterable[str]) -> str:
    """The saved configurations of commands."""
    folder = workspace.root / "config"
    return saved_settings_of(
        path for command in commands for path in sorted(folder.glob(f"{command}*.toml"))
    )


def saved_settings_of(paths: Iterable[Path]) -> str:
    """Saved configurations as one text. Paths on this machine are cut to their names."""
    texts = [
        f"# {path.stem}\n{path.read_text(encoding='utf-8').strip()}"
        for path in paths
        if path.exists()
    ]
    place = r"""(["'])(?:~|[A-Za-z]:)?[/\\][^"'\n]*?([^/\\"'\n]+)[/\\]?\1"""
    return re.sub(place, r"\1\2\1", "\n\n".join(texts))


# -- parts of the dataset card -------------------------------------------------------------------


def _total(facts: pa.Table, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = sum(source["seconds"] for source in sources)
    return {
        "clips": len(set(facts["clip_id"].to_pylist())),
        "sources": len(sources),
        "hours": seconds / 3600,
        "length": _length(seconds),
    }


def _clips_part(shards: Shards, facts: pa.Table) -> dict[str, Any]:
    sizes = Counter(
        (row["width"], row["height"], row["frames"], row["fps"])
        for row in facts.select(["width", "height", "frames", "fps"]).to_pylist()
    )
    shown = ", ".join(
        f"{width}×{height}, {frames} frames at {fps:g} fps ({count:,})"
        for (width, height, frames, fps), count in sizes.most_common(6)
    )
    return {
        "first_split": next(iter(shards.files)),
        "sizes": shown + (", and others" if len(sizes) > 6 else ""),
    }


def _pairs_part(
    shards: Shards, facts: pa.Table, audit: Mapping[str, Any] | None, through_vae: bool
) -> dict[str, Any]:
    keys = ["model", "revision", "lora", "guide", "task", "scheduler", "steps", "guidance", "round"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in facts.select([*keys, "seeds", "strategy"]).to_pylist():
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    rows = []
    for values, members in groups.items():
        losers = [len(row["seeds"] or []) for row in members]
        ways = Counter(way for row in members for way in row["strategy"] or [])
        rows.append(
            dict(zip(keys, values, strict=True))
            | {
                "model": public_name(values[0]),
                "lora": public_name(values[2]),
                "pairs": len(members),
                "losers": f"{min(losers)}"
                if min(losers) == max(losers)
                else f"{min(losers)}–{max(losers)}",
                "strategy": ", ".join(f"{way} ({count:,})" for way, count in ways.most_common()),
            }
        )
    headings = {
        "model": "model",
        "revision": "revision",
        "lora": "LoRA",
        "guide": "guided by the base",
        "task": "task",
        "scheduler": "scheduler",
        "steps": "steps",
        "guidance": "guidance",
        "round": "round",
        "losers": "losers a pair",
        "strategy": "how losers were made",
        "pairs": "pairs",
    }
    used = {
        key: name for key, name in headings.items() if any(row[key] is not None for row in rows)
    }
    models = sorted({str(row["model"]) for row in rows})
    return {
        "count": facts.num_rows,
        "first_split": next(iter(shards.files)),
        "models": Markup(", ").join(markdown.markdown_code(model) for model in models),
        "i2v": all(row["task"] == "i2v" for row in rows),
        "through_vae": through_vae,
        "table": markdown.markdown_table(rows, used),
        "audit": _audit_text(audit),
    }


def _winners_through_vae(workspace: Workspace) -> bool:
    path = workspace.root / "config" / "pairs-build.toml"
    return path.exists() and bool(load_toml(path).get("pairs", {}).get("roundtrip_win"))


def _audit_text(audit: Mapping[str, Any] | None) -> Markup:
    if audit is None:
        return Markup("**Not known**: the pairs were published without an audit.")
    verdict = {
        "shortcut": "**Yes: a shortcut was found.** A model can lower its loss on these pairs without "
        "moving better.",
        "suspicious": "**Perhaps**: the sides differ in more than motion, but not clearly.",
        "clean": "**No shortcut was found.**",
        "too few": "**Not known**: there are too few pairs to tell.",
    }.get(str(audit.get("verdict")), "**Not known.**")
    said = [audit.get("summary"), (audit.get("motion") or {}).get("words")]
    rows = [
        {
            "what": part.get("name"),
            "p": part.get("p"),
            "auc": part.get("auc"),
            "seen": part.get("words"),
        }
        for part in audit.get("features", [])
    ]
    columns = {
        "what": "statistic",
        "p": "p (of chance)",
        "auc": "AUC (0.5 is chance)",
        "seen": "difference",
    }
    return Markup("\n\n").join(
        [
            Markup(verdict),  # noqa: S704 - our own words
            Markup(" ").join(markdown.markdown_sentence(text) for text in said if text),
            *([markdown.markdown_table(rows, columns)] if rows else []),
        ]
    )


def audit_says_shortcut(audit: Mapping[str, Any]) -> bool:
    """Whether the verdict of a saved audit is that the pairs hold a shortcut."""
    return audit.get("verdict") == "shortcut"


def _split_table(shards: Sequence[Shards], facts: Mapping[str, pa.Table]) -> Markup:
    rows = []
    for part in shards:
        table = facts[part.config]
        for split, count in part.rows.items():
            inside = table.filter(pc.equal(table["split"], split))
            seconds = sum(
                (row["frames"] or 0) / (row["fps"] or math.inf)
                for row in inside.select(["frames", "fps"]).to_pylist()
            )
            rows.append(
                {
                    "config": markdown.markdown_code(part.config),
                    "split": split,
                    "rows": count,
                    "length": _length(seconds),
                    "sources": len(set(inside["source_id"].to_pylist())),
                    "shards": len(part.files[split]),
                    "size": size_text(sum(path.stat().st_size for path in part.files[split])),
                }
            )
    return markdown.markdown_table(rows)


_MEANING = {
    "clip_id": "names the clip by its content, place in the source and encoding",
    "pair_id": "names the pair by its clip, model and generation settings",
    "video": "the clip, MP4 (H.264)",
    "win": "the real clip, MP4 (H.264)",
    "lose": "one or more generated clips, MP4 (H.264)",
    "first_frame": "the picture that the model was given, PNG; empty for text-to-video",
    "prompt": "what happens in the clip",
    "action": "actions seen in the clip",
    "captioner": "who or what wrote the prompt",
    "width": "pixels",
    "height": "pixels",
    "frames": "number of frames",
    "fps": "frames a second",
    "sha256": "of the clip's bytes",
    "source_id": "SHA-256 of the source file",
    "start_s": "start in the source, seconds from its first frame",
    "end_s": "end in the source, seconds, exclusive",
    "license": "licence of the source, as stated where it was found",
    "author": "author of the source",
    "source_url": "where the source was found",
    "title": "title of the source",
    "keywords": "keywords of the source",
    "retrieved_at": "when the source was fetched",
    "split": "train, validation or test",
    "model": "model that generated the losers",
    "revision": "its revision",
    "lora": "adapter that it carried, if any",
    "guide": "guidance by the model without the adapter: its strength, or negative, if any",
    "task": "i2v: from prompt and first frame; t2v: from the prompt",
    "scheduler": "sampler",
    "steps": "sampling steps",
    "guidance": "classifier-free guidance scale",
    "seeds": "seed of each loser",
    "strategy": "how each loser was made",
    "round": "round of pair building",
    "seconds": "time taken to generate each loser",
    "review": "a person's verdict, if one looked",
}


def _columns_table(shards: Sequence[Shards]) -> Markup:
    seen: dict[str, list[str]] = {}
    scores = []
    for part in shards:
        for name in part.schema.names:
            if "." in name:
                scores.append(name)
            else:
                seen.setdefault(name, []).append(part.config)
    both = len(shards) > 1
    rows = [
        {
            "column": markdown.markdown_code(name),
            "in": ", ".join(configs),
            "meaning": _MEANING.get(name, ""),
        }
        for name, configs in seen.items()
    ]
    if scores:
        groups = sorted({name.split(".")[0] for name in scores})
        rows.append(
            {
                "column": Markup(", ").join(
                    markdown.markdown_code(f"{group}.*") for group in groups
                ),
                "in": "",
                "meaning": f"{len(set(scores))} measurements",
            }
        )
    columns = {"column": "column", "in": "config", "meaning": "meaning"}
    return markdown.markdown_table(
        rows, columns if both else {key: columns[key] for key in ("column", "meaning")}
    )


def _actions(facts: pa.Table) -> Markup | None:
    if "action" not in facts.schema.names:
        return None
    counts = Counter(action for given in facts["action"].to_pylist() for action in given or [])
    if not counts:
        return None
    rows = [
        {"action": name, "clips": count}
        for name, count in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
    ]
    rest = len(rows) - SHOWN_ACTIONS
    more = f"\n\nand {rest:,} more actions." if rest > 0 else ""
    return Markup("{}{}").format(markdown.markdown_table(rows[:SHOWN_ACTIONS]), more)


def _funnel_table(clips: pa.Table, rules: Mapping[str, Mapping[str, float]]) -> Markup:
    columns = {"step": "step", "dropped": "dropped", "alone": "by this alone", "left": "left"}
    return markdown.markdown_table(funnel_rows(clips, rules), columns)


def _captions(facts: pa.Table) -> Markup:
    if "captioner" not in facts.schema.names:
        return Markup("see the column `prompt`.")
    counts = Counter(facts["captioner"].to_pylist())
    empty = sum(not prompt for prompt in facts["prompt"].to_pylist())
    known = {
        None: Markup("nobody"),
        "keywords": Markup("`keywords`, from names and keywords of the sources"),
        "sidecar": Markup("`sidecar`, captions that came with the footage"),
        "edit": Markup("`edit`, a person"),
    }
    shown = Markup("; ").join(
        Markup("{} ({})").format(
            known.get(name, markdown.markdown_code(public_name(name))),
            markdown.markdown_text(count),
        )
        for name, count in counts.most_common()
    )
    missing = f" {empty:,} clips have none." if empty else ""
    return Markup("written by {}.{}").format(shown, missing)


def _splits(facts: Mapping[str, pa.Table]) -> Markup:
    places: dict[str, set[str]] = {}
    for table in facts.values():
        for row in table.select(["source_id", "split"]).to_pylist():
            places.setdefault(row["source_id"], set()).add(row["split"])
    torn = sorted(source for source, splits in places.items() if len(splits) > 1)
    checked = f"{len(places):,} {'source' if len(places) == 1 else 'sources'}"
    if torn:
        return Markup(
            "**{} of {} have clips in more than one split**, so results on the held-out splits "
            "look better than they are."
        ).format(f"{len(torn):,}", checked)
    return Markup(
        "Splits are by source file: all clips of a source, and the pairs made from them, are in "
        "one split. "
        "Checked over {}: none appears in two splits."
    ).format(checked)


def _licence_note(licence: licences.Licence) -> Markup:
    if licence.id == "other" and licence.name.startswith("mixed"):
        return Markup("Sources differ in their licences; each clip carries its own in `license`.")
    if licence.problem:
        return Markup("**{}** for all clips: {}.").format(
            markdown.markdown_text(licence.name), licence.problem
        )
    return Markup("All sources: {}.").format(markdown.markdown_link(licence.name, licence.url))


def _licence_table(sources: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        {
            "source": markdown.markdown_link(
                row["title"] or row["source_id"][:12], row["source_url"]
            ),
            "author": row["author"],
            "licence": markdown.markdown_link(*_licence_name(row["license"])),
            "clips": row["clips"],
            "length": _length(row["seconds"]),
        }
        for row in sources[:SHOWN_SOURCES]
    ]
    return markdown.markdown_table(rows)


def _licence_name(text: str | None) -> tuple[str, str]:
    licence = licences.read_licence(text)
    return licence.name, licence.url


def _limits(facts: pa.Table, pairs: pa.Table | None) -> Markup:
    clips, sources = facts.num_rows, len(set(facts["source_id"].to_pylist()))
    limits = []
    if sources < 20:
        limits.append(
            f"All clips come from {sources} source {'file' if sources == 1 else 'files'}: places, "
            "people, cameras and light repeat, so the dataset does not represent human motion in "
            "general."
        )
    if clips < 1000:
        limits.append(f"{clips:,} rows are too few to conclude much from a held-out score.")
    limits.append(
        "A threshold that suits one kind of footage may not suit another. Near each threshold, "
        "some clips "
        "are on the wrong side."
    )
    limits.append("Nobody balanced what the sources show, or whom they leave out.")
    if pairs is not None:
        limits.append(
            "Winners are real and losers are generated. That the loser moves worse is an "
            "assumption that "
            "holds for most pairs; nobody judged each pair."
        )
        rounds = len(set(pairs["model"].to_pylist()))
        if rounds == 1:
            limits.append("All losers come from one model; other models may fail in other ways.")
    return markdown.markdown_bullets(limits)


def _not_done(facts: pa.Table, clips: pa.Table | None) -> Markup:
    """Sentences about steps that, by the columns and settings, were not done."""
    groups = (
        {name.split(".")[0] for name in tables.score_columns(clips)} if clips is not None else set()
    )
    measured = {
        group
        for group in groups
        if clips is not None
        and any(
            clips[name].null_count < clips.num_rows
            for name in clips.schema.names
            if name.startswith(f"{group}.")
        )
    }
    done = [
        "Nobody asked the people shown for consent, and nobody hid faces, names or number plates.",
        "Nobody estimated ages or searched for people who look young.",
    ]
    if not measured & {"text", "overlay"}:
        done.append("Nobody searched for burnt-in text, logos or watermarks.")
    if not measured & {"people", "person", "pose"}:
        done.append("realdpo did not measure whether a clip shows a person.")
    if not measured & {"nsfw", "safety"}:
        done.append("No filter for nudity, violence or other distressing content was run.")
    if "review" in facts.schema.names and any(facts["review"].to_pylist()):
        reviewed = sum(bool(given) for given in facts["review"].to_pylist())
        done.append(
            f"{facts.num_rows - reviewed:,} of {facts.num_rows:,} pairs have not been seen by "
            "anybody."
        )
    else:
        done.append("No person looked at every clip.")
    if "captioner" in facts.schema.names and "edit" not in set(facts["captioner"].to_pylist()):
        done.append("No person checked the prompts against the clips.")
    done.append(
        "The licences are those stated where the footage was found; nobody verified them with the "
        "authors."
    )
    return markdown.markdown_bullets(done)


# -- pictures ------------------------------------------------------------------------------------


def _histograms(clips: pa.Table, rules: Mapping[str, Mapping[str, float]]) -> bytes | None:
    """Distributions over all clips, kept or not: the scores that dropped most, then motion."""
    from realdpo import report

    scores = tables.score_columns(clips)
    drops = count_reasons(clips["reasons"])
    named = [score for score in rules if score in scores] or scores
    named.sort(key=lambda score: (-drops.get(score, 0), not score.startswith("motion."), score))
    known = [score for score in named if clips[score].null_count < clips.num_rows]
    if not known:
        return None
    panels = {
        score: (clips[score].to_pylist(), dict(rules.get(score, {})))
        for score in known[:SHOWN_SCORES]
    }
    return report.encode_png(report.histograms_figure(panels))


def _thumbnails(shards: Sequence[Shards]) -> bytes | None:
    """A sheet of middle frames: clips spread evenly over the set, or each winner with its loser."""
    from realdpo import report

    part = shards[0]
    frames = []
    if part.config == "clips":
        for row in _spread(part, ["video", "prompt"], THUMBNAILS):
            frames.append((row["prompt"] or "", _middle(row["video"]["bytes"])))
    else:
        for row in _spread(part, ["win", "lose", "prompt"], THUMBNAILS // 2):
            frames.append((f"real: {row['prompt'] or ''}", _middle(row["win"]["bytes"])))
            frames.append(("generated", _middle(row["lose"][0]["bytes"])))
    return report.contact_sheet(frames, columns=6, cell=180) if frames else None


def _spread(part: Shards, columns: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Up to `count` rows at even distances, read row group by row group."""
    import pyarrow.parquet as pq

    total = sum(part.rows.values())
    wanted = {
        round(i * (total - 1) / max(1, min(count, total) - 1)) for i in range(min(count, total))
    }
    rows, at = [], 0
    for paths in part.files.values():
        for path in paths:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                inside = [index - at for index in sorted(wanted) if at <= index < at + size]
                if inside:
                    rows += (
                        file.read_row_group(group, columns=list(columns)).take(inside).to_pylist()
                    )
                at += size
    return rows


def _middle(mp4: bytes) -> Any:
    from realdpo.media.decode import read_clip

    frames, _ = read_clip(mp4)
    return frames[len(frames) // 2]


# -- header --------------------------------------------------------------------------------------


def _dataset_header(repo: str, shards: Sequence[Shards], licence: licences.Licence) -> str:
    import datasets

    configs = {part.config for part in shards}
    total = sum(shards[0].rows.values())
    tasks = set()
    for part in shards:
        if part.config == "clips":
            tasks |= {"text-to-video", "video-classification"}
        else:
            given = set(part.facts()["task"].to_pylist())
            tasks |= {"image-to-video"} if "i2v" in given else set()
            tasks |= {"text-to-video"} if "t2v" in given else set()
    header: dict[str, Any] = {
        "pretty_name": repo.split("/")[-1],
        **_licence_header(licence),
        "task_categories": sorted(tasks),
        "tags": [
            "video",
            "human-action",
            "realdpo",
            *(["dpo", "preference", "preference-pairs"] if "pairs" in configs else []),
        ],
        "size_categories": [_size_category(total)],
        "configs": [
            {
                "config_name": part.config,
                "data_files": [
                    {"split": split, "path": f"{part.folder}/{split}-*.parquet"}
                    for split in part.files
                ],
            }
            | ({"default": True} if part is shards[0] and len(shards) > 1 else {})
            for part in shards
        ],
        "dataset_info": [
            {
                "config_name": part.config,
                "features": datasets.Features.from_arrow_schema(part.schema)._to_yaml_list(),
                "splits": [
                    {
                        "name": split,
                        "num_bytes": part.bytes[split],
                        "num_examples": part.rows[split],
                    }
                    for split in part.files
                ],
                "download_size": sum(
                    path.stat().st_size for paths in part.files.values() for path in paths
                ),
                "dataset_size": sum(part.bytes.values()),
            }
            for part in shards
        ],
    }
    return header_text(header)


def header_text(header: Mapping[str, Any]) -> str:
    """Metadata as the YAML block at the head of a card."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True)}---\n"


def _licence_header(licence: licences.Licence) -> dict[str, str]:
    if licence.id == "other":
        return {"license": "other", "license_name": licence.name, "license_link": "ATTRIBUTION.md"}
    return {"license": licence.id}


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    if rows < 1000:
        return "n<1K"
    place = min(int(math.log10(rows)) - 3, len(bounds) - 2)
    return f"{bounds[place]}<n<{bounds[place + 1]}"


# -- helpers -------------------------------------------------------------------------------------


@cache
def load_template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - Markdown; `finalize` escapes for it
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=markdown.markdown_text,
        keep_trailing_newline=True,
    )
    source = resources.files("realdpo.data_cards").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(source)


def tidy_markdown(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def size_text(size: float) -> str:
    """A number of bytes as readable text, in decimal units as on the Hub."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def public_name(name: str | None) -> str | None:
    """A model's name without the folders of this machine."""
    return Path(name).name if name and Path(name).is_absolute() else name


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _reasons(clips: pa.Table) -> list[list[Reason]]:
    return [parse_reasons(texts) for texts in clips["reasons"].to_pylist()]


def _rule_of(reason: Reason) -> tuple[str, ...]:
    """The rule of a row in the funnel: a threshold, an unknown score, or another rule."""
    if not reason.is_score:
        return (reason.name,)
    return reason.name, reason.side or "unknown"
