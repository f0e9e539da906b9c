"""Prompts with first frames, from a workspace or a folder.

Four kinds of folder can be read:

    RealAction-TestBench   images.txt (one path per line) and a .txt of as many prompts
    VBench-I2V             vbench2_i2v_full_info.json or i2v-bench-info.json, images in crop/W-H/
    pictures, real clips   each PNG, JPEG or MP4 with its prompt in <name>.txt, or as its name;
                           a real clip brings its own first frame
    prompts.txt            one prompt per line, no pictures (text-to-video)
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from realdpo import tables
from realdpo.errors import UserError
from realdpo.files import stem_of
from realdpo.ids import bytes_hash, content_id
from realdpo.progress import say
from realdpo.workspace import Workspace

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Item:
    """One prompt. image: file of its first frame, or None. clip: file of the real clip, or None.

    names: file stems that finished videos of this prompt may have, the best first. No other item
    has any of them.
    """

    item_id: str
    prompt: str
    image: Path | None = None
    clip: Path | None = None
    names: tuple[str, ...] = ()


def read_benchmark(folder: Path, aspect: float = 1.5) -> list[Item]:
    """The items of a benchmark folder. `aspect` (width / height) chooses among VBench's crops.

    Raises UserError if the folder is of no known kind, or if a picture is missing.
    """
    if not folder.is_dir():
        raise UserError(f"the benchmark {folder} is not a folder")
    return _unshared(_read(folder, aspect))


read = read_benchmark  # the name until 0.2, which outside scripts still use


def _read(folder: Path, aspect: float) -> list[Item]:
    if (folder / "images.txt").is_file():
        return _realaction(folder)
    for name in ("vbench2_i2v_full_info.json", "i2v-bench-info.json"):
        if (folder / name).is_file():
            return _vbench(folder, folder / name, aspect)
    named: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (suffix := path.suffix.lower()) in (*_PICTURES, ".mp4"):
            kind = "clip" if suffix == ".mp4" else "image"
            named.setdefault(path.stem, {}).setdefault(kind, path)
    if named:
        return [_named_item(folder, name, **files) for name, files in named.items()]
    if (folder / "prompts.txt").is_file():
        return [_item(prompt, None, (prompt,)) for prompt in _lines(folder / "prompts.txt")]
    raise UserError(
        f"{folder} holds no prompts",
        "give a folder with images.txt and prompts, a VBench-I2V json, pictures, clips, or "
        "prompts.txt",
    )


def of_workspace(workspace: Workspace, split: str) -> list[Item]:
    """The kept clips of a split: their prompts, and their files as the real clips."""
    path = workspace.require(workspace.clips, "curate ingest FOOTAGE")
    columns = ["clip_id", "prompt", "keep", "status", "split", "path"]
    rows = tables.read_table(path, tables.CLIPS, columns).to_pylist()
    items: list[Item] = []
    without = 0
    for row in sorted(rows, key=lambda row: row["clip_id"]):
        if row["split"] != split or not row["keep"] or row["status"] != "ok" or not row["path"]:
            continue
        clip = workspace.root / row["path"]
        if not clip.is_file():
            raise UserError(f"{clip} is missing", "run `realdpo curate ingest` again")
        if not row["prompt"]:
            without += 1
            continue
        names = (row["clip_id"], stem_of(row["prompt"]))
        items.append(Item(row["clip_id"], row["prompt"], clip=clip, names=names))
    if without:
        say(f"{without} clips of the split {split} have no prompt and are left out")
    if not items:
        if without:
            raise UserError(
                f"none of the {without} clips of the split {split} has a prompt",
                f"caption them: realdpo curate caption -w {workspace.root}",
            )
        present = sorted({str(row["split"]) for row in rows if row["keep"]})
        raise UserError(
            f"{workspace.root} has no clip in the split {split!r}",
            f"splits with clips: {', '.join(present) or 'none'}. Choose one with --split, or "
            "curate more footage",
        )
    return _unshared(items)


def _unshared(items: Sequence[Item]) -> list[Item]:
    """Each item once, without names that several share, because a video belongs to one item."""
    once = {item.item_id: item for item in items}
    if len(once) < len(items):
        say(f"{len(items) - len(once)} prompts are repeated and are taken once")
    counts = Counter(name for item in once.values() for name in item.names)
    return [
        replace(item, names=tuple(name for name in item.names if counts[name] == 1))
        for item in once.values()
    ]


def find_video(folder: Path, item: Item, seed: int) -> Path | None:
    """The finished video of an item: <name>-<seed>.mp4, or <name>.mp4 as seed 0, or None."""
    for name in item.names:
        for candidate in (f"{name}-{seed}.mp4", *((f"{name}.mp4",) if seed == 0 else ())):
            if (folder / candidate).is_file():
                found: Path | None = folder / candidate
                return found
    return None


def crop_and_scale(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [h, w, 3], cropped to the aspect around its centre, then scaled."""
    import cv2

    from realdpo.pairs.conform import centred_crop

    x, y, w, h = centred_crop(picture.shape[1], picture.shape[0], width, height)
    part = np.ascontiguousarray(picture[y : y + h, x : x + w])
    if (w, h) == (width, height):
        return part
    kind = cv2.INTER_AREA if w >= width else cv2.INTER_CUBIC
    return cv2.resize(part, (width, height), interpolation=kind)


def load_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], upright. Raises UserError if the file is not a picture."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} is not a readable picture: {error}") from None


def _realaction(folder: Path) -> list[Item]:
    images = _lines(folder / "images.txt")
    others = [p for p in sorted(folder.glob("*.txt")) if p.name not in ("images.txt", "videos.txt")]
    prompts = next((lines for p in others if len(lines := _lines(p)) == len(images)), None)
    if prompts is None:
        raise UserError(
            f"{folder} has no file with {len(images)} prompts beside images.txt",
            "write prompts.txt with one prompt per line, in the order of images.txt",
        )
    items = []
    for line, prompt in zip(images, prompts, strict=True):
        # In the published folder, the images lie two levels above the list that names them.
        places = [parent / line for parent in (folder, *folder.resolve().parents[:3])]
        image = next((p for p in places if p.is_file()), None)
        if image is None:
            raise UserError(f"{folder / 'images.txt'} names {line}, which is missing")
        items.append(_item(prompt, image, (Path(line).stem, prompt)))
    return items


def _vbench(folder: Path, info: Path, aspect: float) -> list[Item]:
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{info} is not valid JSON: {error}") from None
    crops = {}
    for place in sorted((folder / "crop").glob("*-*")):
        width, _, height = place.name.partition("-")
        if width.isdigit() and height.isdigit():
            crops[abs(int(width) / int(height) / aspect - 1)] = place
    roots = [crops[nearest] for nearest in sorted(crops)] + [folder / "origin", folder]
    items: dict[str, Item] = {}
    for entry in entries:
        prompt = entry.get("prompt_en") or entry.get("caption")
        name = entry.get("image_name") or entry.get("file_name")
        if not prompt or not name:
            raise UserError(f"{info}: an entry has no prompt or no name of an image")
        image = next((root / name for root in roots if (root / name).is_file()), None)
        if image is None:
            raise UserError(f"{info} names {name}, which is in none of the folders of {folder}")
        items.setdefault(f"{name}\0{prompt}", _item(prompt, image, (prompt, Path(name).stem)))
    return list(items.values())


def _named_item(
    folder: Path, name: str, image: Path | None = None, clip: Path | None = None
) -> Item:
    text = folder / f"{name}.txt"
    prompt = " ".join(_lines(text)) if text.is_file() else name
    return _item(prompt, image, (name, prompt), clip)


def _item(prompt: str, image: Path | None, names: Sequence[str], clip: Path | None = None) -> Item:
    shown = clip or image
    digest = bytes_hash(shown.read_bytes()) if shown else None
    item_id = content_id(prompt=prompt, image=digest)
    # The item's own id is unique, whatever the prompt.
    plain = (name.replace("/", "_") for name in names if "/" in name)
    stems = dict.fromkeys((*map(stem_of, names), *map(stem_of, plain), item_id))
    return Item(item_id, prompt, image, clip, tuple(stems))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
