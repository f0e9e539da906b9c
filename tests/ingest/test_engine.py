"""The engine and its ledger: a failure is a row, a dead worker loses only its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from realdpo import engine
from realdpo.errors import UserError
from realdpo.ledger import Ledger


def fragile(number: int) -> int:
    if number == 3:
        raise UserError("three is not to be had")
    if number == 5:
        raise ValueError("five")
    if number == 7:
        os._exit(9)  # as the system does to a process that takes too much memory
    return number * number


@pytest.mark.slow
def test_one_failure_never_stops_the_rest() -> None:
    found = {o.row: o for o in engine.run(fragile, range(12), engine="local", workers=2)}
    assert sorted(found) == list(range(12))
    assert {row for row, o in found.items() if o.error} == {3, 5, 7}
    assert found[3].error == "three is not to be had"
    assert found[5].error == "ValueError: five"
    assert "died" in str(found[7].error)
    assert all(o.value == row * row for row, o in found.items() if not o.error)


def test_serial_gives_the_same() -> None:
    found = {o.row: o.error for o in engine.run(fragile, [1, 3, 5], engine="serial")}
    assert found == {1: None, 3: "three is not to be had", 5: "ValueError: five"}


def test_threads_fill_the_cores_once() -> None:
    cores = os.cpu_count() or 1
    assert engine.threads_per_worker(1000) * cores <= cores
    assert engine.threads_per_worker(1) == cores
    assert engine.threads_per_worker(10, "ray") == 1


def test_ledger_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "steps" / "done.jsonl"
    with Ledger(path) as ledger:
        ledger.put("a", {"n": 1})
        ledger.put("b\nc", "ü")
    torn = path.read_bytes()[:-4]
    path.write_bytes(torn)
    with Ledger(path) as ledger:
        assert ledger.get("a") == {"n": 1}
        assert ledger.get("b\nc") is None
        ledger.put("d", 2)
    assert dict(Ledger(path).items()) == {"a": {"n": 1}, "d": 2}
