"""The command line starts light and never shows a traceback for a user's mistake."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "pandas",
    "pyarrow",
    "numpy",
    "av",
    "cv2",
    "datasets",
)


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "realdpo", *args], capture_output=True, text=True, cwd=cwd
    )


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    program = "import sys, realdpo.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "typer" in loaded.split()
    assert not set(HEAVY) & set(loaded.split())


def all_commands() -> list[list[str]]:
    """Every command of the program, read from the program itself."""
    import typer.main

    from realdpo.cli import app

    found: list[list[str]] = []

    def walk(command: object, path: list[str]) -> None:
        children = getattr(command, "commands", None)
        if not children:
            found.append(path)
            return
        for name, child in children.items():
            walk(child, [*path, name])

    walk(typer.main.get_command(app), [])
    return found


def test_every_command_has_help_with_an_example() -> None:
    from typer.testing import CliRunner

    from realdpo.cli import app

    commands = all_commands()
    assert len(commands) >= 10
    for command in commands:
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0, command
        assert f"realdpo {' '.join(command)}" in " ".join(result.output.split()), command
        assert "example" in result.output.lower(), command


def test_every_example_in_the_help_is_understood() -> None:
    """Names, options and values are parsed as the command line does; nothing is run."""
    import typer.main

    from realdpo.cli import app

    found = 0
    for path in [[], *all_commands()]:
        command = typer.main.get_command(app)
        for name in path:
            command = command.commands[name]
        for example in re.findall(r"realdpo [^|;]+", re.sub(r"\[/?bold\]", "|", command.epilog)):
            words = shlex.split(example)[1:]
            words = words[: words.index("runs")] if "runs" in words else words
            reached = typer.main.get_command(app)
            while words and words[0] in getattr(reached, "commands", {}):
                reached = reached.commands[words.pop(0)]
            with reached.make_context(example, words):
                found += 1
    assert found >= len(all_commands())


@pytest.mark.parametrize(
    "args",
    [
        ("curate", "ingest", "no-such-footage"),
        ("curate", "decide"),
        ("pairs", "build", "--model", "tiny"),
        ("pairs", "audit"),
        ("train", "--model", "tiny"),
        ("push-hub", "someone/name", "--dry-run"),
        ("card",),
    ],
)
def test_an_empty_workspace_is_one_clear_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    result = run(*args, "-w", str(tmp_path / "work"), cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr


def test_errors_are_json_where_a_script_reads(tmp_path: Path) -> None:
    result = run("curate", "decide", "-w", str(tmp_path / "none"), "--json")
    assert result.returncode == 1
    assert "clips.parquet" in json.loads(result.stdout)["error"]


def test_help_lists_the_commands_in_the_order_of_the_work() -> None:
    from typer.testing import CliRunner

    from realdpo.cli import app

    told = CliRunner().invoke(app, ["--help"]).output
    names = ("curate", "pairs", "train", "eval", "push-hub", "demo")
    places = [told.index(f" {name} ") for name in names]
    assert places == sorted(places)
