"""Import and export of pairs: RealDPO's layout, CSV, TRL's columns."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from realdpo import ids, integrity, tables
from realdpo.errors import UserError
from realdpo.files import atomic_path, write_bytes, write_text
from realdpo.integrity import pair_problem
from realdpo.pairs import conform, latents, trainers
from realdpo.pairs.publish import publish_pairs, read_reviews
from realdpo.progress import progress_bar, say
from realdpo.rows import PairRow
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Video = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Given:
    """A pair as found: the files of its winner and losers, and by video of their cached latents."""

    prompt: str
    win: Path
    lose: tuple[Path, ...]
    latents: dict[Path, Path]
    where: str = ""


def from_realdpo(folder: Path) -> list[Given]:
    """Pairs in the layout that RealDPO was released with.

    prompt.txt and video.txt hold one line per pair. video.txt names files in the folder, and
    negative_samples/<name of the video>/ holds the losers. A folder with one win.mp4, lose/ and
    prompt.txt is read as one pair. Cached latents (safetensors) are imported as well if they are
    named after a video, or folder_video. Raises UserError that names the missing file.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if (folder / "win.mp4").is_file():
        losers = _videos(folder / "lose")
        cached = {folder / "win.mp4": folder / "win_latent.safetensors"}
        cached |= {v: v.with_name(f"latent_{v.stem}.safetensors") for v in losers}
        kept = {video: file for video, file in cached.items() if file.is_file()}
        return [Given(_lines(folder / "prompt.txt")[0], folder / "win.mp4", losers, kept)]
    prompts, names = _lines(folder / "prompt.txt"), _lines(folder / "video.txt")
    if len(prompts) != len(names):
        raise UserError(
            f"{folder}: prompt.txt has {len(prompts)} lines and video.txt {len(names)}",
            "give both files one line per pair",
        )
    caches = {file.stem: file for file in sorted(folder.rglob("*.safetensors"))}
    found = []
    for prompt, name in zip(prompts, names, strict=True):
        win = folder / name
        if not win.is_file():
            raise UserError(f"{folder / 'video.txt'} names {name}, which is missing")
        losers = _videos(folder / "negative_samples" / win.stem)
        known: dict[Path, Path] = {}
        for video in (win, *losers):
            for stem in (f"{video.parent.name}_{video.stem}", video.stem):
                if stem in caches and (video == win or stem != video.stem):
                    known.setdefault(video, caches[stem])
        found.append(Given(prompt, win, losers, known, f"{folder / 'video.txt'}: {name}"))
    return found


def from_csv(file: Path) -> list[Given]:
    """Pairs of a CSV file with the columns prompt, win, lose.

    Paths are relative to the file. Several losers take several rows, or are joined by `;`. A name
    with a `;` must be a row's only loser, or be in double quotes. Raises UserError that names the
    row.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise UserError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file} as CSV: {error}", "save it as CSV in UTF-8") from None
    wanted = {"prompt", "win", "lose"}
    if not rows or wanted - set(rows[0]):
        raise UserError(
            f"{file} lacks the columns {', '.join(sorted(wanted - set(rows[0] if rows else ())))}",
            "write the names of the columns into the first line: prompt,win,lose",
        )
    together: dict[tuple[str, Path], tuple[str, list[Path]]] = {}
    for number, row in enumerate(rows, 2):
        win, lose = (row["win"] or "").strip(), _names(file.parent, row["lose"] or "")
        if not win or not lose:
            raise UserError(f"{file}, line {number}: a pair needs a winner and a loser")
        paths = [file.parent / name for name in (win, *lose)]
        for path in paths:
            if not path.is_file():
                raise UserError(
                    f"{file}, line {number}: {path} is "
                    f"{'a folder' if path.is_dir() else 'not there'}",
                    "join several losers by `;`, and put a name with a `;` into double quotes",
                )
        key = ((row["prompt"] or "").strip(), paths[0])
        together.setdefault(key, (f"{file}, line {number}", []))[1].extend(paths[1:])
    return [
        Given(prompt, win, tuple(lose), {}, where)
        for (prompt, win), (where, lose) in together.items()
    ]


def _names(folder: Path, cell: str) -> list[str]:
    """The file names in a cell: the whole cell if that file exists, or else split at `;`."""
    if cell.strip() and (folder / cell.strip()).is_file():
        return [cell.strip()]
    parts = next(csv.reader([cell], delimiter=";", skipinitialspace=True), [])
    return [name.strip() for name in parts if name.strip()]


def given_from_simpletuner(path: Path) -> list[Given]:
    """Pairs in the layout of SimpleTuner's Flow-DPO: its JSON, or a folder that holds it."""
    found = trainers.read_simpletuner(path)
    return [Given(prompt, win, lose, {}, str(win)) for prompt, win, lose in found]


def take_in_pairs(
    workspace: Workspace,
    given: Sequence[Given],
    *,
    origin: str,
    task: str,
    validation: float = 0.1,
    crf: int = 12,
) -> dict[str, Any]:
    """Bring each given pair to one form, add it to the workspace, audit all. Returns the summary.

    origin: recorded as the model. task: i2v or t2v. validation: share of winners held out.
    Only the form changes: sides that were prepared differently stay so, and the audit reports it.
    Raises UserError if the workspace holds pairs that were built, or if a pair has no prompt or no
    difference. In that case nothing is imported.
    """
    for number, pair in enumerate(given, 1):
        hashes = [ids.file_hash(path) for path in (pair.win, *pair.lose)]
        if problem := pair_problem(pair.prompt, hashes):
            where = pair.where or f"pair {number} ({pair.win})"
            raise UserError(f"{where}: {problem}", "correct or remove that row")
    with workspace.lock("pairs import"):
        rows = {row["pair_id"]: row for row in _rows(workspace)}
        if not are_imported(workspace) and rows:
            raise UserError(
                f"{workspace.root} holds pairs that were built from its clips",
                "choose another workspace for importing with -w",
            )
        with progress_bar("import", len(given), "pairs") as advance:
            for pair in given:
                row = _row(workspace, pair, origin, task, validation, crf)
                rows[row["pair_id"]] = row
                advance(1, "" if row["status"] == "ok" else str(row["error"]))
        return _published(workspace, rows.values())


def are_imported(workspace: Workspace) -> bool:
    """Whether the pairs of a workspace were imported. Imported pairs have no clips."""
    import pyarrow.compute as pc

    if not workspace.pairs.is_file():
        return False
    table = tables.read_table(workspace.pairs, tables.PAIRS, ["clip_id", "pair_id"])
    return bool(pc.any(pc.equal(table["clip_id"], table["pair_id"])).as_py())


def review_imported(workspace: Workspace) -> dict[str, Any]:
    """Write the tables of imported pairs again after a review. Returns the summary."""
    with workspace.lock("pairs build"):
        return _published(workspace, _rows(workspace))


def _rows(workspace: Workspace) -> list[PairRow]:
    """The rows of pairs.parquet, without the columns of the audit."""
    if not workspace.pairs.is_file():
        return []
    rows = tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
    return [
        cast(PairRow, {k: v for k, v in row.items() if not k.startswith("audit.")}) for row in rows
    ]


def _published(workspace: Workspace, rows: Iterable[PairRow]) -> dict[str, Any]:
    """Publish imported rows according to the reviews."""
    reviews = read_reviews(workspace)
    judged: list[PairRow] = []
    for row in sorted(rows, key=lambda row: row["pair_id"]):
        choice = reviews.get(row["pair_id"])
        status = row["status"]
        if status in ("ok", "rejected"):
            status = "rejected" if choice == "reject" else "ok"
        judged.append({**row, "status": status, "review": choice})
    return publish_pairs(workspace, judged, shard_rows=256)


def _row(
    workspace: Workspace, pair: Given, origin: str, task: str, validation: float, crf: int
) -> PairRow:
    files = [pair.win, *pair.lose]
    hashes = [ids.file_hash(path) for path in files]
    pair_id = ids.content_id(prompt=pair.prompt, files=hashes, task=task, crf=crf)
    row: PairRow = {
        "pair_id": pair_id,
        "clip_id": pair_id,
        "source_id": hashes[0],
        "prompt": pair.prompt,
        "split": "validation" if ids.unit_interval(hashes[0]) < validation else "train",
        "status": "failed",
        "model": origin,
        "task": task,
        "round": 1,
        "lose": [],
        "strategy": ["generate"] * len(pair.lose),
    }
    try:
        form, videos = _in_one_form(files)
    except (UserError, conform.Unfit) as error:
        return {**row, "error": f"{pair.win.name}: {error}"}
    if any((video == videos[0]).all() for video in videos[1:]):
        return {**row, "error": f"{pair.win.name}: a loser is the same video as the winner"}
    names = []
    for path, video in zip(files, videos, strict=True):
        data = conform.encode_side(video, form, crf)
        name = f"{ids.bytes_hash(data)}.mp4"
        write_bytes(workspace.pair_videos / name, data)
        if path in pair.latents:
            copy = latents.folder_of(workspace) / f"{Path(name).stem}.safetensors"
            with atomic_path(copy) as temporary:
                shutil.copyfile(pair.latents[path], temporary)
        names.append(name)
    frame = _png(workspace, videos[0][0]) if task == "i2v" else None
    return {
        **row,
        "status": "ok",
        "win": names[0],
        "lose": names[1:],
        "first_frame": frame,
        "width": form.width,
        "height": form.height,
        "frames": form.frames,
        "fps": float(form.fps),
    }


def _in_one_form(files: Sequence[Path]) -> tuple[conform.Form, list[Video]]:
    """All videos in the smallest of their sizes, rates and lengths. Raises MediaError or Unfit."""
    from realdpo.media.decode import read_clip

    read = [read_clip(path) for path in files]
    rate = min(fps for _, fps in read)
    if rate <= 0:
        raise conform.Unfit("a file without a frame rate")
    width = min(video.shape[2] for video, _ in read) // 2 * 2
    height = min(video.shape[1] for video, _ in read) // 2 * 2
    frames = min(len(conform.frames_at(len(video), fps, rate)) for video, fps in read)
    if frames < 2:
        raise conform.Unfit("a video of fewer than 2 frames")
    form = conform.Form(width, height, frames, Fraction(rate).limit_denominator(1001))
    return form, [conform.conform_real(video, fps, form) for video, fps in read]


def _png(workspace: Workspace, frame: Video) -> str:
    from PIL import Image

    from realdpo.report import encode_png

    data = encode_png(Image.fromarray(frame))
    name = f"{ids.bytes_hash(data)}.png"
    write_bytes(workspace.pair_videos / name, data)
    return name


def export_pairs(workspace: Workspace, target: Path, kind: str) -> dict[str, Any]:
    """Write the accepted pairs into a new folder, for other tools. Returns the summary.

    kind: "folder" is RealDPO's layout, with a metadata.csv that `datasets` reads as a video folder.
    "trl" is Parquet with the columns prompt, image, chosen, rejected, and one row per loser.
    "simpletuner", "musubi" and "diffusion-pipe" are the layouts of these trainers (see `trainers`),
    with the train split alone. Raises UserError if the target is not empty.
    """
    workspace.require(workspace.pairs, "pairs build")
    rows = [
        row
        for row in tables.read_table(workspace.pairs, tables.PAIRS).to_pylist()
        if row["status"] == "ok"
    ]
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file", "export to a new folder")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty", "export to a new folder")
    made = FORMATS.get(kind)
    if made is None:
        raise UserError(f"there is no export format {kind!r}", f"choose from {', '.join(FORMATS)}")
    if made not in (_as_folder, _as_trl):
        rows = trainers.for_training(rows)
    for row in rows:  # before anything is written, so no partial export stays behind
        for name in (row["win"], *row["lose"], row["first_frame"]):
            if name:
                integrity.read_pair_file(workspace, name)
    for line in made(workspace, rows, target):
        say(line)
    say(f"exported {len(rows)} pairs to {target}")
    return {"pairs": len(rows), "folder": str(target), "format": kind}


def _as_folder(workspace: Workspace, rows: Sequence[PairRow], target: Path) -> list[str]:
    table = [["prompt", "win_file_name", "lose_file_name", "pair_id", "split"]]
    for row in rows:
        win = f"videos/{row['pair_id']}.mp4"
        _copy(workspace.pair_videos / row["win"], target / win)
        for k, name in enumerate(row["lose"]):
            lose = f"negative_samples/{row['pair_id']}/{k}.mp4"
            _copy(workspace.pair_videos / name, target / lose)
            table.append([row["prompt"], win, lose, row["pair_id"], row["split"]])
    one_line = [" ".join(row["prompt"].split()) for row in rows]
    write_text(target / "prompt.txt", "".join(f"{line}\n" for line in one_line))
    write_text(target / "video.txt", "".join(f"videos/{row['pair_id']}.mp4\n" for row in rows))
    with (
        atomic_path(target / "metadata.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as handle,
    ):
        csv.writer(handle).writerows(table)
    return []


def _as_trl(workspace: Workspace, rows: Sequence[PairRow], target: Path) -> list[str]:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    def media(name: str | None) -> dict[str, Any] | None:
        if name is None:
            return None
        return {"bytes": (workspace.pair_videos / name).read_bytes(), "path": name}

    features = {
        "prompt": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
        "chosen": {"_type": "Video"},
        "rejected": {"_type": "Video"},
    }
    kinds = [pa.string(), tables.MEDIA, tables.MEDIA, tables.MEDIA]
    schema = pa.schema(
        list(zip(features, kinds, strict=True)),
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split in sorted({row["split"] for row in rows}):
        path = target / "data" / f"{split}-00000-of-00001.parquet"
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for row in rows:
                if row["split"] != split:
                    continue
                same = {"prompt": row["prompt"], "image": media(row["first_frame"])}
                same["chosen"] = media(row["win"])
                each = [{**same, "rejected": media(name)} for name in row["lose"]]
                writer.write_table(pa.Table.from_pylist(each, schema=schema))
    return [
        "`datasets` needs torchcodec to read frames (pip install torchcodec). For the bytes alone, "
        "use cast_column(name, datasets.Video(decode=False))"
    ]


FORMATS: dict[str, Callable[..., list[str]]] = {
    "folder": _as_folder,
    "trl": _as_trl,
    "simpletuner": trainers.to_simpletuner,
    "musubi": trainers.to_musubi,
    "diffusion-pipe": trainers.to_diffusion_pipe,
}


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _videos(folder: Path) -> tuple[Path, ...]:
    found = sorted(folder.glob("*.mp4"), key=lambda path: (len(path.stem), path.stem))
    if not found:
        raise UserError(f"{folder} holds no losers", "put them there as 0.mp4, 1.mp4 ...")
    return tuple(found)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise UserError(f"{file} is empty")
    if "" in lines:
        raise UserError(
            f"{file}, line {lines.index('') + 1} is empty", "write one line for every pair"
        )
    return lines
