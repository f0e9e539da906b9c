"""Noise and targets against the model's own schedulers and the identities between predictions."""

from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, FlowMatchEulerDiscreteScheduler

from realdpo.errors import UserError
from realdpo.train import noise
from realdpo.train.objective import error

COG = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
}
# Mean signal power of CogVideoX-5B, computed from its published scheduler configuration.
COG_BAR = {0: 0.99915, 10: 0.98979, 100: 0.88676, 250: 0.65246, 499: 0.24236, 749: 0.03317, 999: 0}


def at(process, *timesteps):
    return noise.noise_levels(process, (torch.tensor(timesteps) + 0.5) / process.steps)


def test_cogvideox_schedule_values():
    level = at(noise.from_scheduler(COG), *COG_BAR)
    assert level.timestep.tolist() == list(COG_BAR)
    bar = level.signal.square()
    torch.testing.assert_close(bar, torch.tensor([*COG_BAR.values()]).double(), atol=5e-6, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_mixing_equals_the_schedulers_own(shift):
    scheduler = CogVideoXDPMScheduler(**{**COG, "snr_shift_scale": shift})
    process = noise.from_scheduler(scheduler.config)
    clean, grain = torch.randn(7, 2, 3, 4), torch.randn(7, 2, 3, 4)
    level = at(process, *COG_BAR)
    mixed = noise.mix_noise(clean, grain, level)
    theirs = scheduler.add_noise(clean, grain, level.timestep)
    torch.testing.assert_close(mixed, theirs, atol=2e-6, rtol=0)
    v = noise.prediction_target(process, clean, grain, level)
    # The scheduler turns (v, noisy) into the clean sample: a perfect v must give it back.
    torch.testing.assert_close(
        scheduler.get_velocity(v, mixed, level.timestep), clean, atol=1e-5, rtol=0
    )


def test_x0_weighted_error_is_the_v_error():
    process = noise.from_scheduler(COG)
    clean, grain, guess = (torch.randn(3, 4, 5, dtype=torch.float64) for _ in range(3))
    level = at(process, 10, 400, 900)
    noisy, v = (
        noise.mix_noise(clean, grain, level),
        noise.prediction_target(process, clean, grain, level),
    )
    x0 = level.signal.view(-1, 1, 1) * noisy - level.sigma.view(-1, 1, 1) * guess
    by_v = error(guess, v)
    torch.testing.assert_close(error(x0, clean) / level.sigma.square(), by_v)
    # and the epsilon error is alpha_bar times the v error
    epsilon = level.sigma.view(-1, 1, 1) * noisy + level.signal.view(-1, 1, 1) * guess
    torch.testing.assert_close(error(epsilon, grain), level.signal.square() * by_v)


def test_epsilon_error_of_a_clean_sample():
    process = noise.from_scheduler({**COG, "prediction_type": "epsilon"})
    clean, grain, guess = (torch.randn(2, 4, 5, dtype=torch.float64) for _ in range(3))
    level = at(process, 100, 600)
    assert noise.prediction_target(process, clean, grain, level) is grain
    noisy = noise.mix_noise(clean, grain, level)
    x0 = (noisy - level.sigma.view(-1, 1, 1) * guess) / level.signal.view(-1, 1, 1)
    by_noise = (level.sigma / level.signal).square()
    torch.testing.assert_close(error(x0, clean), error(guess, grain) * by_noise)


@pytest.mark.parametrize("options", [{"shift": 1.0}, {"shift": 3.0}, {"invert_sigmas": True}])
def test_flow_equals_the_schedulers_own(options):
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    process = noise.from_scheduler(scheduler.config)
    steps = torch.arange(1, 1001)
    level = noise.noise_levels(process, steps / 1000)
    if options.get("invert_sigmas"):
        # The scheduler only inverts its inference grid; the clock runs 0 (noise) to T (clean).
        torch.testing.assert_close(level.timestep, (1 - level.sigma) * 1000)
    else:
        theirs = scheduler.timesteps.flip(0).double()
        torch.testing.assert_close(level.timestep, theirs, atol=1e-3, rtol=0)
    clean, grain = torch.randn(1000, 3), torch.randn(1000, 3)
    x0 = noise.mix_noise(clean, grain, level)
    velocity = noise.prediction_target(process, clean, grain, level)
    towards = 1.0 if process.reverse else -1.0  # which way the clock takes the sample to clean
    reached = x0 + towards * level.sigma.float().view(-1, 1) * velocity
    torch.testing.assert_close(reached, clean, atol=1e-5, rtol=0)


def test_flow_x0_error_is_sigma_squared_times_the_velocity_error():
    process = noise.Process("flow", shift=3.0)
    level = noise.noise_levels(process, torch.tensor([0.1, 0.5, 0.9]))
    clean, grain, guess = (torch.randn(3, 6, dtype=torch.float64) for _ in range(3))
    noisy = noise.mix_noise(clean, grain, level)
    x0 = noisy - level.sigma.view(-1, 1) * guess
    v_error = error(guess, noise.prediction_target(process, clean, grain, level))
    torch.testing.assert_close(error(x0, clean), v_error * level.sigma.square())


def test_dynamic_shift_matches_the_pipeline():
    from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05
    )
    process = noise.from_scheduler(scheduler.config, sequence_length=2048)
    mu = calculate_shift(2048, 256, 4096, 0.95, 2.05)
    scheduler.set_timesteps(sigmas=[1.0, 0.5, 0.25], mu=mu)
    level = noise.noise_levels(process, torch.tensor([0.999999, 0.5, 0.25]))
    torch.testing.assert_close(level.sigma.float(), scheduler.sigmas[:3], atol=1e-5, rtol=0)


def test_mixing_bfloat16_latents_stays_in_float32():
    process = noise.from_scheduler(COG)
    level = at(process, 500)
    clean, grain = torch.randn(1, 1000).bfloat16(), torch.randn(1, 1000)
    mixed = noise.mix_noise(clean, grain, level)
    assert mixed.dtype == torch.float32
    exact = noise.mix_noise(clean.double(), grain.double(), level)
    assert (mixed - exact).abs().max() < 1e-6
    assert noise.prediction_target(process, clean, grain, level).dtype == torch.float32


def test_positions():
    uniform = torch.linspace(0, 0.9999, 1000, dtype=torch.float64)
    low_half = noise.draw_positions(uniform, "uniform", 0.0, 0.5)
    assert low_half.min() == 0
    assert low_half.max() < 0.5
    middle = noise.draw_positions(uniform, "logit-normal")
    assert middle.median() == pytest.approx(0.5, abs=0.01)
    assert ((middle > 0.25) & (middle < 0.75)).double().mean() > 0.7
    assert noise.draw_positions(torch.tensor([1 - 1e-16]), "uniform").max() < 1


def test_unknown_prediction_is_refused():
    with pytest.raises(UserError, match="sample"):
        noise.from_scheduler({**COG, "prediction_type": "sample"})


def test_a_shift_of_ones_own_moves_the_levels_and_is_said():
    """sigma = s u / (1 + (s - 1) u) exceeds 0.9 above u = 0.9 / (0.9 + 0.1 s)."""
    process = noise.from_scheduler({"shift": 16.2})
    for shift in (1.0, 5.0, 16.2):  # 10, 36 and 64 %: the audit's figures for Wan and LTX
        moved = noise.shift_process(process, shift)
        above = 1 - 0.9 / (0.9 + 0.1 * shift)
        told = noise.tell_levels(moved, "uniform", 0.0, 1.0, 0.0, 1.0)
        assert f"shift {shift:.3g}; " in told
        assert f"{above:.0%} of steps above 0.9" in told
    assert "shift" not in noise.tell_levels(noise.from_scheduler(COG), "uniform", 0, 1, 0, 1)
    for wrong, of in ((3.0, noise.from_scheduler(COG)), (0.0, process)):
        with pytest.raises(UserError, match="flow_shift"):
            noise.shift_process(of, wrong)
