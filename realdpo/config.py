"""One way to a configuration: defaults, then a TOML file, then --set, then flags.

A configuration is a frozen dataclass made by `@settings`. pydantic checks and converts its
values, in Python as on the command line, so that a wrong key, type or choice is one clear line.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from realdpo.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda kind: kind


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(kind: type[T]) -> type[T]:
    """A frozen dataclass whose values are checked and converted when it is made.

    `Choice(name="a misspelt one")` raises UserError with the class, the field and what it takes;
    a `__post_init__` of the class's own runs afterwards.
    """
    own = kind.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        _check_values(self)
        if own is not None:
            own(self)

    kind.__post_init__ = __post_init__  # type: ignore[attr-defined]  # a class is given its method here
    return dataclasses.dataclass(frozen=True)(kind)


def _check_values(made: Any) -> None:
    kind: Any = type(made)
    changed = [field.name for field in dataclasses.fields(kind) if not _is_default(made, field)]
    if not changed:
        return
    from pydantic import ValidationError

    for name in changed:  # defaults are checked by a test, and pydantic is slow to import
        try:
            value = _adapters(kind)[name].validate_python(getattr(made, name))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join([name, *(str(part) for part in first["loc"])])
            told = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{kind.__name__}: {key}={getattr(made, name)!r}: {told}") from None
        object.__setattr__(made, name, value)


def _is_default(made: Any, field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING and getattr(made, field.name) is field.default


@cache
def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    from pydantic import TypeAdapter

    types = typing.get_type_hints(kind)
    return {field.name: TypeAdapter(types[field.name]) for field in dataclasses.fields(kind)}


def resolve_settings(
    kind: type[T],
    *,
    section: str,
    base: Mapping[str, Any] | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> T:
    """Build `kind` from its defaults, `[section]` of a TOML file, `key=value` texts and flags.

    `base` holds the values of a preset, which everything else wins over.
    Keys may be dotted to reach nested dataclasses or mappings. Flags whose value is None were
    not given and change nothing. Raises UserError that names the key, where it came from, and
    the nearest valid key.
    """
    values: dict[str, Any] = dict(base or {})
    if file is not None:
        values |= _section(load_toml(file), section, file)
    for text in sets:
        key, separator, raw = text.partition("=")
        if not separator or not key.strip():
            raise UserError(f"--set {text}: not of the form key=value")
        _put(values, key.strip(), _literal(raw.strip()))
    for key, value in (flags or {}).items():
        if value is not None:
            _put(values, key, value)
    return build_settings(kind, values, where=f"[{section}]")


def build_settings(kind: type[T], values: Mapping[str, Any], where: str = "the configuration") -> T:
    """Make `kind` from plain values. Raises UserError that names the offending key."""
    from pydantic import TypeAdapter, ValidationError

    _check_keys(kind, values, where)
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or where
        raise UserError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}") from None


def settings_to_toml(section: str, config: Any) -> str:
    """The configuration as TOML; keys whose value is None are left out, being the default."""
    import tomli_w

    return tomli_w.dumps({section: _plain(dataclasses.asdict(config))})


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain values. Raises UserError when it is missing or not TOML."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}", "check the path of --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def _section(document: dict[str, Any], section: str, file: Path) -> dict[str, Any]:
    node: Any = document
    for part in section.split("."):
        node = node.get(part, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise UserError(f"{file}: {section} is not a table", f"write it as [{section}]")
    return node


def _literal(raw: str) -> Any:
    """The value of a `--set`: read as TOML where it is TOML, else taken as text."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        return raw


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    parts = key.split(".")
    node = values
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"{key}: {part} is a value, not a table")
    node[parts[-1]] = value


def _check_keys(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse keys that `kind`, or a dataclass nested in it, does not have."""
    types = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for key, value in values.items():
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            raise UserError(
                f"{where} has no key {key!r}",
                f"did you mean {close[0]!r}?" if close else f"keys: {', '.join(names)}",
            )
        if dataclasses.is_dataclass(types[key]) and isinstance(value, Mapping):
            _check_keys(types[key], value, f"{where.rstrip(']')}.{key}]")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
