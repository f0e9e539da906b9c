"""Settings come from defaults, a file, --set and flags, in that order, and say what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from realdpo import config
from realdpo.errors import UserError


@dataclass(frozen=True)
class Inner:
    width: int = 720
    codec: str = "libx264"


@dataclass(frozen=True)
class Outer:
    beta: float = 500.0
    name: str = "run"
    steps: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train]\nbeta = 1\nname = 'file'\nsteps = 3\n[train.inner]\nwidth = 64\n")
    made = config.resolve_settings(
        Outer,
        section="train",
        file=file,
        sets=["name=set", "inner.codec=libx265"],
        flags={"steps": 7, "beta": None},
    )
    assert made == Outer(1.0, "set", 7, Inner(64, "libx265"))


def test_a_resolved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    made = config.resolve_settings(Outer, section="train", sets=["beta=2.5", "inner.width=32"])
    file = tmp_path / "again.toml"
    file.write_text(config.settings_to_toml("train", made))
    assert config.resolve_settings(Outer, section="train", file=file) == made


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["betta=1"], "betta"),
        (["beta=high"], "beta"),
        (["inner.width=wide"], "inner.width"),
        (["inner.wide=1"], "[train.inner] has no key 'wide'"),
        (["beta"], "key=value"),
        (["beta.x=1"], "beta"),
    ],
)
def test_a_wrong_setting_is_named(sets: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        config.resolve_settings(Outer, section="train", sets=sets)
    assert says in caught.value.message


def test_the_nearest_key_is_offered() -> None:
    with pytest.raises(UserError) as caught:
        config.resolve_settings(Outer, section="train", sets=["betta=1"])
    assert caught.value.hint == "did you mean 'beta'?"


@pytest.mark.parametrize("text", ["[train", "\x00", "train = 3"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(UserError, match="bad.toml"):
        config.resolve_settings(Outer, section="train", file=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no configuration file"):
        config.resolve_settings(Outer, section="train", file=tmp_path / "none.toml")
