"""Pairs as the trainer sees them: latents and inputs made once, kept on disk, named by content.

A file's name is a hash of the bytes it was made from, this module's transform, and the weights and
settings of the encoder, so a changed clip, transform or model can never read what is stale. Winner
and losers go through `video_latents` alike; the same file on both sides gives the same latents.
The image that conditions a pair may be stored in several noised copies (`condition_draws`), since
the VAE has left memory by the time a step would noise it afresh.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from realdpo import models as names
from realdpo.errors import UserError
from realdpo.families import Family, Spec, trainable_family
from realdpo.families import load as loading
from realdpo.files import atomic_path
from realdpo.media.decode import read_clip
from realdpo.regions import Region
from realdpo.train.config import TrainConfig
from realdpo.workspace import Workspace

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


def load(pair: Pair, losers: Sequence[int] | None = None) -> Sample:
    """Read a pair's tensors, of all losers or of those at the given indices."""
    chosen = range(len(pair.lose)) if losers is None else losers
    prompt, *image = (load_file(path) for path in pair.inputs)
    return Sample(
        _read(pair.win),
        torch.stack([_read(pair.lose[index]) for index in chosen])
        if len(chosen)
        else torch.empty(0, *pair.shape),
        {**prompt, "fps": torch.tensor(pair.fps)},
        image[0] if image else {},
        tuple(pair.regions[index] for index in chosen) if pair.regions else (),
    )


def prepare(
    workspace: Workspace,
    spec: Spec,
    config: TrainConfig,
    device: torch.device,
    limit: int | None = None,
) -> dict[str, list[Pair]]:
    """Encode what is not in the cache yet; returns the pairs of train and validation, in order.

    `limit` stops after so many pairs of each, for a trial.

    The encoders are loaded only when something is missing, and are gone when this returns.
    Raises UserError when there are no pairs, the audit found a shortcut, or a pair does not fit
    the model.
    """
    clips = trains_on_clips(workspace, config)
    if not clips:
        refuse_shortcut(workspace, config.allow_shortcut)
    family = trainable_family(spec)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    cache = _Cache(workspace.step("latents"), family, config, device, dtype)
    found: dict[str, list[Pair]] = {}
    for split in ("train", "validation"):
        folder = workspace.data if clips else workspace.pair_data
        shards = sorted(folder.glob(f"{split}-*.parquet"))
        kind = tables.DATASET if clips else tables.PAIR_SHARD
        count = min(sum(_count(path, kind) for path in shards), limit or sys.maxsize)
        rows = _clip_rows(shards) if clips else _rows(shards)
        with progress.bar("latents", count, "clips" if clips else "pairs") as advance:
            found[split] = []
            for row in itertools.islice(rows, limit):
                found[split].append(cache.pair(row))
                advance(note=split)
    if not found["train"]:
        if clips:
            raise UserError(
                f"no clips with prompts for training in {workspace.data}",
                f"make them with: realdpo curate ingest FOOTAGE -w {workspace.root}",
            )
        raise UserError(
            f"no pairs for training in {workspace.pair_data}",
            f"make them with: realdpo pairs build -w {workspace.root}",
        )
    return found


def trains_on_clips(workspace: Workspace, config: TrainConfig) -> bool:
    """Whether a run takes the dataset's clips, not pairs: see `TrainConfig.data`."""
    if config.data != "auto":
        return config.data == "clips"
    return config.objective != "dpo" and any(workspace.data.glob("train-*.parquet"))


def winner(workspace: Workspace, pair: Pair) -> bytes:
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
        progress.say("the audit has too few pairs to tell whether winners and losers differ in more "
                     "than motion")  # fmt: skip
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

    What a shard does not say is said to be unknown. Plain training uses no losers, so whose they
    are does not matter to it.
    """
    told = []
    for shard in sorted(workspace.pair_data.glob("*.parquet")):
        told += pq.read_table(shard, columns=["pair_id", "model", "task"]).to_pylist()
    task = trainable_family(spec).task
    name = names.name_of(config.model)
    own = name.rpartition("/")[2].lower()
    made = lambda row: (row["model"] or own).rpartition("/")[2].lower()  # noqa: E731
    tasks = [row for row in told if row["task"] not in (None, task)]
    others = [row for row in told if made(row) != own] if config.objective != "sft" else []
    for rows, words in (
        (tasks, lambda row: f"is of the task {row['task']}, and {name} is trained for {task}"),
        (others, lambda row: f"has losers of the model {row['model']}, not of {name}"),
    ):
        if not rows:
            continue
        line = f"pair {rows[0]['pair_id']} {words(rows[0])} ({len(rows)} of {len(told)} pairs)"
        if not config.allow_other_model:
            raise UserError(
                line,
                "build pairs with the model that is trained, or insist with "
                "--set allow_other_model=true",
            )
        progress.say(f"warning: {line}")
    unknown = sum(row["model"] is None for row in told)
    if unknown and config.objective != "sft":
        progress.say(f"{unknown} of {len(told)} pairs do not say which model made their losers")


def video_latents(family: Family, vae: Any, clip: np.ndarray) -> Tensor:
    """Latents [...] float32 of one clip, uint8 [F, H, W, 3]: the only way from pixels to latents."""
    with torch.no_grad():
        return family.padded(family.encode(vae, _pixels(clip).unsqueeze(0)))[0].float().cpu()


class _Cache:
    """Files under one folder, made on demand. The encoders are loaded at the first miss."""

    def __init__(
        self,
        folder: Path,
        family: Family,
        config: TrainConfig,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        spec = family.spec
        self.folder, self.spec, self.family = folder, spec, family
        self.device, self.dtype = device, dtype
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

    def pair(self, row: dict[str, Any]) -> Pair:
        self._check_size(row)
        win = self._latents(row["win"]["bytes"])
        lose = tuple(self._latents(video["bytes"]) for video in row["lose"])
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
        regions = tuple(r and Region(**{n: tuple(v) for n, v in r.items()})
                        for r in row.get("regions") or [])  # fmt: skip
        return Pair(*known, win, lose, tuple(inputs), shapes.pop(), size, shown, regions)

    def _latents(self, video: bytes) -> Path:
        return self._file(
            "video",
            lambda: {"latents": video_latents(self.family, self.vae, read_clip(video)[0])},
            vae=self.vae_id,
            video=ids.bytes_hash(video),
        )

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
            copies = [
                clean,
                *_noised(clean, self.draws, self.family.condition_noise(), image_id),
            ]
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
            **key,
        )
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            with torch.no_grad():
                tensors = {n: t.detach().cpu().contiguous() for n, t in make().items()}
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

    def _first_frame(self, row: dict[str, Any]) -> np.ndarray:
        stored = row["first_frame"]
        if stored is None or stored["bytes"] is None:
            frames, _ = read_clip(row["win"]["bytes"])
            return np.asarray(frames[0])
        return np.array(Image.open(io.BytesIO(stored["bytes"])).convert("RGB"))

    def _check_size(self, row: dict[str, Any]) -> None:
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
        return loading.fingerprint_parts(self.spec, *components)

    @property
    def pipe(self) -> Any:
        if self._pipe is None:
            self._pipe = loading.load_encoders(self.spec, self.dtype, self.device)
        return self._pipe

    @property
    def vae(self) -> Any:
        return self.pipe.vae


def _count(shard: Path, kind: tables.TableKind) -> int:
    tables.check(shard, kind)
    return int(pq.read_metadata(shard).num_rows)


def _rows(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Rows of the shards, one at a time: videos of a whole shard need not fit in memory."""
    wanted = ["pair_id", "clip_id", "source_id", "prompt", "win", "lose", "first_frame"]
    wanted += ["width", "height", "frames", "fps", "regions"]  # shards of before lack the last
    for path in shards:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1, columns=wanted):
            for row in batch.to_pylist():
                integrity.require_row(row, tables.PAIR_SHARD, path)
                sides = [ids.bytes_hash(side["bytes"]) for side in (row["win"], *row["lose"])]
                if problem := integrity.pair_problem(row["prompt"], sides):
                    raise UserError(f"{path}: pair {row['pair_id']}: {problem}", "remove that row")
                yield row


def _clip_rows(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Rows of the dataset's shards as pairs without losers; clips without a prompt are left out."""
    wanted = ["clip_id", "source_id", "prompt", "video", "width", "height", "frames", "fps"]
    silent = 0
    for path in shards:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1, columns=wanted):
            for row in batch.to_pylist():
                if not (row["prompt"] or "").strip():
                    silent += 1
                    continue
                video = row.pop("video")
                yield {**row, "pair_id": row["clip_id"], "win": video, "lose": [],
                       "first_frame": None}  # fmt: skip
    if silent:
        progress.say(f"{silent} clips without a prompt are not trained on")


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


def _read(path: Path) -> Tensor:
    return load_file(path)["latents"]


def _shape(path: Path) -> tuple[int, ...]:
    with safe_open(path, framework="pt") as file:
        return tuple(file.get_slice("latents").get_shape())
