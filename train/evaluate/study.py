"""A blind A/B study with people, as a page served from this machine.

Raters see two videos of one prompt and choose the more natural motion. Sides and order are drawn
for each rater, and file names reveal nothing. Some pairs are attention checks: a video against
itself with its frames shuffled. Every vote is on disk (votes.parquet) before it is acknowledged,
and raters who come back continue where they stopped.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from realdpo.errors import UserError
from realdpo.files import atomic_path, write_bytes, write_text
from realdpo.ids import content_id, file_hash, seed_of, unit_interval
from realdpo.train.evaluate.votes import bradley_terry_intervals, krippendorff_alpha

VOTES = pa.schema(
    [
        ("rater", pa.string()),
        ("trial", pa.string()),
        ("item", pa.string()),
        ("first", pa.string()),  # the two systems, in the order of the evaluation
        ("second", pa.string()),
        ("left", pa.string()),  # the one on the left
        ("score", pa.float64()),  # of `first`: 1 preferred, 0.5 no difference, 0 not preferred
        ("check", pa.bool_()),  # an attention check; `first` is the undamaged video
        ("seconds", pa.float64()),
        ("at", pa.string()),
    ]
)
_RATER = re.compile(r"^[A-Za-z0-9_-]{1,40}$")
_CHECK_EVERY = 8
_ALLOWED_FAILURES = 1 / 3


@dataclass(frozen=True)
class Trial:
    """Two videos (files) of one prompt.

    An attention check compares a video with its shuffled frames.
    """

    trial_id: str
    item: str
    prompt: str
    first: str
    second: str
    first_video: str
    second_video: str
    check: bool = False


def make_trials(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    systems: Sequence[str],
    prompts: Mapping[str, str],
    per_prompt: int = 1,
) -> list[Trial]:
    """Every pair of systems on every prompt (the first `per_prompt` seeds), and the checks.

    Raises UserError if no two systems have a video of the same prompt.
    """
    files = {
        (r["system"], r["item"], r["seed"]): str(r["video"])
        for r in rows
        if r["system"] in systems and r["seed"] < per_prompt
    }
    trials = []
    for item, seed in sorted({(i, s) for _, i, s in files}):
        for first, second in itertools.combinations(systems, 2):
            one, two = files.get((first, item, seed)), files.get((second, item, seed))
            if one and two:
                trial_id = content_id(one=file_hash(one), two=file_hash(two), item=item)
                trials.append(Trial(trial_id, item, prompts[item], first, second, one, two))
    if not trials:
        raise UserError(
            "no two systems have a video of the same prompt", "run `realdpo eval` first"
        )
    checks = []
    for trial in trials[::_CHECK_EVERY][:20]:
        shuffled = _shuffled(folder, Path(trial.first_video))
        trial_id = content_id(check=file_hash(trial.first_video), item=trial.item)
        checks.append(
            Trial(
                trial_id,
                trial.item,
                trial.prompt,
                trial.first,
                "shuffled",
                trial.first_video,
                str(shuffled),
                check=True,
            )
        )
    return trials + checks


def _shuffled(folder: Path, video: Path) -> Path:
    """The same frames in random order: as sharp and colourful, but without natural motion."""
    from realdpo.media.decode import read_clip
    from realdpo.media.encode import encode_video

    target = folder / "checks" / f"{file_hash(video)[:32]}.mp4"
    if not target.is_file():
        frames, fps = read_clip(video)
        order = np.random.default_rng(0).permutation(len(frames))
        write_bytes(target, encode_video(frames[order], fps))
    return target


class Study:
    """Trials, the votes so far, and the secret that names files. Safe for many raters at once."""

    def __init__(self, folder: Path, trials: Sequence[Trial]) -> None:
        self.folder, self.path = folder, folder / "votes.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "secret"
        if not secret.is_file():
            write_text(secret, secrets.token_hex(16))
        self.secret = secret.read_text()
        self.trials = {trial.trial_id: trial for trial in trials}
        self.files = {
            self.token(path): Path(path)
            for trial in trials
            for path in (trial.first_video, trial.second_video)
        }
        self.votes: list[dict[str, Any]] = read_votes(self.path)
        self.lock = threading.Lock()

    def token(self, path: str) -> str:
        """A file name that does not reveal the system."""
        return hashlib.sha256(f"{self.secret}{path}".encode()).hexdigest()[:24]

    def order(self, rater: str) -> list[Trial]:
        """All trials, in the order of this rater."""
        return sorted(
            self.trials.values(), key=lambda t: unit_interval(self.secret, rater, t.trial_id)
        )

    def swapped(self, rater: str, trial: Trial) -> bool:
        """Whether this rater sees `second` on the left."""
        return bool(seed_of(self.secret, rater, trial.trial_id, "side") & 1)

    def next(self, rater: str) -> dict[str, Any]:
        """The rater's next trial, in the form that the page needs."""
        with self.lock:
            done = {v["trial"] for v in self.votes if v["rater"] == rater} & self.trials.keys()
        left = [trial for trial in self.order(rater) if trial.trial_id not in done]
        if not left:
            return {"finished": True, "done": len(done), "total": len(self.trials)}
        trial = left[0]
        videos = [f"video/{self.token(p)}.mp4" for p in (trial.first_video, trial.second_video)]
        if self.swapped(rater, trial):
            videos.reverse()
        return {
            "finished": False,
            "trial": trial.trial_id,
            "prompt": trial.prompt,
            "left": videos[0],
            "right": videos[1],
            "done": len(done),
            "total": len(self.trials),
        }

    def vote(self, rater: str, trial_id: str, answer: str, seconds: float) -> None:
        """Store a vote. A second one on the same trial changes nothing. ValueError if malformed."""
        trial = self.trials.get(trial_id)
        if trial is None or answer not in ("left", "right", "tie"):
            raise ValueError("no such trial or answer")
        swapped = self.swapped(rater, trial)
        score = 0.5 if answer == "tie" else float((answer == "left") != swapped)
        row = {
            "rater": rater,
            "trial": trial_id,
            "item": trial.item,
            "first": trial.first,
            "second": trial.second,
            "left": trial.second if swapped else trial.first,
            "score": score,
            "check": trial.check,
            "seconds": seconds,
            "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        with self.lock:
            if any(v["rater"] == rater and v["trial"] == trial_id for v in self.votes):
                return
            table = pa.Table.from_pylist([*self.votes, row], schema=VOTES)
            with atomic_path(self.path) as temporary:
                pq.write_table(table, temporary)
            self.votes.append(row)


def read_votes(path: Path) -> list[dict[str, Any]]:
    """The votes of a file, or none if there is no file."""
    if not path.is_file():
        return []
    try:
        found: list[dict[str, Any]] = pq.read_table(path, schema=VOTES).to_pylist()
        return found
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is damaged: {error}", "restore the file, or move it away to start again"
        ) from None


def make_study_server(study: Study, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server for the study. Call serve_forever() on it. Raises UserError if the port is taken."""
    page = resources.files("realdpo.train.evaluate").joinpath("study.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/":
                self._send(200, "text/html; charset=utf-8", page)
            elif url.path == "/api/next":
                rater = parse_qs(url.query).get("rater", [""])[0]
                if not _RATER.match(rater):
                    self._send(400, "text/plain", b"a name has letters, digits, - and _ only")
                else:
                    self._json(study.next(rater))
            elif match := re.match(r"^/video/([0-9a-f]{24})\.mp4$", url.path):
                self._video(match[1])
            else:
                self._send(404, "text/plain", b"not here")

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/api/vote" or not 0 < length < 10_000:
                self.close_connection = True
                self._send(404, "text/plain", b"not here")
                return
            try:
                body = json.loads(self.rfile.read(length))
                rater, seconds = str(body["rater"]), float(body.get("seconds", 0))
                if not _RATER.match(rater):
                    raise ValueError("bad name")
                study.vote(rater, str(body["trial"]), str(body["answer"]), seconds)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._send(400, "text/plain", str(error).encode())
            except UserError as error:  # the disk is full, and the rater must know
                self._send(500, "text/plain", error.message.encode())
            else:
                self._json({"stored": True})

        def _video(self, token: str) -> None:
            path = study.files.get(token)
            if path is None or not path.is_file():
                self._send(404, "text/plain", b"no such video")
                return
            data = path.read_bytes()
            wanted = re.match(r"^bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
            if wanted is None or int(wanted[1]) >= len(data):
                self._send(200, "video/mp4", data, {"Accept-Ranges": "bytes"})
                return
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            span = {"Content-Range": f"bytes {start}-{end}/{len(data)}", "Accept-Ranges": "bytes"}
            self._send(206, "video/mp4", data[start : end + 1], span)

        def _json(self, value: Any) -> None:
            self._send(200, "application/json", json.dumps(value).encode())

        def _send(
            self, status: int, kind: str, data: bytes, more: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(data))}
            for name, value in {**headers, "Cache-Control": "no-store", **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise UserError(
            f"cannot serve on {host}:{port}: {error.strerror}", "choose another --port"
        ) from None
    server.daemon_threads = True
    return server


def summarise_votes(votes: Sequence[Mapping[str, Any]], systems: Sequence[str]) -> dict[str, Any]:
    """Strengths with intervals, agreement, and the number of raters who failed attention checks.

    Raters who got more than a third of their checks wrong are left out completely.
    """
    raters = sorted({v["rater"] for v in votes})
    attentive = []
    for rater in raters:
        checks = [v["score"] == 1.0 for v in votes if v["rater"] == rater and v["check"]]
        if not checks or 1 - np.mean(checks) <= _ALLOWED_FAILURES:
            attentive.append(rater)
    kept = [
        v
        for v in votes
        if v["rater"] in attentive and not v["check"] and {v["first"], v["second"]} <= set(systems)
    ]
    index = {name: k for k, name in enumerate(systems)}
    strengths = bradley_terry_intervals(
        [(v["rater"], v["item"], index[v["first"]], index[v["second"]], v["score"]) for v in kept],
        len(systems),
    )
    trials = sorted({v["trial"] for v in kept})
    ratings = np.full((len(attentive), len(trials)), np.nan)
    for v in kept:
        ratings[attentive.index(v["rater"]), trials.index(v["trial"])] = v["score"]
    # The order of the two systems is arbitrary. With every vote entered the other way round as
    # well,
    # chance is a coin toss, and raters who all prefer one system do not seem to agree by chance.
    both_ways = np.concatenate([ratings, 1 - ratings], axis=1)
    agreement = krippendorff_alpha(both_ways) if trials else float("nan")
    chose_left = [
        (v["score"] == 1.0) == (v["left"] == v["first"]) for v in kept if v["score"] != 0.5
    ]
    return {
        "votes": len(kept),
        "raters": len(attentive),
        "excluded": len(raters) - len(attentive),
        "agreement": None if np.isnan(agreement) else agreement,
        "chose_left": float(np.mean(chose_left)) if chose_left else None,
        "strengths": [
            {"system": name, "estimate": s.estimate, "low": s.low, "high": s.high}
            for name, s in zip(systems, strengths, strict=True)
        ],
    }
