"""Every family's pipeline, saved with small random weights and loaded again, makes videos."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import tiny_pipelines
from pair_workspace import footage

from realdpo.families import family_of
from realdpo.families.load import load_pipeline, spec_of_folder, spec_of_pipeline
from realdpo.families.sample import generate_video, settings_for, to_uint8
from realdpo.media.decode import read_clip
from realdpo.pairs import conform
from realdpo.pairs.generate import Box, regenerate, roundtrip, to_tensor, why_broken

PROMPT = "a person walking on the street"


class Spy:
    """A family that keeps the latents it packs."""

    def __init__(self, family) -> None:
        self.family, self.packed = family, []

    def __getattr__(self, name: str):
        return getattr(self.family, name)

    def pack(self, pipe, latents):
        self.packed.append(latents)
        return self.family.pack(pipe, latents)


@pytest.fixture(scope="module")
def street(bikes) -> np.ndarray:
    return footage(bikes, 0, 9, (64, 64), 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny_pipelines.PIPELINES))
def test_every_family_generates_conforms_and_loads_back(
    tmp_path, street, name, monkeypatch
) -> None:
    folder = tiny_pipelines.save(name, tmp_path)
    pipe = load_pipeline(str(folder))
    family = family_of(spec_of_pipeline(pipe))
    traits = family.traits
    assert name.split("-")[0].rstrip("0123456789.") == family.NAME
    assert family_of(spec_of_folder(folder)).traits == traits  # a plan needs no weights

    frames = traits.legal_frames(9)
    # LTX's latents are 32 times smaller: at 64 pixels every one of them reaches every corner
    side = 128 if traits.size_step >= 32 else 64
    real = street[:frames].repeat(side // 64, axis=1).repeat(side // 64, axis=2)
    settings = settings_for(pipe, width=side, height=side, frames=frames, steps=4, fps=8.0)
    made = generate_video(pipe, family, PROMPT, real[0], 1, settings)
    assert made.shape == (frames, side, side, 3)
    assert made.dtype == np.uint8
    assert np.array_equal(made, generate_video(pipe, family, PROMPT, real[0], 1, settings))
    assert not np.array_equal(made, generate_video(pipe, family, PROMPT, real[0], 2, settings))

    # the start of a renoised video lies the nearer to the real clip the less noise is asked for
    passed = roundtrip(pipe, family, real)
    assert passed.shape == real.shape
    clean = family.encode(pipe.vae, to_tensor(pipe, real))
    settings8 = settings_for(pipe, width=side, height=side, frames=frames, steps=8, fps=8.0)
    spy = Spy(family)
    for strength in (0.2, 1.0):
        regenerate(pipe, spy, PROMPT, real, 1, settings8, strength)
    little, much = ((start - clean).norm() for start in spy.packed)
    assert little < 0.9 * much

    # outside its region a local video is decoded from the real clip's own latents
    decoded = []
    decode = pipe.vae.decode
    monkeypatch.setattr(
        pipe.vae, "decode", lambda z, *rest, **more: decoded.append(z) or decode(z, *rest, **more)
    )
    roundtrip(pipe, family, real)
    regenerate(pipe, family, PROMPT, real, 1, settings8, 1.0)
    regenerate(pipe, family, PROMPT, real, 1, settings8, 1.0, Box((0, 1), (0, 0.5), (0, 0.5)))
    kept, whole, local = (z[:, :, -decoded[0].shape[2] :] for z in decoded)
    apart = [(z - kept).abs()[:, :, 1:] for z in (whole, local)]  # the first frame is given
    edge = kept.shape[3] // 2
    outside = [z[..., edge:, :].max() for z in apart]
    assert outside[1] < 1e-4 < 0.1 < outside[0]
    assert apart[1][..., :edge, :edge].mean() > 0.1

    form = conform.Form(side, side, frames, Fraction(8))
    data = conform.write(conform.with_first_frame(made, real[0]), form, 12)
    video, fps = read_clip(data)
    assert (video.shape, fps) == (made.shape, 8)


def test_what_is_broken_is_named() -> None:
    random = np.random.default_rng(0)
    good = random.random((5, 16, 16, 3)).astype(np.float32)
    assert why_broken(good) is None
    nan = good.copy()
    nan[3, 2, 2, 1] = np.nan
    assert why_broken(nan) == "nan"
    assert why_broken(good * 0.02) == "black"
    assert why_broken(np.full_like(good, 0.5)) == "blank"
    assert why_broken(np.repeat(good[:1], 5, axis=0)) == "frozen"
    half = np.concatenate([good, np.repeat(good[:1], 5, axis=0)])
    assert why_broken(half) is None  # it moves for a while: a failure to learn from


def test_nan_becomes_black_and_values_are_rounded() -> None:
    values = np.array([0.0, 0.5, 1.0, 1.7, np.nan], dtype=np.float32)
    assert to_uint8(values).tolist() == [0, 128, 255, 255, 0]
