"""People by a detector and a pose model of transformers, from the Hub or from folders.

Any detector that AutoModelForObjectDetection loads and that knows `person` will do: RT-DETR (Zhao
et al. 2024), RT-DETRv2, D-FINE (Peng et al. 2024). The pose model is ViTPose (Xu et al. 2022) with
the 17 points of COCO.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from realdpo.curate.box import Box
from realdpo.curate.config import PeopleSettings
from realdpo.curate.scores.people import MOST_PEOPLE, Person
from realdpo.curate.scores.types import Bytes, Floats
from realdpo.errors import UserError

# Points that are seen from this confidence on; head, hips, knees and ankles make a full body.
SEEN = 0.3
FULL = ((0, 1, 2, 3, 4), (11, 12), (13, 14), (15, 16))
POINTS = 17
# A box that comes so near to the picture's edge runs out of it.
EDGE = 0.008
# Without a pose model a whole body is so much taller than wide.
UPRIGHT = 1.6


def require_pose_models(settings: PeopleSettings) -> None:
    """Raises UserError when the models cannot be loaded or do not know people."""
    _detector(settings.detector, settings.device)
    if settings.pose:
        _pose(settings.pose, settings.device)


def find_model_poses(rgb: Bytes, settings: PeopleSettings) -> list[Person]:
    """The people in one picture. rgb: uint8 [H, W, 3]."""
    import torch

    processor, model, persons = _detector(settings.detector, settings.device)
    height, width = rgb.shape[:2]
    inputs = processor(images=rgb, return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        outputs = model(**inputs.to(model.device))
    found = processor.post_process_object_detection(
        outputs, threshold=settings.threshold, target_sizes=[(height, width)]
    )[0]
    labels = found["labels"].cpu().numpy()
    chosen = np.isin(labels, persons)
    corners = found["boxes"].float().cpu().numpy()[chosen]
    order = np.argsort(-found["scores"].float().cpu().numpy()[chosen], kind="stable")
    corners = np.clip(corners[order][:MOST_PEOPLE], 0, [width, height, width, height])
    corners = corners[(corners[:, 2] - corners[:, 0] >= 2) & (corners[:, 3] - corners[:, 1] >= 2)]
    boxes = [Box(*(corner / [width, height, width, height]).tolist()) for corner in corners]
    cut = [_reaches_out(box) for box in boxes]
    if settings.pose and boxes:
        seen = _points(rgb, corners, settings) >= SEEN
        full = [all(any(body[k] for k in part) for part in FULL) for body in seen]
        # Who stands on the lower edge with both feet in sight is whole.
        cut = [out and not whole for out, whole in zip(cut, full, strict=True)]
    else:
        tall = [box.height * height >= UPRIGHT * box.width * width for box in boxes]
        full = [up and not out for up, out in zip(tall, cut, strict=True)]
    return [Person(*person) for person in zip(boxes, full, cut, strict=True)]


def _reaches_out(box: Box) -> bool:
    return min(box.left, box.top, 1 - box.right, 1 - box.bottom) < EDGE


def _points(rgb: Bytes, corners: Floats, settings: PeopleSettings) -> Floats:
    """How surely each point of each person is seen: [people, POINTS]."""
    import torch

    processor, model = _pose(settings.pose, settings.device)
    boxes = corners.copy()
    boxes[:, 2:] -= boxes[:, :2]  # as COCO has them: left, top, width, height
    inputs = processor(
        rgb, boxes=[boxes.tolist()], return_tensors="pt", input_data_format="channels_last"
    )
    more = {}
    if getattr(model.config.backbone_config, "num_experts", 1) > 1:  # ViTPose+: COCO's expert
        more["dataset_index"] = torch.zeros(len(boxes), dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        outputs = model(**inputs.to(model.device), **more)
    bodies = processor.post_process_pose_estimation(outputs, boxes=[boxes.tolist()])[0]
    return np.stack([body["scores"].reshape(-1).numpy() for body in bodies])


@lru_cache(maxsize=1)
def _detector(name: str, device: str) -> tuple[Any, Any, list[int]]:
    """Processor, model and the labels that mean a person. Raises UserError."""
    from transformers import AutoModelForObjectDetection

    processor, model = _load(name, device, AutoModelForObjectDetection, "models.detector")
    names = {int(number): str(label).lower() for number, label in model.config.id2label.items()}
    persons = [number for number, label in names.items() if label in ("person", "people")]
    if not persons:
        known = ", ".join(list(names.values())[:5])
        raise UserError(
            f"models.detector {name}: it knows no label 'person', but {known} ...",
            "take a detector trained on COCO, such as PekingU/rtdetr_v2_r18vd",
        )
    return processor, model, persons


@lru_cache(maxsize=1)
def _pose(name: str, device: str) -> tuple[Any, Any]:
    """Processor and model. Raises UserError."""
    from transformers import VitPoseForPoseEstimation

    processor, model = _load(name, device, VitPoseForPoseEstimation, "models.pose")
    if model.config.num_labels != POINTS:
        raise UserError(
            f"models.pose {name}: it finds {model.config.num_labels} points of a body, not COCO's"
            f" {POINTS}",
            "take one such as usyd-community/vitpose-base-simple",
        )
    return processor, model


def _load(name: str, device: str, kind: Any, setting: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor

    from realdpo.curate.caption.transformers_vlm import resolve_device

    try:
        model = kind.from_pretrained(name, use_safetensors=True).eval()
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{setting} {name}: {str(error).strip().splitlines()[0]}",
            "it is the Hub id or the folder of a model of transformers",
        ) from None
    return processor, model.to(resolve_device(device))
