"""What every setting is: its key for `--set`, type, default and meaning, read from the classes.

The meaning of a field stands in one of three places: its `help` metadata, a string below it, or
the docstring of its class as `name: text.`
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

CLASSES: Mapping[str, tuple[str, str]] = {
    "curate source": ("realdpo.curate.source.config:SourceConfig", "source"),
    "curate ingest": ("realdpo.curate.config:IngestConfig", "ingest"),
    "curate caption": ("realdpo.curate.caption.config:CaptionConfig", "caption"),
    "curate caption --verify": ("realdpo.curate.caption.config:VerifyConfig", "verify"),
    "curate embed": ("realdpo.curate.config:EmbedConfig", "embed"),
    "pairs build": ("realdpo.pairs.config:BuildConfig", "pairs"),
    "train": ("realdpo.train.config:TrainConfig", "train"),
    "sample": ("realdpo.train.evaluate.config:SampleConfig", "sample"),
    "eval": ("realdpo.train.evaluate.config:EvalConfig", "eval"),
    "push-hub": ("realdpo.publish.config:PushConfig", "push"),
}
"""Command -> its class of settings, and the section of a TOML file that holds them."""


@dataclass(frozen=True)
class Setting:
    """One setting. key: dotted, as `--set key=value` takes it."""

    key: str
    type: Any
    default: str
    help: str

    @property
    def kind(self) -> str:
        """The type as a reader of the documentation knows it."""
        return _type_text(self.type)

    @property
    def is_mapping(self) -> bool:
        return typing.get_origin(self.type) in (Mapping, dict)


def load_class(command: str) -> type:
    """The settings class of a command in `CLASSES`."""
    module, name = CLASSES[command][0].split(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def describe_settings(kind: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a class, those of nested classes under dotted keys."""
    types, texts = typing.get_type_hints(kind), _texts(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(types[field.name]):
            nested = typing.cast(type, types[field.name])
            yield from describe_settings(nested, f"{prefix}{field.name}.")
            continue
        yield Setting(
            prefix + field.name, types[field.name], _default_text(field), texts.get(field.name, "")
        )


def settings_text(command: str) -> str:
    """The settings of a command for a terminal."""
    lines = []
    for setting in describe_settings(load_class(command)):
        lines.append(f"{setting.key} = {setting.default}    ({setting.kind})")
        lines.append(
            textwrap.fill(setting.help, 96, initial_indent="    ", subsequent_indent="    ")
        )
    return "\n".join(lines)


def settings_page() -> str:
    """docs/settings.md: the settings of every command."""
    parts = [
        "# Settings",
        "",
        "Every setting of every command, made from the code by `python -m realdpo.settings_help`. "
        "Give one with `--set KEY=VALUE`, several in a TOML file with `--config`, or as a keyword "
        "argument in Python. Flags win over `--set`, which wins over the file.",
    ]
    for command, (_, section) in CLASSES.items():
        parts += ["", f"## {command}", "", f"In a TOML file: `[{section}]`.", ""]
        parts += ["| setting | default | type | meaning |", "|---|---|---|---|"]
        for s in describe_settings(load_class(command)):
            cells = (f"`{s.key}`", f"`{s.default}`", f"`{s.kind}`", s.help)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def _texts(kind: type) -> dict[str, str]:
    names = [field.name for field in dataclasses.fields(kind)]
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):  # a class explains what it adds to its parent's
        found |= _texts_of_docstring(inspect.cleandoc(one.__doc__ or ""), names)
        found |= {name: text for name, text in _strings_below(one).items() if name in names}
    for field in dataclasses.fields(kind):
        if "help" in field.metadata:
            found[field.name] = field.metadata["help"]
    return found


def _texts_of_docstring(doc: str, names: list[str]) -> dict[str, str]:
    flat = " ".join(doc.split())
    heads = list(re.finditer(rf"(?<=[.:)] )({'|'.join(map(re.escape, names))}): ", flat))
    ends = [*(head.start() for head in heads[1:]), len(flat)]
    return {
        head.group(1): _capitalised(flat[head.end() : end].strip())
        for head, end in zip(heads, ends, strict=False)  # a docstring may name none
    }


def _capitalised(text: str) -> str:
    """The text with a capital, unless it begins with a name such as `i2v` or open_clip."""
    first = re.split(r"[\s,]", text, maxsplit=1)[0]
    return text[:1].upper() + text[1:] if first.replace("-", "").isalpha() else text


@cache
def _strings_below(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = " ".join(below.value.value.split())
    return found


def _type_text(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(
            "None" if a is type(None) else _type_text(a) for a in typing.get_args(kind)
        )
    text = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return re.sub(r"\b(?:[a-z_]+\.)+", "", text)


def _default_text(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is None:
        return "unset"
    if isinstance(value, Mapping):
        return str(dict(value))
    return {"True": "true", "False": "false"}.get(str(value), str(value)) if value != "" else '""'


if __name__ == "__main__":
    print(settings_page(), end="")
