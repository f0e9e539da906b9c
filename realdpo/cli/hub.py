"""`realdpo push-hub`, `realdpo card` and `realdpo pull`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from realdpo import cli
from realdpo.cli import options

if TYPE_CHECKING:
    from realdpo.publish.hub import PushPlan


@cli.app.command(
    "push-hub", epilog="Example: [bold]realdpo push-hub me/my-actions -w work --dry-run[/bold]"
)
@options.with_settings(
    "push-hub", "what", "private", "revision", "pr", "run", "allow_unlicensed", "allow_shortcut"
)
def push_hub(
    given: options.Given,
    repo: Annotated[str, typer.Argument(help="Repository on the Hub, owner/name.")],
    workspace: options.Workspace = options.WORK,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Publish clips, pairs or weights with a card, and check that they arrived.

    realdpo sends nothing that the Hub already has. After an interruption, run the same command
    again; it continues from there.
    """
    with cli.guard_command(as_json):
        from realdpo.config import settings_to_toml
        from realdpo.publish import hub
        from realdpo.publish.config import PushConfig
        from realdpo.workspace import Workspace

        settings = given.resolve(PushConfig)
        plans = hub.plan_push(Workspace(workspace), repo, settings)
        if dry_run:
            found = {"settings": asdict(settings), "plans": [_summary(plan) for plan in plans]}
            lines = [
                *(_plan_lines(plan, card=True) for plan in plans),
                "nothing was sent (--dry-run)",
            ]
            cli.print_plan(settings_to_toml("push", settings), found, "\n\n".join(lines), as_json)
            return
        if not as_json:
            print("\n\n".join(_plan_lines(plan) for plan in plans))
        hub.refuse_plans(plans)
        api = hub.connect_hub()
        hub.check_access(api, plans, settings)
        if not yes:
            _ask(repo, settings.private, as_json)
        done = []
        for plan in plans:
            pushed = hub.push_repository(api, plan, settings)
            compared = hub.verify_push(api, plan, pushed.commit, settings.samples)
            done.append(asdict(pushed) | {"verified": compared})
            if not as_json:
                print(_pushed_line(done[-1]))
        if as_json:
            cli.print_json(done)


@cli.app.command(epilog="Example: [bold]realdpo card -w work[/bold]")
def card(
    workspace: options.Workspace = options.WORK,
    repo: Annotated[
        str, typer.Option(help="Name of the repository on the card.")
    ] = "someone/something",
    what: Annotated[
        Literal["clips", "pairs", "model", "all"], typer.Option(help="Which cards to render.")
    ] = "all",
    run: Annotated[str, typer.Option(help="Training run whose weights the card describes.")] = "",
    as_json: options.Json = False,
) -> None:
    """Render the cards that push-hub would publish, so that you can look at them."""
    with cli.guard_command(as_json):
        from realdpo.publish import hub
        from realdpo.publish.config import PushConfig
        from realdpo.workspace import Workspace

        written = hub.write_cards(Workspace(workspace), repo, PushConfig(what=what, run=run))
        cli.print_result({"written": written}, as_json, lambda _: "\n".join(map(str, written)))


@cli.app.command(epilog="Example: [bold]realdpo pull me/my-actions -w work[/bold]")
def pull(
    repo: Annotated[str, typer.Argument(help="Dataset on the Hub, owner/name.")],
    workspace: options.Workspace = options.WORK,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    what: Annotated[
        str, typer.Option(help="What to pull: clips, pairs, or all that the dataset has.")
    ] = "all",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Make a workspace from a published dataset, ready for `realdpo train`."""
    with cli.guard_command(as_json):
        from realdpo.publish.pull import fetch_dataset, plan_pull
        from realdpo.workspace import Workspace

        target = Workspace(workspace)
        plan = plan_pull(repo, revision, what)
        if not dry_run:
            with target.lock("pull"):
                fetch_dataset(plan, target)
        closing = "nothing was fetched (--dry-run)" if dry_run else f"{workspace} is ready"
        cli.print_result(plan.summary(), as_json, lambda _: f"{plan.describe()}\n{closing}")


def _summary(plan: PushPlan) -> dict[str, object]:
    return {
        "repo": plan.repo,
        "type": plan.repo_type,
        "files": {file.path: file.size for file in plan.files},
        "bytes": plan.size,
        "rows": {part.config: dict(part.rows) for part in plan.shards},
        "refused": [problem.text for problem in plan.problems],
        "overridden": [problem.text for problem in plan.overridden],
        "card": plan.readme,
    }


def _plan_lines(plan: PushPlan, card: bool = False) -> str:
    from realdpo.publish.dataset_card import size_text

    lines = [
        f"{plan.repo_type} {plan.repo}: {len(plan.files)} files, {size_text(plan.size)}, would be "
        "public"
    ]
    lines += [f"  {size_text(file.size):>10}  {file.path}" for file in plan.files[:40]]
    if len(plan.files) > 40:
        lines.append(f"  and {len(plan.files) - 40} more")
    for part in plan.shards:
        rows = ", ".join(f"{count:,} {split}" for split, count in part.rows.items())
        lines.append(f"  rows of {part.config}: {rows}")
    lines += [f"  would be refused: {problem.text} ({problem.hint})" for problem in plan.problems]
    lines += [f"  allowed all the same: {problem.text}" for problem in plan.overridden]
    if card:
        lines += ["", "  README.md", *(f"  | {line}" for line in plan.readme.splitlines())]
    return "\n".join(lines)


def _pushed_line(pushed: dict[str, Any]) -> str:
    return (
        f"{pushed['url']}: {len(pushed['uploaded'])} files sent, {pushed['unchanged']} unchanged, "
        f"{len(pushed['deleted'])} removed; read back and equal"
    )


def _ask(repo: str, private: bool, as_json: bool) -> None:
    import sys

    from realdpo.errors import UserError

    if as_json or not sys.stdin.isatty():
        raise UserError(
            "publishing needs your confirmation", "check with --dry-run, then add --yes"
        )
    who = "you and those to whom you give access" if private else "everyone"
    if not typer.confirm(f"Publish this to {repo}, for {who} to see?"):
        raise UserError("nothing was published")
