"""The engine and its ledger: a failure is a row, a dead worker loses only its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
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
    found = {o.row: o for o in engine.run_rows(fragile, range(12), engine="local", workers=2)}
    assert sorted(found) == list(range(12))
    assert {row for row, o in found.items() if o.error} == {3, 5, 7}
    assert found[3].error == "three is not to be had"
    assert found[5].error == "ValueError: five"
    assert "died" in str(found[7].error)
    assert all(o.value == row * row for row, o in found.items() if not o.error)


@pytest.mark.parametrize(("form", "variable"), [("{}", False), ("ray://{}", False), ("{}", True)])
def test_a_ray_address_where_nobody_listens_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, form: str, variable: bool
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as closed:  # bound, so that nobody else takes it; it does not listen
        closed.bind(("127.0.0.1", 0))
        where = form.format(f"127.0.0.1:{closed.getsockname()[1]}")
        if variable:
            monkeypatch.setenv("RAY_ADDRESS", where)
        with pytest.raises(UserError) as caught:
            list(engine.run_rows(fragile, [1], engine="ray", address="" if variable else where))
    assert caught.value.message.startswith(f"no Ray cluster at {where}: ")
    assert "refused" in caught.value.message
    assert "--address" in str(caught.value.hint)


@pytest.mark.parametrize("where", ["justahost", "127.0.0.1:99999", "http://127.0.0.1:80"])
def test_a_ray_address_that_is_none_is_one_line(where: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"no Ray cluster at {where}: ") as caught:
        list(engine.run_rows(fragile, [1], engine="ray", address=where))
    assert "\n" not in caught.value.message


def test_serial_gives_the_same() -> None:
    found = {o.row: o.error for o in engine.run_rows(fragile, [1, 3, 5], engine="serial")}
    assert found == {1: None, 3: "three is not to be had", 5: "ValueError: five"}


def test_threads_fill_the_cores_once() -> None:
    cores = os.cpu_count() or 1
    assert engine.threads_per_worker(1000) * cores <= cores
    assert engine.threads_per_worker(1) == cores
    assert engine.threads_per_worker(10, "ray") == 1


def test_ledger_survives_a_torn_line(tmp_path: Path) -> None:
    folder = tmp_path / "steps" / "done"
    with Ledger(folder) as ledger:
        ledger.put("a", {"n": 1})
        ledger.put("b\nc", "ü")
    assert Ledger(folder).get("b\nc") == "ü"
    [path] = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    with Ledger(folder) as ledger:
        assert ledger.get("a") == {"n": 1}
        assert ledger.get("b\nc") is None
        ledger.put("d", 2)
    again = Ledger(folder)
    assert len(again) == 2
    assert (again.get("a"), again.get("d")) == ({"n": 1}, 2)


def test_ledger_sees_what_others_add_and_passes_over_damage(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.put("a", 1)
    (tmp_path / "killed.jsonl").write_bytes(b'["b", 2]\n\0\0\0\n3\n["c", 3')
    second.refresh()
    assert (second.get("a"), second.get("b"), second.get("c")) == (1, 2, None)
    first.put("c", 4)
    second.refresh()
    assert second.get("c") == 4


def test_the_latest_word_counts_whoever_had_it(tmp_path: Path) -> None:
    for k in range(20):  # every run writes a file of its own
        with Ledger(tmp_path) as ledger:
            assert ledger.get("a") == (k - 1 if k else None)
            ledger.put("a", k)
    assert len(list(tmp_path.iterdir())) == 20


def test_a_claim_is_one_processs_alone_and_ends_with_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from realdpo.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1])).claim('a') as mine:\n"
        "    print(mine, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline().strip() == "True"
    with ledger.claim("a") as mine:
        assert not mine
    other.kill()
    other.wait()
    with ledger.claim("a") as mine:
        assert mine


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import math\nfrom realdpo import engine\nprint('begun')\n"
        "print([o.value for o in engine.run_rows(math.sqrt, [4.0, 9.0], workers=2)])\n"
    )
    told = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout
    assert told.splitlines()[0] == "begun"
    assert told.count("begun") == 1
    assert "2.0" in told
