"""The one decode of a source: facts, shot boundaries, and every frame's numbers."""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from realdpo.curate.config import ANALYSIS_SIDE, ShotSettings
from realdpo.files import atomic_path
from realdpo.ids import content_id

if TYPE_CHECKING:
    from realdpo.media.decode import Frame

BLOCK = 16
_NOTES, _NUM, _DEN = b"realdpo.analysis", "exact.num", "exact.den"


@dataclass(frozen=True)
class Task:
    """A source to be looked at. threads: for decoding, 0 lets FFmpeg choose."""

    source_id: str
    path: str
    shots: ShotSettings
    threads: int = 0

    @property
    def key(self) -> str:
        """Names the result: the file's bytes and everything that changes what is measured."""
        return content_id(
            source=self.source_id, shots=self.shots, side=ANALYSIS_SIDE, code=code_version()
        )

    def file(self, folder: Path) -> Path:
        """Where in `folder` the result is kept."""
        return folder / f"{self.key}.parquet"


class Times(Sequence[Fraction]):
    """Times of frames, in 16 bytes each."""

    def __init__(self, num: Iterable[int] = (), den: Iterable[int] = ()) -> None:
        self.num, self.den = array("q", num), array("q", den)

    def append(self, time: Fraction) -> None:
        self.num.append(time.numerator)
        self.den.append(time.denominator)

    def __len__(self) -> int:
        return len(self.num)

    @overload
    def __getitem__(self, place: int) -> Fraction: ...
    @overload
    def __getitem__(self, place: slice) -> Times: ...
    def __getitem__(self, place: int | slice) -> Fraction | Times:
        if isinstance(place, slice):
            return Times(self.num[place], self.den[place])
        return Fraction(self.num[place], self.den[place])


@dataclass(frozen=True)
class Analysis:
    """What one decode told.

    facts: columns of the sources table. cuts: first frames of new shots. soft: dissolves and
    fades, (start, end). times: of all frames. scores: their numbers, as `curate.scores` reads
    them.
    """

    facts: dict[str, Any]
    cuts: list[Fraction]
    soft: list[tuple[Fraction, Fraction]]
    times: Times
    scores: dict[str, Any]


def analyse(task: Task) -> Analysis:
    """Decode a source once, at analysis size, and measure. Raises MediaError."""
    import cv2

    from realdpo.curate.scores import LUMA_SECONDS, StreamScores
    from realdpo.curate.shots import finder
    from realdpo.curate.transitions import DissolveFinder
    from realdpo.media.decode import frames
    from realdpo.media.probe import probe

    cv2.setNumThreads(1)  # OpenCV's flow works in stripes, one a thread: others, other numbers
    facts = probe(task.path)
    size = width, height = analysis_size(facts.width, facts.height)
    scores = StreamScores(height, width)
    cuts = finder(task.shots, facts.fps)
    dissolves = DissolveFinder()
    times = Times()
    damage: list[str] = []
    stream = frames(
        task.path, size=size, threads=task.threads, errors=damage, luma_every=LUMA_SECONDS
    )
    # Several frames to each subject in turn: what it needs stays in the processor's caches.
    for block in _blocks(stream):
        for frame in block:
            cuts.feed(frame.time, frame.rgb)
        for frame in block:
            dissolves.feed(frame.time, frame.rgb)
        for frame in block:
            scores.feed(float(frame.time), frame.rgb, frame.luma)
            times.append(frame.time)
    found = cuts.cuts(times)
    return Analysis(
        facts={
            "container": facts.container,
            "codec": facts.codec,
            "pix_fmt": facts.pix_fmt,
            "width": facts.width,
            "height": facts.height,
            "rotation": facts.rotation,
            "sample_aspect": f"{facts.sar.numerator}/{facts.sar.denominator}",
            "fps": _ratio(_rate(times, facts.fps)),
            "duration_s": float(times[-1] + 1 / _rate(times, facts.fps)),
            "start_s": float(facts.start),
            "frames": len(times),
            "decode_errors": len(damage),
            "transfer": facts.transfer,
            "hdr": facts.hdr,
            "audio": facts.has_audio,
        },
        cuts=found,
        soft=sorted([*dissolves.found(), *cuts.soft()]),
        scores=scores.table(),
        times=times,
    )


def _blocks(stream: Iterator[Frame]) -> Iterator[list[Frame]]:
    """Up to BLOCK frames at a time, of which one carries its luma: at 8K that is 50 MB."""
    block: list[Frame] = []
    for frame in stream:
        block.append(frame)
        if len(block) == BLOCK or frame.luma is not None:
            yield block
            block = []
    if block:
        yield block


def analysis_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with the longer side at most ANALYSIS_SIDE."""
    scale = min(Fraction(1), Fraction(ANALYSIS_SIDE, max(width, height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _rate(times: Sequence[Fraction], header: Fraction) -> Fraction:
    """Frames per second: the header's when the frames bear it out, else what was counted."""
    if len(times) < 2:
        return header if header > 0 else Fraction(1)
    counted = (len(times) - 1) / times[-1]
    if header > 0 and abs(counted / header - 1) < Fraction(1, 50):
        return header
    return counted.limit_denominator(1001)


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


@functools.lru_cache
def code_version() -> str:
    """Hash of the code that measures: numbers of another version are never taken for ours."""
    from realdpo.curate import neural, scores, shots, transitions

    measuring = Path(scores.__file__).parent.glob("*.py")
    parts = (neural, shots, transitions)
    files = sorted([Path(__file__), *(Path(str(part.__file__)) for part in parts), *measuring])
    return content_id(code=[file.read_text(encoding="utf-8") for file in files])


def save(path: Path, result: Analysis) -> None:
    """Keep a result; `load` and `load_notes` read it back."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = {
        "facts": result.facts,
        "cuts": [_ratio(time) for time in result.cuts],
        "soft": [[_ratio(start), _ratio(end)] for start, end in result.soft],
    }
    columns = {
        _NUM: pa.array(np.asarray(result.times.num)),
        _DEN: pa.array(np.asarray(result.times.den)),
    }
    for name, values in result.scores.items():
        flat = np.ascontiguousarray(values)
        if flat.ndim == 2:  # a row of bytes a frame
            kind = pa.binary(flat.shape[1])
            columns[name] = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
        else:
            columns[name] = pa.array(flat)
    table = pa.table(columns).replace_schema_metadata({_NOTES: json.dumps(notes)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load(path: Path) -> Analysis:
    """A stored result."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = load_notes(path)
    table = pq.read_table(path, partitioning=None)
    scores: dict[str, Any] = {}
    for name in table.schema.names:
        kind = table.schema.field(name).type
        if pa.types.is_fixed_size_binary(kind):
            flat = table[name].combine_chunks()
            first = flat.offset * kind.byte_width
            rows = np.frombuffer(flat.buffers()[1], np.uint8)[first:].reshape(-1, kind.byte_width)
            scores[name] = rows[: len(flat)]
        elif name not in (_NUM, _DEN):
            scores[name] = table[name].to_numpy()
    return Analysis(
        facts=notes["facts"],
        cuts=[Fraction(text) for text in notes["cuts"]],
        soft=[(Fraction(start), Fraction(end)) for start, end in notes["soft"]],
        times=Times(table[_NUM].to_numpy(), table[_DEN].to_numpy()),
        scores=scores,
    )


def load_notes(path: Path) -> dict[str, Any]:
    """The facts, cuts and soft transitions of a stored result without its frames."""
    import pyarrow.parquet as pq

    return json.loads(pq.read_schema(path).metadata[_NOTES])
