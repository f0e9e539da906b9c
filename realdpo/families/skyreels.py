"""SkyReels-V2, text-to-video and image-to-video: Wan 2.1's parts under other settings.

Settings: diffusers' examples (960x544, 97 frames, 24 frames a second, 50 steps; guidance 6 and
shift 8 for text-to-video, 5 and 5 for image-to-video). The 720P checkpoints make 1280x720 with 121
frames, which their files do not say: set it. Diffusion forcing (the DF checkpoints) is not trained.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from realdpo.families.base import Traits
from realdpo.families.wan import Wan


class SkyReels(Wan):
    NAME = "skyreels"
    TASKS: ClassVar = {"SkyReelsV2Pipeline": "t2v", "SkyReelsV2ImageToVideoPipeline": "i2v"}

    @cached_property
    def traits(self) -> Traits:
        guidance = 6.0 if self.task == "t2v" else 5.0
        own = replace(super().traits, width=960, height=544, frames=97, fps=24, guidance=guidance)
        return replace(own, negative_prompt="")

    def scheduler(self, settings: Any) -> dict[str, Any]:
        return {"flow_shift": 8.0 if self.task == "t2v" else 5.0}
