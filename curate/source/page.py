"""The page of what was found: to look at before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from realdpo import report

SHOWN = 2000
"""Rows of the list of films; a page with more is slow to open. The manifest has them all."""

_ASKS = (("by", "credit"), ("nc", "no commercial use"), ("sa", "same licence"))


def write_source_page(
    path: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> Path:
    """Write the page of a manifest's rows and the run's summary."""
    return report.write_page(path, source_page_html(rows, summary))


def source_page_html(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """The page: balance, licences, what was left out and why, and every film with its page."""
    sections = [
        report.Section("By action", _actions(rows, summary)),
        report.Section("Licences", _licences(rows, summary)),
        report.Section("Left out", _left_out(summary)),
        report.Section("Authors", _authors(rows)),
        report.Section("Films", _films(rows)),
    ]
    hours = f"{summary['hours']:.2f} hours"
    return report.render_page(
        "Footage found",
        sections,
        subtitle=f"{summary['films']} films, {hours}, {summary['gigabytes']:.2f} GB to download, "
        f"{summary['authors']} authors; nothing is downloaded yet",
    )


def _actions(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Markup:
    listed: dict[str, list[Mapping[str, Any]]] = {name: [] for name in summary["actions"]}
    for row in rows:
        listed[row["action"]].append(row)
    providers = list(summary["providers"])
    table = [
        {
            "action": name,
            "films": len(films),
            "hours": round(sum(film["seconds"] or 0 for film in films) / 3600, 2),
            "authors": len({film["author"] for film in films}),
            "named": sum(film["named"] for film in films),
            **{p: sum(film["provider"] == p for film in films) for p in providers},
        }
        for name, films in listed.items()
    ]
    note = Markup(
        "<p>“Named” counts films whose own title, keywords or description name the action. "
        "Only the search found the others.</p>"
    )
    return report.render_table(table) + note


def _licences(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Markup:
    table = []
    for name, count in summary["licenses"].items():
        some = next((r for r in rows if (r["license"] or "none stated") == name), {})
        words = name.lower().split("-")
        table.append(
            {
                "licence": name,
                "films": count,
                "conditions": ", ".join(text for part, text in _ASKS if part in words),
                "you may redistribute clips": "no: " + some["why_not"]
                if some.get("why_not")
                else "yes",
                "in the provider's words": _link(some.get("license_url"), some.get("license_text")),
            }
        )
    terms = Markup("").join(Markup("<p>{}</p>").format(text) for text in summary["terms"])
    if summary["restrictions"]:
        terms += Markup(
            "<p>For {} films, the provider warns of other rights, such as those of the people shown. See the list.</p>"
        ).format(summary["restrictions"])
    return report.render_table(table) + terms


def _left_out(summary: Mapping[str, Any]) -> Markup:
    table = [{"reason": why, "films": n} for why, n in summary["left_out"].items()]
    failed = [{"provider": name, "failed": why} for name, why in summary["failed"].items()]
    return report.render_table(table) + (report.render_table(failed) if failed else Markup(""))


def _authors(rows: Sequence[Mapping[str, Any]]) -> Markup:
    counts: dict[str, int] = {}
    for row in rows:
        name = row["author"] or "(not stated)"
        counts[name] = counts.get(name, 0) + 1
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:50]
    note = Markup(
        "<p>{} authors in all. The table shows the fifty with the most films.</p>"
    ).format(len(counts))
    return (note if len(counts) > 50 else Markup("")) + report.render_table(
        [{"author": name, "films": n} for name, n in most]
    )


def _films(rows: Sequence[Mapping[str, Any]]) -> Markup:
    table = [
        {
            "action": row["action"],
            "title": _link(row["source_url"], row["title"] or row["provider_id"]),
            "author": row["author"],
            "licence": row["license"] or "none stated",
            "seconds": row["seconds"],
            "size": f"{row['width']}x{row['height']}" if row["width"] and row["height"] else None,
            "MB": None if row["bytes"] is None else round(row["bytes"] / 1e6, 1),
            "from": row["provider"],
            "search": row["query"],
            "warning": row["restrictions"],
        }
        for row in rows[:SHOWN]
    ]
    more = len(rows) - len(table)
    note = Markup("<p>The manifest has {} more.</p>").format(more) if more > 0 else Markup("")
    return report.render_table(table) + note


def _link(address: str | None, text: str | None = None) -> Markup | str:
    """A link for web addresses; anything else, such as javascript:, is only shown."""
    if not address or not address.startswith(("http://", "https://")):
        return text or address or ""
    return Markup('<a href="{}" rel="noreferrer noopener">{}</a>').format(address, text or address)
