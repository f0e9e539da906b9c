"""What a training step takes on this machine's GPU: the real architectures with random weights.

    python benchmarks/gpu.py [--rows cogvideox wan-14b] [--out gpu.jsonl] [--tiny] [--list]

Models are built from their configurations at their real sizes, so nothing is downloaded. Each row
runs in a process of its own with a time limit; results are written as they come, and the table is
printed again after each. A row gives the most memory it held beside what was estimated, seconds a
step, tokens a second, the share of the card's bfloat16 peak, and the time against the released
order of work (the winner again for every loser, 4 N forwards) measured in the same process.
The checks at the end are told as passed or failed, and the exit code says so.

It needs torch, diffusers, transformers, peft, accelerate and safetensors, and runs from the
repository without being installed. `--tiny` runs the same plan with small models, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import realdpo  # noqa: E402 - the path is set above

if str(ROOT) not in realdpo.__path__:
    realdpo.__path__.append(str(ROOT))  # train/ and pairs/ stand beside realdpo/

FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
COG = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
}
COG_VAE = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "block_out_channels": (128, 256, 256, 512),
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "layers_per_block": 3,
    "scaling_factor": 0.7,
}
WAN = ("WanPipeline", "WanTransformer3DModel", "AutoencoderKLWan")

# name: (pipeline, transformer, VAE), settings beyond the classes' defaults of the transformer and
# of the VAE, scheduler, width x height x frames, and what makes a tiny one of it
MODELS: dict[str, tuple[Any, ...]] = {
    "cogvideox-5b-i2v": (
        ("CogVideoXImageToVideoPipeline", "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX"),
        {
            "num_attention_heads": 48,
            "num_layers": 42,
            "in_channels": 32,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": True,
        },
        COG_VAE,
        COG,
        (720, 480, 49),
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "text_embed_dim": 32,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 9,
            "max_text_seq_length": 16,
        },
    ),
    "wan-1.3b": (
        WAN,
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        {},
        FLOW,
        (832, 480, 81),
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "ffn_dim": 32,
            "num_layers": 2,
            "text_dim": 32,
            "freq_dim": 32,
        },
    ),
    "wan-14b": (
        WAN,
        {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
        {},
        FLOW,
        (832, 480, 81),
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "ffn_dim": 32,
            "num_layers": 2,
            "text_dim": 32,
            "freq_dim": 32,
        },
    ),
    "ltx-2b": (
        ("LTXPipeline", "LTXVideoTransformer3DModel", "AutoencoderKLLTXVideo"),
        {},
        {},
        {
            **FLOW,
            "use_dynamic_shifting": True,
            "base_shift": 0.95,
            "max_shift": 2.05,
            "base_image_seq_len": 1024,
            "max_image_seq_len": 4096,
        },
        (704, 480, 121),
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "cross_attention_dim": 32,
            "caption_channels": 32,
        },
    ),
    "hunyuan": (
        ("HunyuanVideoPipeline", "HunyuanVideoTransformer3DModel", "AutoencoderKLHunyuanVideo"),
        {},
        {},
        {**FLOW, "shift": 7.0},
        (960, 544, 61),
        {
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 1,
            "text_embed_dim": 16,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
    ),
    "mochi": (
        ("MochiPipeline", "MochiTransformer3DModel", "AutoencoderKLMochi"),
        {"num_layers": 48},
        {},
        {**FLOW, "invert_sigmas": True},
        (848, 480, 85),
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "text_embed_dim": 32,
            "pooled_projection_dim": 16,
            "time_embed_dim": 4,
        },
    ),
}

# (model, weights, rung, losers); the most telling first. No losers: the contrast.
ROWS = [
    ("cogvideox-5b-i2v", "lora", "checkpointing", 0),
    ("cogvideox-5b-i2v", "lora", "checkpointing", 3),
    ("cogvideox-5b-i2v", "lora", "one-by-one", 3),
    ("wan-1.3b", "lora", "one-by-one", 1),
    ("wan-14b", "lora", "one-by-one", 0),
    ("wan-14b", "lora", "one-by-one", 1),
    ("cogvideox-5b-i2v", "lora", "blocks", 1),
    ("ltx-2b", "lora", "side-by-side", 1),
    ("ltx-2b", "full", "checkpointing", 1),
    ("hunyuan", "lora", "one-by-one", 1),
    ("wan-14b", "lora", "blocks", 1),
    ("cogvideox-5b-i2v", "lora", "8bit", 1),
    ("wan-14b", "lora", "4bit", 1),
    ("mochi", "lora", "one-by-one", 1),
    ("cogvideox-5b-i2v", "lora", "checkpointing", 1),
    ("wan-1.3b", "full", "one-by-one", 1),
]
CHECKS = ("ln2", "cuda-is-cpu", "fp16", "adamw8bit", "repeatable", "flat", "out-of-memory")

# bfloat16 without sparsity, operations a second, as the makers' sheets say
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", nargs="+", default=[], help="rows whose names contain these words"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="small models: the plan, not its figures"
    )
    parser.add_argument("--limit", type=float, default=100.0, help="seconds a row may take")
    parser.add_argument("--total", type=float, default=480.0, help="seconds for all rows")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = [" ".join(map(str, row)) for row in ROWS] + list(CHECKS)
    if asked.list:
        print("\n".join(names))
        return 0
    if asked.one:
        print(json.dumps(run_row(asked.one, asked.tiny)))
        return 0
    chosen = [n for n in names if not asked.rows or any(word in n for word in asked.rows)]
    begin, results = time.monotonic(), []
    asked.out.write_text("")
    for name in chosen:
        left = asked.total - (time.monotonic() - begin)
        found = {"row": name} | (
            child(name, asked.tiny, min(asked.limit, left))
            if left > 1
            else {"error": "no time left"}
        )
        results.append(found)
        with open(asked.out, "a") as out:
            out.write(json.dumps(found) + "\n")
        print(line_of(found), flush=True)
    return 1 if any(found.get("passed") is False for found in results) else 0


def child(name: str, tiny: bool, limit: float) -> dict[str, Any]:
    """Run one row in a process of its own; what it printed last is its result."""
    command = [sys.executable, __file__, "--one", name, *(["--tiny"] if tiny else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {limit:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return dict(json.loads(lines[-1]))


def line_of(found: dict[str, Any]) -> str:
    name = f"{found['row']:<42}"
    if "error" in found:
        return f"{name} {found['error']}"
    if "passed" in found:
        verdict = {True: "passed", False: "FAILED", None: "not run"}[found["passed"]]
        return f"{name} {verdict}  {found['told']}"
    share = f"{found['share']:.0%}" if found["share"] is not None else "unknown"
    return (
        f"{name} {found['peak_gb']:8.3f} GB (estimated {found['estimate_gb']:.3f}) "
        f"{found['seconds']:8.3f} s  {found['tokens_a_second']:10,.0f} tokens/s  peak {share}  "
        + (
            f"{found['against_released']:.2f} of the released order"
            if found["against_released"]
            else ""
        )
    )


def run_row(name: str, tiny: bool) -> dict[str, Any]:
    if name in CHECKS:
        passed, told = globals()["check_" + name.replace("-", "_")]()
        return {"passed": passed, "told": told}
    model, weights, rung, losers = name.split()
    return measure(model, weights, rung, int(losers), tiny)


# Models and batches


def spec_of(name: str, tiny: bool) -> tuple[Any, tuple[int, int, int]]:
    """The facts of a model of MODELS, with its classes' defaults, and its pairs' size."""
    import inspect

    import diffusers

    from realdpo.families.base import Spec

    (pipeline, transformer, vae), changes, vae_changes, scheduler, size, small = MODELS[name]

    def settings(kind: str, **changed: Any) -> dict[str, Any]:
        taken = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
        return {p.name: p.default for p in taken if p.default is not p.empty} | changed

    if tiny:
        changes, size = {**changes, **small}, (64, 64, 9)
        if name == "mochi":
            size = (64, 64, 7)
    parts = {
        "transformer": settings(transformer, **changes),
        "vae": settings(vae, **vae_changes),
        "scheduler": scheduler,
        "pipeline": {},
    }
    return Spec(pipeline, parts, {"transformer": transformer, "vae": vae}), size


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def policy(spec: Any, config: Any, rung: Any, where: Any) -> Any:
    """The transformer with random weights, made on the device, as `setup.make_policy` would load it."""
    import torch

    from realdpo import memory
    from realdpo.train import estimate

    model = estimate._built(spec, config, dict(spec.transformer))
    if rung.bits < 16:
        quantise(model, rung.bits)
    home = torch.device("cpu") if rung.blocks else where
    torch.manual_seed(0)
    for part in model.modules():
        for entries in (part._parameters, part._buffers):
            for key, tensor in list(entries.items()):
                if tensor is None or not tensor.is_meta:
                    continue
                made = torch.empty(tensor.shape, dtype=tensor.dtype, device=home)
                if made.is_floating_point():
                    made.normal_(std=0.02)
                if entries is part._parameters:
                    made = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
                entries[key] = made
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.zeros_(parameter)
    model.train()
    if rung.checkpointing:
        model.enable_gradient_checkpointing()
    if rung.blocks:
        memory.keep_blocks_apart(model, where)
        memory.move_rest(model, where)
    return model.to(where) if not rung.blocks else model


def quantise(model: Any, bits: int) -> None:
    """Put bitsandbytes' layers in the place of the blocks' frozen linear ones, filled when moved."""
    import bitsandbytes as bnb
    import torch

    from realdpo import memory

    for block in memory.blocks_of(model):
        for path, part in list(block.named_modules()):
            if type(part) is not torch.nn.Linear or part.weight.requires_grad:
                continue
            bias = part.bias is not None
            if bits == 8:
                made = bnb.nn.Linear8bitLt(
                    part.in_features, part.out_features, bias, has_fp16_weights=False
                )
            else:
                made = bnb.nn.Linear4bit(
                    part.in_features, part.out_features, bias, torch.bfloat16, True, "nf4"
                )
            owner, _, key = path.rpartition(".")
            made.requires_grad_(False)
            setattr(block.get_submodule(owner), key, made)


def batch_of(spec: Any, shapes: Any, losers: int, where: Any, seed: int = 0) -> Any:
    """One pair of random latents and inputs."""
    import torch

    from realdpo.train.draws import Batch

    random = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731 - one line, used below
    inputs = {n: make(1, *s) for n, s in shapes.inputs.items()}
    inputs = {n: torch.ones_like(t).bool() if "mask" in n else t for n, t in inputs.items()}
    inputs["fps"] = torch.tensor([8.0])
    u = torch.tensor([0.5], dtype=torch.float64)
    batch = Batch(
        make(1, *shapes.latent), make(1, losers, *shapes.latent), make(1, *shapes.latent), u, inputs
    )
    return batch.to(where)


class Step:
    """One optimiser step as training takes it, and in the released order of work."""

    def __init__(
        self, name: str, weights: str, rung: str, losers: int, tiny: bool, **changes: Any
    ) -> None:
        from realdpo import memory
        from realdpo.families import trainable_family
        from realdpo.train import estimate, noise, setup, step
        from realdpo.train.config import TrainConfig

        self.where = device()
        precision = changes.pop("precision", "bf16")
        objective = "dpo" if losers else "contrast"
        self.config = TrainConfig(
            objective=objective, weights=weights, precision=precision, losers=losers, **changes
        )
        self.spec, size = spec_of(name, tiny)
        self.shapes = estimate.shapes_of(self.spec, *size)
        self.rung = memory.rung_of(rung)
        self.model = policy(self.spec, self.config, self.rung, self.where)
        family = trainable_family(self.spec)
        channels = self.shapes.latent[1] if family.TIME_AXIS == 1 else self.shapes.latent[0]
        positions = math.prod(self.shapes.latent) // channels
        self.task = step.TrainTask(family, noise.from_scheduler(self.spec.scheduler, positions))
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = setup.make_optimizer(self.config, self.trained)
        self.reference = setup.make_reference(self.config, self.model)
        self.batch = batch_of(self.spec, self.shapes, losers, self.where)
        self.losers = losers

    def autocast(self) -> Any:
        import torch

        half = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[self.config.precision]
        return torch.autocast(
            self.where.type, half or torch.bfloat16, half is not None, cache_enabled=False
        )

    def gradient(self) -> float:
        """Ours; returns the loss."""
        from realdpo.train import step

        together = self.rung.together
        if not self.losers:
            settings = step.contrast_of_config(self.config)
            with self.autocast():
                return step.contrast_step(
                    self.model,
                    self.task,
                    self.batch,
                    settings,
                    self.reference,
                    lambda x: x.backward(),
                ).loss
        with self.autocast():
            ref = step.reference_errors(
                self.model, self.task, self.batch, self.reference, together, None
            )
            return step.dpo_step(
                self.model,
                self.task,
                self.batch,
                step.aim_of(self.config),
                *ref,
                lambda x: x.backward(),
                together=together,
            ).loss

    def released(self) -> None:
        """The winner again for every loser, through policy and reference: 4 N forwards."""
        import torch

        from realdpo.train import step
        from realdpo.train.objective import Errors, loss

        batch, aim = self.batch, step.aim_of(self.config)
        with self.autocast():
            for lose in batch.lose.unbind(1):
                with self.reference.active():
                    ref = [
                        step.branch_error(self.model, self.task, batch, x)[0]
                        for x in (batch.win, lose)
                    ]
                win, other = (
                    step.branch_error(self.model, self.task, batch, x)[0] for x in (batch.win, lose)
                )
                errors = Errors(win, other[:, None], ref[0], ref[1][:, None])
                (loss(errors, aim) / self.losers).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)

    def take(self) -> float:
        import torch

        loss = self.gradient()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


def timed(work: Callable[[], Any], where: Any, repeats: int = 2) -> float:
    import torch

    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if where.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(name: str, weights: str, rung: str, losers: int, tiny: bool) -> dict[str, Any]:
    import torch

    from realdpo import memory
    from realdpo.train import estimate

    one = Step(name, weights, rung, losers, tiny)
    estimated = estimate.estimate_step(
        one.spec, one.config, one.shapes, losers, one.rung, device=one.where.type
    )
    first = one.take()  # makes the optimizer's state and warms up
    if one.where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(one.take, one.where)
    peak = (
        torch.cuda.max_memory_allocated()
        if one.where.type == "cuda"
        else memory.count_peak(one.take)
    )
    against = math.nan  # the contrast has no losers, and the released order may not fit
    with contextlib.suppress(torch.OutOfMemoryError):
        if losers:
            against = timed(one.released, one.where, 1)
    one.optimizer.zero_grad(set_to_none=True)
    forwards = 2 * (1 + losers) + (1 if losers and not one.rung.together else 0)
    backwards = (1 + losers) * (1 if weights == "lora" else 2)
    again = (1 + losers) if one.rung.checkpointing else 0
    work = flops_of_forward(one) * (forwards + backwards + again)
    card = torch.cuda.get_device_name() if one.where.type == "cuda" else "CPU"
    best = next((value for key, value in PEAKS.items() if key in card), None)
    tokens = (
        math.prod(one.shapes.latent)
        // one.shapes.latent[1 if one.task.family.TIME_AXIS == 1 else 0]
    )
    return {
        "card": card,
        "torch": torch.__version__,
        "preference": first,
        "peak_gb": peak / 1e9,
        "estimate_gb": (estimated.total - estimated.reserve) / 1e9,
        "seconds": seconds,
        "tokens_a_second": tokens * (1 + losers) / seconds,
        "share": None if best is None else work / seconds / best,
        "against_released": None if math.isnan(against) else seconds / against,
    }


def flops_of_forward(one: Step) -> float:
    """Operations of a forward of one branch, counted on shapes alone."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from realdpo.families import trainable_family
    from realdpo.train import estimate

    model = estimate._built(one.spec, one.config, dict(one.spec.transformer))
    counter = FlopCounterMode(display=False)
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        estimate._clean_caches(),
        estimate._contents_assumed(),
    ):
        estimate._fake(model)
        model.requires_grad_(False)
        family = trainable_family(one.spec)
        work = estimate.branch_work(model, family, one.config, one.shapes, 1, "cpu", backward=False)
        with counter, torch.no_grad():
            work()
    return float(counter.get_total_flops())


# Checks, each on a small model


def check_ln2() -> tuple[bool, str]:
    """The first preference loss is ln 2, with the adapters off as the reference."""
    told = []
    for name in MODELS:
        loss = Step(name, "lora", "one-by-one", 1, True, sft_weight=0.0).gradient()
        told.append((name, loss))
    return all(abs(loss - math.log(2)) < 1e-4 for _, loss in told), str(told)


def check_cuda_is_cpu() -> tuple[bool, str]:
    """The loss of a step in float32 on the GPU is that of the CPU."""
    import torch

    one = Step("wan-1.3b", "lora", "side-by-side", 1, True, precision="fp32", sft_weight=1.0)
    here = one.gradient()
    one.model.to("cpu")
    one.where, one.batch = torch.device("cpu"), one.batch.to(torch.device("cpu"))
    there = one.gradient()
    return abs(here - there) <= 1e-5 * abs(there), f"{here:.7f} and {there:.7f}"


def check_fp16() -> tuple[bool, str]:
    loss = Step(
        "ltx-2b", "lora", "one-by-one", 1, True, precision="fp16", sft_weight=0.0
    ).gradient()
    return abs(loss - math.log(2)) < 1e-3, f"{loss:.6f}"


def check_adamw8bit() -> tuple[bool | None, str]:
    """8-bit AdamW: stopped, its state kept and read back, it goes on as if it had not stopped."""
    import torch

    try:
        import bitsandbytes  # noqa: F401 - is it installed?
    except ImportError:
        return None, "bitsandbytes is not installed"
    ends = []
    for stops in (False, True):
        one = Step("wan-1.3b", "lora", "side-by-side", 1, True, optimizer="adamw8bit")
        one.take()
        if stops:
            from realdpo.train import checkpoint

            kept = checkpoint._gathered(checkpoint._moments(one.model, one.optimizer), True)
            one.optimizer.state.clear()
            named = dict(checkpoint.trained_parameters(one.model))
            for key, value in kept.items():
                parameter, kind = key.split("|")
                checkpoint._fill_moment(one.optimizer, named[parameter], kind, value)
        one.take()
        ends.append([p.detach().clone() for p in one.trained])
    same = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    return same, "equal" if same else "differs"


def check_repeatable() -> tuple[bool, str]:
    """With deterministic kernels two runs of three steps end alike, bit for bit."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    ends = []
    for _ in range(2):
        one = Step("wan-1.3b", "lora", "one-by-one", 1, True)
        for _ in range(3):
            one.take()
        ends.append([p.detach().clone() for p in one.trained])
    same = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    return same, "equal" if same else "differs"


def check_flat() -> tuple[bool, str]:
    """The peak of the last of 200 steps is that of the third."""
    import torch

    one = Step("wan-1.3b", "lora", "one-by-one", 1, True)
    peaks = []
    for number in range(200 if one.where.type == "cuda" else 20):
        if one.where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        one.take()
        if number >= 2:
            peaks.append(torch.cuda.max_memory_allocated() if one.where.type == "cuda" else 0)
    return peaks[-1] <= peaks[0], f"{peaks[0] / 1e6:.1f} MB at first, {peaks[-1] / 1e6:.1f} at last"


def check_out_of_memory() -> tuple[bool, str]:
    """A block too large for any card is told in one line."""
    import torch

    from realdpo import memory

    try:
        with memory.explain_out_of_memory(lambda: "the check", lambda: "the next way"):
            torch.empty(1 << 46, dtype=torch.uint8, device=device())
    except memory.OutOfMemory as error:
        return True, f"{error.message}; {error.hint}"
    return False, "nothing was raised"


if __name__ == "__main__":
    sys.exit(main())
