"""`realdpo curate caption`, `embed` and `search`: prompts for the clips, and what they mean."""

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
def caption(
    workspace: options.Workspace,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="keywords, sidecar, openai:<base url> (key from OPENAI_API_KEY), or "
            "transformers:<model id or folder>."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model at an openai: server.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="File with the question; the one that ships by default.")
    ] = None,
    only_failed: Annotated[
        bool,
        typer.Option("--only-failed", help="Ask again about clips whose caption is not ok."),
    ] = False,
    recaption: Annotated[
        bool, typer.Option("--recaption", help="Ask again about every clip.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Caption dropped clips too.")] = False,
    limit: Annotated[
        int | None, typer.Option(help="Ask about so many clips at most.", min=1)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the captions to a CSV for editing by hand; caption nothing."),
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option("--import", help="Take edited captions from a CSV; they win from now on."),
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
    show_settings: bool = options.settings_option("curate caption"),
    config: options.Config = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Write a prompt for every clip; goes on where an earlier run stopped.

    With --verify the captions that are there are judged and none is written.
    """
    with cli.guard_command(json_):
        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.curate.caption.config import CaptionConfig, VerifyConfig
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        flags = {"captioner": captioner, "model": model, "prompt": prompt}
        judging = {"verifier": verify, "model": verify_model}
        sets = list(set_ or ())
        settings = resolve_settings(
            CaptionConfig,
            section="caption",
            file=config,
            sets=[s for s in sets if not s.startswith("verify.")],
            flags=flags,
        )
        judge = resolve_settings(
            VerifyConfig,
            section="verify",
            file=config,
            sets=[s.removeprefix("verify.") for s in sets if s.startswith("verify.")],
            flags=judging,
        )
        toml = settings_to_toml("caption", settings) + (
            "\n" + settings_to_toml("verify", judge) if verify else ""
        )
        from realdpo.curate.caption import run

        if dry_run:
            plan = run.plan_captions(place, settings, only_failed=only_failed, recaption=recaption)
            if json_:
                cli.print_json({"config": toml, "plan": plan})
            else:
                print(toml)
                print(f"# {plan['would_ask']} of {plan['clips']} clips would be asked about")
            return
        if export or import_:
            result = run.exchange_captions(place, settings, give=export, take=import_)
        elif verify:
            from realdpo.curate.caption import verify as second

            result = second.verify_captions(place, judge, settings)
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
        if json_:
            cli.print_json(result)
        else:
            print(run.describe_captions(result))


@app.command(epilog="Example: realdpo curate embed -w work --set weights=laion2b_s34b_b79k")
def embed(
    workspace: options.Workspace,
    model: Annotated[
        str | None, typer.Option(help="open_clip model, or local-dir:/folder.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Name of open_clip's weights, or a .safetensors file.")
    ] = None,
    aesthetic: Annotated[
        str | None,
        typer.Option(help="Weights of the LAION aesthetic head (.safetensors or .pth), ViT-L-14."),
    ] = None,
    show_settings: bool = options.settings_option("curate embed"),
    config: options.Config = None,
    set_: options.Set = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
) -> None:
    """Embed the clips with open_clip and score caption fit, action, realness and nearest clip."""
    with cli.guard_command(json_):
        from realdpo.config import resolve_settings, settings_to_toml
        from realdpo.curate.embed import EmbedConfig
        from realdpo.workspace import Workspace

        place = Workspace(workspace)
        flags = {"model": model, "weights": weights, "aesthetic": aesthetic}
        settings = resolve_settings(
            EmbedConfig, section="embed", file=config, sets=set_ or (), flags=flags
        )
        toml = settings_to_toml("embed", settings)
        if dry_run:
            cli.print_json({"config": toml}) if json_ else print(toml)
            return
        from realdpo.curate import embed as step

        result = step.embed_clips(place, settings)
        place.save_config("curate embed", toml)
        if json_:
            cli.print_json(result)
        else:
            print(step.describe_embedding(result))


@app.command(epilog='Example: realdpo curate search "a person braiding hair" -w work')
def search(
    workspace: options.Workspace,
    text: Annotated[str, typer.Argument(help="What should be seen, in plain words.")],
    top: Annotated[int, typer.Option(help="How many clips to list.", min=1)] = 10,
    every: Annotated[bool, typer.Option("--all", help="Look among dropped clips too.")] = False,
    json_: options.Json = False,
) -> None:
    """List the clips that look most like a description (after `realdpo curate embed`)."""
    with cli.guard_command(json_):
        from realdpo.curate import search as look
        from realdpo.workspace import Workspace

        hits = look.search_clips(Workspace(workspace), text, top=top, every=every)
        cli.print_json(hits) if json_ else print(look.list_hits(hits))
