"""The whole way on real footage with the tiny model, by the same functions as the four commands.

Every step keeps what it has finished in the workspace, so the demo goes on wherever it was
stopped; what is printed is read from the tables and logs that the steps wrote.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids, tables
from realdpo.config import settings_to_toml
from realdpo.demo import footage
from realdpo.errors import UserError
from realdpo.files import write_bytes, write_text
from realdpo.progress import progress_bar
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from realdpo.curate.config import IngestConfig
    from realdpo.pairs.config import BuildConfig
    from realdpo.train.config import TrainConfig

REPO = "someone/realaction-mini"
SHOWN = 3  # held-out pairs that are sampled again after training and put on the page


@dataclass(frozen=True)
class DemoPlan:
    """What the demo asks of each command, and with which words one would ask it oneself."""

    films: str
    ingest: IngestConfig
    build: BuildConfig
    train: TrainConfig
    words: tuple[tuple[str, ...], ...]


def run_demo(
    workspace: Workspace, own: Path | None = None, *, quick: bool = False
) -> dict[str, Any]:
    """Do all of it in `workspace` and return what was measured.

    own: a folder with films, or with a manifest.csv; None fetches the demo's footage. quick: two
    films and a dozen steps. Raises UserError when the footage cannot be had or gives no clip.
    """
    began = time.monotonic()
    films = _films(own, quick)
    plan = _plan(workspace, films, quick)

    from realdpo.curate.ingestion import ingest_footage

    workspace.save_config("curate ingest", settings_to_toml("ingest", plan.ingest))
    funnel = ingest_footage(workspace, [films], plan.ingest)
    if not funnel["kept"]:
        raise UserError(
            f"none of the {funnel['clips']} clips in {films} was kept: {_reasons(funnel)}",
            f"see why: realdpo curate report -w {workspace.root}",
        )

    from realdpo.pairs.building import build_pairs

    workspace.save_config("pairs build", settings_to_toml("pairs", plan.build))
    pairs = build_pairs(workspace, plan.build)

    from realdpo.train import loop

    with workspace.lock("train"):
        workspace.save_config("train", settings_to_toml("train", plan.train))
        trained = loop.run_training(workspace, plan.train)

    from realdpo.publish import hub
    from realdpo.publish.config import PushConfig

    push = hub.plan_push(workspace, REPO, PushConfig())
    result: dict[str, Any] = {
        "funnel": funnel,
        "pairs": pairs,
        "training": {
            "run": plan.train.run_name,
            "steps": trained.steps,
            "seconds_per_step": trained.seconds_per_step,
            "trained_parameters": trained.trained_parameters,
            "held_out_pairs": trained.held_out_pairs,
            "held_out_by": trained.held_out_by,
            "before": trained.before,
            "after": trained.after,
            "stopped": trained.stopped,
        },
        "push": [
            {
                "repo": item.repo,
                "type": item.repo_type,
                "files": len(item.files),
                "bytes": item.size,
                "problems": [problem.text for problem in item.problems],
            }
            for item in push
        ],
    }
    page = _page(workspace, plan, result)
    result |= {"page": str(page), "seconds": time.monotonic() - began}
    write_text(workspace.step("demo") / "result.json", json.dumps(result, default=str))
    return result


def list_commands(workspace: Workspace, own: Path | None, quick: bool) -> list[str]:
    """The four commands that do what the demo does, as one would type them."""
    films = str(own) if own else str(footage.cache_folder() / "manifest.csv")
    return [shlex.join(("realdpo", *words)) for words in _plan(workspace, films, quick).words]


def describe_demo(result: Mapping[str, Any]) -> str:
    """The closing lines for a person."""
    from realdpo.train.runs import held_out_lines

    funnel, pairs, training = result["funnel"], result["pairs"], result["training"]
    lines = [
        f"footage    {funnel['sources']} films, {funnel['clips']} clips cut from their shots",
        f"dropped    {_reasons(funnel)}",
        f"kept       {funnel['kept']} clips: {_counts(funnel['splits'])}",
        f"pairs      {pairs['pairs']} with {pairs['losers']} losers; audit: {pairs['verdict']}",
        f"training   {training['steps']} steps at {training['seconds_per_step']:.2f} s, "
        f"{training['trained_parameters']:,} parameters",
    ]
    before, after = training["before"], training["after"]
    if before and after:
        lines += held_out_lines(before, after, training["held_out_by"])
    for item in result["push"]:
        lines.append(
            f"push       {item['type']} {item['repo']}: {item['files']} files, "
            f"{item['bytes'] / 1e6:.1f} MB, nothing sent"
        )
        lines += [f"           realdpo would refuse to push: {text}" for text in item["problems"]]
    lines.append(f"time       {result['seconds']:.0f} s in this run")
    lines.append(f"page       {result['page']}")
    return "\n".join(lines)


def write_pictures(workspace: Workspace, result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page's pictures as PNG files into `folder`; returns their paths."""
    from realdpo import report

    made = {
        "contact-sheet": _contact_sheet(workspace),
        "funnel": report.encode_png(_funnel_figure(result["funnel"])),
        "side-by-side": _strips(_shown_clips(workspace, result["training"]["run"])),
        "curves": report.encode_png(_curves_figure(workspace, result["training"]["run"])),
    }
    paths = []
    for name, data in made.items():
        write_bytes(folder / f"{name}.png", _reduced(data))
        paths.append(folder / f"{name}.png")
    return paths


# --- what is asked of the commands --------------------------------------------------------------


def _films(own: Path | None, quick: bool) -> str:
    """What `curate ingest` gets as its footage."""
    if own is None:
        wanted = ("bikes.mp4", "carphone.mp4")
        films = [film for film in footage.FILMS if film.file in wanted or not quick]
        folder = footage.cache_folder() / ("quick" if quick else "")
        return str(footage.fetch_films(folder, films))
    if not own.exists():
        raise UserError(f"{own} does not exist", "set --footage to a folder with films")
    manifest = own / "manifest.csv"
    return str(manifest if manifest.is_file() else own)


def _plan(workspace: Workspace, films: str, quick: bool) -> DemoPlan:
    """The same settings twice: as the functions take them and as the command line does."""
    from realdpo.curate.config import IngestConfig
    from realdpo.pairs.config import BuildConfig
    from realdpo.train.config import TrainConfig

    losers, sampling = (1, 4) if quick else (2, 20)
    steps, held_out, levels = (6, 6, 2) if quick else (60, 20, 5)
    rate = 5e-4
    place = ("-w", str(workspace.root))
    return DemoPlan(
        films,
        IngestConfig(target="tiny", caption="keywords"),
        # Guidance only adds noise to so small a model, and doubles its time.
        BuildConfig(model="tiny", losers=losers, steps=sampling, guidance=1.0),
        TrainConfig(
            model="tiny",
            steps=steps,
            lr=rate,
            warmup=5,
            held_out_every=held_out,
            held_out_levels=levels,
            checkpoint_every=held_out,
            # What a model of three million parameters makes is told from film at a glance; the
            # audit says so, and the demo shows what training does all the same.
            allow_shortcut=True,
        ),
        (
            ("curate", "ingest", films, *place, "--target", "tiny", "--caption", "keywords"),
            (
                "pairs",
                "build",
                *place,
                "--model",
                "tiny",
                "--losers",
                str(losers),
                "--steps",
                str(sampling),
                "--set",
                "guidance=1.0",
            ),
            (
                "train",
                *place,
                "--model",
                "tiny",
                "--steps",
                str(steps),
                "--lr",
                str(rate),
                "--set",
                "warmup=5",
                "--set",
                f"held_out_every={held_out}",
                "--set",
                f"held_out_levels={levels}",
                "--set",
                f"checkpoint_every={held_out}",
                "--set",
                "allow_shortcut=true",
            ),
            ("push-hub", REPO, *place, "--dry-run"),
        ),
    )


# --- what is shown ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShownPair:
    """A held-out pair on the page: label and mp4 of the clip, a loser, and the tuned model's."""

    prompt: str
    clips: tuple[tuple[str, bytes], ...]


def _page(workspace: Workspace, plan: DemoPlan, result: Mapping[str, Any]) -> Path:
    from markupsafe import Markup

    from realdpo import report

    training = result["training"]
    _sample_tuned(workspace, plan.build, training["run"])
    shown = _shown_clips(workspace, training["run"])
    players = Markup("").join(
        Markup("<h3>{}</h3>{}").format(pair.prompt, report.in_step(pair.clips)) for pair in shown
    )
    sections = [
        report.Section(
            "In short",
            Markup("<pre>{}</pre>").format(
                describe_demo({**result, "seconds": 0, "page": "this one"}).rsplit("\n", 2)[0]
            ),
        ),
        report.Section("Real and generated, side by side", players),
        report.Section("From footage to clips", _funnel_part(workspace, result["funnel"])),
        report.Section(
            "Training",
            report.render_figure(
                _curves_figure(workspace, training["run"]), "curves of the training run"
            ),
        ),
        report.Section(
            "Run the steps yourself",
            Markup("<pre>{}</pre>").format(
                "\n".join(shlex.join(("realdpo", *words)) for words in plan.words)
            ),
        ),
    ]
    document = report.render_page(
        "RealDPO demo", sections, "This run measured everything in this workspace."
    )
    return report.write_page(workspace.reports / "demo.html", document)


def _funnel_part(workspace: Workspace, funnel: Mapping[str, Any]) -> Any:
    from markupsafe import Markup

    from realdpo import report

    return Markup("{}{}").format(
        report.render_figure(_funnel_figure(funnel), "funnel from footage to kept clips"),
        report.render_image(_contact_sheet(workspace), "the middle frame of every kept clip"),
    )


def _sample_tuned(workspace: Workspace, config: BuildConfig, run: str) -> None:
    """Sample the shown pairs again with the trained weights, from the losers' own seeds."""
    weights = workspace.runs / run / "weights"
    rows = _held_out_rows(workspace)
    todo = [row for row in rows if not _tuned_file(workspace, row, run).is_file()]
    if not todo:
        return

    from fractions import Fraction

    import numpy as np
    from PIL import Image

    from realdpo.families import family_of
    from realdpo.families.load import load_pipeline
    from realdpo.families.sample import generate_video, settings_for
    from realdpo.families.spec import spec_of_pipeline
    from realdpo.pairs import conform

    pipe = load_pipeline(config.model, config.dtype, "cpu", str(weights), config.memory)
    family = family_of(spec_of_pipeline(pipe))
    with progress_bar("tuned", len(todo), "videos") as advance:
        for row in todo:
            image = np.asarray(Image.open(workspace.pair_videos / row["first_frame"]))
            settings = settings_for(
                pipe,
                width=row["width"],
                height=row["height"],
                frames=row["frames"],
                fps=row["fps"],
                steps=row["steps"],
                guidance=row["guidance"],
            )
            video = generate_video(pipe, family, row["prompt"], image, row["seeds"][0], settings)
            form = conform.Form(
                row["width"],
                row["height"],
                row["frames"],
                Fraction(row["fps"]).limit_denominator(1001),
            )
            data = conform.encode_side(conform.with_first_frame(video, image), form, config.crf)
            write_bytes(_tuned_file(workspace, row, run), data)
            advance()


def _held_out_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """Pairs to show: of the validation split, then of the test split, then any."""
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    rows = [row for row in rows if row["status"] == "ok" and row["first_frame"]]
    order = {"validation": 0, "test": 1}
    # One of each source before the second of any.
    rows.sort(key=lambda row: (order.get(row["split"], 2), row["pair_id"]))
    seen: dict[str, int] = {}
    for row in rows:
        row["turn"] = seen[row["source_id"]] = seen.get(row["source_id"], 0) + 1
    rows.sort(key=lambda row: (order.get(row["split"], 2), row["turn"]))
    return rows[:SHOWN]


def _tuned_file(workspace: Workspace, row: Mapping[str, Any], run: str) -> Path:
    weights = workspace.runs / run / "weights"
    what = ids.content_id(
        pair=row["pair_id"],
        weights=[ids.file_hash(path) for path in sorted(weights.rglob("*.safetensors"))],
    )
    return workspace.step("demo") / f"{what}.mp4"


def _shown_clips(workspace: Workspace, run: str) -> list[ShownPair]:
    shown = []
    for row in _held_out_rows(workspace):
        videos = workspace.pair_videos
        clips = [
            ("real", (videos / row["win"]).read_bytes()),
            ("base model", (videos / row["lose"][0]).read_bytes()),
        ]
        tuned = _tuned_file(workspace, row, run)
        if tuned.is_file():
            clips.append(("after training, same seed", tuned.read_bytes()))
        shown.append(ShownPair(f"{row['prompt']} ({row['split']})", tuple(clips)))
    return shown


def _contact_sheet(workspace: Workspace) -> bytes:
    from realdpo import report
    from realdpo.media.decode import read_clip

    clips = tables.read_table(workspace.clips, tables.CLIPS).to_pylist()
    kept = [clip for clip in clips if clip["keep"] and clip["status"] == "ok"]
    kept.sort(key=lambda clip: (clip["split"], clip["title"] or "", clip["start_s"]))
    frames = []
    for clip in kept[:24]:
        pictures, _ = read_clip(workspace.root / clip["path"])
        frames.append((clip["title"] or clip["clip_id"], pictures[len(pictures) // 2]))
    return report.contact_sheet(frames, columns=5, cell=150)


def _funnel_figure(funnel: Mapping[str, Any]) -> Figure:
    """Bars: clips cut, clips lost for each reason (one may have several), clips kept."""
    from matplotlib.figure import Figure

    bars = [("cut", funnel["clips"], "#8a8f98")]
    bars += [(name, count, "#c46a4a") for name, count in funnel["dropped"].items()]
    bars += [("kept", funnel["kept"], "#3f7fb5")]
    picture = Figure(figsize=(6.4, 0.6 + 0.34 * len(bars)), layout="constrained")
    axes = picture.add_subplot()
    names, counts, colours = zip(*bars, strict=True)
    drawn = axes.barh(range(len(bars)), counts, color=colours)
    axes.bar_label(drawn, padding=3)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set_xlabel("clips")
    axes.spines[["top", "right"]].set_visible(False)
    return picture


def _curves_figure(workspace: Workspace, run: str) -> Figure:
    from realdpo import report
    from realdpo.train import log

    folder = workspace.runs / run
    steps, held = log.read_log(folder / "log.jsonl"), log.read_log(folder / "held_out.jsonl")

    def of(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
        known = [row for row in rows if row.get(name) is not None]
        return [row["step"] for row in known], [row[name] for row in known]

    return report.lines_figure(
        {
            "loss": {"training": of(steps, "loss")},
            "held-out real clips": {
                "error": of(held, "winner_error"),
                "contrast": of(held, "contrast"),
            },
        },
        x="step",
    )


def _strips(shown: Sequence[ShownPair]) -> bytes:
    """Each clip as a row of its frames, a block of rows a pair, as one PNG."""
    import numpy as np

    from realdpo import report
    from realdpo.media.decode import read_clip

    rows: list[tuple[str, npt.NDArray[np.uint8]]] = []
    for pair in shown:
        for label, data in pair.clips:
            frames, _ = read_clip(data)
            rows.append(
                (
                    f"{label}: {pair.prompt}" if label == "real" else label,
                    np.concatenate(list(frames[::2]), axis=1),
                )
            )
    return report.contact_sheet(rows, columns=max(len(pair.clips) for pair in shown), cell=360)


def _reduced(data: bytes) -> bytes:
    """The same picture with a palette of 256 colours: a third of the bytes, for a repository."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()


def _reasons(funnel: Mapping[str, Any]) -> str:
    return _counts(funnel["dropped"]) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(_each(counts))


def _each(counts: Mapping[str, int]) -> Iterator[str]:
    for name, count in counts.items():
        yield f"{name} {count}"
