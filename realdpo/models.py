"""Which model a name stands for: `tiny`, a local folder, or an id on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from realdpo.errors import UserError

TINY = "tiny"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def tiny_folder() -> Path:
    """The folder of the small image-to-video model that ships with the package."""
    return Path(__file__).parent / "demo" / "tiny" / "model"


def model_name(model: str) -> str:
    """What pairs call a model: `tiny`, a folder's own name, or a Hub id."""
    folder = Path(model).expanduser()
    return folder.resolve().name if model != TINY and folder.is_dir() else model


def resolve_model(name: str) -> str:
    """What `from_pretrained` takes: a folder's path or a Hub id.

    Raises UserError when `name` is neither `tiny`, a folder with a model_index.json,
    nor of the form owner/name.
    """
    if name == TINY:
        return str(tiny_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(
                f"{folder} holds no model_index.json, so it is not a diffusers pipeline",
                "give the folder that save_pretrained() wrote",
            )
        return str(folder)
    if _HUB_ID.match(name) and not folder.exists():
        return name
    raise UserError(
        f"no model named {name!r}",
        "use tiny, a pipeline folder, or a Hub id such as THUDM/CogVideoX-5b-I2V",
    )
