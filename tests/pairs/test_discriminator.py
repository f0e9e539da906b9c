"""The upper bound: it finds what no number was made for, on films that it has not seen."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from pair_workspace import footage
from safetensors.torch import save_file

from realdpo.errors import UserError
from realdpo.pairs.discriminator import draw_patches, load_features, train_discriminator


@pytest.fixture(scope="module")
def moments(bikes) -> list[np.ndarray]:
    long = footage(bikes, 0, 78, (64, 64), 8)
    return [long[3 * k : 3 * k + 3] for k in range(24)]


def woven(video: np.ndarray) -> np.ndarray:
    """A faint chequered weave: no colour, no contrast and no grid that the audit measures."""
    y, x = np.mgrid[: video.shape[1], : video.shape[2]]
    weave = np.where((x // 3 + y // 3) % 2, 8, -8)[None, ..., None]
    return (video.astype(int) + weave).clip(0, 255).astype(np.uint8)


def tinted(video: np.ndarray) -> np.ndarray:
    return (video.astype(int) + np.array([24, 0, -24])).clip(0, 255).astype(np.uint8)


def judged(moments, plant, features=None) -> dict:
    """Pairs of moments that none shares with another, three films of four pairs each."""
    order = np.random.default_rng(0).permutation(len(moments))
    pairs = [
        [draw_patches(moments[order[2 * k]], plant(moments[order[2 * k + 1]]), False, k)]
        for k in range(len(order) // 2)
    ]
    films = [f"film {k // 4}" for k in range(len(pairs))]
    return train_discriminator(pairs, films, features)


def test_a_texture_that_nobody_thought_of_is_found(moments) -> None:
    found, alike = judged(moments, woven), judged(moments, lambda video: video)
    assert found["auc"] > 0.85
    assert found["auc"] > alike["auc"] + 0.1
    assert found["sources"] == 3
    assert found["auc_low"] is None
    assert "3 sources, too few for an interval" in found["words"]


def test_one_film_is_no_ground_to_judge_on(moments) -> None:
    pair = [draw_patches(moments[0], moments[1], True, 0)]
    with pytest.raises(UserError, match="from one source"):
        train_discriminator([pair, pair], ["a", "a"])


def test_a_frozen_network_finds_it_as_well(moments, tmp_path) -> None:
    """A small CLIP of random weights, saved and loaded as a released one is."""
    sizes = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 48,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes}))
    torch.manual_seed(0)
    kinds = {"vision_cfg": open_clip.CLIPVisionCfg, "text_cfg": open_clip.CLIPTextCfg}
    model = open_clip.CLIP(32, **{name: kind(**sizes[name]) for name, kind in kinds.items()})
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    features = load_features(f"local-dir:{tmp_path}")
    patches = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    assert features(patches).shape == (3, 32)
    found, alike = (judged(moments, plant, features) for plant in (tinted, lambda video: video))
    assert found["auc"] > 0.85
    assert found["auc"] > alike["auc"] + 0.1
    assert "a linear score on a frozen network" in found["words"]


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B-32:/nowhere.safetensors", "local-dir:/nowhere"]
)
def test_a_network_without_weights_is_refused(name) -> None:
    with pytest.raises(UserError, match="no weights named|neither a file|cannot load"):
        load_features(name)
