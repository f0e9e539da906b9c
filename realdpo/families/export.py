"""LoRA weights under the names that other tools read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from realdpo.errors import UserError
from realdpo.families import trainable_family
from realdpo.families.base import Spec
from realdpo.families.names import to_original
from realdpo.files import atomic_path

Format = Literal["diffusers", "comfyui", "kohya"]


def export_lora(
    lora: Path, spec: Spec, out: Path, format_: Format = "comfyui", dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Write the LoRA file `lora` of a run to `out`; what was written.

    diffusers: the same names and alpha. comfyui: the authors' module names with lora_A and lora_B,
    the scale multiplied into B. kohya: `lora_unet_` names with lora_down, lora_up and alpha, as
    musubi-tuner writes them. dtype: bfloat16, float16 or float32. Raises UserError for a family
    whose original names are not known.
    """
    import diffusers
    import torch
    from safetensors.torch import load_file, save_file

    layers = {n.removeprefix("transformer."): t for n, t in load_file(lora).items()}
    told = _metadata(lora)
    family, kind = trainable_family(spec), getattr(torch, dtype)
    metadata = {"format": "pt"}
    if format_ == "diffusers":
        made = {f"transformer.{name}": tensor for name, tensor in layers.items()}
        metadata = told
    else:
        if not family.ORIGINAL:
            raise UserError(
                f"{spec.pipeline} has no names of its own that other tools read",
                "use --format diffusers",
            )
        config = json.loads(told.get("lora_adapter_metadata", "{}"))
        rank = config.get("transformer.r")
        scale = config["transformer.lora_alpha"] / rank if rank else 1.0
        with torch.device("meta"):  # for the names and shapes alone
            model = getattr(diffusers, spec.classes[spec.component]).from_config(spec.transformer)
        made = {}
        for stem, (down, up) in to_original(
            layers, family, model, comfy=format_ == "comfyui"
        ).items():
            if format_ == "comfyui":
                made[f"{family.PREFIX}{stem}.lora_A.weight"] = down
                made[f"{family.PREFIX}{stem}.lora_B.weight"] = up * scale
            else:
                name = "lora_unet_" + stem.replace(".", "_")
                made[f"{name}.lora_down.weight"] = down
                made[f"{name}.lora_up.weight"] = up
                made[f"{name}.alpha"] = torch.tensor(scale * len(down))
    whole = {name: tensor.to(kind).contiguous() for name, tensor in made.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        save_file(whole, temporary, metadata=metadata)
    return {"file": str(out), "format": format_, "dtype": dtype, "layers": len(layers) // 2}


def export_run(
    runs: Path, name: str, format_: Format, dtype: str, out: Path | None = None
) -> dict[str, Any]:
    """`export_lora` of the run `name` under `runs`; a file each where two transformers were trained.

    Returns what was written: `files`, the first of them as `file`, and the layers of all. Raises
    UserError when the run has no LoRA.
    """
    from realdpo.config import load_toml
    from realdpo.families.load import read_spec
    from realdpo.families.weights import COMPONENT, LORA_FILE

    folder = runs / name
    loras = sorted((folder / "weights").glob(f"{Path(LORA_FILE).stem}*.safetensors"))
    if not loras:
        known = sorted(p.parent.parent.name for p in runs.glob(f"*/weights/{LORA_FILE}"))
        raise UserError(
            f"the run {name} has no LoRA weights in {folder / 'weights'}",
            f"runs with LoRA weights: {', '.join(known) or 'none'}",
        )
    settings = load_toml(folder / "config.toml").get("train", {})
    spec = read_spec(
        settings.get("model", "tiny"),
        settings.get("revision"),
        settings.get("expert", "high"),
        settings.get("task"),
    )
    written = []
    for lora in loras:
        spec = replace(spec, component=_metadata(lora).get(COMPONENT, spec.component))
        suffix = ""
        if "transformer_2" in spec.classes:  # ComfyUI and others take one file for each expert
            suffix = "_high_noise" if spec.component == "transformer" else "_low_noise"
        target = folder / "export" / f"{name}{suffix}-{format_}.safetensors"
        if out is not None:
            target = out.with_stem(out.stem + suffix) if len(loras) > 1 else out
        written.append(export_lora(lora, spec, target, format_, dtype))
    files = [made["file"] for made in written]
    layers = sum(made["layers"] for made in written)
    return {**written[0], "files": files, "layers": layers}


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})
