"""Settings of captioning and of the caption check."""

from __future__ import annotations

from pathlib import Path

from realdpo.config import settings
from realdpo.errors import UserError

KEYWORDS, SIDECAR, EDIT, FILE_NAME = "keywords", "sidecar", "edit", "file_name"


@settings
class CaptionConfig:
    """`[caption]`: who writes the captions and how they are asked."""

    captioner: str = SIDECAR
    """Who writes the captions: sidecar (captions that came with the footage, else title and
    keywords), keywords, openai:<base url> (key from OPENAI_API_KEY), or transformers:<model>."""
    file_names: bool = False
    """Let sidecar and keywords use a file's name as the prompt if nothing else is known."""
    model: str = ""
    """Name of the model at an openai: server; "" asks the server for its only one."""
    prompt: str = ""
    """File with the question; "" is the built-in one. $seconds, $frames and $hint are filled in."""
    frames: int = 8
    """Frames of each clip that the model sees, evenly spaced, with the first and the last."""
    short_side: int = 448
    """Shorter side of these frames in pixels."""
    max_tokens: int = 320
    """Longest answer, in tokens of the captioner."""
    temperature: float = 0.1
    """Temperature of the answer; 0 always takes the likeliest word."""
    repetition_penalty: float = 1.05
    """Penalty on repeated words, for transformers: only; servers have their own."""
    concurrency: int = 16
    """Requests at a time to an openai: server."""
    timeout: float = 120.0
    """Seconds to wait for a byte from the server."""
    retries: int = 6
    """Further attempts after 429, 5xx, time-outs and broken connections."""
    max_wait: float = 120.0
    """Longest pause between two attempts in seconds, even if Retry-After asks for more."""
    price_in: float = 0.0
    """US dollars for a million tokens sent; with 0 no cost is shown."""
    price_out: float = 0.0
    """US dollars for a million tokens answered."""
    batch: int = 4
    """Clips in one forward pass of a transformers: model."""
    device: str = "auto"
    """Device of a transformers: model: auto, cpu, cuda, cuda:N or mps."""
    language: str = "en"
    """Language of the captions as an ISO 639-1 code; "" accepts any."""
    text_tokens: int = 226
    """Tokens that the target's text encoder reads: 226 for CogVideoX, 512 for Wan."""
    tokenizer: str = ""
    """Tokenizer of that text encoder (folder or Hub id); "" estimates the length."""

    def __post_init__(self) -> None:
        kind, _, rest = self.captioner.partition(":")
        needs_name = kind in ("openai", "transformers")
        if kind not in (KEYWORDS, SIDECAR) and not (needs_name and rest):
            raise UserError(
                f"there is no captioner {self.captioner!r}",
                "choose one of keywords, sidecar, openai:<base url>, "
                "transformers:<model id or folder>",
            )
        if min(self.frames, self.short_side, self.max_tokens, self.concurrency, self.batch) < 1:
            raise UserError(
                "frames, short_side, max_tokens, concurrency and batch must be 1 or more"
            )
        if self.retries < 0 or self.timeout <= 0 or self.max_wait < 0:
            raise UserError("retries and max_wait must be 0 or more, and timeout must be above 0")


@settings
class VerifyConfig:
    """`[verify]`: a second opinion on every caption."""

    verifier: str = ""
    """Who judges the captions: open_clip, openai:<base url> or transformers:<model>."""
    model: str = ""
    """Name of the model at an openai: server; "" asks the server for its only one."""
    prompt: str = ""
    """File with the question; "" is the built-in one. $caption is filled in as well."""
    allow_same_model: bool = False
    """Let a model judge its own captions. It will overlook its own mistakes."""

    def __post_init__(self) -> None:
        kind, _, rest = self.verifier.partition(":")
        needs_name = kind in ("openai", "transformers")
        if self.verifier not in ("", "open_clip") and not (needs_name and rest):
            raise UserError(
                f"there is no verifier {self.verifier!r}",
                "choose one of open_clip, openai:<base url>, transformers:<model id or folder>",
            )


def model_key(name: str) -> str:
    """A model's name without owner, path, quantisation or case, to tell whether two are one.

    `Qwen/Qwen2.5-VL-7B-Instruct`, `/models/qwen2.5-vl-7b-instruct-awq` and
    `qwen2.5-vl-7b-instruct` are the same model behind different doors.
    """
    key = Path(name.rstrip("/")).name.casefold()
    for mark in ("-gguf", "-awq", "-gptq", "-fp8", "-bf16", "-fp16", "-int8", "-int4", "-4bit"):
        key = key.replace(mark, "")
    return key
