"""Progress bars on stderr: items, rate, time remaining; and what a command says meanwhile."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
from collections.abc import Callable, Iterator

quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("quiet", default=False)
logger = logging.getLogger("realdpo")

_speaks = False  # of the process, not of a context: threads that generate speak too


def process_rank() -> int:
    """This process's number among those that torchrun or accelerate started; 0 if it is alone."""
    return int(os.environ.get("RANK", "0"))


def speak_on_stderr() -> None:
    """From now on `say` writes to stderr: for the command line. A library only logs."""
    global _speaks
    _speaks = True


@contextlib.contextmanager
def show_progress(bars: bool) -> Iterator[None]:
    """Show progress bars within, or do not."""
    token = quiet.set(not bars)
    try:
        yield
    finally:
        quiet.reset(token)


@contextlib.contextmanager
def progress_bar(
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
    """One line for the user: on stderr under a command unless quiet, to the log of a library."""
    if not _speaks:
        logger.info(text)
    elif not quiet.get():
        import sys

        print(text, file=sys.stderr, flush=True)
