"""The command line: sub-commands, options and help, without logic."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer
import typer.core

import realdpo
from realdpo.errors import UserError

_PANELS = {
    "Steps, in order": ("curate", "pairs", "train", "rounds", "sample", "eval"),
    "Publish": ("push-hub", "pull", "card", "export-lora"),
    "Try and check": ("demo", "doctor"),
}


class _InOrder(typer.core.TyperGroup):
    """List the commands in the order in which you use them."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = [name for names in _PANELS.values() for name in names]
        found = super().list_commands(ctx)
        return sorted(found, key=lambda name: order.index(name) if name in order else len(order))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        for panel, names in _PANELS.items():
            if command is not None and cmd_name in names:
                command.rich_help_panel = panel  # type: ignore[attr-defined]  # Typer's own commands have it, click's have not
        return command


app = typer.Typer(
    name="realdpo",
    cls=_InOrder,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn footage into a dataset, contrast it with a video model, and fine-tune the model.",
    epilog="Example: [bold]realdpo demo[/bold] runs the whole way with a small model.",
)

MISSING = 3
"""Exit code of a command that finished, although some earlier footage cannot be read now."""


def _version(show: bool) -> None:
    if show:
        print(realdpo.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


@contextlib.contextmanager
def guard_command(as_json: bool = False) -> Iterator[None]:
    """Run a command's body, and turn a UserError or Ctrl-C into one clear line.

    With `as_json`, there are no progress bars, and the error is a JSON document on stdout.
    """
    from realdpo.progress import quiet, speak_on_stderr

    speak_on_stderr()
    token = quiet.set(as_json)
    try:
        yield
    except UserError as error:
        if as_json:
            print_json(_error_of(error))
        _print_error(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except OSError as error:
        if error.filename is None:  # not about a file that the user named
            raise
        named = UserError(f"{str(error.filename)[:300]}: {error.strerror}")
        if as_json:
            print_json(_error_of(named))
        _print_error(named)
        raise typer.Exit(1) from None
    finally:
        quiet.reset(token)


def print_result(
    result: Any, as_json: bool, describe: Callable[[Any], object], failure: UserError | None = None
) -> None:
    """Print the result of a command on stdout: as one JSON document, or as lines from `describe`.

    If the result reports a failure, the command then ends with an error.
    """
    if as_json:
        print_json({**result, **_error_of(failure)} if failure else result)
    else:
        print(describe(result))
    if failure:
        _print_error(failure)
        raise typer.Exit(1)


def print_plan(toml: str, plan: Any, lines: str, as_json: bool) -> None:
    """Print the result of `--dry-run`: the settings, and the work that would be done."""
    if as_json:
        print_json(plan)
    else:
        print(f"{toml}\n{lines}" if lines else toml)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(document, indent=2, sort_keys=True, default=str))


def _error_of(error: UserError) -> dict[str, str | None]:
    return {"error": error.message, "hint": error.hint}


def _print_error(error: UserError) -> None:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def main() -> None:
    app()


def _register() -> None:
    # Each module adds its commands to `app`. None of them imports anything heavy.
    import importlib

    for name in ("curate", "pairs", "train", "rounds", "sample", "eval", "hub", "export", "demo"):
        importlib.import_module(f"realdpo.cli.{name}")


_register()
