"""What a captioner is shown of a clip: a few frames by time, and the question about them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ShownClip:
    """frames: uint8 [N, H, W, 3] in order. seconds: time between the first and the last."""

    clip_id: str
    frames: npt.NDArray[np.uint8]
    seconds: float
    question: str


def read_question(file: str, packaged: str) -> str:
    """The question as the user's file, else the one that ships. Raises UserError."""
    if not file:
        return resources.files("realdpo.curate.caption").joinpath(packaged).read_text("utf-8")
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompt file {file}: {error}") from None


def check_template(text: str, names: tuple[str, ...]) -> None:
    """Raises UserError when a template asks for something that is never filled in."""
    try:
        Template(text).substitute(dict.fromkeys(names, ""))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the prompt file has an unknown or invalid placeholder: {error}",
            f"use only {', '.join('$' + name for name in names)}; write $$ for a dollar sign",
        ) from None


def clip_frames(
    root: Path, row: Row, sources: Mapping[str, Row], count: int, short_side: int | None
) -> tuple[npt.NDArray[np.uint8], float]:
    """`count` frames of a clip evenly spaced in time, first and last included.

    Read from the cut clip when it is there, else from its source. uint8 [N, H, W, 3] with
    N <= count for clips of fewer frames, and the seconds between the first and the last.
    Raises MediaError when neither file can be read.
    """
    import numpy as np

    from realdpo.media import MediaError, decode

    cut = root / row["path"] if row.get("path") else None
    if cut is not None and cut.is_file():
        pictures = decode.decode_frames(cut, short_side=short_side, threads=1)
        seconds = float(row["end_s"] - row["start_s"])
        if row.get("frames") and row.get("fps"):
            seconds = float((row["frames"] - 1) / Fraction(row["fps"]))
    else:
        source = sources.get(row["source_id"])
        if source is None:
            raise MediaError(f"the clip {row['clip_id']} has neither a file nor a source")
        start, end = Fraction(row["start"]), Fraction(row["end"])
        pictures = decode.decode_frames(
            source["path"], short_side=short_side, start=start, end=end, threads=1
        )
        seconds = float(end - start)
    step = seconds / (count - 1) if count > 1 else seconds + 1.0
    chosen: list[decode.Frame] = []
    first: Fraction | None = None
    last: decode.Frame | None = None
    for frame in pictures:
        first = frame.time if first is None else first
        last = frame
        if float(frame.time - first) >= len(chosen) * step - 1e-6 and len(chosen) < count:
            chosen.append(frame)
    if last is None or first is None:
        raise MediaError(f"the clip {row['clip_id']} holds no frame")
    if chosen[-1] is not last and count > 1:
        chosen = [*chosen[: count - 1], last]
    span = float(last.time - first)
    return np.stack([frame.rgb for frame in chosen]), span


def owner_hint(row: Row) -> str:
    """What the footage's owner wrote about it, as help for the captioner; "" when nothing."""
    said = []
    if row.get("title"):
        said.append(f'is titled "{row["title"]}"')
    if row.get("keywords"):
        said.append(f"is tagged {', '.join(row['keywords'][:12])}")
    if not said:
        return ""
    return f"The footage {' and '.join(said)}; use this only where the frames agree."


def fill_question(text: str, row: Row, frames: int, seconds: float, **more: str) -> str:
    """The filled-in template. Raises UserError for an unknown name in it."""
    values = {"frames": str(frames), "seconds": f"{seconds:.1f}", "hint": owner_hint(row), **more}
    check_template(text, tuple(values))
    return Template(text).substitute(values).strip()


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int = 90) -> bytes:
    """One frame (uint8 [H, W, 3]) as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
