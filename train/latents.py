"""Pairs as the trainer sees them: latents and inputs made once, kept on disk, named by content.

A file's name is a hash of the bytes it was made from, this module's transform, and the weights and
settings of the encoder, so a changed clip, transform or model can never read what is stale. Winner
and losers go through `video_latents` alike; the same file on both sides gives the same latents.
The image that conditions a pair may be stored in several noised copies (`condition_draws`), since
the VAE has left memory by the time a step would noise it afresh. What is known of a row stands in
`pairs/`, by the shard and the row, so that a start reads no video that was encoded before.

The rows are shared out: each process or machine encodes its own and waits for the files of the
others, never in a collective, so nothing times out however long it takes. Text encoders are on the
device first, for all prompts, then the VAE alone.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from realdpo import ids, integrity, progress, tables
from realdpo.errors import UserError
from realdpo.families import Family, Spec, load, trainable_family
from realdpo.files import atomic_path, write_text
from realdpo.models import model_name
from realdpo.regions import Region
from realdpo.train.config import TrainConfig
from realdpo.workspace import Workspace

_POLL_SECONDS = 0.5
TRANSFORM = 2  # raise when the way from a file to a latent changes


@dataclass(frozen=True)
class Pair:
    """One pair: where its latents and inputs are, and what the held-out check needs to know."""

    pair_id: str
    clip_id: str
    source_id: str
    prompt: str
    fps: float
    win: Path
    lose: tuple[Path, ...]
    inputs: tuple[Path, ...]  # prompt; first frame
    shape: tuple[int, ...]  # of a latent without batch axis
    size: tuple[int, int, int]  # width, height, frames of the video
    first_frame: Path | None  # PNG, for image-to-video
    regions: tuple[Region | None, ...] = ()  # what each loser was made anew in; None: all of it


@dataclass(frozen=True)
class Sample:
    """A pair in memory: `win` [...], `lose` [N, ...], `inputs`, whose images are [draws, ...]."""

    win: Tensor
    lose: Tensor
    inputs: dict[str, Tensor]
    images: dict[str, Tensor]
    regions: tuple[Region | None, ...] = ()  # one per loser


def load_sample(pair: Pair, losers: Sequence[int] | None = None) -> Sample:
    """Read a pair's tensors, of all losers or of those at the given indices, widened to float32.

    Raises UserError when a file is gone or damaged.
    """
    chosen = range(len(pair.lose)) if losers is None else losers
    prompt, *image = (_tensors(path, pair) for path in pair.inputs)
    win = _tensors(pair.win, pair)["latents"]
    lose = [_tensors(pair.lose[index], pair)["latents"] for index in chosen]
    return Sample(
        win,
        torch.stack(lose) if lose else win.new_zeros(0, *win.shape),
        {**prompt, "fps": torch.tensor(pair.fps)},
        image[0] if image else {},
        tuple(pair.regions[index] for index in chosen) if pair.regions else (),
    )


@dataclass(frozen=True)
class Row:
    """Where a pair's row is: its split, its shard, its place in it."""

    split: str
    shard: Path
    number: int
    clips: bool = False  # of the dataset, not of pairs


def prepare_pairs(
    workspace: Workspace,
    spec: Spec,
    config: TrainConfig,
    device: torch.device,
    limit: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> dict[str, list[Pair]]:
    """Encode what is not in the cache yet; returns the pairs of train and validation, in order.

    `limit` stops after so many pairs of each, for a trial. Of n processes that call this together
    the `share` (k, n) names the k-th: it encodes its own rows and waits until the files of the
    others' are there. Whoever starts the processes ends them all when one dies.

    The encoders are loaded only when something is missing, and are gone when this returns.
    Raises UserError when there are no pairs, the audit found a shortcut, or a pair does not fit
    the model.
    """
    rows = rows_of(workspace, config, limit)
    cache = encode_pairs(workspace, spec, config, device, rows, share)
    pairs = {row: cache.known(row) for row in rows}
    missing = [row for row, pair in pairs.items() if pair is None]
    if missing:
        progress.say(f"waiting for the latents of {len(missing)} pairs of other processes")
    while missing:
        time.sleep(_POLL_SECONDS)
        pairs |= {row: cache.known(row) for row in missing}
        missing = [row for row in missing if pairs[row] is None]
    found: dict[str, list[Pair]] = {"train": [], "validation": []}
    for row, pair in pairs.items():
        assert pair is not None
        found[row.split].append(pair)
    return found


def rows_of(workspace: Workspace, config: TrainConfig, limit: int | None = None) -> list[Row]:
    """The rows of the workspace's shards, at most `limit` of a split. Raises UserError without any.

    Rows of pairs, or of the dataset's clips (see `trains_on_clips`), of which those without a prompt
    are left out.
    """
    clips = trains_on_clips(workspace, config)
    folder, kind = (
        (workspace.data, tables.DATASET) if clips else (workspace.pair_data, tables.PAIR_SHARD)
    )
    rows: list[Row] = []
    silent = 0
    for split in ("train", "validation"):
        places = []
        for shard in sorted(folder.glob(f"{split}-*.parquet")):
            tables.check_table(shard, kind)
            prompts = pq.read_table(shard, columns=["prompt"]).column(0).to_pylist()
            for number, prompt in enumerate(prompts):
                if clips and not (prompt or "").strip():
                    silent += 1
                else:
                    places.append(Row(split, shard, number, clips))
        rows += places[:limit]
    if silent:
        progress.say(f"{silent} clips without a prompt are not trained on")
    if not any(row.split == "train" for row in rows):
        if clips:
            raise UserError(
                f"no clips with prompts for training in {workspace.data}",
                f"make them with: realdpo curate ingest FOOTAGE -w {workspace.root}",
            )
        if not config.method.needs_losers and config.data == "auto":
            raise UserError(
                f"neither clips nor pairs for training in {workspace.root}",
                f"begin with: realdpo curate ingest FOOTAGE -w {workspace.root}",
            )
        raise UserError(
            f"no pairs for training in {workspace.pair_data}",
            f"make them with: realdpo pairs build -w {workspace.root}",
        )
    return rows


def encode_pairs(
    workspace: Workspace,
    spec: Spec,
    config: TrainConfig,
    device: torch.device,
    rows: Sequence[Row],
    share: tuple[int, int] = (0, 1),
) -> Cache:
    """Encode every n-th of `rows`, from the k-th on, for the `share` (k, n); returns the cache."""
    if not trains_on_clips(workspace, config):
        refuse_shortcut(workspace, config.allow_shortcut)
        refuse_other_model(workspace, spec, config)
    cache = Cache(workspace.step("latents"), trainable_family(spec), config, device)
    mine = [row for row in rows[share[0] :: share[1]] if cache.known(row) is None]
    if not mine:
        return cache
    with progress.progress_bar("prompts", len(mine), "pairs") as advance:
        for _, row in _read_rows(mine):
            with _named(row):
                cache.prompt(row)
            advance()
    cache.drop_text()
    with progress.progress_bar("latents", len(mine), "pairs") as advance:
        for place, row in _read_rows(mine):
            with _named(row):
                cache.keep(place, row)
            advance(note=place.split)
    cache.drop()
    return cache


def leaner_settings(config: TrainConfig) -> Callable[[], str]:
    """What to try when encoding runs out of memory."""
    tiled = "build pairs of smaller or shorter videos"
    return lambda: tiled if config.vae_tiling else "encode in tiles: --set vae_tiling=true"


@contextlib.contextmanager
def _named(row: Mapping[str, Any]) -> Iterator[None]:
    """What fails within is told with the pair it is of."""
    try:
        yield
    except UserError as error:
        if row["pair_id"] in error.message:
            raise
        raise UserError(
            f"pair {row['pair_id']}: {error.message}",
            error.hint or "reject the pair in a review or build it again",
        ) from error


def trains_on_clips(workspace: Workspace, config: TrainConfig) -> bool:
    """Whether a run takes the dataset's clips, not pairs: see `TrainConfig.data`."""
    if config.data != "auto":
        return config.data == "clips"
    return not config.method.needs_losers and any(workspace.data.glob("train-*.parquet"))


def winner_bytes(workspace: Workspace, pair: Pair) -> bytes:
    """The mp4 bytes of a pair's real clip, as its shard holds them."""
    of_pair = (workspace.pair_data, "pair_id", "win")
    of_clip = (workspace.data, "clip_id", "video")
    for folder, name, column in (of_pair, of_clip):
        for shard in sorted(folder.glob("*.parquet")):
            wanted = [(name, "=", pair.pair_id)]
            if found := pq.read_table(shard, columns=[column], filters=wanted).to_pylist():
                return bytes(found[0][column]["bytes"])
    raise UserError(f"{pair.pair_id} is in no shard of {workspace.root} any more")


def refuse_shortcut(workspace: Workspace, allowed: bool) -> None:
    """Raise UserError when `pairs audit` could tell winners from losers by trivial statistics."""
    if not workspace.audit.is_file():
        return
    verdict = json.loads(workspace.audit.read_text(encoding="utf-8")).get("verdict")
    if verdict == "too few":
        progress.say(
            "the audit has too few pairs to tell whether winners and losers differ in more "
            "than motion"
        )
    if verdict != "shortcut":
        return
    if not allowed:
        raise UserError(
            f"the audit in {workspace.audit} tells winners from losers by trivial statistics, so "
            "training would learn those and not motion",
            "look at `realdpo pairs audit`, rebuild the pairs, or train all the same with "
            "--set allow_shortcut=true",
        )
    progress.say("warning: the audit found a shortcut between the sides; training all the same")


def refuse_other_model(workspace: Workspace, spec: Spec, config: TrainConfig) -> None:
    """Raise UserError for pairs that were made for another task or by another model.

    What a shard does not say is said to be unknown. Only losers are made by a model: whose they
    are matters to preference training alone.
    """
    told = []
    for shard in sorted(workspace.pair_data.glob("*.parquet")):
        told += pq.read_table(shard, columns=["pair_id", "model", "task"]).to_pylist()
    task = trainable_family(spec).task
    name = model_name(config.model)
    own = name.rpartition("/")[2].lower()

    def made(row: Mapping[str, Any]) -> str:
        return str((row["model"] or own).rpartition("/")[2].lower())

    tasks = [row for row in told if row["task"] not in (None, task)]
    others = [row for row in told if made(row) != own] if config.method.needs_losers else []
    for rows, words, key, wanted in (
        (tasks, "is of the task", "task", f"and {name} is trained for {task}"),
        (others, "has losers of the model", "model", f"not of {name}"),
    ):
        if not rows:
            continue
        line = f"pair {rows[0]['pair_id']} {words} {rows[0][key]}, {wanted} ({len(rows)} of {len(told)} pairs)"
        if not config.allow_other_model:
            raise UserError(
                line,
                "build pairs with the model that is trained, or insist with "
                "--set allow_other_model=true",
            )
        progress.say(f"warning: {line}")
    unknown = sum(row["model"] is None for row in told)
    if unknown and config.method.needs_losers:
        progress.say(f"{unknown} of {len(told)} pairs do not say which model made their losers")


def video_latents(family: Family, vae: Any, clip: np.ndarray) -> Tensor:
    """Latents [...] float32 of one clip, uint8 [F, H, W, 3]: the only way from pixels to latents."""
    with torch.no_grad():
        return family.padded(family.encode(vae, _pixels(clip).unsqueeze(0)))[0].float().cpu()


class Cache:
    """Files under one folder, made on demand. The encoders are loaded at the first miss."""

    def __init__(
        self, folder: Path, family: Family, config: TrainConfig, device: torch.device
    ) -> None:
        spec = family.spec
        self.folder, self.spec, self.family = folder, spec, family
        self.device, self.tiled = device, config.vae_tiling
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.vae_id = self._id("vae")
        texts = [c for c in spec.classes if c.startswith(("text_encoder", "tokenizer"))]
        images = [c for c in spec.classes if c.startswith(("image_encoder", "image_processor"))]
        self.sees_image = bool(images)
        # How many tokens of prompt and picture are kept is in the transformer's settings, and two
        # models with one text encoder may differ in it.
        shape = {k: v for k, v in spec.transformer.items() if not k.startswith("_")}
        self.text_id = ids.content_id(encoder=self._id(*texts, *images), transformer=shape)
        self.draws = config.condition_draws if family.condition_noise() else 0
        self._pipe: Any = None
        self._vae: Any = None
        self._placed = False

    def known(self, row: Row) -> Pair | None:
        """What is known of a row, if it was encoded and every file of it is there and whole."""
        path = self._place(row)
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            sizes = stored.pop("sizes")
        except (ValueError, KeyError):
            return None
        files = {name: self.folder / name for name in sizes}
        for name, file in files.items():
            size = file.stat().st_size if file.is_file() else None
            if size != sizes[name]:
                if size is not None:
                    progress.say(f"{file} is damaged; it is made again")
                    file.unlink()
                return None
        stored["win"] = files[stored["win"]]
        stored["lose"] = tuple(files[name] for name in stored["lose"])
        stored["inputs"] = tuple(files[name] for name in stored["inputs"])
        stored["shape"], stored["size"] = tuple(stored["shape"]), tuple(stored["size"])
        stored["regions"] = _regions(stored["regions"])
        if stored["first_frame"]:
            stored["first_frame"] = files[stored["first_frame"]]
        return Pair(**stored)

    def keep(self, place: Row, row: Mapping[str, Any]) -> None:
        """Encode a row and write down what is known of it."""
        pair = self.pair(row)
        stored = asdict(pair)
        stored["win"] = pair.win.name
        stored["lose"] = [path.name for path in pair.lose]
        stored["inputs"] = [path.name for path in pair.inputs]
        files = [pair.win, *pair.lose, *pair.inputs]
        if pair.first_frame is not None:
            stored["first_frame"] = pair.first_frame.name
            files.append(pair.first_frame)
        stored["sizes"] = {path.name: path.stat().st_size for path in files}
        write_text(self._place(place), json.dumps(stored))

    def _place(self, row: Row) -> Path:
        stat = row.shard.stat()
        name = ids.content_id(
            shard=row.shard.name,
            size=stat.st_size,
            time=stat.st_mtime_ns,
            row=row.number,
            vae=self.vae_id,
            text=self.text_id,
            draws=self.draws,
            transform=TRANSFORM,
            pipeline=self.spec.pipeline,
            dtype=str(self.dtype),
            tiled=self.tiled,
        )
        return self.folder / "pairs" / f"{name}.json"

    def prompt(self, row: Mapping[str, Any]) -> Path:
        """The inputs made of the prompt, and of the first frame where an encoder sees it."""
        self._check_size(row)
        return self._prompt(row["prompt"], self._first_frame(row) if self.sees_image else None)

    def pair(self, row: Mapping[str, Any]) -> Pair:
        win = self._latents(row["win"]["bytes"], "the winner")
        lose = tuple(
            self._latents(video["bytes"], f"loser {k}") for k, video in enumerate(row["lose"])
        )
        image = self._first_frame(row) if self.family.task == "i2v" else None
        inputs = [self._prompt(row["prompt"], image)]
        if image is not None:
            inputs.append(self._image(image, row["frames"]))
        shapes = {_shape(path) for path in (win, *lose)}
        if len(shapes) != 1:
            raise UserError(
                f"pair {row['pair_id']}: winner and losers differ in size",
                "conform the pairs again: realdpo pairs build",
            )
        known = (row["pair_id"], row["clip_id"], row["source_id"], row["prompt"], row["fps"])
        size = (row["width"], row["height"], row["frames"])
        shown = None if image is None else self._png(image)
        regions = tuple(
            r and Region(**{n: tuple(v) for n, v in r.items()}) for r in row.get("regions") or []
        )
        return Pair(*known, win, lose, tuple(inputs), shapes.pop(), size, shown, regions)

    def _latents(self, video: bytes, side: str) -> Path:
        from realdpo.media.decode import read_clip  # PyAV, which reads what is encoded needs not

        def make() -> dict[str, Tensor]:
            try:
                clip = read_clip(video)[0]
            except UserError as error:
                raise UserError(f"{side}: {error.message}", error.hint) from error
            return {"latents": video_latents(self.family, self.vae, clip)}

        return self._file("video", make, vae=self.vae_id, video=ids.bytes_hash(video))

    def _prompt(self, prompt: str, image: np.ndarray | None) -> Path:
        seen = image if self.sees_image else None

        def make() -> dict[str, Tensor]:
            pixels = None if seen is None else _pixels(seen[None])[:, 0]
            return self.family.embed(self.pipe, prompt, pixels)

        seen_id = None if seen is None else ids.bytes_hash(seen.tobytes())
        return self._file("prompt", make, text=self.text_id, prompt=prompt, image=seen_id)

    def _image(self, image: np.ndarray, frames: int) -> Path:
        image_id = ids.bytes_hash(image.tobytes())

        def make() -> dict[str, Tensor]:
            clean = _pixels(image[None])[:, 0].unsqueeze(0)
            copies = [clean, *_noised(clean, self.draws, self.family.condition_noise(), image_id)]
            each = [self.family.condition(self.vae, c, frames) for c in copies]
            return {name: torch.cat([made[name] for made in each]) for name in each[0]}

        return self._file(
            "image", make, vae=self.vae_id, image=image_id, frames=frames, draws=self.draws
        )

    def _file(self, kind: str, make: Any, **key: Any) -> Path:
        name = ids.content_id(
            kind=kind,
            transform=TRANSFORM,
            pipeline=self.spec.pipeline,
            dtype=str(self.dtype),
            tiled=self.tiled,
            **key,
        )
        path = self.folder / f"{name}.safetensors"
        if path.is_file() and _shapes(path) is None:
            progress.say(f"{path} is damaged; it is made again")
            path.unlink()
        if not path.is_file():
            with torch.no_grad():
                tensors = {n: self._narrow(t.detach().cpu()) for n, t in make().items()}
            if not all(bool(t.isfinite().all()) for t in tensors.values()):
                raise UserError(
                    f"{self.spec.folder} encodes a {kind} to values that are not finite",
                    "look at the model's VAE and text encoder: some overflow in half precision",
                )
            with atomic_path(path) as temporary:
                # which video it is of, for `pairs audit`, which compares the two sides
                save_file(tensors, temporary, {k: v for k, v in key.items() if k == "video"})
        return path

    def _png(self, image: np.ndarray) -> Path:
        path = (
            self.folder / f"{ids.content_id(kind='png', image=ids.bytes_hash(image.tobytes()))}.png"
        )
        if not path.is_file():
            with atomic_path(path) as temporary:
                Image.fromarray(image).save(temporary, "PNG")
        return path

    def _first_frame(self, row: Mapping[str, Any]) -> np.ndarray:
        stored = row["first_frame"]
        if stored is None or stored["bytes"] is None:
            from realdpo.media.decode import read_clip

            frames, _ = read_clip(row["win"]["bytes"])
            return np.asarray(frames[0])
        return np.array(Image.open(io.BytesIO(stored["bytes"])).convert("RGB"))

    def _check_size(self, row: Mapping[str, Any]) -> None:
        step, multiple = self.family.traits.frame_step, self.family.traits.size_step
        width, height, frames = row["width"], row["height"], row["frames"]
        if width % multiple or height % multiple or (frames - 1) % step or frames < 2:
            below = max(1, (frames - 1) // step) * step + 1
            near = f"{below}" if below == frames else f"{below} or {below + step}"
            size = "x".join(
                str(max(multiple, side // multiple * multiple)) for side in (width, height)
            )
            raise UserError(
                f"pair {row['pair_id']} is {width}x{height} with {frames} frames; {self.spec.folder} "
                f"takes {step}k+1 frames (nearest: {near}) and sides that are multiples of "
                f"{multiple} (nearest: {size})",
                "build the pairs, or ingest the clips with --target, for the model that is trained",
            )

    def _id(self, *components: str) -> str:
        return load.fingerprint_parts(self.spec, *components)

    def _narrow(self, tensor: Tensor) -> Tensor:
        """As it is kept: bfloat16 where the encoders compute in it."""
        wide = tensor.dtype == torch.float32
        return (tensor.to(self.dtype) if wide else tensor).contiguous()

    def _load(self) -> None:
        if self._pipe is None and self._vae is None:
            self._pipe = load.load_encoders(self.spec, self.dtype, torch.device("cpu"))
            # Apart, since a pipeline thinks that it is where the first of its parts is.
            self._vae, self._pipe.vae = self._pipe.vae, None

    @property
    def pipe(self) -> Any:
        """The text and image encoders, on the device."""
        self._load()
        if self._pipe is None:  # only when a file went away since the first pass
            raise UserError(f"a prompt's file in {self.folder} went away", "run the command again")
        if not self._placed:
            self._pipe.to(self.device)
            self._placed = True
        return self._pipe

    @property
    def vae(self) -> Any:
        """The VAE, on the device, when the text encoders have left it."""
        self._load()
        if self.tiled:
            self._vae.enable_tiling()
        return self._vae.to(self.device)

    def drop_text(self) -> None:
        """Let the text encoders go; the VAE needs their room."""
        self._pipe = None
        _empty(self.device)

    def drop(self) -> None:
        """Let the VAE go as well: training has the device to itself."""
        self._pipe = self._vae = None
        _empty(self.device)


def _empty(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _read_rows(rows: Sequence[Row]) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The rows and what is in them, one at a time: videos of a whole shard need not fit in memory."""
    wanted = ["pair_id", "clip_id", "source_id", "prompt", "win", "lose", "first_frame"]
    wanted += ["width", "height", "frames", "fps", "regions"]  # shards of before lack the last
    of_clip = ["clip_id", "source_id", "prompt", "video", "width", "height", "frames", "fps"]
    of_clip += ["sha256"]
    for shard, group in itertools.groupby(rows, key=lambda row: row.shard):
        numbers = {row.number: row for row in group}
        clips = next(iter(numbers.values())).clips
        file = pq.ParquetFile(shard)
        batches = file.iter_batches(batch_size=1, columns=of_clip if clips else wanted)
        for number, batch in enumerate(batches):
            if number in numbers:
                found = batch.to_pylist()[0]
                integrity.require_row(found, tables.DATASET if clips else tables.PAIR_SHARD, shard)
                if not clips:
                    sides = [
                        ids.bytes_hash(side["bytes"]) for side in (found["win"], *found["lose"])
                    ]
                    if problem := integrity.pair_problem(found["prompt"], sides):
                        raise UserError(
                            f"{shard}: pair {found['pair_id']}: {problem}", "remove that row"
                        )
                yield numbers[number], _as_pair(found) if clips else found


def _as_pair(clip: dict[str, Any]) -> dict[str, Any]:
    """A clip of the dataset as a pair without losers."""
    video = clip.pop("video")
    clip.pop("sha256")
    return {**clip, "pair_id": clip["clip_id"], "win": video, "lose": [], "first_frame": None}


def _regions(stored: Sequence[Mapping[str, Any] | None] | None) -> tuple[Region | None, ...]:
    return tuple(
        None if region is None else Region(**{n: tuple(span) for n, span in region.items()})
        for region in stored or []
    )


def _pixels(frames: np.ndarray) -> Tensor:
    """uint8 [F, H, W, 3] as float32 [3, F, H, W] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


def _noised(
    image: Tensor, draws: int, noise: tuple[float, float] | None, image_id: str
) -> list[Tensor]:
    """`draws` copies of the image with noise of log-normal strength, the same on every machine."""
    if noise is None:
        return []
    random = torch.Generator().manual_seed(ids.seed_of("first frame", image_id))
    mean, std = noise
    sigmas = torch.exp(mean + std * torch.randn(draws, generator=random))
    return [image + sigma * torch.randn(image.shape, generator=random) for sigma in sigmas]


def _tensors(path: Path, pair: Pair) -> dict[str, Tensor]:
    try:
        return {n: _widened(t) for n, t in load_file(path).items()}
    except Exception as error:  # safetensors raises its own type, which it does not export
        raise UserError(
            f"pair {pair.pair_id}: {path} cannot be read: {error}",
            "delete that file and run the same command again; it is encoded anew",
        ) from None


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _shapes(path: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a file's tensors; None when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118 - it is no dictionary
    except Exception:  # safetensors raises its own type, which it does not export
        return None


def _shape(path: Path) -> tuple[int, ...]:
    shapes = _shapes(path)
    assert shapes is not None, path
    return shapes["latents"]
