"""People: in a crop, over time, and by small random models of the real classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realdpo.curate.box import WHOLE, Box
from realdpo.curate.config import PeopleSettings
from realdpo.curate.scores import people, pose_models
from realdpo.curate.scores.people import Person
from realdpo.errors import UserError


def person(left: float, top: float = 0.2, width: float = 0.1, height: float = 0.6) -> Person:
    return Person(Box(left, top, left + width, top + height), full=True, cut=False)


def test_scores_by_hand() -> None:
    frames = [[person(0.1)], [person(0.12)], [], [person(0.14), person(0.7, height=0.3)]]
    found = people.summarise_people(frames, [0.0, 1.0, 2.0, 3.0], 16 / 9)
    assert found["people.share"] == 0.75
    assert found["people.count"] == 1
    assert found["people.height"] == pytest.approx(0.6)
    assert found["people.full_body"] == 1
    assert found["people.cut_off"] == 0
    # One is followed over a frame in which nobody was seen; the other was there once.
    assert found["people.tracks"] == 1
    assert found["people.stay"] == 0.75
    assert set(found) == set(people.NAMES)


def test_a_crop_cuts_people_off_and_leaves_others_out() -> None:
    frames = [[person(0.1), person(0.45), person(0.8)]]
    seen = people.people_in_crop(frames, Box(0.0, 0.0, 0.5, 1.0))[0]
    assert len(seen) == 2
    whole, cut = sorted(seen, key=lambda one: one.box.left)
    assert whole.full
    assert not whole.cut
    assert not cut.full
    assert cut.cut
    # In shares of the crop.
    assert whole.box.left == pytest.approx(0.2)
    assert cut.box.right == 1
    assert people.people_in_crop(frames, WHOLE)[0][0] == frames[0][0]


def test_two_who_stand_are_two_and_one_who_walks_is_one() -> None:
    times = [0.0, 1.0, 2.0, 3.0]
    still = [[person(0.1), person(0.6)] for _ in times]
    assert people.summarise_people(still, times, 16 / 9)["people.tracks"] == 2
    # A walker crosses half of her height a second.
    walks = [[person(0.1 + 0.17 * time)] for time in times]
    found = people.summarise_people(walks, times, 16 / 9)
    assert (found["people.tracks"], found["people.stay"]) == (1, 1)
    # Somebody else on the other side of the picture is not her.
    swap = [[person(0.0)], [person(0.0)], [person(0.9)], [person(0.9)]]
    found = people.summarise_people(swap, times, 16 / 9)
    assert (found["people.tracks"], found["people.stay"]) == (2, 0.5)


def test_passing_each_other_keeps_both() -> None:
    times = [k / 4 for k in range(9)]
    frames = [[person(0.1 + 0.2 * t, height=0.6), person(0.6 - 0.2 * t, height=0.4)] for t in times]
    found = people.follow_people(frames, times, 16 / 9)
    assert [len(track) for track in found] == [9, 9]
    assert {round(one.box.height, 1) for _, one in found[0]} == {0.6}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RT-DETRv2 and a ViTPose with random weights, saved as the Hub has them."""
    torch = pytest.importorskip("torch")
    from transformers import (
        RTDetrImageProcessor,
        RTDetrResNetConfig,
        RTDetrV2Config,
        RTDetrV2ForObjectDetection,
        VitPoseBackboneConfig,
        VitPoseConfig,
        VitPoseForPoseEstimation,
        VitPoseImageProcessor,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    labels = {0: "dog", 1: "person"}
    config = RTDetrV2Config(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 8, 8],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16] * 3,
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=20,
        num_denoising=0,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    RTDetrV2ForObjectDetection(config).save_pretrained(folder / "detector")
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    config.id2label, config.label2id = {0: "dog", 1: "cat"}, {"dog": 0, "cat": 1}
    RTDetrV2ForObjectDetection(config).save_pretrained(folder / "animals")
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "animals")
    pose = VitPoseConfig(
        backbone_config=VitPoseBackboneConfig(
            image_size=[64, 48],
            patch_size=[16, 16],
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        num_labels=17,
        id2label={k: str(k) for k in range(17)},
        label2id={str(k): k for k in range(17)},
    )
    VitPoseForPoseEstimation(pose).save_pretrained(folder / "pose")
    VitPoseImageProcessor(size={"height": 64, "width": 48}).save_pretrained(folder / "pose")
    return folder


def test_models_of_transformers_find_what_they_find_by_themselves(models: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    rgb = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    settings = PeopleSettings(str(models / "detector"), threshold=0.3, device="cpu")
    people.require_people(settings)
    found = people.find_people(rgb, settings)
    model = AutoModelForObjectDetection.from_pretrained(settings.detector).eval()
    processor = AutoImageProcessor.from_pretrained(settings.detector)
    with torch.inference_mode():
        outputs = model(**processor(images=rgb, return_tensors="pt"))
    told = processor.post_process_object_detection(
        outputs, threshold=0.3, target_sizes=[(90, 160)]
    )[0]
    boxes = told["boxes"][told["labels"] == 1].numpy()  # not the dogs
    assert 0 < len(boxes) < len(told["boxes"])
    assert len(found) == min(len(boxes), people.MOST_PEOPLE)
    wanted = {tuple(np.round(np.clip(box / [160, 90, 160, 90], 0, 1), 4)) for box in boxes}
    for one in found:
        box = one.box
        assert tuple(np.round([box.left, box.top, box.right, box.bottom], 4)) in wanted
    heights = [one.box.height for one in found]
    assert heights == sorted(heights, reverse=True)


def test_the_pose_model_looks_at_every_box(models: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, VitPoseForPoseEstimation

    rgb = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    alone = PeopleSettings(str(models / "detector"), threshold=0.3, device="cpu")
    both = PeopleSettings(str(models / "detector"), str(models / "pose"), 0.3, "cpu")
    people.require_people(both)
    found = people.find_people(rgb, both)
    assert [one.box for one in found] == [one.box for one in people.find_people(rgb, alone)]
    # The tallest one's body, by the model itself, in the box as COCO has it.
    model = VitPoseForPoseEstimation.from_pretrained(both.pose).eval()
    processor = AutoImageProcessor.from_pretrained(both.pose)
    box = found[0].box
    corner = [[box.left * 160, box.top * 90, box.width * 160, box.height * 90]]
    with torch.inference_mode():
        outputs = model(**processor(rgb, boxes=[corner], return_tensors="pt"))
    scores = processor.post_process_pose_estimation(outputs, boxes=[corner])[0][0]["scores"]
    head, hips, knees, ankles = (
        bool((scores.ravel()[list(part)] >= 0.3).any()) for part in pose_models.FULL
    )
    assert found[0].full == (head and hips and knees and ankles)


@pytest.mark.parametrize(
    ("detector", "pose", "words"),
    [
        ("nowhere", "", "models.detector"),
        ("animals", "", "knows no label 'person'"),
        ("detector", "detector", "models.pose"),
    ],
)
def test_wrong_models_are_one_clear_line(
    models: Path, detector: str, pose: str, words: str
) -> None:
    place = str(models / detector)
    settings = PeopleSettings(place, str(models / pose) if pose else "", device="cpu")
    with pytest.raises(UserError) as caught:
        people.require_people(settings)
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint
