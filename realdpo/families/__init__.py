"""Model families: one file each, with what they share beside them.

`family_of(spec)` gives the family of a pipeline: its legal shapes, its authors' settings, how it
is called, how it encodes, conditions and predicts. Generation, training, evaluation and sampling
all go through it, so that they cannot differ. Nothing here imports torch or diffusers until a
model is loaded: a plan needs a folder's JSON files alone.
"""

from __future__ import annotations

from realdpo.errors import UserError
from realdpo.families.base import Family, Spec, Traits
from realdpo.families.cogvideox import CogVideoX
from realdpo.families.cosmos25 import Cosmos25
from realdpo.families.generic import Generic
from realdpo.families.hunyuan import Hunyuan
from realdpo.families.hunyuan15 import Hunyuan15
from realdpo.families.kandinsky5 import Kandinsky5
from realdpo.families.ltx import LTX
from realdpo.families.ltx2 import LTX2
from realdpo.families.ltx_condition import LTXCondition
from realdpo.families.mochi import Mochi
from realdpo.families.sana_video import SanaVideo
from realdpo.families.skyreels import SkyReels
from realdpo.families.wan import Wan

__all__ = [
    "FAMILIES",
    "Family",
    "Spec",
    "Traits",
    "clear_caches",
    "family_of",
    "frames_first",
    "trainable_family",
]

FAMILIES: tuple[type[Family], ...] = (
    *(CogVideoX, Wan, LTX, Hunyuan, Mochi),
    *(Hunyuan15, SkyReels, LTXCondition, Kandinsky5, LTX2, SanaVideo, Cosmos25),
)


def family_of(spec: Spec) -> Family:
    """The family of a pipeline by its class; `Generic` for one that none of them knows."""
    kind = next((family for family in FAMILIES if spec.pipeline in family.TASKS), Generic)
    return kind(spec)


def frames_first(scheduler: str) -> bool:
    """Whether latents come frames before channels in the family whose schedulers are called so."""
    return any(kind.TIME_AXIS == 1 and kind.NAME in scheduler.lower() for kind in FAMILIES)


def clear_caches() -> None:
    """Forget what families keep between forwards."""
    for kind in FAMILIES:
        kind.clear_caches()


def trainable_family(spec: Spec) -> Family:
    """As `family_of`. Raises UserError, which names the families that can, for one that is not."""
    found = family_of(spec)
    if reason := found.refusal():
        raise UserError(
            f"{spec.folder} is a {spec.pipeline}: {reason}",
            f"families that are trained: {', '.join(family.NAME for family in FAMILIES)} "
            "(docs/families.md lists their models)",
        )
    return found
