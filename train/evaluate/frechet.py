"""Frechet distance between sets of videos in the features of a named, trained network.

The number has a meaning only together with the network's name and weights, so both are part of its
name (`frechet.videomae@1a2b3c4d`). A network whose weights did not load completely is refused,
because random features would give a number that looks valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realdpo.errors import UserError
from realdpo.ids import file_hash

NETWORKS = ("videomae", "r3d_18", "mc3_18", "r2plus1d_18", "mvit_v2_s", "swin3d_t")


@dataclass(frozen=True)
class FeatureNetwork:
    """`features` maps a video, uint8 [F, H, W, 3], to a vector float64 [D]."""

    name: str
    features: Callable[[np.ndarray], np.ndarray]


def load_network(spec: str, device: str = "cpu") -> FeatureNetwork:
    """`NETWORK:PATH`: a VideoMAE folder (transformers) or torchvision weights as a file.

    Raises UserError for an unknown network, a missing path, or incomplete weights.
    """
    kind, _, path = spec.partition(":")
    if kind not in NETWORKS or not path:
        raise UserError(
            f"{spec!r} names no feature network",
            f"give NETWORK:PATH-OF-ITS-WEIGHTS, where NETWORK is one of {', '.join(NETWORKS)}",
        )
    if not Path(path).exists():
        raise UserError(f"the weights of {kind} are missing: {path}")
    load = _load_videomae if kind == "videomae" else _load_torchvision
    return load(kind, Path(path), device)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians fitted to features [n, D] and [m, D].

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^1/2). The trace of the root is the sum of the roots of
    the eigenvalues of A^1/2 B A^1/2. That matrix is symmetric, so no complex root appears.
    Raises ValueError for fewer than two rows.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2 or len(b) < 2:
        raise ValueError("a covariance needs at least two videos")
    mean = a.mean(axis=0) - b.mean(axis=0)
    # With A = X'X and B = Y'Y, the eigenvalues are the squared singular values of Y X', an [m, n]
    # matrix. With fewer videos than features, this is cheaper and more stable than D x D roots.
    x = (a - a.mean(axis=0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(axis=0)) / np.sqrt(len(b) - 1)
    root = np.linalg.svd(y @ x.T, compute_uv=False).sum()
    return float(max(0.0, mean @ mean + (x**2).sum() + (y**2).sum() - 2 * root))


def features_of(network: FeatureNetwork, videos: Sequence[np.ndarray]) -> np.ndarray:
    """Features [videos, D]."""
    return np.stack([network.features(video) for video in videos])


def _load_videomae(kind: str, path: Path, device: str) -> FeatureNetwork:
    import torch
    from transformers import VideoMAEModel

    try:
        loaded: Any = VideoMAEModel.from_pretrained(
            path, local_files_only=True, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a VideoMAE folder: {str(error).splitlines()[0]}") from None
    model, info = loaded
    lacking = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise UserError(f"{path} lacks weights of VideoMAE, for example {lacking[0]}")
    model = model.to(device).eval()
    size, count = int(model.config.image_size), int(model.config.num_frames)

    def features(video: np.ndarray) -> np.ndarray:
        pixels = _sampled(video, count, size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        with torch.no_grad():
            hidden = model(pixels.transpose(1, 2).to(device)).last_hidden_state
        values: np.ndarray = hidden.mean(dim=1)[0].double().cpu().numpy()
        return values

    weights = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    return FeatureNetwork(f"frechet.{kind}@{file_hash(weights[0])[:8]}", features)


def _load_torchvision(kind: str, path: Path, device: str) -> FeatureNetwork:
    import torch
    import torchvision.models.video

    model: Any = getattr(torchvision.models.video, kind)(weights=None)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)  # strict: raises if a weight is missing
    except Exception as error:
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path} does not hold the weights of {kind}: {line}") from None
    head = "fc" if hasattr(model, "fc") else "head"
    setattr(model, head, torch.nn.Identity())
    model = model.to(device).eval()
    size, count = (224, 16) if kind in ("mvit_v2_s", "swin3d_t") else (112, 16)

    def features(video: np.ndarray) -> np.ndarray:
        mean, std = (
            ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
            if kind == "mvit_v2_s"
            else ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
        )
        if kind == "swin3d_t":
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        with torch.no_grad():
            values: np.ndarray = (
                model(_sampled(video, count, size, mean, std).to(device))[0].double().cpu().numpy()
            )
            return values

    return FeatureNetwork(f"frechet.{kind}@{file_hash(path)[:8]}", features)


def _sampled(
    video: np.ndarray, count: int, size: int, mean: Sequence[float], std: Sequence[float]
) -> Any:
    """float32 [1, 3, count, size, size]: evenly spaced frames, centre square, normalised."""
    import torch

    index = np.linspace(0, len(video) - 1, count).round().astype(int)
    side = min(video.shape[1:3])
    top, left = (video.shape[1] - side) // 2, (video.shape[2] - side) // 2
    square = video[index, top : top + side, left : left + side]
    pixels = torch.from_numpy(np.ascontiguousarray(square)).permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(
        pixels, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    return pixels.transpose(0, 1)[None]
