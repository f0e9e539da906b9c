"""A vision-language model as judge, over any server that speaks the OpenAI protocol.

The judge sees the videos of all systems for one prompt together, under neutral letters and in
shuffled order, and scores them on the same questions. Every prompt is judged in several runs with
other orders. This measures the judge's agreement with itself: a judge that contradicts itself
measures nothing.
"""

from __future__ import annotations

import base64
import json
import os
import re
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from realdpo import tables, waiting
from realdpo.config import load_toml
from realdpo.errors import UserError
from realdpo.train.evaluate.config import JudgeConfig
from realdpo.train.evaluate.votes import interval_distance, krippendorff_alpha
from realdpo.workspace import Workspace

ASPECTS: dict[str, tuple[str, ...]] = {
    "first_frame": (
        "Is the person in the video recognisably the one in the starting picture?",
        "Do clothes and held objects keep the look they have in the starting picture?",
        "Does the place stay the one of the starting picture?",
        "Do colours and light stay as in the starting picture?",
        "Does the video go on from the starting picture without a visible jump?",
    ),
    "text": (
        "Does the person do what the description says?",
        "Do the parts of the action come in the described order?",
        "Is the action carried far enough within the video to be recognised?",
        "Are the described objects there, and used as described?",
        "Is the video free of important events that the description does not mention?",
    ),
    "motion": (
        "Does the motion flow without jerks, freezes or jumps?",
        "Do speed and acceleration look like those of a body with weight?",
        "Do contacts with ground and objects hold, without sliding or passing through?",
        "Is there as much motion as the action needs, neither too little nor too much?",
        "Would you take the motion alone for recorded footage?",
    ),
    "body": (
        "Do hands and fingers keep a plausible shape and number?",
        "Do limbs keep their length and bend only at joints?",
        "Does the face stay intact and the same person's?",
        "Is every body part there once, and attached, in every frame?",
        "Is the posture one a person could hold at each moment?",
    ),
}


def refuse_if_used(model: str, used: Iterable[str]) -> None:
    """Raise UserError if the judge is a model that wrote or filtered the data."""
    if name := used_as(model, used):
        raise UserError(
            f"the judge {model} also wrote or filtered the data ({name})",
            "use another judge, or set judge.allow_used=true and mention it with the result",
        )


def used_as(model: str, used: Iterable[str]) -> str:
    """The name among `used` that is this model, or None.

    A model that chose the data prefers what it chose, so its praise of the result is circular.
    Names are compared by their last part, without case and punctuation.
    """

    def bare(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower().rstrip("/").split("/")[-1].split(":")[-1])

    for name in used:
        # A captioner is stored as, for example, `openai:http://host/v1 model` or
        # `transformers:owner/model`.
        if bare(model) in {bare(part) for part in re.split(r"[\s@#,]+", name) if part}:
            return name
    return ""


def models_used(workspace: Workspace) -> list[str]:
    """Every model that curation names: the clips' captioners, and texts in its saved settings."""
    found: set[str] = set()
    if workspace.clips.is_file():
        column = tables.read_table(workspace.clips, tables.CLIPS, ["captioner"])["captioner"]
        found |= {str(name) for name in column.to_pylist() if name}
    for file in sorted((workspace.root / "config").glob("curate*.toml")):
        found |= set(_texts(load_toml(file)))
    return sorted(found)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) and value:
        yield value


def build_request(
    config: JudgeConfig, prompt: str, first_frame: np.ndarray | None, videos: Sequence[np.ndarray]
) -> dict[str, Any]:
    """The chat request that shows `videos` as A, B, C, ... and asks for scores as JSON."""
    aspects = {k: v for k, v in ASPECTS.items() if k != "first_frame" or first_frame is not None}
    lines = []
    for aspect, questions in aspects.items():
        lines.append(f"{aspect}:")
        lines += [f"  {number}. {question}" for number, question in enumerate(questions, 1)]
    shape = {aspect: ["five numbers"] for aspect in aspects}
    letters = string.ascii_uppercase[: len(videos)]
    content: list[dict[str, Any]] = [
        _text(
            "You are shown frames, evenly spaced in time and in order, of "
            f"{len(videos)} short videos ({', '.join(letters)}) made for one description. Answer "
            "each question about each video with a number from 0 (not at all) to 10 (fully). "
            "Judge every video by itself and only by what its frames show.\n\n"
            f"Description: {prompt}\n\nQuestions:\n" + "\n".join(lines)
        )
    ]
    if first_frame is not None:
        content += [_text("The starting picture:"), _picture(first_frame, config.height)]
    for letter, video in zip(letters, videos, strict=True):
        content.append(_text(f"Video {letter}:"))
        index = np.linspace(0, len(video) - 1, min(config.frames, len(video))).round().astype(int)
        content += [_picture(video[i], config.height) for i in index]
    content.append(
        _text(
            "Answer with one JSON object and nothing else: "
            + json.dumps(dict.fromkeys(letters, shape))
        )
    )
    return {
        "model": config.model,
        "temperature": 0,
        "max_tokens": 200 + 150 * len(videos),
        "messages": [{"role": "user", "content": content}],
    }


def parse_answer(
    answer: str, letters: str, aspects: Iterable[str]
) -> dict[str, dict[str, list[float]]]:
    """{letter: {aspect: five scores}} from a model's answer.

    ValueError if it does not hold them.
    """
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object in the answer")
    found = json.loads(answer[start : end + 1])
    scores: dict[str, dict[str, list[float]]] = {}
    for letter in letters:
        scores[letter] = {}
        for aspect in aspects:
            try:
                values = [float(v) for v in found[letter][aspect]]
            except (KeyError, TypeError) as error:
                raise ValueError(f"no scores for video {letter}, {aspect}") from error
            if len(values) != 5 or not all(0 <= v <= 10 for v in values):
                raise ValueError(f"video {letter}, {aspect}: not five numbers from 0 to 10")
            scores[letter][aspect] = values
    return scores


def judge_prompt(
    config: JudgeConfig,
    prompt: str,
    first_frame: np.ndarray | None,
    videos: Mapping[str, np.ndarray],
    seed: int,
    turn: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """{system: {aspect: five scores}} for one prompt, systems shown in an order drawn by `seed`.

    An odd turn shows them in the reverse order of the previous one, so a judge that favours a place
    contradicts itself. Raises UserError if the server refuses the request or gives no usable answer
    in `config.attempts` attempts.
    """
    systems = sorted(videos)
    drawn = np.random.default_rng([seed, turn // 2]).permutation(len(systems))
    order = [systems[k] for k in (drawn[::-1] if turn % 2 else drawn)]
    request = build_request(config, prompt, first_frame, [videos[name] for name in order])
    letters = string.ascii_uppercase[: len(order)]
    aspects = [a for a in ASPECTS if a != "first_frame" or first_frame is not None]
    scores = _ask(config, request, letters, aspects)
    return {name: scores[letter] for letter, name in zip(letters, order, strict=True)}


def self_agreement(scores: np.ndarray) -> float:
    """Krippendorff's alpha (interval) of runs over the same questions [runs, n]; 1 is perfect."""
    return krippendorff_alpha(scores, distance=interval_distance)


def _ask(
    config: JudgeConfig, request: dict[str, Any], letters: str, aspects: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    import httpx

    key = os.environ.get(config.key_variable, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    problem, asked = "", None
    for attempt in range(config.attempts):
        if attempt:
            time.sleep(waiting.seconds_to_wait(attempt, asked, 30.0))
        asked = None
        try:
            reply = httpx.post(
                config.url.rstrip("/") + "/chat/completions",
                json=request,
                headers=headers,
                timeout=config.timeout,
            )
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
            continue
        if waiting.is_passing(reply.status_code):
            problem = f"it answers {reply.status_code}"
            asked = waiting.retry_after(reply.headers)
            if (asked or 0) > waiting.LONGEST:
                problem += f" and asks to wait {asked:.0f} s"
                break
            continue
        if reply.status_code != 200:
            raise UserError(
                f"the judge at {config.url} refuses: {reply.status_code} {reply.text[:200]}",
                f"check judge.url, judge.model and the key in ${config.key_variable}",
            )
        try:
            return parse_answer(reply.json()["choices"][0]["message"]["content"], letters, aspects)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            problem = f"its answer is unusable ({error})"
    raise UserError(
        f"the judge at {config.url} gave no scores in {attempt + 1} attempts: {problem}",
        "run the same command again when the server works; it continues from here",
    )


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(frame: np.ndarray, height: int) -> dict[str, Any]:
    scale = min(1.0, height / frame.shape[0])
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    data = base64.b64encode(jpeg.tobytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
