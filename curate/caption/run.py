"""Captioning of a workspace: which clips need an answer, who gives it, what the table gets.

Answers are kept under steps/caption/<what was asked>/; the columns of clips.parquet are made
from them, from the edits, and from the keywords, in that order of trust from the bottom up.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids, tables
from realdpo.curate.caption import answers, clean, edits, keywords, prompts, show, tokens
from realdpo.curate.caption.answers import CaptionAnswer
from realdpo.curate.caption.config import EDIT, FILE_NAME, KEYWORDS, SIDECAR, CaptionConfig
from realdpo.errors import UserError
from realdpo.files import write_text
from realdpo.media import MediaError
from realdpo.progress import progress_bar, say
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
Asker = Callable[[Sequence[show.ShownClip]], Sequence[CaptionAnswer]]
"""Takes a batch of clips, gives an answer for each; raises UserError when none can be had."""

TEXTS = ("prompt", "captioner", "caption_status", "caption_raw")
FIELDS = ("clip_id", *TEXTS, "action")
BATCH = 16_384
"""Rows that stand in memory as Python values at once, where no model has to be asked."""
ON_CAPTION = ("verify.fit", "verify.action", "semantic.caption")
"""Scores of a caption, as against those of a clip."""
PLAIN = frozenset({KEYWORDS, SIDECAR, EDIT, FILE_NAME})


def caption_clips(
    ws: Workspace,
    config: CaptionConfig,
    *,
    only_failed: bool = False,
    recaption: bool = False,
    every: bool = False,
    limit: int | None = None,
) -> dict[str, Any]:
    """Caption the clips of a workspace and write clips.parquet; returns the summary.

    Clips that were dropped are passed over unless `every`. `only_failed` asks again about those
    whose answer was refused, truncated, empty or an error, `recaption` about all. `limit` asks
    about that many clips at most. Takes the workspace's lock.
    """
    with ws.lock("curate caption"):
        ws.require(ws.clips, "curate ingest FOOTAGE")
        # Fingerprints are most of a table, and nothing to a captioner.
        names = [n for n in tables.check_table(ws.clips, tables.CLIPS).names if n != "phash"]
        table = tables.read_table(ws.clips, tables.CLIPS, names)
        sources = {
            row["source_id"]: row
            for row in tables.read_table(ws.sources, tables.SOURCES).to_pylist()
        }
        if config.captioner == SIDECAR:
            sources = _looked_up(sources)
        before = Before.read(ws)

        def write(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
            return caption_rows(
                ws,
                rows,
                sources,
                config,
                only_failed=only_failed,
                recaption=recaption,
                every=every,
                limit=limit,
                before=before,
            )

        written, counted = in_batches(table, config, write)
        changed = [name for name in written.schema.names if name != "clip_id"]
        tables.replace_columns(ws.clips, tables.CLIPS, {n: written[n] for n in changed})
    return counted


def in_batches(
    clips: pa.Table,
    config: CaptionConfig,
    write: Callable[[Sequence[Row]], tuple[list[dict[str, Any]], dict[str, Any]]],
) -> tuple[pa.Table, dict[str, Any]]:
    """The captions of a clips table, in its order, and the summary of all.

    Words that cost nothing are written a batch of rows at a time, so that a million clips do not
    stand in memory as Python values; a model is told of all clips at once.
    """
    import pyarrow as pa

    plain = config.captioner in PLAIN
    size = BATCH if plain else max(1, clips.num_rows)
    parts, counted = [], []
    for first in range(0, max(1, clips.num_rows), size):
        rows, some = write(clips.slice(first, size).to_pylist())
        part = tables.from_rows(tables.CLIPS, rows)
        parts.append(part.select([n for n in part.schema.names if n in FIELDS or "." in n]))
        counted.append(some)
    return pa.concat_tables(parts, promote_options="default"), _together(counted)


def _together(counted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of all rows out of those of their batches."""
    if len(counted) == 1:
        return counted[0]
    tokens_ = [some["tokens"] for some in counted]
    return {
        **counted[0],
        "clips": sum(some["clips"] for some in counted),
        "status": dict(sum((Counter(some["status"]) for some in counted), Counter())),
        "captioners": dict(sum((Counter(some["captioners"]) for some in counted), Counter())),
        "tokens": {
            **tokens_[0],
            "longest": max(some["longest"] for some in tokens_),
            "too_long": [clip for some in tokens_ for clip in some["too_long"]],
        },
        "seconds": round(sum(some["seconds"] for some in counted), 2),
    }


def caption_rows(
    ws: Workspace,
    rows: Sequence[Row],
    sources: Mapping[str, Row],
    config: CaptionConfig,
    *,
    only_failed: bool = False,
    recaption: bool = False,
    every: bool = False,
    limit: int | None = None,
    before: Before | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`rows` of the clips table with the caption columns filled in, and the summary.

    The step that `ingest` calls: it takes no lock and writes no table. A caption by a model
    stays when the captioner is `keywords` or `sidecar`, unless `recaption`; edits always stay.
    before: what the table on disk says, where it has been read already.
    """
    earlier_rows = (before or Before.read(ws)).rows([row["clip_id"] for row in rows])
    wanted = [r for r in rows if r["status"] == "ok" and (every or r.get("keep") is not False)]
    count = tokens.token_counter(config.tokenizer)
    began = time.monotonic()
    if config.captioner in PLAIN:
        earlier = {} if recaption else _by_models(earlier_rows)
        written = {
            row["clip_id"]: earlier.get(row["clip_id"])
            or _plain_caption(row, sources.get(row["source_id"], {}), config)
            for row in wanted
        }
        written |= _still_known(wanted, sources, written, earlier_rows)
        spent: dict[str, Any] = {}
    else:
        text = show.read_question(config.prompt, "prompt.txt")
        show.check_template(text, ("seconds", "frames", "hint"))
        with open_captioner(ws, config, "caption", text) as model:
            spent = _ask_missing(
                ws,
                wanted,
                sources,
                config,
                model,
                text,
                only_failed=only_failed,
                recaption=recaption,
                limit=limit,
            )
        found = answers.load_answers(model.folder, [row["clip_id"] for row in wanted])
        written = {clip_id: _from_answer(answer, config) for clip_id, answer in found.items()}
    mended = edits.load_edits(ws)
    out = []
    for row in rows:
        earlier_row = _measured(earlier_rows.get(row["clip_id"], {}))
        new = {**earlier_row, **row}
        if (fields := written.get(row["clip_id"])) is not None:
            if not fields["prompt"] and row.get("prompt"):
                # A model that failed takes no prompt away; the status says that it failed.
                fields = {"caption_status": fields["caption_status"]}
            new.update(fields)
            prompt = new.get("prompt")
            new["caption.tokens"] = float(count(prompt)) if prompt else None
        if earlier_row and new.get("prompt") != earlier_row["prompt"]:
            # What was measured on the old caption says nothing about the new one.
            new |= {name: None for name in ON_CAPTION if name in new}
        out.append(_edited(new, mended, count))
    wanted_ids = {row["clip_id"] for row in wanted}
    counted = summarise_captions([r for r in out if r["clip_id"] in wanted_ids], config)
    return out, {**counted, **spent, "seconds": round(time.monotonic() - began, 2)}


def plan_captions(
    ws: Workspace, config: CaptionConfig, *, only_failed: bool = False, recaption: bool = False
) -> dict[str, int]:
    """How many clips there are and how many would be asked about; asks nobody.

    For a server whose model is not named the answer files cannot be told: all count as open.
    """
    ws.require(ws.clips, "curate ingest FOOTAGE")
    rows = tables.read_table(ws.clips, tables.CLIPS, ["clip_id", "status", "keep"]).to_pylist()
    wanted = [r["clip_id"] for r in rows if r["status"] == "ok" and r["keep"] is not False]
    kind, _, where = config.captioner.partition(":")
    if kind in PLAIN:
        return {"clips": len(wanted), "would_ask": 0}
    name = config.model
    if kind == "transformers":
        from realdpo.curate.caption import transformers_vlm

        name = transformers_vlm.model_identity(where)
    template = show.read_question(config.prompt, "prompt.txt")
    found = (
        answers.load_answers(answer_folder(ws, "caption", name, template, config), wanted)
        if name
        else {}
    )
    again = {"what": "all" if recaption else "failed" if only_failed else None}
    return {
        "clips": len(wanted),
        "would_ask": sum(_is_open(found.get(clip_id), again, config) for clip_id in wanted),
    }


def exchange_captions(
    ws: Workspace, config: CaptionConfig, *, give: Path | None = None, take: Path | None = None
) -> dict[str, int]:
    """Take edited captions in, then give the captions out, whichever is asked for."""
    with ws.lock("curate caption"):
        ws.require(ws.clips, "curate ingest FOOTAGE")
        rows = tables.read_table(ws.clips, tables.CLIPS).to_pylist()
        done: dict[str, int] = {}
        if take is not None:
            done["edits_taken"], done["rows_unchanged"] = edits.take_in_edits(ws, take, rows)
            mended, count = edits.load_edits(ws), tokens.token_counter(config.tokenizer)
            rows = [_edited(row, mended, count) for row in rows]
            tables.write_table(ws.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
        if give is not None:
            wanted = [r for r in rows if r["status"] == "ok" and r["keep"] is not False]
            done["exported"] = edits.give_out(give, wanted)
    return done


def _edited(row: Row, mended: Mapping[str, str], count: Callable[[str], int]) -> dict[str, Any]:
    """The row with its edit, when it has one."""
    text = edits.find_edit(mended, row)
    if text is None:
        return dict(row)
    new = {**row, "prompt": text, "captioner": EDIT, "caption_status": clean.OK}
    new["caption.tokens"] = float(count(text))
    if text != row.get("prompt"):
        new |= {name: None for name in ON_CAPTION if name in new}
    return new


# --- captions without a model ---------------------------------------------------------------


def _plain_caption(row: Row, source: Row, config: CaptionConfig) -> dict[str, Any]:
    """A clip's prompt from what came with its footage; none where only the file's name is known."""
    if config.captioner == SIDECAR and (text := prompts.of_clip(row, source)):
        return {**_cleaned(text, config, finish="stop"), "captioner": SIDECAR}
    title = row.get("title") or source.get("title")
    words = row.get("keywords") or source.get("keywords")
    text, who = keywords.caption_from_keywords(title, words, row.get("action")), KEYWORDS
    if text == keywords.UNTITLED:
        text, who = keywords.caption_from_keywords(None, file_name=source.get("path")), FILE_NAME
        if text == keywords.UNTITLED or not config.file_names:
            return {
                "prompt": None,
                "captioner": None,
                "caption_status": clean.NONE,
                "caption_raw": text,
            }
    return {"prompt": text, "captioner": who, "caption_status": clean.OK, "caption_raw": text}


def _looked_up(sources: Mapping[str, Row]) -> dict[str, Row]:
    """The sources with the captions that lie beside and above their films now.

    Those of a manifest, and those whose files are away, are as ingest found them.
    """
    local = {k: row for k, row in sources.items() if row.get("path") and "://" not in row["path"]}
    layout = prompts.Layout([row["path"] for row in local.values()])
    found: dict[str, Row] = dict(sources)
    for source_id, row in local.items():
        if str(row.get("captions_from") or "").startswith("manifest "):
            continue
        try:
            said = layout.find(row["path"])
        except UserError as error:
            say(f"captions: {error.message}")
            continue
        if said is not None and said.captions and not row.get("spans"):
            found[source_id] = {**row, "captions": list(said.captions)}
    return found


@dataclass(frozen=True)
class Before:
    """Captions, and what was measured on them and on meaning, as the table on disk has them.

    For a step that makes the clips' rows anew, so that paid and slow results are not lost.
    """

    table: pa.Table | None

    @classmethod
    def read(cls, ws: Workspace) -> Before:
        """What the workspace's table says; nothing where there is none yet."""
        if not ws.clips.is_file():
            return cls(None)
        names = [
            name
            for name in tables.check_table(ws.clips, tables.CLIPS).names
            if name.startswith(("caption.", "verify.", "semantic.")) or name in ("clip_id", *TEXTS)
        ]
        return cls(tables.read_table(ws.clips, tables.CLIPS, names).combine_chunks())

    def columns(self, ids: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
        """The scores of these clips, null for those that were not there."""
        import pyarrow.compute as pc

        if self.table is None:
            return {}
        places = pc.index_in(ids, value_set=self.table["clip_id"].combine_chunks())
        return {n: self.table[n].take(places) for n in self.table.schema.names if "." in n}

    def rows(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By clip id, for those of these clips that were there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.table is None or not ids:
            return {}
        there = pc.is_in(self.table["clip_id"], pa.array(ids, pa.string()))
        found = self.table.filter(there).to_pylist()
        return {row.pop("clip_id"): row for row in found}


def _measured(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "." in name or name == "prompt"}


def _still_known(
    rows: Sequence[Row],
    sources: Mapping[str, Row],
    written: Mapping[str, Row],
    before: Mapping[str, Row],
) -> dict[str, dict[str, Any]]:
    """Prompts of clips whose source is away, where nothing is found in their place."""
    away = {r["clip_id"] for r in rows if sources.get(r["source_id"], {}).get("status") != "ok"}
    away = {clip for clip in away if not written[clip]["prompt"]}
    return {clip: row for clip, row in _prompts(before).items() if clip in away}


def _by_models(before: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """Of what was there, the captions that models wrote."""
    return {
        clip: row
        for clip, row in _prompts(before).items()
        if row["captioner"] and row["captioner"] not in PLAIN
    }


def _prompts(before: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """The prompts of what was there, by clip id."""
    return {
        clip: {name: row[name] for name in TEXTS} for clip, row in before.items() if row["prompt"]
    }


# --- captions by a model --------------------------------------------------------------------


@dataclass(frozen=True)
class Captioner:
    """A model that answers: its name, where its answers are kept, and how it likes to be asked."""

    name: str
    folder: Path
    ask: Asker
    workers: int
    batch: int


@contextmanager
def open_captioner(
    ws: Workspace, config: CaptionConfig, step: str, template: str
) -> Iterator[Captioner]:
    """Open the model that `config.captioner` names. A local one is loaded when first asked."""
    kind, _, where = config.captioner.partition(":")
    if kind == "openai":
        from realdpo.curate.caption import openai

        client = openai.connect_server(where, config)
        try:
            model = config.model or openai.only_model(client)
            folder = answer_folder(ws, step, model, template, config)
            ask = openai.ask_each(client, model, config)
            yield Captioner(model, folder, ask, config.concurrency, 1)
        finally:
            client.close()
        return
    if kind != "transformers":
        raise UserError(
            f"the captioner {config.captioner} is not a model", "use openai:... or transformers:..."
        )
    from realdpo.curate.caption import transformers_vlm

    name = transformers_vlm.model_identity(where)
    loaded: list[Asker] = []

    def ask_local(batch: Sequence[show.ShownClip]) -> Sequence[CaptionAnswer]:
        if not loaded:  # one worker asks, so nobody races for this
            loaded.append(transformers_vlm.load_asker(where, config))
        return loaded[0](batch)

    folder = answer_folder(ws, step, name, template, config)
    yield Captioner(name.partition("@")[0], folder, ask_local, 1, config.batch)


def answer_folder(
    ws: Workspace, step: str, model: str, template: str, config: CaptionConfig
) -> Path:
    """Where the answers of `model` to this question, put in this way, are kept."""
    key = ids.content_id(
        model=model,
        prompt=ids.bytes_hash(template.encode()),
        frames=config.frames,
        short_side=config.short_side,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        repetition_penalty=config.repetition_penalty,
    )
    return ws.step(step) / key


def _ask_missing(
    ws: Workspace,
    rows: Sequence[Row],
    sources: Mapping[str, Row],
    config: CaptionConfig,
    model: Captioner,
    text: str,
    *,
    only_failed: bool,
    recaption: bool,
    limit: int | None,
) -> dict[str, Any]:
    """Ask what has no answer yet; each answer is on disk before its worker goes on."""
    found = answers.load_answers(model.folder, [row["clip_id"] for row in rows])
    again = _again(model.folder, only_failed, recaption)
    todo = [row for row in rows if _is_open(found.get(row["clip_id"]), again, config)]
    kept = len(rows) - len(todo)
    todo = todo[:limit]

    def look(row: Row) -> show.ShownClip:
        frames, seconds = show.clip_frames(ws.root, row, sources, config.frames, config.short_side)
        asked = show.fill_question(text, row, len(frames), seconds)
        return show.ShownClip(row["clip_id"], frames, seconds, asked)

    got = ask_all(
        todo,
        look,
        model.ask,
        model.folder,
        workers=model.workers,
        batch=model.batch,
        title="captions",
    )
    if again and limit is None:
        _again_file(model.folder).unlink(missing_ok=True)
    total_in, total_out = sum(a.tokens_in for a in got), sum(a.tokens_out for a in got)
    spent: dict[str, Any] = {
        "asked": len(got),
        "already_there": kept,
        "requests": sum(a.attempts for a in got),
        "tokens_in": total_in,
        "tokens_out": total_out,
        "answers": str(model.folder),
    }
    if config.price_in or config.price_out:
        spent["usd"] = round((total_in * config.price_in + total_out * config.price_out) / 1e6, 6)
    return spent


def ask_all(
    rows: Sequence[Row],
    look: Callable[[Row], show.ShownClip],
    ask: Asker,
    folder: Path,
    *,
    workers: int,
    batch: int,
    title: str,
) -> list[CaptionAnswer]:
    """Ask about every row with `workers` threads and keep each answer at once.

    A clip that cannot be read, or whose request failed, gets an Answer with `error`. After as
    many failures in a row as there are workers, twice over, the rest is left for another run:
    UserError. The same when a worker raises one. Ctrl-C lets the requests in flight come home.
    """
    chunks = iter([rows[i : i + batch] for i in range(0, len(rows), batch)])
    turn, stop = threading.Lock(), threading.Event()
    got: list[CaptionAnswer] = []
    failures = 0

    def work(advance: Callable[..., None]) -> None:
        nonlocal failures
        while not stop.is_set():
            with turn:
                chunk = next(chunks, None)
            if chunk is None:
                return
            seen: list[show.ShownClip] = []
            for row in chunk:
                try:
                    seen.append(look(row))
                except MediaError as error:
                    answer = CaptionAnswer(error=f"cannot be read: {error}", attempts=0)
                    answers.save_answer(folder, row["clip_id"], answer)
                    advance(1)
            if not seen:
                continue
            for shown, answer in zip(seen, ask(seen), strict=True):
                answers.save_answer(folder, shown.clip_id, answer)
                with turn:
                    got.append(answer)
                    failures = failures + 1 if answer.error else 0
                    hopeless = failures >= 2 * max(workers, 2)
                advance(1)
                if hopeless:
                    stop.set()
                    raise UserError(
                        f"{failures} requests failed one after the other: {answer.error}",
                        "when the captioner works again, run the same command; it continues from here",
                    )

    with progress_bar(title, len(rows), "clips") as advance, ThreadPoolExecutor(workers) as pool:
        try:
            running = [pool.submit(work, advance) for _ in range(min(workers, len(rows)))]
            for future in running:
                future.result()
        finally:
            stop.set()
    return got


def _is_open(answer: CaptionAnswer | None, again: Mapping[str, Any], config: CaptionConfig) -> bool:
    if answer is None or answer.error:
        return True
    if answer.asked_at >= again.get("since", float("inf")):
        return False  # this round has asked it already
    if again.get("what") == "all":
        return True
    return again.get("what") == "failed" and _judged(answer, config).status != clean.OK


def _again_file(folder: Path) -> Path:
    return folder / "again.json"


def _again(folder: Path, only_failed: bool, recaption: bool) -> dict[str, Any]:
    """The round of asking again that is under way: a stopped one is gone on with, not begun anew."""
    path = _again_file(folder)
    what = "all" if recaption else "failed" if only_failed else None
    if path.is_file():
        under_way: dict[str, Any] = json.loads(path.read_text())
        if what is None or under_way["what"] == what:
            return under_way
    if what is None:
        return {}
    started = {"what": what, "since": time.time()}
    write_text(path, json.dumps(started))
    return started


def _judged(answer: CaptionAnswer, config: CaptionConfig) -> clean.Cleaned:
    if answer.error:
        return clean.Cleaned("", clean.ERROR, answer.error)
    return clean.clean_caption(answer.raw, finish=answer.finish, language=config.language)


def _from_answer(answer: CaptionAnswer, config: CaptionConfig) -> dict[str, Any]:
    judged = _judged(answer, config)
    return {
        "prompt": judged.text or None,
        "captioner": answer.model or None,
        "caption_status": judged.status,
        "caption_raw": answer.raw or (f"[{judged.problem}]" if judged.problem else ""),
    }


def _cleaned(text: str, config: CaptionConfig, finish: str) -> dict[str, Any]:
    judged = clean.clean_caption(text, finish=finish, language=config.language)
    return {"prompt": judged.text or None, "caption_status": judged.status, "caption_raw": text}


# --- report ---------------------------------------------------------------------------------


def summarise_captions(rows: Sequence[Row], config: CaptionConfig) -> dict[str, Any]:
    """Counts by status and author, and the captions that the text encoder will cut."""
    lengths = [row["caption.tokens"] for row in rows if row.get("caption.tokens")]
    long = [r["clip_id"] for r in rows if (r.get("caption.tokens") or 0) > config.text_tokens]
    return {
        "clips": len(rows),
        "status": dict(Counter(row.get("caption_status") or "none" for row in rows)),
        "captioners": dict(Counter(row.get("captioner") or "none" for row in rows)),
        "tokens": {
            "counted_by": config.tokenizer or "estimate",
            "longest": max(lengths, default=0),
            "limit": config.text_tokens,
            "too_long": long,
        },
    }


def describe_captions(summary: Mapping[str, Any]) -> str:
    """A summary in a few lines for a person."""
    if "edits_taken" in summary or "exported" in summary:
        return "\n".join(f"{name.replace('_', ' ')}: {n}" for name, n in summary.items())
    status = ", ".join(f"{n} {name}" for name, n in sorted(summary["status"].items()))
    who = ", ".join(f"{n} by {name}" for name, n in sorted(summary["captioners"].items()))
    lines = [f"captions: {summary['clips']} clips: {status or 'none'} ({who or 'nobody'})"]
    if "asked" in summary:
        cost = f", {summary['usd']:.4f} USD" if "usd" in summary else ""
        lines.append(
            f"asked about {summary['asked']} in {summary['requests']} requests, "
            f"{summary['already_there']} had answers already; {summary['tokens_in']} tokens in, "
            f"{summary['tokens_out']} out{cost}, {summary['seconds']} s"
        )
    if "judged" in summary:
        lines.append(
            f"judged by {summary['verifier']}: {summary['judged']} "
            f"({summary['unreadable']} without a verdict), mean fit {summary['mean_fit']}, "
            f"mean action {summary['mean_action']}"
        )
    length = summary["tokens"]
    if length["too_long"]:
        lines.append(
            f"{len(length['too_long'])} captions are longer than the text encoder's "
            f"{length['limit']} tokens (by {length['counted_by']}); it will cut off their ends: "
            f"{', '.join(length['too_long'][:5])}"
        )
    return "\n".join(lines)
