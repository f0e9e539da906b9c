"""Rules of the code that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import realdpo

ROOT = Path(realdpo.__file__).parent.parent
ROOMS = ("realdpo", "curate", "pairs", "train")
COMMON = {"np", "npt", "pd", "pa", "pc", "pq", "ds", "dist", "F", "tomllib", "bnb", "futures"}


def files(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((ROOT / room).rglob("*.py"))


def lines(*rooms: str) -> Iterator[tuple[str, str]]:
    for path in files(*rooms):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def test_no_line_is_kept_from_the_formatter() -> None:
    mark = "# fmt" + ":"
    assert not [where for where, line in lines(*ROOMS, "benchmarks", "tests") if mark in line]


def test_what_a_checker_is_told_to_pass_over_says_why() -> None:
    mark = re.compile(r"# (?:type: ignore(?:\[[\w-]+\])?|noqa(?:: [A-Z]+\d+)?)(.*)$")
    silent = [
        where
        for where, line in lines(*ROOMS, "benchmarks")
        if (found := mark.search(line)) and len(found[1].strip(" -#")) < 8
    ]
    assert not silent


def test_modules_keep_their_names_where_they_are_imported() -> None:
    renamed = [
        f"{path.relative_to(ROOT)}: {alias.name} as {alias.asname}"
        for path in files(*ROOMS)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if alias.asname
        and alias.asname not in COMMON
        and alias.name != alias.asname
        # a function under another name, beside one of ours, is no module
        and not (isinstance(node, ast.ImportFrom) and "_" in alias.name)
    ]
    assert not renamed


@pytest.mark.parametrize("room", ["tests"])
def test_tests_are_collected_in_one_order(room: str) -> None:
    """pytest-xdist collects in every process, and the order of a set is another in each."""
    mixed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(room)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("parametrize", "fixture")
        for given in (*node.args, *(k.value for k in node.keywords if k.arg == "params"))
        if isinstance(given, (ast.Set, ast.SetComp))
        or (isinstance(given, ast.BinOp) and isinstance(given.op, (ast.Sub, ast.BitAnd)))
    ]
    assert not mixed
