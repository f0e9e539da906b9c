"""Settings of `realdpo eval` and `realdpo sample`: frozen dataclasses, without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from realdpo.config import settings
from realdpo.errors import UserError
from realdpo.families.memory import check_options
from realdpo.precision import Dtype, long_name

REAL = "real"  # the name of the real clips among the systems


@settings
class JudgeConfig:
    """A vision-language model as judge. Without a url there is no judge.

    url: address of an OpenAI-compatible server, up to and including /v1. model: name of the model
    at that server. runs: number of times that each comparison is judged, in other orders. frames:
    frames of each video that the judge sees. height: largest height of these frames, in pixels.
    timeout: seconds to wait for an answer. attempts: attempts at a request. key_variable:
    environment variable that holds the key. allow_used: allow a model that captioned or filtered
    the data.
    """

    url: str = ""
    model: str = ""
    runs: int = 2
    frames: int = 8
    height: int = 336
    timeout: float = 180.0
    attempts: int = 5
    key_variable: str = "OPENAI_API_KEY"
    allow_used: bool = False

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("http://", "https://")):
            raise UserError(f"judge.url={self.url}: it does not start with http")
        if self.url and not self.model:
            raise UserError(
                "judge.model is missing", "give the name by which the server knows the model"
            )
        if self.runs < 1 or self.frames < 2 or self.attempts < 1:
            raise UserError("a judge needs at least 1 run, 1 attempt and 2 frames")


@settings
class SampleConfig:
    """The systems that make videos, their prompts, and the form of the videos.

    name: name of these videos; they go to samples/NAME. systems: systems to sample, as NAME=WHAT: a
    run of the workspace, a model (`tiny`, a folder, a Hub id), MODEL+LORA, or a folder of finished
    videos; the first is the base. benchmark: folder with prompts and first frames, instead of a
    split of the workspace. split: split of the workspace whose prompts are used: train, validation
    or test. prompts: number of prompts at most; 0 takes all. seeds: videos for each prompt and
    system. seed: base seed of all videos; every system gets the same ones.
    width: width in pixels. height: height in pixels. frames: frames of a video. fps: frames a
    second. steps: denoising steps; unset is the model's own. guidance: guidance scale; unset is the
    model's own. negative_prompt: what videos should not show. call: further arguments of the
    pipelines' call, the same for all systems. scheduler: settings of the pipelines' schedulers,
    the same for all systems. task: i2v or t2v, for models whose weights do both; a run keeps the
    task of its training.
    dtype: number format of the models; auto is bfloat16 on a GPU and float32 on a CPU. memory: how
    memory is saved, as for `pairs build`. crf: H.264 quality of generated videos; lower is better.
    """

    name: str = "samples"
    systems: Mapping[str, str] = field(default_factory=dict)
    benchmark: str = ""
    split: str = "validation"
    prompts: int = 4
    seeds: int = 1
    seed: int = 0
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    task: Literal["i2v", "t2v"] | None = None
    dtype: Dtype = "auto"
    memory: str = "auto"
    crf: int = 12

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.seeds < 1 or self.prompts < 0:
            raise UserError("seeds must be at least 1, and prompts at least 0 (all)")
        check_options(self.memory)
        object.__setattr__(self, "dtype", long_name(self.dtype))
        if REAL in self.systems:
            raise UserError(
                "the name `real` is reserved for the real clips", "give the system another name"
            )
        for name in (self.name, *self.systems):
            if not name or any(c in name for c in "/\\\n|") or name.startswith("."):
                raise UserError(f"{name!r} cannot be a name", "use letters, digits, - and _")

    @property
    def base_name(self) -> str:
        """The system that the others are compared to."""
        return next(iter(self.systems), "")


@settings
class EvalConfig(SampleConfig):
    """The systems to compare, their prompts, and the measures.

    name: name of this comparison; its files go to eval/NAME. systems: systems to compare, as
    NAME=WHAT: a run of the workspace, a model (`tiny`, a folder, a Hub id), MODEL+LORA, or a folder
    of finished videos; the first is the base. base: the system that the others are compared to; the
    first one when empty.
    clip: model of open_clip that scores prompt fit, as ARCHITECTURE:WEIGHTS. frechet: feature
    network of the Fréchet distance, as NETWORK:WEIGHTS. vbench: dimensions of VBench to run.
    """

    name: str = "eval"
    split: str = "test"
    prompts: int = 0
    seeds: int = 3
    base: str = ""
    clip: str = ""
    frechet: str = ""
    vbench: tuple[str, ...] = ()
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        self._check()
        if self.base and self.systems and self.base not in self.systems:
            raise UserError(
                f"base={self.base} is not among the systems", f"known: {', '.join(self.systems)}"
            )

    @property
    def base_name(self) -> str:
        """The system that the others are compared to."""
        return self.base or super().base_name
