"""Benchmarks: each known folder is read as its authors laid it out, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from realdpo.errors import UserError
from realdpo.train.evaluate import benchmark


def picture(path, size=(12, 8), value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def test_realaction_layout_with_images_two_levels_up(tmp_path):
    inner = tmp_path / "input" / "list" / "list"
    inner.mkdir(parents=True)
    for k in range(3):
        picture(tmp_path / "input" / "images" / f"{k}.png", value=k)
    (inner / "images.txt").write_text("".join(f"images/{k}.png\n" for k in range(3)))
    (inner / "videos.txt").write_text("a\nb\nc\n")  # also three lines, and not prompts
    (inner / "test.txt").write_text("he waves\nshe runs\n\nthey sit\n")
    items = benchmark.read_benchmark(inner)
    assert [item.prompt for item in items] == ["he waves", "she runs", "they sit"]
    assert benchmark.load_picture(items[2].image)[0, 0, 0] == 2
    assert len({item.item_id for item in items}) == 3
    (inner / "base").mkdir()
    (inner / "base" / "1.mp4").write_bytes(b"")
    assert benchmark.find_video(inner / "base", items[1], 0).name == "1.mp4"
    assert benchmark.find_video(inner / "base", items[1], 1) is None
    (inner / "test.txt").write_text("only one\n")
    with pytest.raises(UserError, match="no file with 3 prompts"):
        benchmark.read_benchmark(inner)


def test_vbench_layout_takes_the_crop_nearest_in_aspect(tmp_path):
    info = [
        {"prompt_en": "a man walks", "image_name": "man.jpg", "dimension": ["i2v_subject"]},
        {"prompt_en": "a man walks", "image_name": "man.jpg", "dimension": ["camera_motion"]},
        {"prompt_en": "a sea", "image_name": "sea.jpg", "dimension": ["i2v_background"]},
    ]
    (tmp_path / "vbench2_i2v_full_info.json").write_text(json.dumps(info))
    for crop, value in (("1-1", 10), ("8-5", 120), ("16-9", 230)):
        for name in ("man.jpg", "sea.jpg"):
            picture(tmp_path / "crop" / crop / name, value=value)
    items = benchmark.read_benchmark(tmp_path, aspect=720 / 480)
    assert [item.prompt for item in items] == ["a man walks", "a sea"]  # each once
    assert abs(int(benchmark.load_picture(items[0].image)[0, 0, 0]) - 120) < 3
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a man walks-2.mp4").write_bytes(b"")
    assert benchmark.find_video(tmp_path / "videos", items[0], 2) is not None
    (tmp_path / "crop" / "8-5" / "sea.jpg").rename(tmp_path / "elsewhere.jpg")
    assert benchmark.read_benchmark(tmp_path)[1].image.parent.name == "16-9"  # next nearest


def test_pictures_name_their_prompts_or_have_a_text_beside(tmp_path):
    picture(tmp_path / "a woman jumps.png")
    picture(tmp_path / "two.jpg")
    (tmp_path / "two.txt").write_text("a man kneels\n")
    assert [i.prompt for i in benchmark.read_benchmark(tmp_path)] == [
        "a woman jumps",
        "a man kneels",
    ]


def test_real_clips_may_stand_beside_pictures_or_alone(tmp_path):
    picture(tmp_path / "one.png")
    for name in ("one", "two"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "two.txt").write_text("a man kneels\n")
    one, two = benchmark.read_benchmark(tmp_path)
    assert (one.prompt, one.image.name, one.clip.name) == ("one", "one.png", "one.mp4")
    assert (two.prompt, two.image, two.clip.name) == ("a man kneels", None, "two.mp4")
    assert two.names == ("two", "a man kneels", two.item_id)


def test_two_prompts_never_share_a_video_and_a_long_one_has_a_name(tmp_path):
    head = "a man in a blue jacket walks along the shore of a lake " * 4
    chinese = "一位穿着红色外套的女士沿着湖边的小路慢慢地走着，" * 6
    prompts = [
        f"{head}and sits",
        f"{head}and runs",
        chinese,
        f"{chinese}走",
        "a/b",
        "x" * 200,
        "🎬" * 99,
    ]
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, "a/b"]), encoding="utf-8")
    items = benchmark.read_benchmark(tmp_path)
    assert [item.prompt for item in items] == prompts  # the one that stands twice, once
    for item in items:
        assert all(len(name.encode()) <= 180 for name in item.names)
        (tmp_path / f"{item.names[0]}-0.mp4").write_bytes(item.prompt.encode())
    for item in items:
        found = benchmark.find_video(tmp_path, item, 0)
        assert found is not None
        assert found.read_bytes() == item.prompt.encode()


def test_pictures_of_one_prompt_do_not_share_a_video(tmp_path):
    info = [{"prompt_en": "a man walks", "image_name": f"{k}.png"} for k in range(2)]
    (tmp_path / "vbench2_i2v_full_info.json").write_text(json.dumps(info))
    for k in range(2):
        picture(tmp_path / "origin" / f"{k}.png", value=k * 50)
    one, two = benchmark.read_benchmark(tmp_path)
    (tmp_path / "a man walks-0.mp4").write_bytes(b"")
    assert benchmark.find_video(tmp_path, one, 0) is None
    (tmp_path / "1-0.mp4").write_bytes(b"")
    assert benchmark.find_video(tmp_path, two, 0) == tmp_path / "1-0.mp4"


def test_prompts_alone_are_for_text_to_video(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n", encoding="utf-8-sig")
    items = benchmark.read_benchmark(tmp_path)
    assert [i.prompt for i in items] == ["one", "two"]
    assert items[0].image is None


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        benchmark.read_benchmark(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no prompts"):
        benchmark.read_benchmark(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="not a readable picture"):
        benchmark.load_picture(benchmark.read_benchmark(tmp_path)[0].image)


def test_pictures_are_cropped_about_the_centre_before_they_are_scaled():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255  # the middle quarter, exactly the square that is kept
    assert (benchmark.crop_and_scale(wide, 20, 20) == 255).all()
    same = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    np.testing.assert_array_equal(benchmark.crop_and_scale(same, 10, 10), same)
