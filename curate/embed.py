"""open_clip embeddings of clips, in embeddings.parquet beside clips.parquet, and their scores.

A batch step: frames are decoded ahead while the model works, every batch is on disk before the
next, and what was embedded by these very weights is not embedded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids, tables
from realdpo.curate.caption import show
from realdpo.curate.config import EmbedConfig
from realdpo.errors import UserError
from realdpo.files import atomic_path
from realdpo.media import MediaError
from realdpo.openclip import load_openclip
from realdpo.progress import progress_bar, say
from realdpo.rows import ClipRow
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Vectors = npt.NDArray[Any]

Row = ClipRow
VERSION = b"1"


@dataclass(frozen=True)
class Embedder:
    """A loaded model. images: uint8 [N, H, W, 3] -> unit [N, D]. texts: N -> unit [N, D]."""

    images: Callable[[Sequence[npt.NDArray[np.uint8]]], Vectors]
    texts: Callable[[Sequence[str]], Vectors]
    weights_id: str
    """Hash of every weight, so that retrained weights under an old name are not taken for it."""
    scale: float
    width: int


def embeddings_path(ws: Workspace) -> Path:
    return ws.root / "embeddings.parquet"


def load_embedder(config: EmbedConfig) -> Embedder:
    """Load an open_clip model by name and tag, file, local folder or Hub id.

    Raises UserError when it cannot be had, or when it would be left with random weights.
    """
    import numpy as np
    import torch
    from PIL import Image

    from realdpo.curate.caption.transformers_vlm import resolve_device

    device = resolve_device(config.device)
    precision = "fp16" if device.type == "cuda" else "fp32"
    model, prepare, tokenizer = load_openclip(config.model, config.weights, str(device), precision)
    dtype = next(model.parameters()).dtype

    def images(pictures: Sequence[npt.NDArray[np.uint8]]) -> Vectors:
        batch = torch.stack([prepare(Image.fromarray(picture)) for picture in pictures])
        with torch.inference_mode():
            found = model.encode_image(batch.to(device, dtype), normalize=False).float()
            return torch.nn.functional.normalize(found, dim=-1).cpu().numpy()

    def texts(lines: Sequence[str]) -> Vectors:
        out = []
        for start in range(0, len(lines), 256):
            tokens = tokenizer(list(lines[start : start + 256])).to(device)
            with torch.inference_mode():
                found = model.encode_text(tokens, normalize=False).float()
                out.append(torch.nn.functional.normalize(found, dim=-1).cpu().numpy())
        return np.concatenate(out) if out else np.zeros((0, width), np.float32)

    scale = float(model.logit_scale.detach().float().exp())
    width = int(texts_width(model, tokenizer, device))
    return Embedder(images, texts, _weights_id(model), scale, width)


def texts_width(model: Any, tokenizer: Any, device: Any) -> int:
    """Length of the model's vectors, by asking it."""
    import torch

    with torch.inference_mode():
        count: int = model.encode_text(tokenizer(["a"]).to(device)).shape[-1]
        return count


def embed_clips(ws: Workspace, config: EmbedConfig) -> dict[str, Any]:
    """Embed every clip that is kept and score it; writes embeddings.parquet and clips.parquet.

    Scores: semantic.caption (cosine with its prompt), semantic.real and semantic.action
    (zero-shot probabilities), semantic.nearest (cosine with the likest earlier clip),
    semantic.aesthetic when a head is given. Takes the workspace's lock.
    """
    with ws.lock("curate embed"):
        ws.require(ws.clips, "curate ingest FOOTAGE")
        rows = tables.read_table(ws.clips, tables.CLIPS).to_pylist()
        sources = {
            row["source_id"]: row
            for row in tables.read_table(ws.sources, tables.SOURCES).to_pylist()
        }
        wanted = [r for r in rows if r["status"] == "ok" and r.get("keep") is not False]
        embedder = load_embedder(config)
        table, failed, fresh = _vectors(ws, wanted, sources, config, embedder)
        scored = score_embeddings(table, wanted, config, embedder)
        seen = scored.pop("action", {})
        out = []
        for row in rows:
            new = {**row, **{name: by_id.get(row["clip_id"]) for name, by_id in scored.items()}}
            if not new.get("action") and row["clip_id"] in seen:
                new["action"] = [seen[row["clip_id"]]]
            out.append(new)
        _write(embeddings_path(ws), table, config, embedder)
        tables.write_table(ws.clips, tables.from_rows(tables.CLIPS, out), tables.CLIPS)
    return {
        "clips": len(wanted),
        "embedded": fresh,
        "already_there": len(wanted) - fresh - len(failed),
        "failed": failed,
        "model": config.model,
        "weights": config.weights,
        "weights_id": embedder.weights_id,
        "width": embedder.width,
        "scores": {name: _spread(by_id.values()) for name, by_id in sorted(scored.items())},
    }


def score_embeddings(
    table: pa.Table, rows: Sequence[Row], config: EmbedConfig, embedder: Embedder
) -> dict[str, dict[str, Any]]:
    """Scores by column and clip id from stored embeddings; nothing is decoded.

    Under "action" the name of the likeliest action, for clips where it is sure enough.
    """
    import numpy as np

    from realdpo.curate import actions, meaning

    by_id = {row["clip_id"]: row for row in rows}
    names = table["clip_id"].to_pylist()
    clips = embedding_matrix(table)
    if not len(clips):
        return {}
    scores: dict[str, dict[str, Any]] = {}

    def put(column: str, values: Sequence[float] | npt.NDArray[Any]) -> None:
        scores[column] = {n: float(v) for n, v in zip(names, values, strict=True) if v == v}

    prompts = [by_id[name].get("prompt") or "" for name in names]
    fits = meaning.text_likeness(clips, embedder.texts(prompts))
    put("semantic.caption", np.where([bool(p) for p in prompts], fits, np.nan))
    kinds = embedder.texts([*meaning.REAL, *meaning.NOT_REAL])
    real = meaning.zero_shot(clips, kinds, embedder.scale)[:, : len(meaning.REAL)]
    put("semantic.real", real.sum(axis=1))
    labels = [action.name for action in actions.read_taxonomy()]
    odds = meaning.zero_shot(clips, embedder.texts(_spoken(labels)), embedder.scale)
    best = meaning.best_action(odds, labels, config.action_min)
    put("semantic.action", [probability for _, probability in best])
    scores["action"] = {n: name for n, (name, _) in zip(names, best, strict=True) if name}
    put("semantic.nearest", meaning.nearest_before(clips)[0])
    if config.aesthetic:
        head = meaning.aesthetic_head(config.aesthetic, embedder.width)
        put(
            "semantic.aesthetic",
            [
                float(meaning.predict_aesthetics(frames, head).mean())
                for frames in frame_vectors(table)
            ],
        )
    return scores


def caption_verdicts(
    ws: Workspace, rows: Sequence[Row]
) -> tuple[str, dict[str, tuple[float | None, float | None]]]:
    """Verdicts of the embedder on captions: name, and (fit, action) by clip id.

    fit: share of the other captions that fit the clip worse (see `meaning.text_standing`). action:
    zero-shot probability of the clip's own action tag, None without one. Raises UserError when
    the clips have not been embedded.
    """
    from realdpo.curate import actions, meaning

    table, config = stored_embeddings(ws)
    embedder = load_stored(table, config)
    by_id = {row["clip_id"]: row for row in rows}
    table = table.filter([name in by_id for name in table["clip_id"].to_pylist()])
    names = table["clip_id"].to_pylist()
    clips = embedding_matrix(table)
    texts = embedder.texts([by_id[name]["prompt"] for name in names])
    fits = meaning.text_standing(clips, texts)
    labels = [action.name for action in actions.read_taxonomy()]
    odds = meaning.zero_shot(clips, embedder.texts(_spoken(labels)), embedder.scale)
    verdicts: dict[str, tuple[float | None, float | None]] = {}
    for i, name in enumerate(names):
        tags = [t for t in by_id[name].get("action") or () if t in labels]
        action = float(sum(odds[i, labels.index(t)] for t in tags))
        fit = float(fits[i])
        verdicts[name] = (fit if fit == fit else None, min(action, 1.0) if tags else None)
    return f"open_clip:{config.model}", verdicts


def _spoken(labels: Sequence[str]) -> list[str]:
    return [f"a video of a person {label.replace('_', ' ')}" for label in labels]


# --- the table ------------------------------------------------------------------------------


def stored_embeddings(ws: Workspace) -> tuple[pa.Table, EmbedConfig]:
    """embeddings.parquet and the settings it was made with. Raises UserError."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    ws.require(embeddings_path(ws), "curate embed")
    try:
        table = pq.read_table(embeddings_path(ws))
        metadata = table.schema.metadata or {}
        config = EmbedConfig(**json.loads(metadata[b"realdpo.config"]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{embeddings_path(ws)} is damaged or of another version",
            "make it again: realdpo curate embed",
        ) from None
    return table, config


def load_stored(table: pa.Table, config: EmbedConfig) -> Embedder:
    """The model that made a stored table. Raises UserError when its weights have changed."""
    embedder = load_embedder(config)
    made_by = (table.schema.metadata or {}).get(b"realdpo.weights", b"").decode()
    if embedder.weights_id != made_by:
        raise UserError(
            f"the weights of {config.model} are not those that the clips were embedded with",
            "embed again with: realdpo curate embed",
        )
    return embedder


def embedding_matrix(table: pa.Table) -> Vectors:
    """The clips' unit vectors, [N, D] in the table's order."""
    return _fixed(table["embedding"])


def frame_vectors(table: pa.Table) -> Iterator[Vectors]:
    """The unit vectors of each clip's frames, [n, D]."""
    import numpy as np

    for frames in table["frames"].to_pylist():
        yield np.asarray(frames, np.float32)


def _fixed(column: pa.ChunkedArray) -> Vectors:
    import numpy as np

    width = column.type.list_size
    if not len(column):
        return np.zeros((0, width), np.float32)
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    found: Vectors = flat.reshape(-1, width).astype(np.float32)
    return found


def _schema(width: int) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("clip_id", pa.string()),
            ("embedding", pa.list_(pa.float32(), width)),
            ("frames", pa.list_(pa.list_(pa.float16(), width))),
        ]
    )


def _write(target: Path, table: pa.Table, config: EmbedConfig, embedder: Embedder) -> None:
    import dataclasses
    import json

    import pyarrow.parquet as pq

    metadata = {
        b"realdpo.table": b"embeddings",
        b"realdpo.version": VERSION,
        b"realdpo.config": json.dumps(dataclasses.asdict(config), sort_keys=True).encode(),
        b"realdpo.weights": embedder.weights_id.encode(),
    }
    with atomic_path(target) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


# --- the step -------------------------------------------------------------------------------


def _vectors(
    ws: Workspace,
    rows: Sequence[Row],
    sources: Mapping[str, Row],
    config: EmbedConfig,
    embedder: Embedder,
) -> tuple[pa.Table, dict[str, str], int]:
    """The table for `rows` in their order, errors by clip id, and how many were embedded now."""
    import pyarrow as pa

    from realdpo.curate import meaning

    key = ids.content_id(weights=embedder.weights_id, frames=config.frames, version=1)
    folder = ws.step("embed") / key
    parts = _parts(folder)
    there = {name for part in parts for name in part["clip_id"].to_pylist()}
    todo = [row for row in rows if row["clip_id"] not in there]
    group = max(1, config.batch // config.frames)
    groups = [todo[i : i + group] for i in range(0, len(todo), group)]
    failed: dict[str, str] = {}
    fresh = 0
    with progress_bar("embed", len(rows), "clips", done=len(rows) - len(todo)) as advance:
        for chunk, looks in _ahead(groups, lambda row: _look(ws, row, sources, config)):
            seen = [(r, f) for r, f in zip(chunk, looks, strict=True) if not isinstance(f, str)]
            failed |= {
                r["clip_id"]: f for r, f in zip(chunk, looks, strict=True) if isinstance(f, str)
            }
            if seen:
                vectors = embedder.images([frame for _, frames in seen for frame in frames])
                out, at = [], 0
                for row, frames in seen:
                    own = vectors[at : at + len(frames)]
                    at += len(frames)
                    out.append(
                        {
                            "clip_id": row["clip_id"],
                            "embedding": meaning.unit_vectors(own.mean(axis=0)),
                            "frames": own.astype("float16").tolist(),
                        }
                    )
                part = pa.Table.from_pylist(out, schema=_schema(embedder.width))
                name = ids.content_id(clips=[row["clip_id"] for row, _ in seen])
                _write(folder / f"{name}.parquet", part, config, embedder)
                parts.append(part)
                fresh += len(seen)
            advance(len(chunk))
    if failed:
        say(f"{len(failed)} clips could not be read; the next run tries them again")
    table = pa.concat_tables([_schema(embedder.width).empty_table(), *parts])
    at_row = {name: i for i, name in enumerate(table["clip_id"].to_pylist())}
    order = [at_row[row["clip_id"]] for row in rows if row["clip_id"] in at_row]
    return table.take(pa.array(order, pa.int64())), failed, fresh


def _ahead(
    groups: Sequence[Sequence[Row]], look: Callable[[Row], Any]
) -> Iterator[tuple[Sequence[Row], list[Any]]]:
    """Groups with their frames; the next group is decoded while the caller works on this one."""
    with ThreadPoolExecutor(2) as pool:
        waiting: list[tuple[Sequence[Row], list[Future[Any]]]] = []
        for chunk in groups:
            waiting.append((chunk, [pool.submit(look, row) for row in chunk]))
            if len(waiting) > 1:
                ready, looks = waiting.pop(0)
                yield ready, [future.result() for future in looks]
        for ready, looks in waiting:
            yield ready, [future.result() for future in looks]


def _look(
    ws: Workspace, row: Row, sources: Mapping[str, Row], config: EmbedConfig
) -> npt.NDArray[np.uint8] | str:
    """A clip's frames, or why there are none."""
    try:
        return show.clip_frames(ws.root, row, sources, config.frames, 384)[0]
    except MediaError as error:
        return str(error)


def _parts(folder: Path) -> list[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for file in sorted(folder.glob("*.parquet")):
        try:
            found.append(pq.read_table(file, partitioning=None).replace_schema_metadata(None))
        except (pa.ArrowException, OSError):
            file.unlink()  # damaged: its clips are embedded again
    return found


def _weights_id(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _spread(values: Any) -> dict[str, float]:
    import numpy as np

    array = np.array(list(values))
    if not len(array):
        return {}
    low, middle, high = np.percentile(array, [5, 50, 95])
    return {"p5": round(low, 4), "p50": round(middle, 4), "p95": round(high, 4)}


def describe_embedding(summary: Mapping[str, Any]) -> str:
    """The summary in a few lines for a person."""
    lines = [
        f"embeddings: {summary['clips']} clips, {summary['embedded']} embedded now, "
        f"{summary['already_there']} were there, {len(summary['failed'])} failed "
        f"({summary['model']}, {summary['width']} numbers)"
    ]
    for name, spread in summary["scores"].items():
        if spread:
            lines.append(
                f"  {name:<20} 5 % {spread['p5']:.3f}   half {spread['p50']:.3f}   "
                f"95 % {spread['p95']:.3f}"
            )
    return "\n".join(lines)
