"""Models of open_clip: load one by name, with its own weights and never with random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from realdpo.errors import UserError

if TYPE_CHECKING:
    import torch

_WITH_WEIGHTS = ("local-dir:", "hf-hub:")


class OpenClipModel(NamedTuple):
    """A loaded model, its pictures' preparation (PIL image -> [3, h, w]) and its tokenizer."""

    model: Any
    prepare: Callable[[Any], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]


def split_openclip_name(name: str) -> tuple[str, str]:
    """(model, weights) of `MODEL:WEIGHTS`; weights are empty for `local-dir:` and `hf-hub:`."""
    if name.startswith(_WITH_WEIGHTS):
        return name, ""
    model, _, weights = name.partition(":")
    return model, weights


def load_openclip(
    model: str, weights: str, device: str = "cpu", precision: str = "fp32"
) -> OpenClipModel:
    """Load a model of open_clip, ready to evaluate.

    weights: a tag that open_clip knows, or a file. `local-dir:/folder` and `hf-hub:owner/name`
    bring their own. Raises UserError when the model cannot be loaded, or would keep random weights.
    """
    import open_clip

    carries = model.startswith(_WITH_WEIGHTS)
    if not carries:
        _check_weights(model, weights)
    try:
        network, _, prepare = open_clip.create_model_and_transforms(
            model, pretrained=None if carries else weights, precision=precision, device=device
        )
        tokenize = open_clip.get_tokenizer(model)
    except Exception as error:  # open_clip, the Hub and torch each raise their own kinds
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"open_clip cannot load {model} with {weights or 'its own weights'}: {line}",
            "check both names; without a network give a weights file or local-dir:/folder",
        ) from None
    network.eval()
    return OpenClipModel(network, prepare, tokenize)


def _check_weights(model: str, weights: str) -> None:
    import open_clip

    if not weights:
        raise UserError(
            f"no weights named for {model}, and without them its numbers would be noise",
            "name a tag or a file (MODEL:TAG, MODEL:/path/to/weights), or local-dir:/folder",
        )
    if Path(weights).exists():
        return
    known = open_clip.list_pretrained_tags_by_model(model)
    if weights not in known:
        raise UserError(
            f"{weights} is neither a file nor weights that open_clip has for {model}",
            f"weights that it has: {', '.join(known) or 'none'}",
        )
