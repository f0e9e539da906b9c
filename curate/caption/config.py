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
    """sidecar: captions that came with the footage, else title and keywords | keywords: these
    alone | openai:<base url> | transformers:<model id or folder>"""
    file_names: bool = False
    """Let sidecar and keywords take a file's name for a prompt where nothing else is known."""
    model: str = ""
    """Model name that is sent to an openai: server; "" asks the server for its only one."""
    prompt: str = ""
    """File with the question; "" is the one that ships. $seconds, $frames and $hint are filled."""
    frames: int = 8
    """Frames shown of each clip, evenly spaced in time, the first and the last among them."""
    short_side: int = 448
    """Shorter side of the shown frames in pixels."""
    max_tokens: int = 320
    """Longest answer, in the captioner's tokens."""
    temperature: float = 0.1
    """Of the answer's sampling; 0 always takes the likeliest word."""
    repetition_penalty: float = 1.05
    """Only for transformers:, servers have their own."""
    concurrency: int = 16
    """Requests in flight at an openai: server."""
    timeout: float = 120.0
    """Seconds without a byte from the server before a request is given up."""
    retries: int = 6
    """Further attempts after 429, 5xx, time-outs and broken connections."""
    max_wait: float = 120.0
    """Longest pause between two attempts in seconds, also when Retry-After asks for more."""
    price_in: float = 0.0
    """US dollars for a million tokens sent; 0 leaves the cost out."""
    price_out: float = 0.0
    """US dollars for a million tokens answered."""
    batch: int = 4
    """Clips a forward pass of a transformers: model."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N | mps, for transformers:"""
    language: str = "en"
    """ISO 639-1 code of the wanted language; "" takes any."""
    text_tokens: int = 226
    """Length of the target's text encoder in tokens; 226 for CogVideoX, 512 for Wan."""
    tokenizer: str = ""
    """Tokenizer of the target's text encoder (folder or Hub id); "" estimates the length."""

    def __post_init__(self) -> None:
        kind, _, rest = self.captioner.partition(":")
        needs_name = kind in ("openai", "transformers")
        if kind not in (KEYWORDS, SIDECAR) and not (needs_name and rest):
            raise UserError(
                f"no captioner {self.captioner!r}",
                "it is one of keywords, sidecar, openai:<base url>, "
                "transformers:<model id or folder>",
            )
        if min(self.frames, self.short_side, self.max_tokens, self.concurrency, self.batch) < 1:
            raise UserError(
                "frames, short_side, max_tokens, concurrency and batch must be 1 or more"
            )
        if self.retries < 0 or self.timeout <= 0 or self.max_wait < 0:
            raise UserError("retries and max_wait must be 0 or more, timeout above 0")


@settings
class VerifyConfig:
    """`[verify]`: a second opinion on every caption."""

    verifier: str = ""
    """open_clip | openai:<base url> | transformers:<model id or folder>"""
    model: str = ""
    """Model name that is sent to an openai: server; "" asks the server for its only one."""
    prompt: str = ""
    """File with the question; "" is the one that ships. $caption is filled as well."""
    allow_same_model: bool = False
    """Let a model judge captions that it wrote itself. Its own mistakes will look right to it."""

    def __post_init__(self) -> None:
        kind, _, rest = self.verifier.partition(":")
        needs_name = kind in ("openai", "transformers")
        if self.verifier not in ("", "open_clip") and not (needs_name and rest):
            raise UserError(
                f"no verifier {self.verifier!r}",
                "it is one of open_clip, openai:<base url>, transformers:<model id or folder>",
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
