"""`python -m realdpo.cli.processes`: torchrun without its traceback, for `--num-processes`."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

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


def main() -> None:
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
