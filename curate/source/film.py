"""A film as its provider describes it, and the text inside the HTML in which providers describe."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any


@dataclass(frozen=True)
class SourceFilm:
    """What a provider says about one film; None and "" are what it does not say.

    url: where the bytes are, or a local path; "" when it was not asked for since the licence
    keeps the film out. licences: every text that states a licence, most exact first. choice: of
    several licences the user may choose one; else all of them bind. license_text, license_url:
    the provider's own words and the page that explains them. restrictions: other rights that the
    provider warns of, such as those of the people shown. size in bytes, seconds, pixels.
    """

    provider: str
    id: str
    url: str
    page: str = ""
    title: str = ""
    author: str = ""
    keywords: tuple[str, ...] = ()
    description: str = ""
    licences: tuple[str, ...] = ()
    choice: bool = False
    license_text: str = ""
    license_url: str = ""
    restrictions: str = ""
    bytes: int | None = None
    sha1: str = ""
    sha256: str = ""
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    retrieved_at: str = ""

    @property
    def short_side(self) -> int | None:
        """The shorter side in pixels, or the height where the width is not stated."""
        known = [side for side in (self.width, self.height) if side]
        return min(known) if known else None


def strip_html(text: Any) -> str:
    """The words of an HTML fragment on one line: no tags, no styles, nothing that is hidden."""
    parser = _Words()
    parser.feed(str(text or ""))
    parser.close()
    return " ".join("".join(parser.words).split())


def read_number(value: Any) -> float | None:
    """A number above 0 out of what APIs write: 3, "3.5", "01:02:03"; None for anything else."""
    try:
        result = 0.0
        for part in str(value).split(":"):
            result = result * 60 + float(part)
    except ValueError:
        return None
    return result if 0 < result < float("inf") else None


def read_integer(value: Any) -> int | None:
    """`read_number`, as an integer."""
    found = read_number(value)
    return None if found is None else int(found)


def read_texts(value: Any) -> list[str]:
    """One text or a list of them as a list without empty ones: APIs write either."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for item in values if item is not None and (text := str(item).strip())]


_VOID = frozenset(("br", "img", "hr", "wbr", "input", "meta", "link"))
_BLOCKS = frozenset(("br", "p", "div", "li", "td", "tr", "ul", "table", "dd", "dt"))


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.words.append(" ")
        if tag in _VOID:
            return
        style = (dict(attrs).get("style") or "").replace(" ", "").lower()
        if self._hidden or tag in ("style", "script") or "display:none" in style:
            self._hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.words.append(" ")
        if self._hidden and tag not in _VOID:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)
