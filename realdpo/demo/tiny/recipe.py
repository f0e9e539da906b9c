"""How the tiny model was trained; run it again with `python -m realdpo.demo.tiny.recipe --out DIR`.

First the autoencoder on random crops, then the transformer and the text encoder on its latents.
Everything random is drawn from the seed and the number of the step, so a run that was killed
goes on as if it had not been, and `--out` holds what it needs for that.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from realdpo import progress
from realdpo.demo import footage
from realdpo.demo.tiny import architecture, crops
from realdpo.demo.tiny.architecture import FPS, FRAMES, SIDE, save_untrained
from realdpo.errors import UserError
from realdpo.files import atomic_path, write_text

__all__ = ["Recipe", "clip_psnr", "restore_clip", "save_untrained", "train_tiny"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. Rates are per step; shares are of 1.

    vae_images: share of the autoencoder's steps on single frames; a clip has nine and teaches
    little more at first. vae_whole: share of the last steps, on one whole clip each. Between
    them, and on single frames, it sees crops of vae_crop pixels. kl: weight of the mean KL divergence of the posterior.
    clips: latents kept for the transformer. still: share of standing clips that is kept.
    ema: decay of the averaged weights that are saved.
    """

    seed: int = 0
    vae_steps: int = 1200
    vae_images: float = 0.5
    vae_whole: float = 0.0
    vae_batch: int = 2
    vae_crop: int = 40
    vae_rate: float = 2e-3
    kl: float = 1e-5
    clips: int = 800
    still: float = 0.1
    steps: int = 1000
    batch: int = 8
    rate: float = 8e-4
    weight_decay: float = 0.01
    prompt_dropout: float = 0.1
    ema: float = 0.995
    save_every: int = 100
    threads: int = 2


def train_tiny(recipe: Recipe, manifest: Path, out: Path) -> dict[str, Any]:
    """Train both parts, write the pipeline to `out/model` and what was measured to `out`.

    manifest: CSV with the columns path, title, keywords and split; only `train_tiny` is learned from.
    Returns the measurements. Raises UserError when the footage is missing.
    """
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    films = crops.load_films(manifest, ["train"])
    pipe = architecture.make_pipeline(recipe.seed)
    minutes = {"vae": _train_vae(pipe.vae, films, recipe, out)}
    latents = _latents(pipe.vae, films, recipe, out)
    pipe.vae.register_to_config(scaling_factor=latents["scaling_factor"])
    minutes["transformer"] = _train_transformer(pipe, latents, recipe, out)
    unseen = crops.load_films(manifest, ["validation", "test"])
    measured = {
        "recipe": asdict(recipe),
        "minutes": minutes,
        "parameters": {
            name: sum(p.numel() for p in getattr(pipe, name).parameters())
            for name in ("vae", "transformer", "text_encoder")
        },
        "scaling_factor": latents["scaling_factor"],
        "psnr_train_films": _psnr_of(pipe.vae, films),
        "psnr_unseen_films": _psnr_of(pipe.vae, unseen),
    }
    pipe.transformer.half()  # half the bytes in the repository; it is loaded as float32
    architecture.save_pipeline(pipe, out / "model")
    write_text(out / "measured.json", json.dumps(measured, indent=2))
    return measured


def clip_psnr(one: crops.Pixels, other: crops.Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays, over all their values together."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


@torch.no_grad()
def restore_clip(vae: Any, clip: crops.Pixels) -> crops.Pixels:
    """A clip uint8 [F, H, W, 3] through the autoencoder and back, by the posterior's mode."""
    latent = vae.encode(_to_tensor(clip)[None]).latent_dist.mode()
    pixels = vae.decode(latent).sample[0].permute(1, 2, 3, 0)
    found: crops.Pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    return found


# --- autoencoder ----------------------------------------------------------------------------


def _train_vae(vae: Any, films: Sequence[crops.DecodedFilm], recipe: Recipe, out: Path) -> float:
    """L1 and a little KL on crops, then on whole frames. Returns the minutes it took."""
    # A posterior as wide as its means drowns the colours for a thousand steps: begin narrow.
    with torch.no_grad():
        last = vae.encoder.conv_out.conv
        last.weight[architecture.LATENT_CHANNELS :] = 0.0
        last.bias[architecture.LATENT_CHANNELS :] = -8.0
    parameters = list(vae.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.vae_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    state = {"model": vae, "optimiser": optimiser}

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([recipe.seed, 1, step])
        single = step < recipe.vae_images * recipe.vae_steps
        whole = step >= (1 - recipe.vae_whole) * recipe.vae_steps
        batch = 1 if whole else recipe.vae_batch * (FRAMES - 1 if single else 1)
        speeds = (FPS, FPS, 12, 24)
        clips = [
            crops.draw_clip(films, rng, fps=speeds, least=0.34, within_shot=False)[1]
            for _ in range(batch)
        ]
        video = torch.stack([_to_tensor(clip[:1] if single else clip) for clip in clips])
        if not whole:
            side = recipe.vae_crop
            top, left = (int(i) for i in rng.integers(0, SIDE - side + 1, size=2))
            video = video[..., top : top + side, left : left + side]
        posterior = vae.encode(video).latent_dist
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        restored = vae.decode(posterior.sample(generator)).sample
        per_value = posterior.kl() / posterior.mean[0].numel()
        found: torch.Tensor = F.l1_loss(restored, video) + recipe.kl * per_value.mean()
        return found

    return _loop("vae", recipe.vae_steps, recipe.vae_rate, state, parameters, loss, recipe, out)


# --- transformer ----------------------------------------------------------------------------


@torch.no_grad()
def _latents(
    vae: Any, films: Sequence[crops.DecodedFilm], recipe: Recipe, out: Path
) -> dict[str, Any]:
    """Scaled latents of random clips, of their first frames alone, and their prompts."""
    path = out / "latents.pt"
    key = {"seed": recipe.seed, "clips": recipe.clips, "weights": _fingerprint(vae)}
    if path.is_file():
        kept: dict[str, Any] = torch.load(path, weights_only=True)
        if kept["key"] == key:
            return kept
    vae.eval()
    videos, images, prompts = [], [], []
    with progress.progress_bar("latents", recipe.clips, "clips") as advance:
        for i in range(recipe.clips):
            rng = np.random.default_rng([recipe.seed, 2, i])
            film, clip = crops.draw_clip(films, rng, fps=(FPS,))
            while crops.mean_change(clip) < crops.STILL and rng.random() > recipe.still:
                film, clip = crops.draw_clip(films, rng, fps=(FPS,))
            pixels = _to_tensor(clip)[None]
            videos.append(vae.encode(pixels).latent_dist.mode())
            images.append(vae.encode(_noised(pixels[:, :, :1], rng)).latent_dist.mode())
            prompts.append(_prompt(film, rng))
            advance()
    # [N, C, F, H, W] to the transformer's [N, F, C, H, W]
    video = torch.cat(videos).transpose(1, 2).contiguous()
    scale = 1.0 / float(video.std())
    kept = {
        "key": key,
        "scaling_factor": scale,
        "video": video * scale,
        "image": torch.cat(images).transpose(1, 2).contiguous() * scale,
        "prompts": prompts,
    }
    with atomic_path(path) as temporary:
        torch.save(kept, temporary)
    return kept


def _noised(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A first frame in -1..1 with a little noise, as CogVideoX saw it (arXiv 2408.06072)."""
    sigma = math.exp(rng.normal(-3.0, 0.5))
    return image + sigma * torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))


def _train_transformer(pipe: Any, latents: dict[str, Any], recipe: Recipe, out: Path) -> float:
    """v-prediction on uniform timesteps, conditioned as the pipeline does when it samples."""
    model = torch.nn.ModuleDict({"transformer": pipe.transformer, "text": pipe.text_encoder})
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema)
    )
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    state = {"model": model, "average": average, "optimiser": optimiser}
    scheduler = pipe.scheduler
    rotary = pipe._prepare_rotary_positional_embeddings(
        SIDE, SIDE, latents["video"].shape[1], torch.device("cpu")
    )

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([recipe.seed, 3, step])
        picks = rng.integers(len(latents["video"]), size=recipe.batch)
        video, image = latents["video"][picks], latents["image"][picks]
        condition = torch.cat([image, torch.zeros_like(video[:, 1:])], dim=1)
        prompts = [
            "" if rng.random() < recipe.prompt_dropout else latents["prompts"][i] for i in picks
        ]
        # One draw in each eighth of the range: the loss of a small batch is steadier so.
        uniform = (np.arange(recipe.batch) + rng.random(recipe.batch)) / recipe.batch
        count = scheduler.config.num_train_timesteps
        t = torch.from_numpy((uniform * count).astype(np.int64))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(video.shape, generator=generator)
        predicted = model["transformer"](
            hidden_states=torch.cat([scheduler.add_noise(video, noise, t), condition], dim=2),
            encoder_hidden_states=_embed(pipe.tokenizer, model["text"], prompts),
            timestep=t,
            image_rotary_emb=rotary,
        ).sample
        return F.mse_loss(predicted, scheduler.get_velocity(video, noise, t))

    minutes = _loop("transformer", recipe.steps, recipe.rate, state, parameters, loss, recipe, out)
    if recipe.steps:
        model.load_state_dict(average.module.state_dict())
    return minutes


def _embed(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Text states [B, TEXT_TOKENS, D]; no attention mask, because the pipeline uses none."""
    ids = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=architecture.TEXT_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    found: torch.Tensor = encoder(ids)[0]
    return found


def _prompt(film: crops.DecodedFilm, rng: np.random.Generator) -> str:
    """The film's title, most times with some of its keywords after it."""
    words = [word for word in film.keywords if rng.random() < 0.7]
    if not words or rng.random() < 0.2:
        return f"{film.title}."
    return f"{film.title}. The themes are {', '.join(words)}."


# --- shared ---------------------------------------------------------------------------------


def _loop(
    name: str,
    steps: int,
    rate: float,
    state: dict[str, Any],
    parameters: list[torch.nn.Parameter],
    loss: Callable[[int], torch.Tensor],
    recipe: Recipe,
    out: Path,
) -> float:
    """Optimise to `steps`, from the checkpoint if there is one; returns minutes over all runs."""
    path = out / f"{name}.pt"
    done, seconds = 0, 0.0
    if path.is_file():
        kept: dict[str, Any] = torch.load(path, weights_only=True)
        for part, module in state.items():
            module.load_state_dict(kept[part])
        done, seconds = kept["step"], kept["seconds"]
    state["model"].train()
    began = time.monotonic()

    def keep(step: int) -> None:
        spent = seconds + time.monotonic() - began
        with atomic_path(path) as temporary:
            parts = {part: module.state_dict() for part, module in state.items()}
            torch.save({**parts, "step": step, "seconds": spent}, temporary)

    running: list[float] = []
    with (
        open(out / f"{name}.jsonl", "a", encoding="utf-8") as log,
        progress.progress_bar(name, steps, "steps", done=done) as advance,
    ):
        for step in range(done, steps):
            for group in state["optimiser"].param_groups:
                group["lr"] = rate * _schedule(step, steps)
            value = loss(step)
            if not torch.isfinite(value):
                raise UserError(f"{name}: the loss is {value} at step {step}", "lower the rate")
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            state["optimiser"].step()
            state["optimiser"].zero_grad(set_to_none=True)
            if "average" in state:
                state["average"].update_parameters(state["model"])
            running.append(float(value.detach()))
            if (step + 1) % 20 == 0 or step + 1 == steps:
                line = {
                    "step": step + 1,
                    "loss": float(np.mean(running)),
                    "seconds": seconds + time.monotonic() - began,
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                running.clear()
            if (step + 1) % recipe.save_every == 0 or step + 1 == steps:
                keep(step + 1)
            advance(note=f"loss {float(value.detach()):.4f}")
    state["model"].eval()
    return (seconds + time.monotonic() - began) / 60


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a short warm-up, then half a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / 50)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _psnr_of(vae: Any, films: Sequence[crops.DecodedFilm]) -> dict[str, list[float]]:
    vae.eval()
    return {
        film.name: [
            round(clip_psnr(clip, restore_clip(vae, clip)), 2)
            for clip in (crops.cut_centre(film, start) for start in crops.clip_starts(film))
        ]
        for film in films
    }


def _to_tensor(clip: crops.Pixels) -> torch.Tensor:
    """uint8 [F, H, W, 3] to float32 [3, F, H, W] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def _fingerprint(module: Any) -> list[float]:
    """Tells weights apart well enough to know whether cached latents are theirs."""
    return [float(p.detach().double().sum()) for p in module.parameters()]


def _arguments(argv: Sequence[str] | None) -> Iterator[Any]:
    parser = argparse.ArgumentParser(prog="python -m realdpo.demo.tiny.recipe", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and model")
    parser.add_argument("--footage", type=Path, help="a manifest.csv; fetched when not given")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args(argv))
    yield given.pop("out")
    yield given.pop("footage")
    yield Recipe(**given)


def main(argv: Sequence[str] | None = None) -> int:
    out, manifest, recipe = _arguments(argv)
    try:
        measured = train_tiny(recipe, manifest or footage.fetch_films(), out)
    except UserError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    print(json.dumps(measured, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
