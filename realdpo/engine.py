"""Run a step over rows: here, in local processes, or on Ray. A failure is a row, never the end."""

from __future__ import annotations

import concurrent.futures as futures
import importlib.util
import itertools
import logging
import multiprocessing
import multiprocessing.context
import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from realdpo.errors import UserError

Row = TypeVar("Row")
Value = TypeVar("Value")
CONNECT_SECONDS = 8.0


@dataclass(frozen=True)
class RowOutcome(Generic[Row, Value]):
    """What a step made of a row: its value, or the error that stopped it (then value is None)."""

    row: Row
    value: Value | None
    error: str | None = None


def run_rows(
    step: Callable[[Row], Value],
    rows: Sequence[Row],
    *,
    engine: str = "local",
    workers: int = 0,
    address: str = "",
    gpus: int = 0,
) -> Iterator[RowOutcome[Row, Value]]:
    """Yield one Outcome a row, as rows finish, in any order.

    step: a function at module level (or a functools.partial of one) that needs nothing but its
    row. engine: "serial" in this process; "local" in processes, as many as cores unless
    `workers` says otherwise; "ray" on the cluster at `address`, or one started here, where a
    row gets `gpus` GPUs. An error in a step, or the death of the process it ran in, concerns its row only. Full disks and
    Ctrl-C are not a row's fault and end the run.
    """
    count = workers or os.cpu_count() or 1
    if engine == "ray":
        yield from _on_ray(step, rows, address, gpus)
    elif engine == "serial" or count == 1 or len(rows) <= 1:
        for row in rows:
            yield attempt_row(step, row)
    else:
        yield from _in_processes(step, rows, min(count, len(rows)))


def attempt_row(step: Callable[[Row], Value], row: Row) -> RowOutcome[Row, Value]:
    """Run `step` on one row; an exception becomes the Outcome's error."""
    try:
        return RowOutcome(row, step(row))
    except UserError as error:
        return RowOutcome(row, None, error.message)
    except MemoryError:
        return RowOutcome(row, None, "not enough memory")
    except Exception as error:  # whatever it is, it is this row's and is kept with it
        return RowOutcome(row, None, f"{type(error).__name__}: {error}")


def threads_per_worker(rows: int, engine: str = "local", workers: int = 0) -> int:
    """Threads that one step may use so that all of them together fill the cores."""
    cores = os.cpu_count() or 1
    if engine == "serial":
        return cores
    if engine == "ray":
        return 1
    return max(1, cores // max(1, min(workers or cores, rows)))


def require_ray(address: str) -> None:
    """Raise UserError when Ray is not installed or nothing answers at the cluster's address."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("Ray is not installed", 'pip install "realdpo[ray]"')
    # ray.init tries a dead address for over a minute and reports it in lines of its own.
    named = address or os.environ.get("RAY_ADDRESS", "")
    scheme, _, place = named.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdigit():
        return  # "auto", "local" or none: Ray knows at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(named, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster at {address}: {str(error).splitlines()[0]}",
        "start one with `ray start --head`, give another --address, "
        "or leave it out to use this machine",
    )


def _in_processes(
    step: Callable[[Row], Value], rows: Sequence[Row], workers: int
) -> Iterator[RowOutcome[Row, Value]]:
    waiting = iter(rows)
    while True:
        pool = _pool(workers)
        flying: dict[futures.Future[RowOutcome[Row, Value]], Row] = {}
        taken: list[Row] = []  # from `waiting`, and not in the pool yet: it may refuse to have them
        try:
            # A short queue: a long one would hold the rows' results in memory.
            taken.extend(itertools.islice(waiting, 2 * workers))
            _submit(pool, step, taken, flying)
            while flying:
                done, _ = futures.wait(flying, return_when=futures.FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    del flying[future]
                    yield outcome
                    taken.extend(itertools.islice(waiting, 1))
                    _submit(pool, step, taken, flying)
            return
        except BrokenProcessPool:
            pool.shutdown(wait=False, cancel_futures=True)
            # One of these rows killed its process (or the system did, for memory). Alone, each
            # shows whether it was the one; the rest go on in a new pool.
            for row in [*flying.values(), *taken]:
                yield _alone(step, row)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(
    pool: futures.ProcessPoolExecutor,
    step: Callable[[Row], Value],
    taken: list[Row],
    flying: dict[futures.Future[RowOutcome[Row, Value]], Row],
) -> None:
    """Move rows from `taken` to `flying`; a row that a broken pool refuses stays in `taken`."""
    while taken:
        flying[pool.submit(attempt_row, step, taken[0])] = taken[0]
        del taken[0]


def _alone(step: Callable[[Row], Value], row: Row) -> RowOutcome[Row, Value]:
    pool = _pool(1)
    try:
        return pool.submit(attempt_row, step, row).result()
    except BrokenProcessPool:
        return RowOutcome(row, None, "the process that worked on it died (out of memory?)")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Process(multiprocessing.context.SpawnProcess):
    """A spawned process that does not run the user's script again.

    Python imports the script in every spawned process, which then starts the work once more, if
    its author did not guard it by `if __name__ == "__main__"`. No step is defined there.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return multiprocessing.context.SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = script


class _Context(multiprocessing.context.SpawnContext):
    Process = _Process


def _pool(workers: int) -> futures.ProcessPoolExecutor:
    # Fork would copy the locks of FFmpeg's and OpenCV's threads in whatever state they are.
    context = _Context()
    return futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, however it died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _on_ray(
    step: Callable[[Row], Value], rows: Sequence[Row], address: str, gpus: int
) -> Iterator[RowOutcome[Row, Value]]:
    require_ray(address)
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise _no_cluster(address or os.environ.get("RAY_ADDRESS", ""), error) from None
    # Ray runs a task again when its worker or node dies; an error in the step is a result.
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=5)(attempt_row)
    waiting = iter(rows)
    flying: dict[Any, Row] = {}
    window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    for row in itertools.islice(waiting, window):
        flying[remote.remote(step, row)] = row
    while flying:
        done, _ = ray.wait(list(flying), num_returns=1)
        for reference in done:
            row = flying.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                first = str(error).strip().splitlines()[0]
                yield RowOutcome(row, None, f"lost on the cluster: {first}")
            del reference
            for following in itertools.islice(waiting, 1):
                flying[remote.remote(step, following)] = following
