"""One process of several: how it ends; and torchrun without its traceback, for `--num-processes`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer


@contextlib.contextmanager
def quiet_peer() -> Iterator[None]:
    """A process that only lost its connection is silent: the one that failed has said why."""
    try:
        yield
    except RuntimeError as error:
        if "closed by peer" not in str(error) and type(error).__name__ != "DistBackendError":
            raise
        raise typer.Exit(1) from None


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """The body of a command that torchrun or accelerate may have started: such a process leaves."""
    code = 0
    try:
        yield
    except typer.Exit as end:
        code = end.exit_code
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        leave(code)
    if code:
        raise typer.Exit(code)


def leave(code: int) -> NoReturn:
    """End this process without Python's clearing up.

    A thread of gloo may still hold Python objects of its last collective. If it lets go of them
    while Python clears up, it must not run any more and C++ aborts the process ("terminate called
    without an active exception", pytorch's pull request 179291): a finished run counts as failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """`python -m realdpo.cli.processes`, with torchrun's arguments."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: process {rank} died of signal {-failure.exitcode}", file=sys.stderr)
        sys.exit(max(1, failure.exitcode))


if __name__ == "__main__":
    main()
