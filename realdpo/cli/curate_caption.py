"""`realdpo curate caption`, `embed` and `search`: prompts and embeddings of the clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdpo import cli
from realdpo.cli import options
from realdpo.cli.curate import app


@app.command(
    epilog="Example: realdpo curate caption -w work --captioner openai:http://localhost:8000/v1"
)
@options.with_settings("curate caption", "captioner", "model", "prompt")
def caption(
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Ask again about clips whose caption is not ok.")
    ] = False,
    recaption: Annotated[
        bool, typer.Option("--recaption", help="Ask again about every clip.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Caption dropped clips too.")] = False,
    limit: Annotated[
        int | None, typer.Option(help="Largest number of clips to caption in this run.", min=1)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the captions to a CSV for editing by hand; caption nothing."),
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Read edited captions from a CSV; they override every captioner from now on.",
        ),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(
            help="Have another model judge the captions: open_clip, openai:<base url> or "
            "transformers:<model>."
        ),
    ] = None,
    verify_model: Annotated[
        str | None, typer.Option(help="Name of the judging model at an openai: server.")
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a prompt for every clip; continues where an earlier run stopped.

    With --verify, a second model judges the existing captions, and no caption is written.
    """
    with cli.guard_command(as_json):
        from realdpo.config import settings_to_toml
        from realdpo.curate.caption import run
        from realdpo.curate.caption.config import CaptionConfig, VerifyConfig
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        given, of_judge = given.without("verify.")
        settings = given.resolve(CaptionConfig)
        judge = options.Given("verify", given.file, of_judge, {}).resolve(
            VerifyConfig, verifier=verify, model=verify_model
        )
        toml = settings_to_toml("caption", settings)
        if verify:
            toml += "\n" + settings_to_toml("verify", judge)
        if dry_run:
            plan = run.plan_captions(place, settings, only_failed=only_failed, recaption=recaption)
            lines = f"# {plan['would_ask']} of {plan['clips']} clips would be asked about"
            cli.print_plan(toml, {"config": toml, "plan": plan}, lines, as_json)
            return
        if export or import_:
            result = run.exchange_captions(place, settings, give=export, take=import_)
        elif verify:
            from realdpo.curate.caption.verify import verify_captions

            result = verify_captions(place, judge, settings)
            place.save_config("curate verify", toml)
        else:
            result = run.caption_clips(
                place,
                settings,
                only_failed=only_failed,
                recaption=recaption,
                every=every,
                limit=limit,
            )
            place.save_config("curate caption", toml)
        cli.print_result(result, as_json, run.describe_captions)


@app.command(epilog="Example: realdpo curate embed -w work --set weights=laion2b_s34b_b79k")
@options.with_settings("curate embed", "model", "weights", "aesthetic")
def embed(
    given: options.Given,
    workspace: options.Workspace = options.WORK,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Embed the clips with open_clip and score caption fit, action, realness and nearest clip."""
    with cli.guard_command(as_json):
        from realdpo.config import settings_to_toml
        from realdpo.curate.config import EmbedConfig
        from realdpo.workspace import Workspace

        place, settings = Workspace(workspace), given.resolve(EmbedConfig)
        toml = settings_to_toml("embed", settings)
        if dry_run:
            cli.print_plan(toml, {"config": toml}, "", as_json)
            return
        from realdpo.curate.embed import describe_embedding, embed_clips

        result = embed_clips(place, settings)
        place.save_config("curate embed", toml)
        cli.print_result(result, as_json, describe_embedding)


@app.command(epilog='Example: realdpo curate search "a person braiding hair" -w work')
def search(
    text: Annotated[str, typer.Argument(help="What the clips should show, in plain words.")],
    workspace: options.Workspace = options.WORK,
    top: Annotated[int, typer.Option(help="How many clips to list.", min=1)] = 10,
    every: Annotated[bool, typer.Option("--all", help="Search dropped clips too.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the clips that look most like a description (after `realdpo curate embed`)."""
    with cli.guard_command(as_json):
        from realdpo.curate.search import list_hits, search_clips
        from realdpo.workspace import Workspace

        hits = search_clips(Workspace(workspace), text, top=top, every=every)
        cli.print_result(hits, as_json, list_hits)
