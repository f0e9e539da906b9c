"""Estimate the device memory of a run, by part and rung, before anything is loaded.

The transformer is built from its configuration with shapes alone (PyTorch's FakeTensorMode). It
takes a forward and a backward as training does, and the bytes alive at once are counted. Repeated
blocks are built two and three times, and the rest is extrapolated, because each block adds the
same. All but the activations is arithmetic on the numbers of weights.

The count misses workspaces inside a kernel (flash and efficient attention need little),
fragmentation, and the CUDA context. `RESERVE` covers these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional

from realdpo import memory
from realdpo.families import Family, Spec, clear_caches, trainable_family
from realdpo.families.weights import add_lora
from realdpo.memory import GB, RUNGS, Rung
from realdpo.train import noise, setup, step
from realdpo.train.config import TrainConfig
from realdpo.train.draws import Batch
from realdpo.train.step import TrainTask

if TYPE_CHECKING:
    from realdpo.train.latents import Pair

RESERVE = (1.0e9, 0.04)
"""Bytes, and a share of the rest, that cover the CUDA context, workspaces and fragmentation."""

CARDS = {24: 25.4e9, 40: 42.4e9, 80: 85.0e9, 141: 150.8e9}
"""Bytes that cards report: 24 GB (RTX 4090, A10), 40 and 80 GB (A100, H100), 141 GB (H200)."""

_DEPTHS = ("num_layers", "num_single_layers")


@dataclass(frozen=True)
class Estimate:
    """Bytes of a training step by part, for one rung and one device."""

    rung: str
    weights: float
    trained: (
        float  # the adapters' float32 weights; 0 in full training, which counts them in `weights`
    )
    gradients: float
    moments: float
    reference: float
    activations: float
    reserve: float

    @property
    def total(self) -> float:
        result: float = sum(value for key, value in asdict(self).items() if key != "rung")
        return result

    @property
    def line(self) -> str:
        parts = {k: v for k, v in asdict(self).items() if k != "rung" and v}
        told = ", ".join(f"{name} {value / GB:{_digits(value)}}" for name, value in parts.items())
        return f"{self.total / GB:{_digits(self.total)}} GB ({told})"


def _digits(size: float) -> str:
    """Tenths of a gigabyte, or one significant digit for models smaller than that."""
    return ".1f" if size >= 0.05 * GB else ".1g"


@dataclass(frozen=True)
class Shapes:
    """The shapes of a pair's latent and inputs, without batch axis, and its cost of encoding."""

    latent: tuple[int, ...]
    inputs: Mapping[str, tuple[int, ...]]
    encoding: float = 0.0  # bytes at the peak of encoding one video, with the VAE's weights


def shapes_of(spec: Spec, width: int, height: int, frames: int) -> Shapes:
    """The shapes of a pair of that size, from the family's own code, and the VAE's peak."""
    import diffusers

    family = trainable_family(spec)
    kind: Any = getattr(diffusers, spec.classes["vae"])
    with torch.device("meta"):
        vae = kind.from_config(dict(spec.vae))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[str, Any] = {}
    with mode, torch.no_grad(), _clean_caches():
        _fake(vae.to(torch.bfloat16))

        def encode() -> None:
            video = torch.zeros(1, 3, frames, height, width)
            made["latent"] = tuple(family.padded(family.encode(vae, video)).shape[1:])
            image = torch.zeros(1, 3, height, width)
            if family.task == "i2v":
                made["inputs"] = {
                    n: tuple(t.shape[1:]) for n, t in family.condition(vae, image, frames).items()
                }

        peak = memory.count_peak(encode)
    own = sum(p.numel() * 2 for p in vae.parameters())
    inputs = {**family.prompt_shapes(), **made.get("inputs", {})}
    return Shapes(made["latent"], inputs, peak + own)


def estimate_step(
    spec: Spec,
    config: TrainConfig,
    shapes: Shapes,
    losers: int,
    rung: Rung,
    *,
    processes: int = 1,
    sharded: bool = False,
    device: str = "cuda",
    counted: dict[tuple[int, bool], tuple[float, float]] | None = None,
    model: nn.Module | None = None,
) -> Estimate:
    """Bytes of one step on one device, for a pair with `losers` losers.

    processes: the number that share the weights if `sharded`. counted: activations that were
    counted before, by branches and checkpointing; new counts are added. model: the whole
    transformer on meta, if it was built before.
    """
    lora = config.weights == "lora"
    share = processes if sharded else 1
    model = _built(spec, config, dict(spec.transformer)) if model is None else model
    frozen = [p for p in model.parameters() if not p.requires_grad]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    wide = 4 if not lora or config.precision == "fp32" else 2
    weights = float(sum(p.numel() * p.element_size() for p in frozen)) if lora else trained * 4.0
    inside = {id(p) for block in memory.blocks_of(model) for p in block.parameters()}
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    linear = [w for w in linear if id(w) in inside and not w.requires_grad]
    copies = config.batch * (1 + losers if rung.together and config.method.needs_losers else 1)
    counted, key = {} if counted is None else counted, (copies, rung.checkpointing)
    if key not in counted:
        counted[key] = _activations(spec, config, shapes, *key, device)
    activations, each = counted[key]
    if rung.bits < 16 and lora:
        per_weight = {8: 1.0, 4: 0.53}[rung.bits]  # with a scale for every 64 weights
        weights -= sum(w.numel() for w in linear) * (wide - per_weight)
        # A layer's weights are widened while in use.
        activations += 2 * wide * max((w.numel() for w in linear), default=0)
    if rung.blocks:
        sizes = [
            sum(p.numel() * p.element_size() for p in block.parameters() if not p.requires_grad)
            for block in memory.blocks_of(model)
        ]
        weights -= sum(sizes) - 2 * max(sizes)  # one is in use while the next one is fetched
        activations -= each * (len(sizes) - 1)
    moment = {"adamw": 8.0, "adamw8bit": 2.0}[config.optimizer]
    copied = config.method.needs_reference and config.reference_mode != "adapter-off"
    parts = {
        "weights": weights / share,
        "trained": 4.0 * trained / share if lora else 0.0,
        "gradients": 4.0 * trained / share,
        "moments": moment * trained / share,
        "reference": 4.0 * trained / share if copied else 0.0,
        "activations": activations + (_gathered(model) if sharded else 0.0),
    }
    fixed, part = RESERVE
    return Estimate(rung.name, **parts, reserve=fixed + part * sum(parts.values()))


def estimate_rungs(
    spec: Spec,
    config: TrainConfig,
    shapes: Shapes,
    losers: int,
    rungs: Sequence[Rung] = RUNGS,
    **where: Any,
) -> Iterator[Estimate]:
    """Yield an estimate for each rung."""
    counted: dict[tuple[int, bool], tuple[float, float]] = {}
    model = _built(spec, config, dict(spec.transformer))
    for rung in rungs:
        yield estimate_step(
            spec, config, shapes, losers, rung, counted=counted, model=model, **where
        )


def first_that_fits(
    spec: Spec,
    config: TrainConfig,
    shapes: Shapes,
    losers: int,
    rungs: Sequence[Rung],
    room: float,
    **where: Any,
) -> Estimate:
    """The first rung that fits into `room` bytes, or the last if none does."""
    for found in estimate_rungs(spec, config, shapes, losers, rungs, **where):
        if found.total <= room:
            break
    return found


def shapes_of_pair(pair: Pair) -> Shapes:
    """The shapes of an encoded pair, from its files. Of a first frame's copies, one is counted."""
    inputs: dict[str, tuple[int, ...]] = {}
    for index, path in enumerate(pair.inputs):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                inputs[name] = tuple(file.get_slice(name).get_shape())[index:]
    return Shapes(pair.shape, inputs)


def _gathered(model: nn.Module) -> float:
    """Bytes of whole weights that FSDP2 holds beside its shards: the block in use and the next."""
    sizes = [
        sum(p.numel() * p.element_size() for p in b.parameters()) for b in memory.blocks_of(model)
    ]
    return 2.0 * max(sizes, default=0)


def _built(spec: Spec, config: TrainConfig, settings: dict[str, Any]) -> Any:
    """The transformer of these settings on meta, as `setup.make_policy` would make it."""
    import diffusers

    kind: Any = getattr(diffusers, spec.classes[spec.component])
    with torch.device("meta"):
        model = kind.from_config({k: v for k, v in settings.items() if not k.startswith("_")})
    lora = config.weights == "lora"
    narrow = lora and config.precision in ("auto", "bf16", "fp16")
    kept = tuple(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not lora)
        if narrow and not any(part in name.split(".") for part in kept):
            parameter.data = parameter.data.bfloat16()
    if lora:
        targets = setup.lora_targets(config, trainable_family(spec))
        with torch.device("meta"):
            add_lora(model, config.rank, config.alpha, config.lora_dropout, targets)
    return model


def _activations(
    spec: Spec, config: TrainConfig, shapes: Shapes, copies: int, checkpointing: bool, device: str
) -> tuple[float, float]:
    """Bytes of activations at the peak of a step, and the part that one more block adds."""
    settings = dict(spec.transformer)
    depths = {k: int(settings[k]) for k in _DEPTHS if k in settings}
    few = {k: min(depth, 2) for k, depth in depths.items()}

    def at(**changed: int) -> float:
        cut = {**settings, **few, **changed}
        return float(peak_of_branch(spec, config, cut, shapes, copies, checkpointing, device))

    base = at()
    more = {k: max(0.0, at(**{k: few[k] + 1}) - base) for k in depths if depths[k] > few[k]}
    peak = base + sum((depths[k] - few[k]) * added for k, added in more.items())
    return peak, max(more.values(), default=0.0)


def peak_of_branch(
    spec: Spec,
    config: TrainConfig,
    settings: dict[str, Any],
    shapes: Shapes,
    copies: int,
    checkpointing: bool,
    device: str,
) -> int:
    """Bytes of activations at the peak of a forward and a backward of `copies` branches.

    The weights already have gradients, as in every micro-batch but the first.
    device: "cuda" computes in the dtypes that autocast takes on a GPU, "cpu" in those of a CPU.
    """
    model = _built(spec, config, settings)
    model.train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    family = trainable_family(replace(spec, parts={**spec.parts, spec.component: settings}))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, _clean_caches(), _contents_assumed():
        _fake(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return memory.count_peak(branch_work(model, family, config, shapes, copies, device))


def branch_work(
    model: Any,
    family: Family,
    config: TrainConfig,
    shapes: Shapes,
    copies: int,
    device: str,
    backward: bool = True,
) -> Any:
    """A function that runs one forward and one backward of `copies` branches, as training does."""
    half = {"fp32": None, "fp16": torch.float16}.get(config.precision, torch.bfloat16)
    spec = family.spec
    channels = shapes.latent[1] if family.TIME_AXIS == 1 else shapes.latent[0]
    positions = 1
    for side in shapes.latent:
        positions *= side
    process = noise.from_scheduler(spec.scheduler, positions // channels)
    task = TrainTask(family, process)

    def work() -> None:
        clean = torch.zeros(copies, *shapes.latent)
        inputs = {n: torch.zeros(1, *s) for n, s in shapes.inputs.items()}
        inputs = {n: t.bool() if "mask" in n else t for n, t in inputs.items()}
        inputs["fps"] = torch.tensor([8.0])
        u = torch.tensor([0.5], dtype=torch.float64)
        batch = Batch(clean[:1], clean[None, :0], torch.zeros(1, *shapes.latent), u, inputs)
        narrow = torch.autocast(
            "cpu", half or torch.bfloat16, half is not None, cache_enabled=False
        )
        # The backward belongs inside as well, because checkpointed blocks are computed again in it.
        with _as_cuda() if device == "cuda" and half is not None else contextlib.nullcontext():
            with narrow:
                error, _ = step.branch_error(model, task, batch, clean)
            if backward:
                error.sum().backward()

    return work


_WIDE = ("layer_norm", "group_norm", "rms_norm", "softmax")


@contextlib.contextmanager
def _as_cuda() -> Iterator[None]:
    """Widen the operations that autocast widens on a GPU but not on a CPU, backward included."""
    real = {name: getattr(functional, name) for name in _WIDE}

    def widened(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.is_autocast_enabled("cpu"):
                args = tuple(a.float() if _is_half(a) else a for a in args)
                kwargs = {k: a.float() if _is_half(a) else a for k, a in kwargs.items()}
            return real[name](*args, **kwargs)

        return call

    for name in _WIDE:
        setattr(functional, name, widened(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(functional, name, function)


@contextlib.contextmanager
def _contents_assumed() -> Iterator[None]:
    """Answer code that asks for contents of fake tensors: prompts have no padding, fps is 8."""
    real = torch.nonzero

    def nonzero(mask: Tensor, **_: Any) -> Tensor:
        return torch.arange(mask.numel()).unsqueeze(1)

    torch.nonzero = nonzero  # type: ignore[assignment]  # fake tensors have no values to look at
    FakeTensor.__float__ = lambda _: 8.0  # type: ignore[method-assign]  # fake tensors have no values to look at
    try:
        yield
    finally:
        torch.nonzero = real
        del FakeTensor.__float__


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _fake(module: nn.Module) -> None:
    """Give a module on meta fake CPU tensors. Call this within a FakeTensorMode."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                made = torch.empty(parameter.shape, dtype=parameter.dtype)
                part._parameters[name] = nn.Parameter(made, parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@contextlib.contextmanager
def _clean_caches() -> Iterator[None]:
    """Keep fake tensors out of the caches that real work reads afterwards."""
    clear_caches()
    try:
        yield
    finally:
        clear_caches()
