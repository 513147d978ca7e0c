"""A seed means the same start everywhere, for ever."""

from __future__ import annotations

import hashlib

import pytest
import torch

from pipeline.denoise import create_scheduler, denoise
from pipeline.interpolate import slerp
from pipeline.noise import NoiseMix, continue_noise, draw_noise, drawing

SHAPES = [(4, 16, 16), (4, 64, 64), (4, 96, 64), (3, 32, 32)]
SEEDS = [0, 1, 7, 2**31, 2**32 - 1]
# SHA-256, first 16 digits, of the float32 bytes; written by `python -m tests.pipeline.test_noise`.
HASHES: dict[tuple[int, tuple[int, ...]], str] = {
    (0, (4, 16, 16)): "443a9fa4ffb0e222",
    (0, (4, 64, 64)): "24efac55b39e95b2",
    (0, (4, 96, 64)): "25b921bbebfa5919",
    (0, (3, 32, 32)): "79276078d05527a3",
    (1, (4, 16, 16)): "aab63a7f0ea50691",
    (1, (4, 64, 64)): "e3a63ffe8c41d892",
    (1, (4, 96, 64)): "f4904447cc53b5a5",
    (1, (3, 32, 32)): "48d3bdaa04da7d0c",
    (7, (4, 16, 16)): "1202b953f8d50890",
    (7, (4, 64, 64)): "e0236a3fd3aea2d5",
    (7, (4, 96, 64)): "df3daa1aa87c00b4",
    (7, (3, 32, 32)): "5f9ac568a82fbecf",
    (2147483648, (4, 16, 16)): "8ec1669ff6ac324c",
    (2147483648, (4, 64, 64)): "7268eebb13b6cbc0",
    (2147483648, (4, 96, 64)): "973af5cd674e5a9c",
    (2147483648, (3, 32, 32)): "9d89952dffb7a72b",
    (4294967295, (4, 16, 16)): "6da1e4b285bfcc2d",
    (4294967295, (4, 64, 64)): "9cd9e22a6fa43e2b",
    (4294967295, (4, 96, 64)): "fb8f2ac1dbcf4e87",
    (4294967295, (3, 32, 32)): "2f0e35cf4df24f6b",
}


def _digest(noise: torch.Tensor) -> str:
    return hashlib.sha256(noise.numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_draws_what_it_always_drew(seed, shape):
    assert _digest(draw_noise(seed, shape)) == HASHES[seed, shape]


def test_noise_is_the_unit_gaussian():
    noise = draw_noise(3, (4, 64, 64))

    # 16,384 draws: the mean's standard error is 0.0078, the std's 0.0055; four of them each.
    assert abs(noise.mean()) < 0.032
    assert abs(noise.std() - 1) < 0.022
    assert noise.dtype == torch.float32


def test_step_noise_goes_on_where_the_start_noise_ended():
    generator = torch.Generator().manual_seed(5)
    start = torch.randn((1, 4, 8, 8), generator=generator)

    assert torch.equal(draw_noise(5, (4, 8, 8)), start)
    assert torch.equal(
        torch.randn(10, generator=continue_noise(5, (4, 8, 8))),
        torch.randn(10, generator=generator),
    )


SHAPE = (4, 8, 8)


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 1])
def test_two_seeds_meet_on_the_great_circle(weight):
    mix = NoiseMix.between(1, 2, weight)

    assert torch.equal(
        mix.draw(SHAPE), slerp(draw_noise(1, SHAPE), draw_noise(2, SHAPE), float(weight))
    )


def test_the_ends_of_a_mix_are_seeds_alone():
    assert NoiseMix.between(1, 2, 0) == NoiseMix.single(1)
    assert NoiseMix.between(1, 2, 1) == NoiseMix.single(2)
    assert NoiseMix.between(3, 3, 0.4) == NoiseMix.single(3)


def test_more_seeds_keep_the_radius_of_a_draw():
    noise = NoiseMix((1, 2, 3), (0.2, 0.5, 0.3)).draw((4, 64, 64))

    # The radius of 16,384 draws is 128 within 0.5 (one standard deviation of it is 0.7 · √½).
    assert abs(noise.norm() - 128) < 3


def test_a_mixture_sums_what_a_seed_weighs_in_its_parts():
    parts = [NoiseMix.single(1), NoiseMix.between(1, 2, 0.25), NoiseMix.single(3)]

    mix = NoiseMix.mixture(parts, [0.5, 0.4, 0.1])

    assert mix.seeds == (1, 2, 3) and mix.weights == pytest.approx((0.8, 0.1, 0.1))
    assert not mix.is_arc
    assert NoiseMix.mixture(parts[:1] * 2, [0.3, 0.7]) == NoiseMix.single(1)
    assert NoiseMix.mixture(parts, [0, 0, 1]) == NoiseMix.single(3)


def test_a_mixture_of_two_may_weigh_one_below_nothing():
    mix = NoiseMix.mixture([NoiseMix.single(1), NoiseMix.single(2)], [1.1, -0.1])

    assert abs(mix.draw((4, 64, 64)).norm() - 128) < 3  # as above


def test_mixed_step_noise_is_the_mix_of_both_step_noises():
    mixed = NoiseMix.between(1, 2, 0.3).continue_noise(SHAPE)
    start, end = continue_noise(1, SHAPE), continue_noise(2, SHAPE)

    for _ in range(3):
        with drawing([mixed]):
            drawn = torch.randn((1, *SHAPE), generator=mixed)
        ends = [torch.randn((1, *SHAPE), generator=g) for g in (start, end)]
        assert torch.equal(drawn, slerp(*ends, 0.3))


@pytest.mark.parametrize("name", ["euler-ancestral", "dpm++2m-sde", "lcm", "tcd"])
def test_stochastic_schedulers_draw_the_mixed_noise(name):
    """With a network that predicts nothing, the way to the mix lies between those to its ends."""
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

    def walk(mix):
        scheduler = create_scheduler(name, config, 4, "cpu")
        latents = torch.zeros(1, *SHAPE)
        generators = [mix.continue_noise(SHAPE)]
        steps = denoise(
            lambda x, t, i: torch.zeros_like(x), scheduler, latents, scheduler.timesteps, generators
        )
        return list(steps)[-1].latents

    start, middle, end = (walk(NoiseMix.between(1, 2, w)) for w in (0, 0.5, 1))

    assert not torch.equal(start, end)
    # Halfway on a great circle is as near to one end as to the other, and equally far from nought.
    near, far = (middle - start).norm(), (middle - end).norm()
    assert abs(near - far) < 0.02 * near
    assert abs(middle.norm() - (start.norm() + end.norm()) / 2) < 0.1 * middle.norm()


if __name__ == "__main__":
    for seed in SEEDS:
        for shape in SHAPES:
            print(f'    ({seed}, {shape}): "{_digest(draw_noise(seed, shape))}",')
