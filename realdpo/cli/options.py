"""Options that commands share, and options that are made from a command's settings."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from realdpo import settings_help

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_SETTINGS = "Settings (--settings lists all of them)"
_COMMON = "Options of every command"

WORK = Path("work")
"""The workspace if the user names none."""

Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        "--out",
        help="Folder with the project's tables and files (the workspace).",
        rich_help_panel=_COMMON,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show the settings and the work that would be done. Do nothing.",
        rich_help_panel=_COMMON,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document, without progress bars.", rich_help_panel=_COMMON
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with settings. --set and flags override it.",
        rich_help_panel=_COMMON,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting. May be repeated.",
        rich_help_panel=_COMMON,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Devices = Annotated[
    str,
    typer.Option(
        "--devices", help="auto (every GPU), or names joined by commas. Each gets one worker."
    ),
]
Shard = Annotated[
    str,
    typer.Option("--shard", metavar="I/N", help="Do the I-th of N parts, in one shared folder."),
]
Processes = Annotated[
    int,
    typer.Option(
        "--num-processes", help="Number of training processes on this machine, one per GPU."
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="realdpo, realdpo-paper (with generated losers) or realdpo-released (as published).",
    ),
]
Extras = Annotated[
    list[str] | None,
    typer.Option("--extra", help="Also score people, text or nsfw. May be repeated."),
]
Engine = Annotated[
    str, typer.Option("--engine", help="Engine that runs the work: local, serial or ray.")
]
Address = Annotated[
    str,
    typer.Option(
        "--address", help="Address of a running Ray cluster. Without it, realdpo starts one."
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", help="Number of processes. Default: the number of cores.")
]
Page = Annotated[
    Path | None,
    typer.Option("--to", "--output", "-o", help="File for the page. Default: under reports/."),
]


@dataclass(frozen=True)
class Given:
    """The user's choices for a command's settings: a file, `--set` texts, and options."""

    section: str
    file: Path | None
    sets: Sequence[str]
    flags: Mapping[str, Any] = field(default_factory=dict)
    pairs: Mapping[str, str] = field(default_factory=dict)  # key -> option, of NAME=VALUE options

    def resolve(self, kind: type[T], base: Mapping[str, Any] | None = None, **flags: Any) -> T:
        """Resolve the settings. Everything else overrides `base`, and `flags` override the options.

        Raises UserError for a wrong key or value.
        """
        from realdpo.config import resolve_settings

        chosen = {
            key: pairs_of(value, self.pairs[key]) if key in self.pairs else value
            for key, value in self.flags.items()
        }
        chosen |= flags
        return resolve_settings(
            kind, section=self.section, base=base, file=self.file, sets=self.sets, flags=chosen
        )

    def without(self, prefix: str) -> tuple[Given, list[str]]:
        """A copy without the `--set` texts that begin with `prefix`, and those texts, cut."""
        other = [text.removeprefix(prefix) for text in self.sets if text.startswith(prefix)]
        rest = [text for text in self.sets if not text.startswith(prefix)]
        return replace(self, sets=rest), other


def with_settings(command: str, *keys: str, **spelled: str) -> Callable[[Command], Command]:
    """A decorator that adds options to a command: each of `keys`, --config, --set, --settings.

    command: its key in `settings_help.CLASSES`, whose class gives help and types. spelled: options
    whose name differs from their key, with dots as double underscores:
    sources__licenses="--license". The command gets the user's choices as the parameter `given`.
    """

    def decorate(function: Command) -> Command:
        kind = settings_help.load_class(command)
        flags = {key: f"--{key.replace('_', '-')}" for key in keys}
        flags |= {key.replace("__", "."): flag for key, flag in spelled.items()}
        made = {f"set_{key.replace('.', '__')}": key for key in flags}
        known = {setting.key: setting for setting in settings_help.describe_settings(kind)}
        pairs = {key: flags[key] for key in flags if known[key].is_mapping}

        @functools.wraps(function)
        def run(**arguments: Any) -> Any:
            chosen = {key: arguments.pop(name) for name, key in made.items()}
            arguments.pop("show_settings")
            file, sets = arguments.pop("config"), arguments.pop("sets")
            # Typer gives an empty list if a repeatable option was not used.
            chosen = {key: value for key, value in chosen.items() if value not in (None, [])}
            section = settings_help.CLASSES[command][1]
            return function(**arguments, given=Given(section, file, sets or (), chosen, pairs))

        own = inspect.signature(function, eval_str=True)
        generated = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_annotation(flags[key], known[key]),
            )
            for name, key in made.items()
        ]
        shared = {"config": (None, Config), "sets": (None, Sets)}
        listing = (settings_option(command), bool)
        for name, (default, annotation) in {**shared, "show_settings": listing}.items():
            generated.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
                )
            )
        mine = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.parameters.values()
            if parameter.name != "given"
        ]
        everything = sorted([*mine, *generated], key=_is_common)
        run.__signature__ = own.replace(parameters=everything)  # type: ignore[attr-defined]  # functions take attributes
        run.__annotations__ = {one.name: one.annotation for one in everything}
        return typing.cast(Command, run)

    return decorate


def _is_common(parameter: inspect.Parameter) -> bool:
    """Whether every command has this option. Help shows such options last."""
    notes = [parameter.default, *getattr(parameter.annotation, "__metadata__", ())]
    return _COMMON in [getattr(note, "rich_help_panel", None) for note in notes]


def _annotation(flag: str, setting: settings_help.Setting) -> Any:
    """The type of an option, with its flag and help, for a setting."""
    kind, metavar = _option_type(setting.type)
    if kind is bool and setting.default == "true":
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    text = (
        setting.help
        if setting.default in ("unset", '""', "()", "{}", "false")
        else (f"{setting.help} Default: {setting.default}.")
    )
    option = typer.Option(flag, help=text, metavar=metavar, rich_help_panel=_SETTINGS)
    return Annotated[kind | None, option]


def _option_type(kind: Any) -> tuple[Any, str | None]:
    """The type that Typer reads for a setting of this type, and its name in help."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return str, "|".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        rest = [part for part in parts if part is not type(None)]
        return _option_type(rest[0]) if len(rest) == 1 else (str, "|".join(map(_name, rest)))
    if origin is tuple:
        return list[str], None
    return (kind, None) if kind in (int, float, bool, str) else (list[str], "NAME=VALUE")


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    return "NUMBER" if kind in (int, float) else "TEXT"


def settings_option(command: str) -> Any:
    """The option `--settings`, which lists the settings that `--set` can change, and stops."""

    def show(wanted: bool) -> None:
        if wanted:
            print(settings_help.settings_text(command))
            raise typer.Exit

    text = "List every setting that --set takes, and stop."
    return typer.Option(
        False, "--settings", is_eager=True, callback=show, help=text, rich_help_panel=_COMMON
    )


def pairs_of(texts: Sequence[str], option: str) -> dict[str, str]:
    """Texts of the form NAME=VALUE as a mapping.

    Raises UserError for other texts and repeated names.
    """
    from realdpo.errors import UserError

    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not (name and separator and value):
            raise UserError(f"{option} {text}: it must have the form NAME=VALUE")
        if name in found:
            raise UserError(f"{option} {name} is given twice")
        found[name] = value
    return found


def part_of(text: str) -> tuple[int, int]:
    """(I, N) of a --shard I/N. Raises UserError for anything else."""
    from realdpo.errors import UserError

    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise UserError(f"--shard {text}: it must have the form I/N", "for example --shard 1/4")
    return index, count
