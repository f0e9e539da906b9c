"""One process of several: how it ends; and torchrun without its traceback, for `--num-processes`."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import typer

from realdpo.errors import UserError


def rank() -> int:
    """This process's number among those that torchrun or accelerate started; 0 if it is alone."""
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def quiet_peer() -> Iterator[None]:
    """Of processes that fail together one says why, and one that only lost its connection nothing."""
    try:
        yield
    except UserError:
        if rank():
            # When process 0 fails alike, it speaks, and torch ends this one meanwhile.
            time.sleep(1)
        raise
    except KeyboardInterrupt:
        if rank():
            raise typer.Exit(130) from None  # process 0 stops as well, and says so
        raise
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
    What is registered to run at exit does run: logs, trackers and temporary folders are closed.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):  # whoever read has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """torchrun with its arguments, but without its traceback."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # by name will not do: torch sets its loggers' levels itself
    try:
        run.main()
    except SignalException as caught:  # the processes have saved, said so and ended
        sys.exit(128 + caught.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: process {rank} died of signal {-failure.exitcode}", file=sys.stderr)
        sys.exit(max(1, failure.exitcode))
