"""Markdown from data. Everything is escaped, so a title or a caption cannot change a page."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from realdpo.report import Section

_SPECIAL = re.compile(r"([\\`*_\[\]|$~#])")


def markdown_text(value: object) -> Markup:
    """Return a value as one line of Markdown that is shown literally."""
    if isinstance(value, Markup):
        return value
    if value is None or value == "":
        return Markup("–")
    if isinstance(value, float):
        return Markup(f"{value:.4g}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Markup(f"{value:,}")
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_SPECIAL.sub(r"\\\1", line))


def markdown_sentence(value: str) -> Markup:
    """Return text with a capital at its start and a full stop at its end."""
    line = str(markdown_text(value))
    return Markup(line[:1].upper() + line[1:].rstrip(".") + ".")


def markdown_code(value: object) -> Markup:
    """Return a value as inline code. A backtick would end the code, so it becomes a quote."""
    line = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return Markup(f"`{line}`")


def markdown_block(value: str) -> Markup:
    """Return text for a fenced block, changed so that it cannot close the block."""
    return Markup(value.replace("```", "'''").rstrip())


def markdown_link(label: object, url: str | None) -> Markup:
    """Return a link if `url` is a plain web address, or else only the label."""
    if not url or not re.fullmatch(r"https?://[^\s<>()\[\]\"'`|\\]+", url):
        return markdown_text(label)
    return Markup(f"[{markdown_text(label)}]({url})")


def markdown_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None
) -> Markup:
    """Return rows as a table. `columns` maps keys to headings. Numbers are aligned to the right."""
    headings = columns or {key: key for row in rows for key in row}
    numeric = {
        key
        for key in headings
        if any(row.get(key) is not None for row in rows)
        and all(
            isinstance(row.get(key), (int, float, type(None)))
            and not isinstance(row.get(key), bool)
            for row in rows
        )
    }
    lines: list[list[Markup]] = [
        [markdown_text(heading) for heading in headings.values()],
        [Markup("---:") if key in numeric else Markup("---") for key in headings],
        *[[markdown_text(row.get(key)) for key in headings] for row in rows],
    ]
    return Markup("\n".join("| " + " | ".join(cells) + " |" for cells in lines))


def markdown_bullets(items: Sequence[object]) -> Markup:
    """Return items as a list."""
    return Markup("\n".join(f"- {markdown_text(item)}" for item in items))


def card_sections(document: str, folder: Path) -> list[Section]:
    """Return a card as sections of a page, with its pictures (under `folder`) embedded."""
    from markdown_it import MarkdownIt

    header, body = re.fullmatch(r"(?:---\n(.*?)\n---\n)?(.*)", document, re.DOTALL).groups()  # type: ignore[union-attr]  # the pattern matches any text
    body = re.sub(r"^# .*\n", "", body.lstrip())
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(body)
    html = re.sub(
        r'src="(images/[\w./-]+\.png)"',
        lambda hit: f'src="{_inline(folder / hit[1])}" style="max-width:100%"',
        html,
    )
    parts = re.split(r"<h2>(.*?)</h2>", html)
    found = [Section("", Markup(parts[0]))]
    found += [
        Section(unescape(title), Markup(part))
        for title, part in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if header:
        found.append(Section("Metadata", Markup("<pre><code>{}</code></pre>").format(header)))
    return found


def _inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
