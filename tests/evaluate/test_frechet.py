"""Frechet distance: closed forms, scipy, and the refusal of networks without their weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from realdpo.errors import UserError
from realdpo.train.evaluate import consistency, frechet, vbench


def test_distance_of_shifted_and_scaled_gaussians():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    assert frechet.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shift = np.array([1.0, 2, 0, 0, 0, -2])
    assert frechet.frechet_distance(x, x + shift) == pytest.approx(9.0)  # |shift|^2
    # Same mean, covariance times 4: tr(A + 4A - 2 * 2A) = tr(A).
    centred = x - x.mean(axis=0)
    expected = np.trace(np.cov(centred.T))
    assert frechet.frechet_distance(centred, 2 * centred) == pytest.approx(expected)


def test_distance_is_the_textbook_formula_also_with_fewer_videos_than_features():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 8)), rng.normal(0.3, 1.5, size=(25, 8))
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    mean = a.mean(0) - b.mean(0)
    expected = mean @ mean + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    few = rng.normal(size=(5, 64))
    assert frechet.frechet_distance(few, few + 1) == pytest.approx(64.0)
    with pytest.raises(ValueError, match="two videos"):
        frechet.frechet_distance(a[:1], b)


@pytest.fixture
def video():
    return np.random.default_rng(2).integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)


def test_videomae_loads_from_a_folder_and_refuses_missing_weights(tmp_path, video):
    from safetensors.torch import load_file, save_file
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    torch.manual_seed(0)
    VideoMAEModel(config).save_pretrained(tmp_path)
    network = frechet.load_network(f"videomae:{tmp_path}")
    features = frechet.features_of(network, [video, video[::-1]])
    assert features.shape == (2, 24)
    assert not np.allclose(features[0], features[1])  # the order of frames matters
    again = frechet.load_network(f"videomae:{tmp_path}")
    assert again.name == network.name
    np.testing.assert_array_equal(again.features(video), features[0])

    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(k for k in weights if "query" in k))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks weights"):
        frechet.load_network(f"videomae:{tmp_path}")


@pytest.mark.slow
def test_torchvision_network_takes_its_weights_from_a_file_only(tmp_path, video):
    from safetensors.torch import save_file
    from torchvision.models.video import r3d_18

    path = tmp_path / "r3d.safetensors"
    state = r3d_18(weights=None).state_dict()
    save_file(state, path)
    network = frechet.load_network(f"r3d_18:{path}")
    assert network.features(video).shape == (512,)
    assert network.name.startswith("frechet.r3d_18@")
    state.pop("fc.weight")
    save_file(state, path)
    with pytest.raises(UserError, match=r"weights of r3d_18.*fc\.weight"):
        frechet.load_network(f"r3d_18:{path}")


@pytest.mark.parametrize("spec", ["i3d", "i3d:/nowhere", "videomae", "videomae:/nowhere"])
def test_no_network_without_weights(spec):
    with pytest.raises(UserError):
        frechet.load_network(spec)


@pytest.mark.slow
def test_open_clip_consistency_with_a_real_architecture_and_weights_from_a_file(tmp_path, video):
    import open_clip
    from safetensors.torch import save_model

    torch.manual_seed(0)
    path = tmp_path / "vit.safetensors"
    save_model(open_clip.create_model("ViT-S-32-alt", pretrained=None), str(path))
    measure = consistency.load_consistency(f"ViT-S-32-alt:{path}", frames=3)
    still = np.repeat(video[:1], 6, axis=0)
    assert measure(still, "a person waves")["clip.consistency"] == pytest.approx(1.0, abs=1e-5)
    moving = measure(video, "a person waves")
    assert moving["clip.consistency"] < 1
    assert -1 <= moving["clip.text"] <= 1
    with pytest.raises(UserError, match="no weights named"):
        consistency.load_consistency("ViT-S-32-alt")
    with pytest.raises(UserError, match="neither a file nor weights"):
        consistency.load_consistency("ViT-S-32-alt:nonsense")


def test_vbench_results_are_read_by_video_and_its_absence_is_said():
    results = {
        "motion_smoothness": [
            0.5,
            [
                {"video_path": "x/000001.mp4", "video_results": 0.25},
                {"video_path": "x/000000.mp4", "video_results": 0.75},
            ],
        ],
        "dynamic_degree": [0.5, [{"video_path": "x/000000.mp4", "video_results": True}]],
    }
    rows = vbench.per_video(results, ["000000.mp4", "000001.mp4"])
    assert rows[0] == {"vbench.motion_smoothness": 0.75, "vbench.dynamic_degree": 1.0}
    assert rows[1] == {"vbench.motion_smoothness": 0.25}
    with pytest.raises(UserError, match="does not compute human_action"):
        vbench.check_dimensions(["human_action"])
    with pytest.raises(UserError, match="not installed"):
        vbench.check_dimensions(["motion_smoothness"])
