"""A seed means the same start everywhere, for ever."""

from __future__ import annotations

import hashlib

import pytest
import torch

from pipeline.path import continue_noise, draw_noise

SHAPES = [(4, 16, 16), (4, 64, 64), (4, 96, 64), (3, 32, 32)]
SEEDS = [0, 1, 7, 2**31, 2**32 - 1]
# SHA-256, first 16 digits, of the float32 bytes; written by `python -m tests.pipeline.test_path`.
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


if __name__ == "__main__":
    for seed in SEEDS:
        for shape in SHAPES:
            print(f'    ({seed}, {shape}): "{_digest(draw_noise(seed, shape))}",')
