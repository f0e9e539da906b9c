"""Settings of `realdpo curate ingest` (sources, shots, clips, targets, shards) and `embed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal

from realdpo.config import settings
from realdpo.curate.caption.config import CaptionConfig
from realdpo.errors import UserError
from realdpo.media.encode import EncodeSettings

ANALYSIS_SIDE = 256
"""Longer side, in pixels, of the frames that shot detection and scores see.

It is the size PySceneDetect's own command reduces to, so its thresholds keep their meaning.
"""

SHORT_SIDE = 240
"""Pixels that a source's shorter side must have, unless the target needs fewer."""

LEAST_RATE = 14.5
"""Frames a second that a source must have, unless the target needs fewer."""

SLOWEST = Fraction(95, 100)
"""Of the target's frames a second: footage of fewer would need frames that are not there."""


@settings
class Target:
    """What a clip must be for a video model; zeros mean: as the source is.

    width, height: pixels. frames: exactly so many. fps: frames per second.
    """

    width: int = 0
    height: int = 0
    frames: int = 0
    fps: Fraction = Fraction(0)

    @property
    def seconds(self) -> Fraction:
        """Footage that one clip covers; 0 when its length is free."""
        return self.frames / self.fps if self.frames else Fraction(0)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "native": Target(),
        "cogvideox": Target(720, 480, 49, Fraction(8)),
        "cogvideox1.5": Target(1360, 768, 81, Fraction(16)),
        "wan2.1": Target(832, 480, 81, Fraction(16)),
        "wan2.2-5b": Target(1280, 704, 121, Fraction(24)),
        "skyreels": Target(960, 544, 97, Fraction(24)),
        "ltx": Target(768, 512, 121, Fraction(24)),
        "ltx2": Target(768, 512, 121, Fraction(24)),
        "hunyuan": Target(1280, 720, 129, Fraction(24)),
        "hunyuan15": Target(848, 480, 121, Fraction(24)),
        "mochi": Target(848, 480, 85, Fraction(30)),
        "kandinsky5": Target(768, 512, 121, Fraction(24)),
        "sana-video": Target(832, 480, 81, Fraction(16)),
        "cosmos2.5": Target(1280, 704, 93, Fraction(16)),
        "tiny": Target(80, 80, 9, Fraction(8)),
    }
)


@settings
class ShotSettings:
    """Shot boundaries, by PySceneDetect's detectors.

    The defaults are the best single setting over its three benchmark sets (BBC, AutoShot,
    ClipShots). detector: detector of hard cuts. threshold: threshold of the detector; unset takes
    its default (adaptive 3.1, content 31, threshold 12, transnetv2 0.4). window: frames on either
    side that the adaptive detector compares a change with. min_content: least change, in levels,
    that the adaptive detector takes for a cut. min_seconds: least time between two cuts.
    """

    detector: Literal["adaptive", "content", "threshold", "transnetv2"] = "adaptive"
    threshold: float | None = None
    window: int = 3
    min_content: float = 15.0
    min_seconds: float = 0.6


@settings
class ClipSettings:
    """How shots become clips.

    min_seconds: shortest clip; only for target native. max_seconds: longest clip; only for target
    native. trim_seconds: seconds left out on both sides of a hard cut, where encoders smear two
    shots. soft_trim_seconds: seconds left out on both sides of a dissolve or fade.
    crop: where the picture is cropped to the target's shape: `subject` follows the people that
    the extra `people` found, else what moves; `centre` keeps the middle. Black bars are cut away
    in both.
    """

    min_seconds: float = 2.0
    max_seconds: float = 10.0
    trim_seconds: float = 0.1
    soft_trim_seconds: float = 0.5
    crop: Literal["centre", "subject"] = "subject"


@settings
class SourceSettings:
    """Which footage is let in.

    licenses: allowed licences, such as CC-BY-4.0 or CC-BY; other clips are dropped.
    require_license: drop clips whose licence is unknown.
    max_download_mb: largest download in megabytes. hdr: tone-map HDR footage, or drop it.
    """

    require_license: bool = False
    licenses: tuple[str, ...] = ()
    max_download_mb: int = 20_000
    hdr: Literal["tonemap", "drop"] = "tonemap"


@settings
class ShardSettings:
    """The dataset that is written.

    format: format of the dataset. to: fsspec address that gets a copy of the dataset, such as
    s3://bucket/set. shard_mb: megabytes of video in one file. row_group_mb: megabytes of one row
    group, which the Hub's viewer reads at once. validation: share of the sources in the
    validation split. test: share of the sources in the test split.
    """

    format: Literal["parquet", "webdataset", "folder"] = "parquet"
    shard_mb: int = 500
    row_group_mb: int = 32
    validation: float = 0.05
    test: float = 0.05
    to: str = ""


@settings
class PeopleSettings:
    """The models that find people.

    detector: detector of transformers, as a Hub id or folder: RT-DETR, RT-DETRv2, D-FINE or another
    that knows `person`; empty takes BlazePose from the mediapipe package. pose: ViTPose of
    transformers, for whole and cut-off bodies; empty judges these by the detector's boxes.
    threshold: least confidence of a person. device: auto, cpu, cuda, cuda:N or mps.
    """

    detector: str = ""
    pose: str = ""
    threshold: float = 0.5
    device: str = "auto"


BLAZEPOSE = PeopleSettings()


@settings
class IngestConfig:
    """All settings of `curate ingest`.

    target: shape of the clips: native, tiny, or a model's: cogvideox, cogvideox1.5, wan2.1,
    wan2.2-5b, skyreels, ltx, ltx2, hunyuan, hunyuan15, mochi, kandinsky5, sana-video, cosmos2.5.
    decide: thresholds that replace defaults of `curate decide`, as `<group>.<name>_min` or `_max`; a
    target that is smaller or slower than the default allows lowers that default itself. caption: who
    writes the prompts: sidecar (captions that came with the footage, else title and keywords),
    keywords, openai:<base url>, or transformers:<model>. captions: settings of the captioner.
    per_action: clips of each action to keep, at most; 0 keeps all. extras: further scores, of
    sampled frames: people, text, nsfw. models: models that find people. engine: where the steps
    run. workers: number of processes; 0 for as many as there are cores. address: address of a
    running Ray cluster; empty starts one here.
    """

    target: str = "native"
    sources: SourceSettings = field(default_factory=SourceSettings)
    shots: ShotSettings = field(default_factory=ShotSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    decide: dict[str, Any] = field(default_factory=dict)
    per_action: int = 0
    caption: str = "sidecar"
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    extras: tuple[str, ...] = ()
    models: PeopleSettings = field(default_factory=PeopleSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    shards: ShardSettings = field(default_factory=ShardSettings)
    engine: Literal["local", "serial", "ray"] = "local"
    workers: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UserError(f"no target {self.target!r}", f"one of: {', '.join(TARGETS)}")
        if not 0 < self.clips.min_seconds <= self.clips.max_seconds:
            raise UserError("clips.min_seconds must be above 0 and at most clips.max_seconds")
        if self.per_action < 0 or self.workers < 0:
            raise UserError("per_action and workers must be 0 or more")
        if self.shards.validation < 0 or self.shards.test < 0:
            raise UserError("shards.validation and shards.test are shares, 0 or more")
        if self.shards.validation + self.shards.test >= 1:
            raise UserError("shards.validation and shards.test leave nothing to train on")
        target = TARGETS[self.target]
        asked: dict[str, Any] = {}
        side = min(target.width, target.height)
        if 0 < side < SHORT_SIDE:
            asked["source.short_side_min"] = float(side)
        if 0 < target.fps * SLOWEST < LEAST_RATE:
            asked["time.fps_min"] = float(target.fps * SLOWEST)
        # First, so that whatever was given comes after it and wins.
        object.__setattr__(self, "decide", {**asked, **self.decide})


@settings
class EmbedConfig:
    """`[embed]`: which open_clip model looks at what, and what is scored with it."""

    model: str = "ViT-B-32"
    """Model of open_clip, or local-dir:/folder or hf-hub:owner/name with weights."""
    weights: str = "laion2b_s34b_b79k"
    """Tag of open_clip's weights, or a file; "" with local-dir: and hf-hub: models."""
    frames: int = 8
    """Frames of each clip, evenly spaced in time."""
    batch: int = 64
    """Frames in one forward pass."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""
    aesthetic: str = ""
    """Weights of a LAION aesthetic head (.safetensors or .pth); without, there is no
    semantic.aesthetic."""
    action_min: float = 0.5
    """Least zero-shot probability at which a clip without an action tag gets one."""

    def __post_init__(self) -> None:
        if min(self.frames, self.batch) < 1:
            raise UserError("frames and batch must be 1 or more")
