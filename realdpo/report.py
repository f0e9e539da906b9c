"""Self-contained HTML pages: tables, charts, pictures and clips in one file that opens anywhere.

Every string that is not already `Markup` is escaped. Nothing on a page is loaded from a network.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from realdpo.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Template
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Series colours told apart by colour-blind readers (after Okabe and Ito), darkened for white paper.
SERIES = ("#2b66c9", "#c8561b", "#17805f", "#9c4390", "#86690f", "#2a8fa8", "#b33a4a", "#5c6370")
INK, MUTED, RULE, MARK = "#1c1e21", "#6a6f78", "#d9dce1", "#b3261e"

# Charts are drawn once, in the light palette; on a page each colour becomes a variable of the
# theme.
_THEME = {INK: "ink", MUTED: "muted", RULE: "rule", MARK: "mark", "#000000": "ink"} | {
    colour: f"s{index}" for index, colour in enumerate(SERIES)
}


@dataclass(frozen=True)
class Section:
    """One titled part of a page. If `html` is a plain string, it becomes an escaped paragraph."""

    title: str
    html: Markup | str


def render_page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Return the whole document: light and dark, responsive, with a list of its sections."""
    parts = [
        {
            "id": f"section-{number}",
            "title": section.title,
            "html": section.html
            if isinstance(section.html, Markup)
            else Markup("<p>{}</p>").format(section.html),
        }
        for number, section in enumerate(sections, 1)
    ]
    return _template().render(title=title, subtitle=subtitle, parts=parts)


def write_page(path: str | Path, document: str) -> Path:
    """Write a page atomically: a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    write_text(path, document)
    return path


def render_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str] | None = None
) -> Markup:
    """Return rows as a table whose columns sort on a click.

    `columns` chooses and orders the keys. A mapping also gives their headings. Numbers are aligned
    to the right, a missing value (None or NaN) is a dash, and `Markup` cells stay as they are.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    headings = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}
    if not rows:
        return Markup('<p class="none">Nothing to show.</p>')
    numeric = {
        key
        for key in headings
        if all(_is_number(row.get(key)) for row in rows if not _missing(row.get(key)))
    }
    head = Markup("").join(
        Markup('<th scope="col"{}><button type="button">{}</button></th>').format(
            _number_class(key in numeric), heading
        )
        for key, heading in headings.items()
    )
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_cell(row.get(key), key in numeric) for key in headings)
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll"><table class="data"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, body)


def render_figure(fig: Figure, alt: str = "") -> Markup:
    """Return a matplotlib figure as inline SVG whose colours follow the page's theme."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "realdpo"}):
        fig.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda hit: _themed(hit.group()), svg)
    width = fig.get_size_inches()[0] * 96
    svg = re.sub(
        r'^<svg ([^>]*?)width="[^"]*"', f'<svg role="img" aria-label="{html.escape(alt)}" \\1', svg
    )
    svg = re.sub(r'^(<svg [^>]*?) height="[^"]*"', r"\1", svg)
    return Markup(f'<figure class="chart" style="max-width:{width:.0f}px">{svg}</figure>')  # noqa: S704 - matplotlib escapes text


def plot_lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str = "",
    x: str = "",
    y: str = "",
) -> Markup:
    """Return a line chart of {label: (xs, ys)}, with a legend if there is more than one line."""
    fig, (axes,) = _axes([title])
    _draw_lines(axes, series)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return render_figure(fig, alt=title or y)


def lines_figure(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], x: str = ""
) -> Figure:
    """Return line charts {title: {label: (xs, ys)}} side by side, as a figure."""
    fig, row = _axes(list(panels), width=4.2, height=2.7, columns=len(panels))
    for axes, series in zip(row, panels.values(), strict=True):
        _draw_lines(axes, series)
        axes.set_xlabel(x)
    return fig


def plot_histogram(
    values: Sequence[float], title: str = "", marks: Mapping[str, float] | None = None
) -> Markup:
    """Return the distribution of `values` (None and NaN left out), with named thresholds marked."""
    return render_figure(histogram_figure(values, title, marks), alt=title)


def histogram_figure(
    values: Sequence[float], title: str = "", marks: Mapping[str, float] | None = None
) -> Figure:
    """Return the figure of `plot_histogram`, for use as a separate picture."""
    return histograms_figure({title: (values, marks or {})})


def histograms_figure(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, float]]], columns: int = 3
) -> Figure:
    """Return distributions {title: (values, marks)} in a grid, as a figure."""
    from matplotlib.ticker import MaxNLocator

    fig, grid = _axes(list(panels), width=4.8, height=2.5, columns=columns)
    for axes, (values, marks) in zip(grid, panels.values(), strict=True):
        known = [float(v) for v in values if not _missing(v) and math.isfinite(v)]
        if known:
            bins = min(40, max(6, math.ceil(2 * len(known) ** (1 / 3))))
            axes.hist(known, bins=bins, color=SERIES[0], alpha=0.75, rwidth=0.94)
        else:
            axes.text(0.5, 0.5, "no values", ha="center", color=MUTED, transform=axes.transAxes)
        for label, at in marks.items():
            axes.axvline(
                at, color=MARK, linewidth=1.3, linestyle=(0, (4, 2)), label=f"{label} {at:g}"
            )
        if marks:
            _legend(axes)
        axes.set_ylabel("count")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def render_image(png: bytes, alt: str) -> Markup:
    """Return a PNG picture, embedded in the page, with its description under it."""
    return Markup(
        '<figure class="picture"><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>'
    ).format(_data_uri("image/png", png), alt, alt)


def render_video(mp4: bytes, label: str) -> Markup:
    """Return one looping clip with the browser's own controls."""
    return Markup(
        '<figure class="clip"><video controls muted loop playsinline preload="metadata" src="{}"></video>'
        "<figcaption>{}</figcaption></figure>"
    ).format(_data_uri("video/mp4", mp4), label)


def in_step(clips: Sequence[tuple[str, bytes]], fps: float = 8.0) -> Markup:
    """Return clips (label, mp4 bytes) side by side, driven by one play button and one seek bar.

    Space plays and pauses, the arrow keys move by one frame of `fps`, Home goes to the start.
    """
    players = Markup("").join(
        Markup(
            '<figure class="clip"><video muted playsinline preload="auto" src="{}"></video>'
            "<figcaption>{}</figcaption></figure>"
        ).format(_data_uri("video/mp4", mp4), label)
        for label, mp4 in clips
    )
    return Markup(
        '<div class="in-step" tabindex="0" role="group" aria-label="clips in step" data-frame="{}">'
        '<div class="row">{}</div><div class="bar"><button type="button" class="play" aria-label="play">'
        '</button><input type="range" min="0" max="1" step="any" value="0" aria-label="time">'
        "<output>0.00 s</output></div></div>"
    ).format(f"{1 / fps:.6f}", players)


def contact_sheet(
    frames: Sequence[tuple[str, np.ndarray]], columns: int = 4, cell: int = 240
) -> bytes:
    """Return PNG bytes of labelled pictures in a grid.

    `frames` are (label, uint8 [H, W, 3]). Each is fitted into a cell that is `cell` pixels wide and
    as high as the tallest of them. Raises ValueError if there is none.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not frames:
        raise ValueError("a contact sheet needs at least one frame")
    gap, strip, font = 10, 22, ImageFont.load_default(size=12)
    tallest = max(array.shape[0] / array.shape[1] for _, array in frames)
    height = round(cell * min(tallest, 1.25))
    columns = min(columns, len(frames))
    rows = math.ceil(len(frames) / columns)
    sheet = Image.new(
        "RGB", (gap + columns * (cell + gap), gap + rows * (height + strip + gap)), "#f6f6f4"
    )
    draw = ImageDraw.Draw(sheet)
    for number, (label, array) in enumerate(frames):
        left = gap + number % columns * (cell + gap)
        top = gap + number // columns * (height + strip + gap)
        scale = min(cell / array.shape[1], height / array.shape[0])
        size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
        picture = Image.fromarray(array).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + (cell - size[0]) // 2, top + (height - size[1]) // 2))
        while draw.textlength(label, font=font) > cell and len(label) > 1:
            label = label[:-2] + "…"
        draw.text((left, top + height + 4), label, fill="#40444b", font=font)
    return encode_png(sheet)


def encode_png(picture: Any) -> bytes:
    """Return the PNG bytes of a matplotlib figure or a Pillow image."""
    out = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(out, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    else:
        picture.save(out, format="PNG")
    return out.getvalue()


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = resources.files("realdpo").joinpath("report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        source
    )


def _axes(
    titles: Sequence[str], width: float = 6.4, height: float = 3.0, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with one plain chart for each title.

    `width` and `height` are of one chart, in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "text.parse_math": False,
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": RULE,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with matplotlib.rc_context(style):
        columns = min(columns, len(titles))
        rows = math.ceil(len(titles) / columns)
        fig = Figure(figsize=(width * columns, height * rows), layout="constrained")
        grid = list(fig.subplots(rows, columns, squeeze=False).flat)
        for unused in grid[len(titles) :]:
            unused.remove()
        for axes, title in zip(grid, titles, strict=False):
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=9)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            axes.tick_params(length=3)
    return fig, grid[: len(titles)]


def _draw_lines(axes: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    from matplotlib.ticker import MaxNLocator

    if all(float(x).is_integer() for xs, _ in series.values() for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no round 1.5
    for index, (label, (xs, ys)) in enumerate(series.items()):
        axes.plot(
            xs,
            ys,
            color=SERIES[index % len(SERIES)],
            label=label,
            linewidth=1.7,
            marker="o" if len(xs) < 25 else "",  # show single points if there are only a few
            markersize=3.5,
        )
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    if len(series) > 1:
        _legend(axes)


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        frameon=False, fontsize=8, labelcolor=MUTED, handlelength=1.6, borderaxespad=0
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a caption or a path may hold a dollar sign


def _themed(colour: str) -> str:
    name = _THEME.get(colour)
    return f"var(--{name}, {colour})" if name else colour


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, (bool, str))


def _number_class(numeric: bool) -> Markup:
    return Markup(' class="n"') if numeric else Markup("")


def _cell(value: object, numeric: bool) -> Markup:
    key = Markup("")
    if _missing(value):
        shown: str | Markup = "–"
    elif isinstance(value, Markup):
        shown = value
    elif isinstance(value, bool):
        shown = "yes" if value else "no"
    elif _is_number(value):
        exact = float(value)  # type: ignore[arg-type]  # what is no number is caught below
        shown = f"{exact:,.0f}" if exact.is_integer() and abs(exact) < 1e15 else f"{exact:,.4g}"
        key = Markup(' data-key="{}"').format(repr(exact))
    else:
        shown = str(value)
    return Markup("<td{}{}>{}</td>").format(_number_class(numeric), key, escape(shown))
