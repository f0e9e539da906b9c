"""`realdpo push-hub`, `realdpo card` and `realdpo pull`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from realdpo.cli import app, guard_command, print_json
from realdpo.cli.options import Config, DryRun, Json, Set, Workspace, settings_option

if TYPE_CHECKING:
    from realdpo.publish.hub import PushPlan

What = Annotated[str | None, typer.Option(help="clips, pairs, model, or all that there is.")]
Run = Annotated[str | None, typer.Option(help="Training run whose weights are meant.")]


@app.command(
    "push-hub",
    epilog="Example: [bold]realdpo push-hub me/my-actions -w work --dry-run[/bold]",
)
def push_hub(
    repo: Annotated[str, typer.Argument(help="Repository on the Hub, owner/name.")],
    workspace: Workspace,
    what: What = None,
    private: Annotated[bool | None, typer.Option("--private", help="Make it private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    pr: Annotated[bool | None, typer.Option("--pr", help="Open a pull request instead.")] = None,
    run: Run = None,
    allow_unlicensed: Annotated[
        bool | None,
        typer.Option(
            "--allow-unlicensed",
            help="Publish although licences are missing or forbid it; the card says so.",
        ),
    ] = None,
    allow_shortcut: Annotated[
        bool | None,
        typer.Option(
            "--allow-shortcut",
            help="Publish pairs although the audit found a shortcut; the card says so.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    show_settings: bool = settings_option("push-hub"),
    dry_run: DryRun = False,
    as_json: Json = False,
    config: Config = None,
    sets: Set = None,
) -> None:
    """Publish clips, pairs or weights with a card, and check that they arrived.

    What the Hub has already is not sent again: the same command goes on after an interruption.
    """
    with guard_command(as_json):
        from realdpo import workspace as places
        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.publish import hub

        flags = {
            "what": what, "private": private, "revision": revision, "pr": pr, "run": run,
            "allow_unlicensed": allow_unlicensed, "allow_shortcut": allow_shortcut,
        }  # fmt: skip
        settings = resolve_settings(
            hub.PushConfig, section="push", file=config, sets=sets or (), flags=flags
        )
        plans = hub.plan_push(places.Workspace(workspace), repo, settings)
        if dry_run:
            if as_json:
                print_json(
                    {"settings": asdict(settings), "plans": [_summary(plan) for plan in plans]}
                )
            else:
                print(settings_to_toml("push", settings))
                print("\n\n".join(_shown(plan, card=True) for plan in plans))
                print("\nnothing was sent (--dry-run)")
            return
        if not as_json:
            print("\n\n".join(_shown(plan) for plan in plans))
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
                print(
                    f"{pushed.url}: {len(pushed.uploaded)} files sent, {pushed.unchanged} unchanged, "
                    f"{len(pushed.deleted)} removed; read back and equal"
                )
        if as_json:
            print_json(done)


@app.command(epilog="Example: [bold]realdpo card -w work[/bold]")
def card(
    workspace: Workspace,
    repo: Annotated[str, typer.Option(help="Name that the card uses.")] = "someone/something",
    what: What = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Render the cards that push-hub would publish, to look at."""
    with guard_command(as_json):
        from realdpo import report
        from realdpo import workspace as places
        from realdpo.files import write_bytes
        from realdpo.publish import hub, markdown

        settings = hub.PushConfig(what=what or "all", run=run or "")  # type: ignore[arg-type]
        written = []
        for plan in hub.plan_push(places.Workspace(workspace), repo, settings):
            folder = places.Workspace(workspace).reports / f"card-{plan.repo_type}"
            for file in plan.files:
                if isinstance(file.source, bytes):
                    write_bytes(folder / file.path, file.source)
            title = repo.split("/")[-1]
            page = report.render_page(title, markdown.card_sections(plan.readme, folder))
            report.write_page(folder / "card.html", page)
            written += [folder / "README.md", folder / "card.html"]
        if as_json:
            print_json({"written": written})
        else:
            print("\n".join(str(path) for path in written))


@app.command(epilog="Example: [bold]realdpo pull me/my-actions -w work[/bold]")
def pull(
    repo: Annotated[str, typer.Argument(help="Dataset on the Hub, owner/name.")],
    workspace: Workspace,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    what: Annotated[str | None, typer.Option(help="clips, pairs, or all that there is.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a workspace from a published dataset, ready for `realdpo train`."""
    with guard_command(as_json):
        from realdpo import workspace as places
        from realdpo.publish import pull as pulling

        target = places.Workspace(workspace)
        plan = pulling.plan_pull(repo, revision or "main", what or "all")
        if not dry_run:
            with target.lock("pull"):
                pulling.fetch_dataset(plan, target)
        if as_json:
            print_json(plan.summary())
        else:
            print(plan.describe())
            print("nothing was fetched (--dry-run)" if dry_run else f"{workspace} is ready")


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


def _shown(plan: PushPlan, card: bool = False) -> str:
    from realdpo.publish.dataset_card import size_text

    lines = [
        f"{plan.repo_type} {plan.repo}: {len(plan.files)} files, {size_text(plan.size)}, would be public"
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


def _ask(repo: str, private: bool, as_json: bool) -> None:
    import sys

    from realdpo.errors import UserError

    if as_json or not sys.stdin.isatty():
        raise UserError("publishing needs a yes", "look at it with --dry-run, then add --yes")
    who = "you and those you let in" if private else "everyone"
    if not typer.confirm(f"Publish this to {repo}, for {who} to see?"):
        raise UserError("nothing was published")
