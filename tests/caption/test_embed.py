"""open_clip through its real loading paths, on real frames; and what vectors say, in numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from clip_workspace import make_workspace, rows_of

from realdpo.curate import actions, embed, meaning, search
from realdpo.curate.caption import run, verify
from realdpo.curate.caption.config import CaptionConfig, VerifyConfig
from realdpo.errors import UserError

TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP of open_clip's own classes with random weights, saved as a local model."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(
        TINY["embed_dim"],
        open_clip.CLIPVisionCfg(**TINY["vision_cfg"]),
        open_clip.CLIPTextCfg(**TINY["text_cfg"]),
    )
    save_file(model.state_dict(), place / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (place / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess})
    )
    return place


def settings(folder: Path, **changes) -> embed.EmbedConfig:
    return embed.EmbedConfig(model=f"local-dir:{folder}", weights="", frames=3, batch=7, **changes)


def test_clips_are_embedded_once(tmp_path: Path, bikes: Path, folder: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 7, uncut=5)
    run.caption_clips(ws, CaptionConfig())
    (tmp_path / rows_of(ws)[0]["path"]).write_bytes(b"no video")
    config = settings(folder, action_min=0.0)
    first = embed.embed_clips(ws, config)
    assert (first["embedded"], first["already_there"], len(first["failed"])) == (6, 0, 1)
    table = pq.read_table(embed.embeddings_path(ws))
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[48]"
    assert np.allclose(np.linalg.norm(embed.embedding_matrix(table), axis=1), 1, atol=1e-5)
    assert [len(f) for f in embed.frame_vectors(table)] == [3] * 6
    (tmp_path / rows_of(ws)[0]["path"]).write_bytes(
        (tmp_path / rows_of(ws)[1]["path"]).read_bytes()
    )
    again = embed.embed_clips(ws, config)
    assert (again["embedded"], again["already_there"]) == (1, 6)
    rows = rows_of(ws)
    assert embed.stored_embeddings(ws)[0]["clip_id"].to_pylist() == [row["clip_id"] for row in rows]
    assert rows[0]["semantic.nearest"] is None
    assert rows[1]["semantic.nearest"] == pytest.approx(1, abs=1e-5)  # the very same file
    for row in rows:
        assert -1 <= row["semantic.caption"] <= 1
        assert 0 < row["semantic.real"] < 1
        assert 0 < row["semantic.action"] <= 1
        assert row["action"][0] in {action.name for action in actions.read_taxonomy()}
        assert row["luma.mean"] >= 90


def test_embeddings_are_those_of_open_clip_itself(
    tmp_path: Path, bikes: Path, folder: Path
) -> None:
    import open_clip
    import torch
    from PIL import Image

    from realdpo.curate.caption import show

    ws = make_workspace(tmp_path, bikes, 2)
    embed.embed_clips(ws, settings(folder))
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    frames, _ = show.clip_frames(ws.root, rows_of(ws)[0], {}, 3, None)
    with torch.inference_mode():
        own = model.eval().encode_image(
            torch.stack([prepare(Image.fromarray(f)) for f in frames]), normalize=True
        )
    mean = own.mean(dim=0)
    stored = embed.embedding_matrix(embed.stored_embeddings(ws)[0])[0]
    assert np.allclose(stored, (mean / mean.norm()).numpy(), atol=1e-5)


def test_other_weights_are_another_embedding(tmp_path: Path, bikes: Path, folder: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    ws = make_workspace(tmp_path / "w", bikes, 2)
    mine = tmp_path / "model"
    shutil.copytree(folder, mine)
    config = settings(mine)
    first = embed.embed_clips(ws, config)
    weights = load_file(mine / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] += 1
    save_file(weights, mine / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="not those that the clips were embedded with"):
        search.search_clips(ws, "a bicycle")
    second = embed.embed_clips(ws, config)
    assert second["embedded"] == 2
    assert first["weights_id"] != second["weights_id"]


def test_search_lists_by_cosine(tmp_path: Path, bikes: Path, folder: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 5, uncut=5)
    embed.embed_clips(ws, settings(folder))
    hits = search.search_clips(ws, "a person on a bicycle", top=3)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    table, config = embed.stored_embeddings(ws)
    cosines = (
        embed.embedding_matrix(table)
        @ embed.load_embedder(config).texts(["a person on a bicycle"])[0]
    )
    assert [hit["cosine"] for hit in hits] == pytest.approx(sorted(cosines)[::-1][:3], abs=1e-4)
    assert search.list_hits(hits).count("\n") == 2
    with pytest.raises(UserError, match="nothing to search"):
        search.search_clips(ws, " ")


@pytest.mark.slow
def test_a_model_by_name_with_weights_from_a_file(tmp_path: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    model = open_clip.create_model("ViT-S-32-alt")
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    found = [
        embed.load_embedder(embed.EmbedConfig(model="ViT-S-32-alt", weights=str(tmp_path / name)))
        for name in ("vit.safetensors", "vit.pt")
    ]
    picture = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    assert np.array_equal(found[0].images([picture]), found[1].images([picture]))
    assert found[0].weights_id == found[1].weights_id
    assert found[0].width == 256


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("ViT-S-32-alt", "", "would be noise"),
        ("ViT-S-32-alt", "no_such_tag", "neither a file"),
        ("NoSuchModel", "x", "neither a file"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(model: str, weights: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        embed.load_embedder(embed.EmbedConfig(model=model, weights=weights))


def test_the_embedder_judges_captions(tmp_path: Path, bikes: Path, folder: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 4, uncut=4)
    run.caption_clips(ws, CaptionConfig())
    judge = VerifyConfig(verifier="open_clip")
    with pytest.raises(UserError, match="embeddings.parquet"):
        verify.verify_captions(ws, judge, CaptionConfig())
    embed.embed_clips(ws, settings(folder, action_min=0.0))
    summary = verify.verify_captions(ws, judge, CaptionConfig())
    assert summary["verifier"].startswith("open_clip:")
    assert [row["verify.fit"] for row in rows_of(ws)] == [None] * 4  # one caption for all
    assert all(0 <= row["verify.action"] <= 1 for row in rows_of(ws))


# --- numbers worked by hand -----------------------------------------------------------------

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def test_zero_shot_is_a_softmax_of_scaled_cosines() -> None:
    odds = meaning.zero_shot(
        meaning.unit_vectors([EAST]), meaning.unit_vectors([EAST, NORTH, WEST]), 2.0
    )
    e = np.exp([2.0, 0.0, -2.0])
    assert odds[0] == pytest.approx(e / e.sum(), abs=1e-6)


def test_standing_by_hand() -> None:
    clips, texts = (
        meaning.unit_vectors([EAST, NORTH, EAST]),
        meaning.unit_vectors([EAST, EAST, WEST]),
    )
    # Texts differ in two: east and west. Clip 0 beats west; clip 1 ties; clip 2 loses.
    assert meaning.text_standing(clips, texts).tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(meaning.text_standing(clips, meaning.unit_vectors([EAST] * 3))).all()


def test_nearest_and_duplicates_by_hand() -> None:
    clips = meaning.unit_vectors([EAST, NORTH, [1.0, 0.01], WEST, EAST])
    best, which = meaning.nearest_before(clips)
    assert which.tolist() == [-1, 0, 0, 1, 0]
    assert np.isnan(best[0])
    assert best[1:] == pytest.approx([0, 1 / np.sqrt(1.0001), 0, 1], abs=1e-6)
    assert sorted(meaning.near_duplicates(clips, 0.98)) == [(0, 2), (0, 4), (2, 4)]


def test_blocks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    clips = meaning.unit_vectors(rng.normal(size=(2500, 4)))
    cosines = np.tril(clips @ clips.T, k=-1) + np.triu(np.full((2500, 2500), -2.0))
    best, _ = meaning.nearest_before(clips)
    assert best[1:] == pytest.approx(cosines.max(axis=1)[1:], abs=1e-6)
    pairs = meaning.near_duplicates(clips, 0.999)
    assert set(pairs) == {(int(j), int(i)) for i, j in np.argwhere(cosines >= 0.999)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_aesthetic_head(tmp_path: Path, suffix: str) -> None:
    """The published chain 768-1024-128-64-16-1, shrunk, against torch's own layers."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = [48, 32, 16, 8, 4, 1]
    layers = {f"layers.{2 * i}": torch.nn.Linear(*sizes[i : i + 2]) for i in range(5)}
    state = {
        f"{name}.{kind}": getattr(layer, kind).detach()
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    }
    file = tmp_path / f"head{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    frames = meaning.unit_vectors(np.random.default_rng(0).normal(size=(5, 48)))
    wanted = torch.from_numpy(frames)
    for layer in layers.values():
        wanted = layer(wanted)
    got = meaning.predict_aesthetics(frames, meaning.aesthetic_head(file, 48))
    assert got == pytest.approx(wanted.detach().numpy()[:, 0], abs=1e-5)
    with pytest.raises(UserError, match="no aesthetic head for embeddings of 512"):
        meaning.aesthetic_head(file, 512)
    file.write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot read"):
        meaning.aesthetic_head(file, 48)


def test_a_head_scores_the_clips(tmp_path: Path, bikes: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    ws = make_workspace(tmp_path / "w", bikes, 2, uncut=2)
    head = tmp_path / "head.safetensors"
    torch.manual_seed(0)
    save_file({"weight": torch.randn(1, 48), "bias": torch.full((1,), 5.0)}, head)
    embed.embed_clips(ws, settings(folder, aesthetic=str(head)))
    table = embed.stored_embeddings(ws)[0]
    layers = meaning.aesthetic_head(head, 48)
    wanted = [
        meaning.predict_aesthetics(frames, layers).mean() for frames in embed.frame_vectors(table)
    ]
    assert [row["semantic.aesthetic"] for row in rows_of(ws)] == pytest.approx(wanted, abs=1e-5)
