"""A video-language model of a real class, loaded as a real one is, on real frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_workspace import make_workspace, rows_of

from realdpo.curate.caption import run, show, transformers_vlm
from realdpo.curate.caption.config import CaptionConfig
from realdpo.errors import UserError


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, bikes: Path) -> list[show.ShownClip]:
    ws = make_workspace(tmp_path_factory.mktemp("w"), bikes, 3)
    rows = rows_of(ws)
    sources = {rows[0]["source_id"]: {"path": str(bikes)}}
    out = []
    for i, row in enumerate(rows):
        frames, seconds = show.clip_frames(ws.root, row, sources, 4, 64)
        out.append(show.ShownClip(row["clip_id"], frames, seconds, "What happens" + " here" * i))
    return out


def settings(folder: Path, **changes) -> CaptionConfig:
    return CaptionConfig(captioner=f"transformers:{folder}", **{"max_tokens": 12, **changes})


def test_a_batch_answers_as_each_clip_alone(tiny_qwen: Path, shown) -> None:
    """Left padding and positions are right only if company changes nothing."""
    ask = transformers_vlm.load_asker(str(tiny_qwen), settings(tiny_qwen, temperature=0.0))
    together = ask(shown)
    alone = [ask([one])[0] for one in shown]
    assert [a.raw for a in together] == [a.raw for a in alone]
    assert [a.tokens_in for a in together] == [a.tokens_in for a in alone]
    assert {a.finish for a in together} <= {"stop", "length"}
    assert all(0 < a.tokens_out <= 12 for a in together)


def test_the_model_sees_the_frames_and_reads_the_question(tiny_qwen: Path, shown) -> None:
    import torch

    processor, model = transformers_vlm.load_vlm(str(tiny_qwen), "cpu")

    def logits(one: show.ShownClip) -> torch.Tensor:
        with torch.inference_mode():
            return model(**transformers_vlm.encode_batch(processor, [one])).logits[0, -1]

    one = shown[0]
    same = logits(one)
    dark = logits(show.ShownClip(one.clip_id, one.frames // 4, one.seconds, one.question))
    backwards = logits(
        show.ShownClip(one.clip_id, one.frames[::-1].copy(), one.seconds, one.question)
    )
    slower = logits(show.ShownClip(one.clip_id, one.frames, one.seconds * 20, one.question))
    for other in (dark, backwards, slower):
        assert not torch.allclose(same, other, atol=1e-7)
    assert torch.equal(same, logits(one))


def test_through_the_workspace_and_again(tmp_path: Path, bikes: Path, tiny_qwen: Path) -> None:
    ws = make_workspace(tmp_path, bikes, 5)
    config = settings(tiny_qwen, frames=4, short_side=64, batch=2, language="")
    summary = run.caption_clips(ws, config)
    assert (summary["asked"], summary["clips"]) == (5, 5)
    assert summary["captioners"] == {"tiny-qwen-vl": 5}
    assert run.caption_clips(ws, config)["asked"] == 0
    assert all(row["caption_raw"] is not None for row in rows_of(ws))


def test_a_folder_is_known_by_its_content(tmp_path: Path, tiny_qwen: Path) -> None:
    import shutil

    copy = tmp_path / tiny_qwen.name
    shutil.copytree(tiny_qwen, copy)
    assert transformers_vlm.model_identity(str(copy)) == transformers_vlm.model_identity(
        str(tiny_qwen)
    )
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"vocab_size"', '"vocab_size" '))
    assert transformers_vlm.model_identity(str(copy)) != transformers_vlm.model_identity(
        str(tiny_qwen)
    )
    assert (
        transformers_vlm.model_identity("Qwen/Qwen2.5-VL-7B-Instruct")
        == "Qwen/Qwen2.5-VL-7B-Instruct"
    )


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config"):
        transformers_vlm.model_identity(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load the captioner"):
        transformers_vlm.load_vlm(str(tmp_path))
