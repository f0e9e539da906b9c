"""The miniature's model: a code of pixel blocks, a small CogVideoX transformer, sampling, the base.

Latents are a linear code of 4x4 pixel blocks fitted in closed form: no VAE stands between what the
transformer makes and what is measured. The transformer, its conditioning on the first frame, its
scheduler and its loss are those of CogVideoX image-to-video.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import figures
import numpy as np
import torch
import worlds
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from realdpo.families import Spec, family_of
from realdpo.train import noise, step
from realdpo.train.draws import Batch

BLOCK, CHANNELS = 4, 16
GRID = figures.SIZE // BLOCK
CAPTIONS = [text for world in worlds.BY_NAME.values() for text in world.captions.values()]
WORDS = sorted({word for text in CAPTIONS for word in text.split()})
TOKENS = 8


@dataclass(frozen=True)
class BasePlan:
    """How the base model is made. damaged: share of its clips whose motion is damaged.

    world: what is drawn (see `worlds`). seed: of its weights, its clips and their order.
    """

    world: str = "figures"
    seed: int = 0
    clips: int = 5000
    steps: int = 2000
    batch: int = 16
    lr: float = 2.5e-3
    damaged: float = 0.75
    layers: int = 4
    heads: int = 4


@dataclass(frozen=True)
class Code:
    """Linear code of pixel blocks: the first principal axes of true clips, scaled."""

    mean: np.ndarray  # [BLOCK * BLOCK * 3]
    axes: np.ndarray  # [BLOCK * BLOCK * 3, CHANNELS]
    scale: np.ndarray  # [CHANNELS]

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 [..., F, SIZE, SIZE, 3] to latents [..., F, CHANNELS, GRID, GRID]."""
        latents = (_blocks(frames) - self.mean) @ self.axes / self.scale
        return torch.from_numpy(np.moveaxis(latents, -1, -3).astype(np.float32).copy())

    def decode(self, latents: Tensor) -> np.ndarray:
        """The way back: latents [..., F, CHANNELS, GRID, GRID] to uint8 frames."""
        values = np.moveaxis(latents.numpy(), -3, -1) * self.scale @ self.axes.T + self.mean
        *lead, _, _, _ = values.shape
        blocks = np.moveaxis(values.reshape(*lead, GRID, GRID, BLOCK, BLOCK, 3), -3, -4)
        pixels = (blocks.reshape(*lead, figures.SIZE, figures.SIZE, 3) + 1) * 127.5
        return pixels.round().clip(0, 255).astype(np.uint8)


def fit_code(clips: Sequence[figures.Clip]) -> Code:
    blocks = _blocks(np.concatenate([clip.frames[::3] for clip in clips]))
    blocks = blocks.reshape(-1, BLOCK * BLOCK * 3).astype(np.float64)
    mean = blocks.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(blocks.T))
    axes = vectors[:, ::-1][:, :CHANNELS]
    spread = ((blocks - mean) @ axes).std(axis=0)
    # Between one scale for all channels (detail drowns in noise) and whitening (noise is all
    # that is learnt): the square root of the spread, then one factor to unit variance.
    scale = np.sqrt(spread)
    return Code(mean, axes, scale * np.sqrt(np.mean((spread / scale) ** 2)))


def _blocks(frames: np.ndarray) -> np.ndarray:
    """uint8 [..., SIZE, SIZE, 3] to float32 [..., GRID, GRID, BLOCK * BLOCK * 3] in -1..1."""
    *lead, _, _, _ = frames.shape
    blocks = frames.reshape(*lead, GRID, BLOCK, GRID, BLOCK, 3).astype(np.float32) / 127.5 - 1
    return np.moveaxis(blocks, -4, -3).reshape(*lead, GRID, GRID, -1)


def text_embeddings() -> dict[str, Tensor]:
    """Caption -> [TOKENS, 32] by a frozen T5 encoder of random weights: words stay apart."""
    torch.manual_seed(0)
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(WORDS) + 1, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    ).eval()
    found = {}
    for caption in CAPTIONS:
        ids = [WORDS.index(w) + 1 for w in caption.split()][:TOKENS]
        ids += [0] * (TOKENS - len(ids))
        with torch.no_grad():
            found[caption] = encoder(torch.tensor([ids])).last_hidden_state[0]
    return found


def new_model(plan: BasePlan) -> CogVideoXTransformer3DModel:
    torch.manual_seed(plan.seed)
    return CogVideoXTransformer3DModel(
        num_attention_heads=plan.heads,
        attention_head_dim=32,
        in_channels=2 * CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=64,
        text_embed_dim=32,
        num_layers=plan.layers,
        sample_width=GRID,
        sample_height=GRID,
        sample_frames=figures.FRAMES,
        patch_size=2,
        temporal_compression_ratio=1,
        max_text_seq_length=TOKENS,
        dropout=0.0,
        use_rotary_positional_embeddings=True,
    )


def scheduler() -> CogVideoXDDIMScheduler:
    """The settings of CogVideoX-5B: v-prediction, zero terminal SNR, trailing timesteps."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        snr_shift_scale=1.0,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def task_of(model: Any) -> step.TrainTask:
    config = dict(scheduler().config)
    spec = Spec("CogVideoXImageToVideoPipeline", {"transformer": dict(model.config)})
    return step.TrainTask(family_of(spec), noise.from_scheduler(config))


def inputs_of(
    latents: Tensor, captions: Sequence[str], texts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {
        "image_latents": latents[:, 0],
        "prompt_embeds": torch.stack([texts[caption] for caption in captions]),
    }


@torch.no_grad()
def sample(
    model: Any,
    inputs: Mapping[str, Tensor],
    seed: int,
    steps: int,
    start: Tensor | None = None,
    strength: float = 1.0,
    held: Tensor | None = None,
) -> Tensor:
    """Latents [B, F, C, GRID, GRID]. With `start`, those noised to `strength` and denoised.

    held: the first frames of every sample, [B, K, C, GRID, GRID], kept: before every step they are
    put back at its noise level, so that the model continues them (RePaint, arXiv 2201.09865).

    Sample k's noise depends on the seed and k alone, so every model gets the same.
    """
    task, process = task_of(model), scheduler()
    process.set_timesteps(steps)
    where = next(model.parameters()).device
    skipped = 0 if start is None else round((1 - strength) * steps)
    timesteps = process.timesteps[skipped:]
    shape = (figures.FRAMES, CHANNELS, GRID, GRID)
    grain = torch.stack(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + k))
            for k in range(len(inputs["image_latents"]))
        ]
    )
    made = []
    for low in range(0, len(grain), 16):
        part = {name: tensor[low : low + 16].to(where) for name, tensor in inputs.items()}
        x = grain[low : low + 16].to(where)
        if start is not None:
            x = process.add_noise(start[low : low + 16].to(where), x, timesteps[:1].repeat(len(x)))
        kept = None if held is None else held[low : low + 16].to(where)
        for t in timesteps:
            if kept is not None:
                own = grain[low : low + 16, : kept.shape[1]].to(where)
                x[:, : kept.shape[1]] = process.add_noise(kept, own, t.repeat(len(x)))
            v = task.family.forward(model, x, t.to(where).repeat(len(x)), dict(part))
            x = process.step(v, int(t), x, return_dict=False)[0]
        if kept is not None:
            x[:, : kept.shape[1]] = kept
        made.append(x.cpu())
    return torch.cat(made)


def pretrain(
    plan: BasePlan, code: Code, texts: Mapping[str, Tensor], say: Callable[[str], None]
) -> dict[str, Tensor]:
    """Weights of the base model: mostly damaged motion of all actions, held-out ones included.

    They are an average over the last thousand steps or so, as large models are sampled from.
    """
    world = worlds.BY_NAME[plan.world]
    clips = figures.make_clips(
        1 + 1000 * plan.seed, plan.clips, world.actions, plan.damaged, world.make_clip
    )
    latents = code.encode(np.stack([clip.frames for clip in clips]))
    model = new_model(plan).to(device())
    task = task_of(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=1e-4
    )
    average = {name: value.clone() for name, value in model.state_dict().items()}
    rng, curve = np.random.default_rng(2 + 1000 * plan.seed), []
    for k in range(plan.steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (k + 1) / 100)
            group["lr"] = plan.lr * warm * (1 + math.cos(math.pi * k / plan.steps)) / 2
        index = rng.integers(0, len(clips), plan.batch)
        clean = latents[index]
        batch = Batch(
            clean,
            clean[:, None, :0],
            torch.randn(clean.shape),
            torch.rand(len(index)).double(),
            inputs_of(clean, [clips[i].caption for i in index], texts),
        ).to(device())
        optimizer.zero_grad()
        with quick():
            outcome = step.sft_step(model, task, batch, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - min(0.998, (k + 1) / (k + 10)))
        curve.append(outcome.loss)
        if k % 250 == 249:
            say(f"base: step {k + 1} of {plan.steps}, error {np.mean(curve[-250:]):.4f}")
    return {name: value.cpu() for name, value in average.items()}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def quick() -> contextlib.AbstractContextManager[Any]:
    """bfloat16 for the base's pretraining where the processor multiplies it, else float32."""
    if torch.cuda.is_available():
        return torch.autocast("cuda", torch.bfloat16)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()
