"""How well the frames fit the prompt and each other, by the embedding of an open_clip model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from realdpo.openclip import load_openclip, split_openclip_name

Measure = Callable[[np.ndarray, str], dict[str, float]]


def load_consistency(spec: str, device: str = "cpu", frames: int = 8) -> Measure:
    """A function (video uint8 [F, H, W, 3], prompt) -> clip.text and clip.consistency.

    spec: `ARCHITECTURE:WEIGHTS`, e.g. `ViT-B-32:/weights/vit_b_32.safetensors`; WEIGHTS may also
    be a name that open_clip knows (`laion2b_s34b_b79k`), which it downloads. `local-dir:FOLDER`
    reads a folder with open_clip_config.json. Weights are never random: without them, UserError.
    """
    import torch
    from PIL import Image

    model, transform, tokenize = load_openclip(*split_openclip_name(spec), device)

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
