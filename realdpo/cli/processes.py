"""How one process of several ends, and torchrun without its traceback, for `--num-processes`."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import typer

from realdpo.errors import UserError
from realdpo.progress import process_rank

_LOOK_SECONDS = 1.0


class Watch:
    """End this process if another process of the run on this machine has failed or vanished.

    A process that waits in a collective for one that is gone gets no signal. It would wait until
    the collective's timeout. So each process keeps a file with its number while it lives, and
    leaves one named `failed` if it ends by an error. A thread watches these files.
    """

    def __init__(self) -> None:
        run = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')}-{os.environ.get('MASTER_PORT', '')}"
        name = re.sub(r"[^\w.-]", "_", f"realdpo-{run}-{os.getppid()}")
        self.folder = Path(tempfile.gettempdir()) / name
        self.own = self.folder / str(os.getpid())

    def begin(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.own.touch()
        threading.Thread(target=self._look, daemon=True).start()

    def end(self, failed: bool) -> None:
        if failed:
            with contextlib.suppress(OSError):
                (self.folder / "failed").touch()
            return
        self.own.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the last process removes the folder
            self.folder.rmdir()

    def _look(self) -> None:
        while self.own.is_file():
            time.sleep(_LOOK_SECONDS)
            others = [path for path in self.folder.glob("*") if path.name.isdigit()]
            if (self.folder / "failed").is_file() or not all(map(_lives, others)):
                # Gives this process time to fail by itself and say why.
                time.sleep(2 * _LOOK_SECONDS)
                shutil.rmtree(self.folder, ignore_errors=True)
                os._exit(1)


def _lives(path: Path) -> bool:
    try:
        os.kill(int(path.name), 0)
    except ProcessLookupError:
        return not path.exists()  # it has ended in order in the meantime
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def quiet_peer() -> Iterator[None]:
    """Let only the first of several processes show progress and say why they fail."""
    from realdpo.progress import quiet

    if process_rank():
        quiet.set(True)
    try:
        yield
    except UserError:
        if process_rank():
            # If process 0 fails in the same way, it prints the error, and torch ends this process.
            time.sleep(1)
        raise
    except KeyboardInterrupt:
        if process_rank():
            raise typer.Exit(130) from None  # process 0 stops as well and prints it
        raise
    except RuntimeError as error:
        # Gloo says "Timed out waiting 7200000ms". NCCL's watchdog ends the process by itself.
        if waited := re.search(r"[Tt]imed out waiting (?:for )?(\d+) ?ms", str(error)):
            raise UserError(
                f"process {process_rank()} waited {int(waited[1]) / 1000:.0f} s for the others, "
                "and "
                "one of them did not come",
                "look at what that one does (py-spy dump --pid), and run the same command again to "
                "continue from the newest checkpoint",
            ) from None
        # "Connection closed by peer", or "reset" if the process that died left data unread
        if "by peer" not in str(error) and type(error).__name__ != "DistBackendError":
            raise
        raise typer.Exit(1) from None


@contextlib.contextmanager
def worker_process() -> Iterator[None]:
    """Run a command that torchrun or accelerate may have started, and then end the process."""
    code = 0
    watch = Watch() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    if watch:
        watch.begin()
    try:
        yield
    except typer.Exit as end:
        code = end.exit_code
    except BaseException:
        if watch:
            watch.end(failed=True)
        raise
    if watch:
        # Ctrl-C ends every process, each by itself, after it has saved its work.
        watch.end(failed=code not in (0, 130))
        leave_process(code)
    if code:
        raise typer.Exit(code)


def leave_process(code: int) -> NoReturn:
    """End this process without Python's finalisation.

    A thread of gloo may still hold Python objects of its last collective. If it releases them while
    Python finalises, C++ aborts the process ("terminate called without an active exception",
    pytorch's pull request 179291), and a finished run counts as failed. Functions that are
    registered to run at exit do run: logs, trackers and temporary folders are closed.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):  # the reader of the pipe is gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run torchrun with its arguments, but without its traceback."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # not by name, because torch sets its loggers' levels itself
    try:
        run.main()
    except SignalException as caught:  # the processes have saved, reported it and ended
        sys.exit(128 + caught.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: process {rank} died of signal {-failure.exitcode}", file=sys.stderr)
        sys.exit(max(1, failure.exitcode))
