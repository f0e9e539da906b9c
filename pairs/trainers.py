"""Pairs in the layouts of other trainers: SimpleTuner's Flow-DPO, musubi-tuner, diffusion-pipe.

SimpleTuner takes pairs: two folders with files of the same names, and a JSON of data backends
(documentation/experimental/FLOW_DPO.md and DATALOADER.md of bghira/SimpleTuner). The other two
train on clips alone. They get the winners, with a caption file beside each, and a TOML with folders
and sizes (docs/dataset_config.md of kohya-ss/musubi-tuner, examples/dataset.toml of
tdrussell/diffusion-pipe).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from realdpo.errors import UserError
from realdpo.files import atomic_path, write_text
from realdpo.ids import file_hash
from realdpo.progress import say
from realdpo.rows import PairRow
from realdpo.workspace import Workspace

BACKENDS = "multidatabackend.json"  # its usual name in SimpleTuner
_PREFERRED, _REJECTED = "preferred", "rejected"
_VIDEOS = {".mp4", ".mov", ".webm", ".mkv", ".avi"}


def to_simpletuner(workspace: Workspace, rows: Sequence[PairRow], target: Path) -> list[str]:
    """Write win/ and lose/ with matching names, a caption beside each winner, and the JSON of both.

    A pair with several losers becomes as many files in each folder. Returns notes for the user.
    """
    rows = list(rows)
    for row in rows:
        for k, name in enumerate(row["lose"]):
            stem = f"{row['pair_id']}-{k}"
            _copy(workspace.pair_videos / row["win"], target / "win" / f"{stem}.mp4")
            _copy(workspace.pair_videos / name, target / "lose" / f"{stem}.mp4")
            for side in ("win", "lose"):
                write_text(target / side / f"{stem}.txt", _line(row["prompt"]))
    frames = min((row["frames"] for row in rows), default=0)
    place = target.resolve()
    common = {"type": "local", "caption_strategy": "textfile", "video": {"num_frames": frames}}
    backends = [
        {
            "id": _PREFERRED,
            "dataset_type": "video",
            "instance_data_dir": str(place / "win"),
            "cache_dir_vae": str(place / "cache" / "win"),
            "conditioning_data": [_REJECTED],
            **common,
        },
        {
            "id": _REJECTED,
            "dataset_type": "conditioning",
            "conditioning_type": "reference_strict",
            "source_dataset_id": _PREFERRED,
            "instance_data_dir": str(place / "lose"),
            "cache_dir_vae": str(place / "cache" / "lose"),
            **common,
        },
        {
            "id": "text-embeds",
            "dataset_type": "text_embeds",
            "default": True,
            "type": "local",
            "cache_dir": str(place / "cache" / "text"),
        },
    ]
    write_text(target / BACKENDS, json.dumps(backends, indent=2) + "\n")
    return [
        "train with: --data_backend_config "
        f"{target / BACKENDS} --distillation_method=flow_dpo --model_type=lora"
    ]


def to_musubi(workspace: Workspace, rows: Sequence[PairRow], target: Path) -> list[str]:
    """Write winners with captions, one folder per shape, and dataset.toml. Returns notes."""
    import tomli_w

    datasets = []
    for (width, height, frames), folder in _by_shape(workspace, rows, target):
        datasets.append(
            {
                "video_directory": str(folder),
                "cache_directory": str(target.resolve() / "cache" / folder.name),
                "resolution": [width, height],
                "target_frames": [frames],
                "frame_extraction": "head",
            }
        )
    general = {"caption_extension": ".txt", "batch_size": 1, "enable_bucket": False}
    write_text(target / "dataset.toml", tomli_w.dumps({"general": general, "datasets": datasets}))
    return [_NO_LOSERS.format("musubi-tuner")]


def to_diffusion_pipe(workspace: Workspace, rows: Sequence[PairRow], target: Path) -> list[str]:
    """Write winners with captions, one folder per shape, and dataset.toml. Returns notes."""
    import tomli_w

    shapes = _by_shape(workspace, rows, target)
    directories = [
        {
            "path": str(folder),
            "num_repeats": 1,
            "resolutions": [[width, height]],
            "ar_buckets": [[width, height]],
            "frame_buckets": [frames],
        }
        for (width, height, frames), folder in shapes
    ]
    general = {
        "resolutions": [list(shape[:2]) for shape, _ in shapes[:1]],
        "enable_ar_bucket": True,
        "frame_buckets": sorted({shape[2] for shape, _ in shapes}),
    }
    write_text(target / "dataset.toml", tomli_w.dumps({**general, "directory": directories}))
    return [_NO_LOSERS.format("diffusion-pipe")]


_NO_LOSERS = "{} has no preference training: only the winners were written"


def for_training(rows: Iterable[PairRow]) -> list[PairRow]:
    """The rows of the train split. Says how many are held out. UserError if none is left."""
    rows = list(rows)
    chosen = [row for row in rows if row["split"] == "train"]
    if not chosen:
        raise UserError(
            "the train split has no accepted pair", "review the pairs with: realdpo pairs report"
        )
    if left := len(rows) - len(chosen):
        say(f"{left} pairs of validation and test are held out for measuring")
    return chosen


def read_simpletuner(path: Path) -> list[tuple[str, Path, tuple[Path, ...]]]:
    """(caption, winner, losers) of each pair that SimpleTuner's JSON, or a folder with it, names.

    Files are matched by their path below the two folders, without the suffix. If a folder is not
    where the JSON says, it is looked for beside the JSON. Winners with the same bytes and caption
    become one pair with several losers. Raises UserError that names the missing file.
    """
    file = path / BACKENDS if path.is_dir() else path
    backends = _backends(file)
    found: dict[tuple[str, str], tuple[str, Path, list[Path]]] = {}
    for preferred, rejected in _paired(file, backends):
        wins = _files(_folder(file, preferred))
        losers = _files(_folder(file, rejected))
        for stem, win in sorted(wins.items()):
            if stem not in losers:
                raise UserError(
                    f"{win} has no loser of the same name in {_folder(file, rejected)}",
                    "reference_strict needs one for each winner",
                )
            caption = _caption(win, str(preferred.get("caption_strategy", "textfile")))
            key = (caption, file_hash(win))
            found.setdefault(key, (caption, win, []))[2].append(losers[stem])
    if not found:
        raise UserError(f"{file} names no videos")
    return [(caption, win, tuple(lose)) for caption, win, lose in found.values()]


def _backends(file: Path) -> list[dict[str, Any]]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"there is no file {file}", f"give the path of SimpleTuner's {BACKENDS}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(read, list) or not all(isinstance(b, dict) for b in read):
        raise UserError(f"{file} is not a list of data backends")
    return [b for b in read if not b.get("disabled")]


def _paired(
    file: Path, backends: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(preferred, rejected) backends, as conditioning_data or source_dataset_id tie them."""
    strict = [b for b in backends if b.get("conditioning_type") == "reference_strict"]
    pairs = []
    for rejected in strict:
        for preferred in backends:
            named = preferred.get("conditioning_data") or []
            named = [named] if isinstance(named, str) else named
            own = preferred.get("id")
            if rejected.get("id") in named or (own and rejected.get("source_dataset_id") == own):
                pairs.append((preferred, rejected))
    if not pairs:
        raise UserError(
            f"{file} pairs no data set with one of conditioning_type reference_strict",
            "mark the losers of Flow-DPO as such a data set",
        )
    return pairs


def _folder(file: Path, backend: Mapping[str, Any]) -> Path:
    given = Path(str(backend.get("instance_data_dir", "")))
    for folder in (given, file.parent / given, file.parent / given.name):
        if given.name and folder.is_dir():
            return folder
    raise UserError(f"{file}: the folder {given} of {backend.get('id')!r} is missing")


def _files(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _VIDEOS
    }


def _caption(win: Path, strategy: str) -> str:
    if strategy == "filename":
        return win.stem.replace("_", " ").strip()
    beside = win.with_suffix(".txt")
    if strategy != "textfile":
        raise UserError(f"realdpo cannot read captions by {strategy!r}", "use textfile or filename")
    if not beside.is_file() or not (text := beside.read_text(encoding="utf-8").strip()):
        raise UserError(f"{win} has no caption in {beside.name}")
    return _line(text)


def _by_shape(
    workspace: Workspace, rows: Sequence[PairRow], target: Path
) -> list[tuple[tuple[int, int, int], Path]]:
    """Write winners with captions, one folder per shape.

    Returns (width, height, frames) and folders.
    """
    shapes = {}
    for row in rows:
        shape = (row["width"], row["height"], row["frames"])
        folder = target.resolve() / "{}x{}x{}".format(*shape)
        shapes[shape] = folder
        _copy(workspace.pair_videos / row["win"], folder / f"{row['pair_id']}.mp4")
        write_text(folder / f"{row['pair_id']}.txt", _line(row["prompt"]))
    return sorted(shapes.items())


def _line(text: str) -> str:
    return " ".join(text.split())


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
