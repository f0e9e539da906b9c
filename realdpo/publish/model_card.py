"""The card of published weights: how to run them, and what training changed, with measurements."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from markupsafe import Markup

import realdpo
from realdpo.config import load_toml
from realdpo.families import family_of
from realdpo.families.spec import spec_of_folder
from realdpo.families.weights import LORA_FILE, LOW_LORA_FILE
from realdpo.models import TINY, tiny_folder
from realdpo.publish import markdown
from realdpo.publish.dataset_card import (
    Card,
    header_text,
    load_template,
    public_name,
    saved_settings_of,
    tidy_markdown,
)
from realdpo.train.methods import METHODS
from realdpo.workspace import Workspace

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_card(workspace: Workspace, run: Path, repo: str, dataset: str = "") -> Card:
    """Return the card of the weights of `run`, with its curves and an example to run.

    `dataset` is the repository of the training data, or empty if it is not published.
    """
    settings = _settings(run)
    base = str(settings.get("model", ""))
    objective = str(settings.get("objective", "dpo"))
    lora = (run / "weights" / "pytorch_lora_weights.safetensors").is_file()
    parts = _parts(run)
    held_out = {name: _lines(part / "held_out.jsonl") for name, part in parts.items()}
    log = {name: _lines(part / "log.jsonl") for name, part in parts.items()}
    stopped = _stopped(run)
    sample = _sample(workspace)
    curves = _curves(log, held_out)
    files: dict[str, bytes] = {}
    if curves:
        files["images/training.png"] = curves
    if sample and sample["first_frame"]:
        files["images/first_frame.png"] = sample["first_frame"]["bytes"]
    evaluations = _evaluations(workspace, run.name)
    readme = load_template("model.md.j2").render(
        header=Markup(header_text(_header(base, lora, sample, dataset))),  # noqa: S704 - our YAML
        name=repo.split("/")[-1],
        kind="A LoRA adapter" if lora else "Transformer weights",
        base=_base_name(base),
        trained=_trained(run, objective, workspace, dataset),
        version=realdpo.__version__,
        example=markdown.markdown_block(
            _example(
                repo,
                base,
                settings.get("revision"),
                lora,
                sample,
                _told(run / "weights"),
                (run / "weights" / LOW_LORA_FILE).is_file(),
            )
        ),
        held_out=_held_out(held_out),
        curves=bool(curves),
        evaluations=evaluations,
        exported=_exported(run),
        settings_table=_settings_table(settings, log),
        settings=markdown.markdown_block(saved_settings_of([run / "config.toml"])),
        limits=_limits(held_out, evaluations is not None, stopped, _is_local(base), objective),
        dataset=_dataset_link(dataset) if dataset else None,
    )
    return Card(tidy_markdown(readme), files)


def _parts(run: Path) -> dict[str, Path]:
    """The folders of the logs: the run, or each of its two transformers, by name."""
    found = {f"{name}-noise expert": run / name for name in ("high", "low")}
    return found if all((part / "log.jsonl").is_file() for part in found.values()) else {"": run}


def _settings(run: Path) -> dict[str, Any]:
    path = run / "config.toml"
    if not path.exists():
        return {}
    document = load_toml(path)
    found: dict[str, Any] = document.get("train", document)
    return found


def _stopped(run: Path) -> str:
    """Why the run ended before its last step, if it did."""
    return str(_summary(run).get("stopped") or "")


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def _sample(workspace: Workspace) -> dict[str, Any] | None:
    """A pair for the example, from a held-out split if there is one, without its videos."""
    for split in ("validation", "test", "train"):
        for path in sorted(workspace.pair_data.glob(f"{split}-*.parquet")):
            columns = [
                "prompt",
                "first_frame",
                "width",
                "height",
                "frames",
                "fps",
                "task",
                "steps",
                "guidance",
            ]
            file = pq.ParquetFile(path)
            if file.metadata.num_rows:
                return dict(file.read_row_group(0, columns=columns).slice(0, 1).to_pylist()[0])
    return None


def _is_local(base: str) -> bool:
    return base != TINY and (Path(base).exists() or not _HUB_ID.fullmatch(base))


def _base_name(base: str) -> Markup:
    if base != TINY and not _is_local(base):
        return markdown.markdown_link(base, f"https://huggingface.co/{base}")
    if base == TINY:
        return Markup("`tiny`, the small image-to-video model that comes with realdpo,")
    return markdown.markdown_code(public_name(base) or "an unnamed base model")


def _trained(run: Path, objective: str, workspace: Workspace, dataset: str) -> Markup:
    """The training data and method, as the end of a sentence about the weights."""
    count = _summary(run).get("train_pairs")
    method = METHODS[objective]
    if method.needs_losers:
        count = count or sum(
            pq.ParquetFile(path).metadata.num_rows
            for path in workspace.pair_data.glob("train-*.parquet")
        )
        unit = "pair" if count == 1 else "pairs"
    else:
        unit = "real clip" if count == 1 else "real clips"
    data = Markup(f"{count:,} {unit}" if count else unit)  # noqa: S704 - numbers and our words
    if dataset:
        data = Markup("{} of {}").format(data, _dataset_link(dataset))
    return Markup(method.card).format(data)  # noqa: S704 - our words


def _exported(run: Path) -> Markup | None:
    """The published files for other tools, beside the weights."""
    tools = {"comfyui": "ComfyUI", "kohya": "kohya's tools and musubi-tuner"}
    rows = [
        Markup("{}, for {}").format(markdown.markdown_code(f"export/{path.name}"), tools[kind])
        for path in exported_files(run)
        for kind in (path.stem.rpartition("-")[2],)
        if kind in tools
    ]
    return markdown.markdown_bullets(rows) if rows else None


def exported_files(run: Path) -> list[Path]:
    """Files that `export-lora` wrote into the run's folder, unless its weights are newer."""
    weights = [path.stat().st_mtime_ns for path in (run / "weights").rglob("*.safetensors")]
    return [
        path
        for path in sorted((run / "export").glob("*.safetensors"))
        if path.stat().st_mtime_ns >= max(weights, default=0)
    ]


def _dataset_link(dataset: str) -> Markup:
    return markdown.markdown_link(dataset, f"https://huggingface.co/datasets/{dataset}")


def _header(
    base: str, lora: bool, sample: Mapping[str, Any] | None, dataset: str
) -> dict[str, Any]:
    i2v = sample is not None and sample["task"] == "i2v"
    header: dict[str, Any] = {}
    if base == TINY:
        header["license"] = "apache-2.0"
    else:
        header |= {"license": "other", "license_name": "as the base model"}
    if base != TINY and not _is_local(base):
        header |= {"base_model": base, "base_model_relation": "adapter" if lora else "finetune"}
    header |= {
        "library_name": "diffusers",
        "pipeline_tag": "image-to-video" if i2v else "text-to-video",
        "tags": ["realdpo", "dpo", "human-action", "video", *(["lora"] if lora else [])],
    }
    if dataset:
        header["datasets"] = [dataset]
    return header


def _told_by(base: str) -> dict[str, Any]:
    """Arguments of the call that a local base needs beyond its pipeline's defaults."""
    folder = tiny_folder() if base == TINY else Path(base)
    if not (folder / "model_index.json").is_file():
        return {}
    return family_of(spec_of_folder(folder)).told()


def _example(
    repo: str,
    base: str,
    revision: str | None,
    lora: bool,
    sample: Mapping[str, Any] | None,
    told: Mapping[str, str],
    both: bool = False,
) -> str:
    """Complete Python code that loads base and weights, generates one clip, and writes it.

    told: the metadata of the LoRA's file: the pipeline's class and the transformer. both: whether
    there is a second file, for the second transformer.
    """
    kind = told.get("realdpo.pipeline", "DiffusionPipeline")
    component = told.get("realdpo.component", "transformer")
    taken = _arguments_of(kind)
    tiny = base == TINY
    dtype = "float32" if tiny else "bfloat16"
    where = "str(tiny_folder())" if tiny else repr(public_name(base) if _is_local(base) else base)
    given = f", revision={revision!r}" if revision and not tiny else ""
    lines = ["import torch", f"from diffusers import {'' if lora else 'AutoModel, '}{kind}"]
    i2v = sample is not None and sample["task"] == "i2v"
    lines.append(f"from diffusers.utils import export_to_video{', load_image' if i2v else ''}")
    if i2v:
        lines.append("from huggingface_hub import hf_hub_download")
    if tiny:
        lines.append("from realdpo.models import tiny_folder")
    lines.append("")
    parts = f"{where}{given}, torch_dtype=torch.{dtype}"
    if lora:
        lines += [f"pipe = {kind}.from_pretrained({parts})", _loading(kind, component, repo)]
        if both:
            second = f'weight_name="{LOW_LORA_FILE}", load_into_transformer_2=True'
            lines[-1] = f'pipe.load_lora_weights({repo!r}, weight_name="{LORA_FILE}")'
            lines.append(f"pipe.load_lora_weights({repo!r}, {second})")
    else:
        lines += [
            f'transformer = AutoModel.from_pretrained({repo!r}, subfolder="transformer", torch_dtype=torch.{dtype})',
            f"pipe = DiffusionPipeline.from_pretrained({parts}, transformer=transformer)",
        ]
    if not tiny:
        lines.append('pipe.to("cuda")')
    call = [
        f"prompt={json.dumps(sample['prompt'] if sample else 'a person walking', ensure_ascii=False)}"
    ]
    if i2v:
        lines.append(f'image = load_image(hf_hub_download({repo!r}, "images/first_frame.png"))')
        call.insert(0, "image=image")
    if sample:
        call += [
            f"width={sample['width']}, height={sample['height']}, num_frames={sample['frames']}",
            f"num_inference_steps={sample['steps'] or 50}, "
            f"guidance_scale={sample['guidance'] or 6.0:g}",
        ]
    call += [f"{name}={value}" for name, value in _told_by(base).items()]
    if taken is not None:  # some pipelines take the size from the picture, or have a guider
        length = "num_frames=" if "num_frames" in taken else "frames="
        each = [p.replace("num_frames=", length) for text in call for p in _separate(text)]
        call = [part for part in each if part.partition("=")[0] in taken]
    call.append('generator=torch.Generator("cpu").manual_seed(0)')
    lines += ["video = pipe(", *(f"    {part}," for part in call), ").frames[0]"]
    lines.append(
        f'export_to_video(video, "video.mp4", fps={round(sample["fps"] or 8) if sample else 8})'
    )
    return "\n".join(lines)


def _separate(text: str) -> list[str]:
    """Split `a=1, b=2` into its parts, but keep a prompt whole, since it may hold commas."""
    return [text] if text.startswith("prompt=") else text.split(", ")


def _told(weights: Path) -> dict[str, str]:
    """The metadata of the LoRA's file, or nothing if realdpo did not write it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights / "pytorch_lora_weights.safetensors", framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _arguments_of(kind: str) -> set[str] | None:
    """The argument names of a pipeline's call, or None for the base class, which can be any."""
    if kind == "DiffusionPipeline":
        return None
    import inspect

    import diffusers

    return set(inspect.signature(getattr(diffusers, kind).__call__).parameters)


def _loading(kind: str, component: str, repo: str) -> str:
    """The line that loads the LoRA. In some pipelines only the transformer has a loader."""
    import diffusers

    if kind != "DiffusionPipeline" and not hasattr(getattr(diffusers, kind), "load_lora_weights"):
        file = "pytorch_lora_weights.safetensors"
        return f'pipe.{component}.load_lora_adapter({repo!r}, weight_name="{file}")'
    second = ", load_into_transformer_2=True" if component == "transformer_2" else ""
    return f"pipe.load_lora_weights({repo!r}{second})"


def _held_out(parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    parts = {name: rows for name, rows in parts.items() if rows}
    if not parts:
        return None
    names = {
        "accuracy": "accuracy against the base model",
        "control_accuracy": "accuracy of the control",
        "contrast": "what the contrast lowers",
        "winner_error": "error on real clips",
        "loser_error": "loser's error",
        "winner_change": "error on real clips, relative change",
        "loser_change": "loser's error, relative change",
        "loser_dominant_ratio": "pairs won although the winner got worse",
    }

    def shown(row: Mapping[str, Any], key: str) -> Any:
        value = row.get(key)
        return f"{value:+.2%}" if value is not None and key.endswith("_change") else value

    table = [
        {
            "measure": f"{part}: {name}" if part else name,
            "before": shown(rows[0], key),
            "after": shown(rows[-1], key),
        }
        for part, rows in parts.items()
        for key, name in names.items()
        if isinstance(rows[-1].get(key), (int, float))
    ]
    lasts = [rows[-1] for rows in parts.values()]
    return {
        "pairs": max(last.get("pairs", 0) for last in lasts),
        "table": markdown.markdown_table(table),
        "unit": "pair" if any("accuracy" in last for last in lasts) else "clip",
        "accuracy": any("accuracy" in last for last in lasts),
        "contrast": any("contrast" in last for last in lasts),
        "control": any("control_accuracy" in last for last in lasts),
    }


def _curves(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
) -> bytes | None:
    """One picture of loss, held-out accuracy and the winner's held-out error over the steps."""
    from realdpo import report

    def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
        known = [row for row in rows if isinstance(row.get(key), (int, float)) and "step" in row]
        return [row["step"] for row in known], [row[key] for row in known]

    panels: dict[str, dict[str, Any]] = {}
    for part, log in logs.items():
        held_out, of = measured[part], f" of the {part}" if part else ""
        panels[f"loss{of}"] = {"loss": series(log, "loss")}
        panels[f"held-out accuracy{of}"] = {
            "accuracy": series(held_out, "accuracy"),
            "control": series(held_out, "control_accuracy"),
        }
        panels[f"winner's held-out error, relative change{of}"] = {
            "winner": series(held_out, "winner_change")
        }
    panels = {
        title: {label: line for label, line in lines.items() if len(line[0]) > 1}
        for title, lines in panels.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    return report.encode_png(report.lines_figure(panels, x="step")) if panels else None


def _evaluations(workspace: Workspace, run: str) -> Markup | None:
    """The tables that `realdpo eval` wrote for a card, from evaluations of `run`."""
    found = []
    for path in sorted(workspace.evaluations.glob("*/summary.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        if run in made["systems"].values():
            table = path.with_name("table.md").read_text(encoding="utf-8").strip()
            found.append(f"#### {markdown.markdown_text(path.parent.name)}\n\n{table}")
    return Markup("\n\n".join(found)) if found else None  # noqa: S704 - written by realdpo itself


def _settings_table(
    settings: Mapping[str, Any], logs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Markup:
    keys = (
        "objective",
        "gamma",
        "contrast_weight",
        "contrast_above",
        "loss",
        "beta",
        "weights",
        "rank",
        "alpha",
        "reference",
        "losers",
        "steps",
        "batch",
        "accumulation",
        "lr",
        "schedule",
        "precision",
        "seed",
    )
    rows = [
        {"setting": markdown.markdown_code(key), "value": str(settings[key])}
        for key in keys
        if settings.get(key) not in (None, "")
        and (key not in ("rank", "alpha") or settings.get("weights") == "lora")
    ]
    for part, log in logs.items():
        if log:
            name = f"steps taken{', ' if part else ''}{part}"
            rows.append({"setting": name, "value": str(log[-1].get("step", len(log)))})
    return markdown.markdown_table(rows) if rows else Markup("This run kept no settings.")


def _limits(
    held_out: Mapping[str, Sequence[Mapping[str, Any]]],
    evaluated: bool,
    stopped: str,
    local: bool,
    objective: str,
) -> Markup:
    lasts = [rows[-1] for rows in held_out.values() if rows]
    limits = [
        "The model keeps the limits of its base model, including those that the training clips do "
        "not address."
    ]
    if METHODS[objective].limit:
        limits.append(METHODS[objective].limit)
    if local:
        limits.append(
            "The base model is a local folder that is not published; you need it to run the "
            "example."
        )
    if lasts and min(last.get("pairs") or 0 for last in lasts) < 30:
        limits.append("The held-out clips are few; differences of a few points are noise.")
    if any((last.get("winner_change") or 0) > 0 for last in lasts):
        limits.append(
            "The winner's held-out error rose: the model fits real clips less well than its base."
        )
    if stopped:
        limits.append(f"Training ended early: {stopped}")
    if not evaluated:
        limits.append("No person and no metric has compared its videos with the base model's.")
    return markdown.markdown_bullets(limits)
