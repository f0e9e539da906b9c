"""Pipelines that no family knows: what their files cannot say is asked for, and one video is tried."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pipelines
from pair_workspace import fabricate

from realdpo import tables
from realdpo.errors import UserError
from realdpo.media.decode import read_clip
from realdpo.pairs.building import build_pairs
from realdpo.pairs.config import BuildConfig
from realdpo.workspace import Workspace

SHAPE = {"fps": 8.0, "width": 64, "height": 64, "frames": 9}
ALONE = {"losers": 1, "steps": 6, "roundtrip_win": False}


@pytest.fixture(scope="module")
def vace(tmp_path_factory) -> Path:
    return tiny_pipelines.save("wan-vace", tmp_path_factory.mktemp("vace") / "model")


@pytest.fixture
def workspace(tmp_path, bikes) -> Workspace:
    return fabricate(tmp_path / "work", bikes, clips=2)


def build(workspace: Workspace, model: Path, **settings) -> dict:
    config = BuildConfig(model=str(model), **{**ALONE, **settings})
    return build_pairs(workspace, config, devices="cpu")


def test_what_cannot_be_read_from_its_files_must_be_said(workspace, vace) -> None:
    with pytest.raises(UserError, match="does not know the latents of WanVACEPipeline"):
        build(workspace, vace, **SHAPE, roundtrip_win=True)
    with pytest.raises(UserError, match="own fps cannot be read") as refused:
        build(workspace, vace, **{**SHAPE, "fps": None})
    assert "--set fps=" in str(refused.value.hint)


def test_a_wrong_number_of_frames_is_found_by_the_first_video(workspace, vace) -> None:
    """VACE rounds 8 frames to 9: losers would be longer than their winners."""
    with pytest.raises(UserError, match=r"made \(9, 64, 64, 3\), asked for 8 frames") as refused:
        build(workspace, vace, **{**SHAPE, "frames": 8})
    assert "nothing was made" in str(refused.value.hint)
    assert not list(workspace.pair_videos.rglob("*.mp4"))


def test_pairs_are_made_as_asked_and_said_not_to_be_for_training(
    workspace, vace, caplog, capsys
) -> None:
    caplog.set_level("INFO", logger="realdpo")
    assert build(workspace, vace, **SHAPE)["by_status"] == {"ok": 2}
    assert "`realdpo train` cannot train WanVACEPipeline" in caplog.text + capsys.readouterr().err
    for row in tables.read_table(workspace.pairs, tables.PAIRS).to_pylist():
        for name in (row["win"], *row["lose"]):
            video, fps = read_clip((workspace.pair_videos / name).read_bytes())
            assert (video.shape, fps) == ((9, 64, 64, 3), 8)


def test_an_error_of_any_kind_is_one_line_before_anything_is_made(workspace, tmp_path) -> None:
    """Allegro's VAE decodes in tiles only. Its numbers of frames are not Wan's: 8 is one of them."""
    model = tiny_pipelines.save("allegro", tmp_path / "allegro")
    with pytest.raises(UserError, match="Decoding without tiling has not been implemented"):
        build(workspace, model, **{**SHAPE, "frames": 8})
    assert not list(workspace.pair_videos.rglob("*.mp4"))
