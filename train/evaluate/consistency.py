"""How well frames fit the prompt and each other, in the embedding of an open_clip model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from realdpo.errors import UserError

Measure = Callable[[np.ndarray, str], dict[str, float]]


def load_consistency(spec: str, device: str = "cpu", frames: int = 8) -> Measure:
    """A function (video uint8 [F, H, W, 3], prompt) -> clip.text and clip.consistency.

    spec: `ARCHITECTURE:WEIGHTS`, e.g. `ViT-B-32:/weights/vit_b_32.safetensors`; WEIGHTS may also
    be a name that open_clip knows (`laion2b_s34b_b79k`), which it downloads. `local-dir:FOLDER`
    reads a folder with open_clip_config.json. Weights are never random: without them, UserError.
    """
    import open_clip
    import torch
    from PIL import Image

    architecture, _, weights = spec.partition(":")
    if not weights:
        raise UserError(f"{spec}: no weights named", "write it as ViT-B-32:/path/to/weights")
    name, pretrained = (spec, None) if architecture == "local-dir" else (architecture, weights)
    if pretrained and not Path(pretrained).exists():
        known = open_clip.list_pretrained_tags_by_model(architecture)
        if pretrained not in known:
            raise UserError(
                f"{weights} is neither a file nor weights that open_clip has for {architecture}",
                f"known: {', '.join(known) or 'none'}",
            )
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device
        )
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"open_clip cannot load {spec}: {line}") from None
    model.eval()

    def measure(video: np.ndarray, prompt: str) -> dict[str, float]:
        index = np.linspace(0, len(video) - 1, min(frames, len(video))).round().astype(int)
        with torch.no_grad():
            pictures = torch.stack([transform(Image.fromarray(video[i])) for i in index])
            image = model.encode_image(pictures.to(device), normalize=True).float()
            text = model.encode_text(tokenize([prompt]).to(device), normalize=True).float()
        return {
            "clip.text": float((image @ text.T).mean()),
            "clip.consistency": float(
                ((image[1:] * image[:1]).sum(-1) + (image[1:] * image[:-1]).sum(-1)).mean() / 2
            ),
        }

    return measure
