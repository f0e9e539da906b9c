"""What the tiny model is made of: the classes of CogVideoX-5b-I2V, at a hundredth of the width.

Everything but the widths follows the released image-to-video model: rotary and learned
positions, v-prediction with zero terminal SNR and trailing steps, first-frame latents joined on
the channel axis.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from realdpo.files import replace_folder

SIDE = 80  # pixels
FRAMES = 9
FPS = 8
TEXT_TOKENS = 48
LATENT_CHANNELS = 8
SHRINK = 2  # of the autoencoder, in space and in time
PATCH = 4
TEXT_WIDTH = 64

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 1.0,
    "set_alpha_to_one": True,
    "clip_sample": False,
}


def make_vae() -> Any:
    """Autoencoder with two levels: 2x in space, 2x in time. Random weights."""
    from diffusers import AutoencoderKLCogVideoX

    levels = 2
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
        block_out_channels=(16, 32),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=SHRINK,
        sample_height=SIDE,
        sample_width=SIDE,
        scaling_factor=1.0,
    )


def make_transformer() -> Any:
    """Image-to-video transformer: latents and first-frame latents in, v out. Random weights."""
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        # A patch holds 4 x 4 x 8 = 128 numbers of noise to carry through; the width is twice that.
        num_attention_heads=8,
        attention_head_dim=32,
        num_layers=4,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=64,
        text_embed_dim=TEXT_WIDTH,
        max_text_seq_length=TEXT_TOKENS,
        sample_width=SIDE // SHRINK,
        sample_height=SIDE // SHRINK,
        sample_frames=FRAMES,
        patch_size=PATCH,
        temporal_compression_ratio=SHRINK,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )


def text_encoder(vocabulary: int) -> Any:
    """Two layers of T5 v1.1 for `vocabulary` tokens. Random weights."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocabulary,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return T5EncoderModel(config)


def make_tokenizer() -> Any:
    """Unigram pieces learned from words.txt; any text is cut, unknown letters become <unk>."""
    import sentencepiece
    from transformers import T5Tokenizer

    letters = "".join(chr(code) for code in (*range(33, 127), *range(0xE0, 0x100)) if code != 0xF7)
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            input=str(Path(__file__).with_name("words.txt")),
            model_prefix=f"{folder}/spiece",
            model_type="unigram",
            vocab_size=512,
            hard_vocab_limit=False,
            required_chars=letters,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc_cf",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
        return T5Tokenizer.from_pretrained(folder, extra_ids=0, model_max_length=TEXT_TOKENS)


def make_scheduler() -> Any:
    from diffusers import CogVideoXDDIMScheduler

    return CogVideoXDDIMScheduler(**SCHEDULER)


def make_pipeline(seed: int = 0) -> Any:
    """The whole pipeline with random weights that depend on `seed` alone."""
    import torch
    from diffusers import CogVideoXImageToVideoPipeline

    pieces = make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CogVideoXImageToVideoPipeline(
            tokenizer=pieces,
            text_encoder=text_encoder(len(pieces)),
            vae=make_vae(),
            transformer=make_transformer(),
            scheduler=make_scheduler(),
        )


def save_pipeline(pipe: Any, folder: str | Path) -> Path:
    """Write the pipeline as safetensors, whole or not at all, replacing what was there."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        pipe.save_pretrained(staging, safe_serialization=True)
        staging.chmod(0o755)
        replace_folder(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def save_untrained(folder: str | Path, seed: int = 0) -> Path:
    """A folder like the shipped model's, with random weights: for tests of everything around it."""
    return save_pipeline(make_pipeline(seed), folder)
