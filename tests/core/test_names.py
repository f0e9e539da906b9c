"""Public names: a search for one finds one thing, and it says what it does."""

from __future__ import annotations

import ast
import collections
from pathlib import Path

import realdpo

ROOT = Path(realdpo.__file__).parent.parent
ROOMS = ("realdpo", "curate", "pairs", "train")


def test_few_public_names_stand_for_two_things_or_are_one_common_word() -> None:
    names = [
        name for room in ROOMS for file in (ROOT / room).rglob("*.py") for name in _names(file)
    ]
    assert len(names) > 500  # the rooms were found
    count = collections.Counter(names)
    twice = {name for name in names if count[name] > 1}
    word = {name for name in names if name.islower() and "_" not in name}
    assert sum(count[name] for name in twice) < 0.10 * len(names), sorted(twice)
    assert sum(count[name] for name in word) < 0.15 * len(names), sorted(word)


def _names(file: Path) -> list[str]:
    """Public functions and classes of a module. Methods answer to their class's interface, and a
    Typer command is named as it is typed; neither counts."""
    return [
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not any(_is_command(decorator) for decorator in node.decorator_list)
    ]


def _is_command(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr in ("command", "callback")
