"""The one decode of a source: facts, shot boundaries, and every frame's numbers."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from realdpo.curate.config import ANALYSIS_SIDE, ShotSettings
from realdpo.files import atomic_path
from realdpo.ids import content_id

if TYPE_CHECKING:
    from realdpo.media.decode import Frame

VERSION = 4  # raise when facts, parts, cuts or soft transitions change
BLOCK = 16
HOLE = Fraction(1, 2)  # seconds without a frame, and more than two are missing: two recordings
_NOTES, _NUM, _DEN = b"realdpo.analysis", "exact.num", "exact.den"


@dataclass(frozen=True)
class AnalysisTask:
    """A source to be looked at. threads: for decoding, 0 lets FFmpeg choose."""

    source_id: str
    path: str
    shots: ShotSettings
    threads: int = 0

    @property
    def key(self) -> str:
        """Names the result: the file's bytes and everything that changes what is measured."""
        return content_id(
            source=self.source_id, shots=self.shots, side=ANALYSIS_SIDE, version=analysis_version()
        )

    def file(self, folder: Path) -> Path:
        """Where in `folder` the result is kept."""
        return folder / f"{self.key}.parquet"


class Times(Sequence[Fraction]):
    """Times of frames, in 16 bytes each."""

    def __init__(self, num: Iterable[int] = (), den: Iterable[int] = ()) -> None:
        self.num, self.den = array("q", num), array("q", den)

    @classmethod
    def joined(cls, parts: Sequence[Times]) -> Times:
        """All of them, in order."""
        whole = cls()
        for part in parts:
            whole.num.extend(part.num)
            whole.den.extend(part.den)
        return whole

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
class Stretch:
    """A stretch of a source without a hole in its times, in which the picture keeps its size.

    start, end: seconds from the source's first frame. width, height: as shown, in pixels.
    """

    start: Fraction
    end: Fraction
    width: int
    height: int
    fps: Fraction


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


def analyse_source(task: AnalysisTask) -> Analysis:
    """Decode a source once, at analysis size, and measure. Raises MediaError."""
    import cv2

    from realdpo.curate.scores import LUMA_SECONDS
    from realdpo.media.decode import decode_frames
    from realdpo.media.probe import probe_video

    cv2.setNumThreads(1)  # OpenCV's flow works in stripes, one a thread: others, other numbers
    facts = probe_video(task.path)
    step = 1 / facts.fps if facts.fps > 0 else Fraction(0)
    damage: list[str] = []
    stream = decode_frames(
        task.path, size=analysis_size, threads=task.threads, errors=damage, luma_every=LUMA_SECONDS
    )
    looks: list[_Look] = []
    for block in _blocks(stream, step):
        if not looks or looks[-1].ends_before(block[0], step):
            looks.append(_Look(task.shots, facts.fps, block[0]))
        looks[-1].feed(block)
    times = Times.joined([look.times for look in looks])
    parts = _parts(looks, facts.fps)
    found = [cut for look in looks for cut in look.cuts.cuts(look.times)]
    soft = [span for look in looks for span in (*look.dissolves.found(), *look.cuts.soft())]
    counted = [part.fps * (part.end - part.start) for part in parts]
    rate = _near(sum(counted, Fraction(0)) / sum(p.end - p.start for p in parts), facts.fps)
    return Analysis(
        facts={
            "container": facts.container,
            "codec": facts.codec,
            "pix_fmt": facts.pix_fmt,
            "width": facts.width,
            "height": facts.height,
            "rotation": facts.rotation,
            "sample_aspect": f"{facts.sar.numerator}/{facts.sar.denominator}",
            "fps": _ratio(rate),
            "duration_s": float(parts[-1].end),
            "start_s": float(facts.start),
            "frames": len(times),
            "decode_errors": len(damage),
            "parts": [_as_row(part) for part in parts],
            "transfer": facts.transfer,
            "hdr": facts.hdr,
            "audio": facts.has_audio,
        },
        cuts=found,
        soft=sorted(soft),
        scores=_joined([look.scores.table() for look in looks]),
        times=times,
    )


class _Look:
    """All that looks at the frames of one part."""

    def __init__(self, settings: ShotSettings, fps: Fraction, first: Frame) -> None:
        from realdpo.curate.scores import StreamScores
        from realdpo.curate.shots import make_finder
        from realdpo.curate.transitions import DissolveFinder

        height, width, _ = first.rgb.shape
        self.scores = StreamScores(height, width)
        self.cuts = make_finder(settings, fps)
        self.dissolves = DissolveFinder()
        self.times = Times()
        self.shown = first.shown

    def feed(self, block: Sequence[Frame]) -> None:
        """Several frames to each subject in turn: what it needs stays in the caches."""
        for frame in block:
            self.cuts.feed(frame.time, frame.rgb)
        for frame in block:
            self.dissolves.feed(frame.time, frame.rgb)
        for frame in block:
            self.scores.feed(float(frame.time), frame.rgb, frame.luma)
            self.times.append(frame.time)

    def ends_before(self, frame: Frame, step: Fraction) -> bool:
        """Whether the next frame begins another part."""
        return _apart(self.times[-1], self.shown, frame, step)


def _apart(time: Fraction, shown: tuple[int, int], after: Frame, step: Fraction) -> bool:
    return after.shown != shown or after.time - time > max(HOLE, 3 * step)


def _parts(looks: Sequence[_Look], header: Fraction) -> list[Stretch]:
    """Each look's stretch; its last frame lasts as long as its others do."""
    parts = []
    for number, look in enumerate(looks):
        start, last = look.times[0], look.times[-1]
        fps = _rate([time - start for time in look.times], header)
        end = last + 1 / fps
        if number + 1 < len(looks):
            end = min(end, looks[number + 1].times[0])
        parts.append(Stretch(start, end, *look.shown, fps))
    return parts


def _as_row(part: Stretch) -> dict[str, Any]:
    return {
        "start": _ratio(part.start),
        "end": _ratio(part.end),
        "width": part.width,
        "height": part.height,
        "fps": _ratio(part.fps),
    }


def parts_of(facts: Mapping[str, Any]) -> list[Stretch]:
    """The parts of a source, of its row in the sources table."""
    if not facts.get("parts"):  # of a table that was written before there were parts
        end = Fraction(facts["duration_s"])
        fps = Fraction(facts["fps"])
        return [Stretch(Fraction(0), end, facts["width"], facts["height"], fps)]
    return [
        Stretch(
            Fraction(row["start"]),
            Fraction(row["end"]),
            row["width"],
            row["height"],
            Fraction(row["fps"]),
        )
        for row in facts["parts"]
    ]


def breaks_of(parts: Sequence[Stretch]) -> list[tuple[Fraction, Fraction]]:
    """(end of one part, start of the next): what no clip may cross."""
    return [(before.end, after.start) for before, after in pairwise(parts)]


def breaks_text(parts: Sequence[Stretch]) -> list[str]:
    """Why a source is divided where it is, a line for every place."""
    lines = []
    for before, after in pairwise(parts):
        if after.start > before.end:
            length = float(after.start - before.end)
            lines.append(f"a hole of {length:.2f} s in the times at {float(before.end):.2f} s")
        if (before.width, before.height) != (after.width, after.height):
            lines.append(
                f"the picture changes from {before.width}x{before.height} to "
                f"{after.width}x{after.height} at {float(after.start):.2f} s"
            )
    return lines


def part_at(parts: Sequence[Stretch], time: Fraction) -> Stretch:
    """The part that a clip which starts at `time` is of."""
    return next(part for part in reversed(parts) if part.start <= time)


def _joined(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of all parts in one table."""
    import numpy as np

    if len(tables) == 1:
        return tables[0]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _blocks(stream: Iterator[Frame], step: Fraction) -> Iterator[list[Frame]]:
    """Up to BLOCK frames of one part at a time, of which one carries its luma: at 8K 50 MB."""
    block: list[Frame] = []
    for frame in stream:
        if block and _apart(block[-1].time, block[-1].shown, frame, step):
            yield block
            block = []
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
    return _near((len(times) - 1) / times[-1], header)


def _near(counted: Fraction, header: Fraction) -> Fraction:
    if header > 0 and abs(counted / header - 1) < Fraction(1, 50):
        return header
    return counted.limit_denominator(1001)


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def analysis_version() -> str:
    """Names the way from a file to its numbers: those of another version are not taken for ours.

    FFmpeg's major releases may scale pictures otherwise.
    """
    import av

    from realdpo.curate import scores
    from realdpo.media import decode

    scaler, *_ = av.library_versions["libswscale"]
    return f"{VERSION}-{scores.VERSION}-{decode.VERSION}-{scaler}"


def save_analysis(path: Path, result: Analysis) -> None:
    """Keep a result; `load_analysis` and `load_notes` read it back."""
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


def load_analysis(path: Path) -> Analysis:
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

    found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_NOTES])
    return found
