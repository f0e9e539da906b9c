"""Every setting of every command has a meaning, is listed by --settings, and is in the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from realdpo.cli import app
from realdpo.settings_help import CLASSES, describe_settings, load_class, settings_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("command", CLASSES)
def test_every_setting_has_a_default_and_a_meaning(command: str) -> None:
    silent = [s.key for s in describe_settings(load_class(command)) if not s.help]
    assert silent == []


def test_a_docstring_is_read() -> None:
    found = {s.key: s for s in describe_settings(load_class("pairs build"))}
    assert found["height"].help == "Height in pixels."
    assert found["task"].help.startswith("i2v or t2v")
    assert found["width"].default == "unset"
    nested = {s.key: s for s in describe_settings(load_class("curate ingest"))}
    assert nested["sources.hdr"].kind == "tonemap | drop"


@pytest.mark.parametrize(
    "command",
    [
        "curate source",
        "curate ingest",
        "curate embed",
        "pairs build",
        "train",
        "sample",
        "eval",
        "push-hub",
    ],
)
def test_the_command_lists_them(command: str) -> None:
    told = CliRunner().invoke(app, [*command.split(), "--settings"])
    assert told.exit_code == 0, told.output
    for setting in describe_settings(load_class(command)):
        assert f"{setting.key} = {setting.default}" in told.output


@pytest.mark.parametrize("command", [name for name in CLASSES if "--" not in name])
def test_no_option_with_a_default_hides_a_setting(command: str) -> None:
    """Such a default would win over --set and the settings file, although nobody gave it."""
    found: Any = get_command(app)
    for name in command.split():
        found = found.commands[name]
    keys = {setting.key for setting in describe_settings(load_class(command))}
    assert not {p.name for p in found.params if p.name in keys and p.default is not None}


def test_the_page_is_up_to_date() -> None:
    """Make it again with: python -m realdpo.settings_help > docs/settings.md"""
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page()
