"""Progress bars on stderr: items, rate, time remaining."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def bar(
    title: str, total: int | None, unit: str = "items", done: int = 0
) -> Iterator[Callable[..., None]]:
    """Show one bar for a step; yields `advance(n=1, note="")`.

    `done` items of `total` were finished by an earlier run and do not count for the rate.
    Silent when `quiet` is set (as `--json` does).
    """
    if quiet.get():
        yield lambda n=1, note="": None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if not speed else f"{speed:.3g} {unit}/s", style="dim")

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")

        def advance(n: float = 1, note: str = "") -> None:
            progress.update(task, advance=n, note=note)

        yield advance


def say(text: str) -> None:
    """One line for the user on stderr, unless quiet."""
    if not quiet.get():
        import sys

        print(text, file=sys.stderr, flush=True)
