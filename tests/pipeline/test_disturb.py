"""What is done to latents is what it says, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disturb import add_noise, mix_latents, mix_pixels, round_to_bits, zero_channels
from pipeline.errors import SpecError
from pipeline.interpolate import slerp
from pipeline.noise import draw_noise

LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_noise_is_that_of_its_seeds():
    noisy = add_noise(LATENTS, 0.5, seed=7)

    expected = torch.cat([draw_noise(7, (4, 8, 8)), draw_noise(8, (4, 8, 8))])
    assert torch.equal(noisy, LATENTS + 0.5 * expected)
    assert add_noise(LATENTS, 0, seed=7) is LATENTS
    assert add_noise(LATENTS.half(), 0.5, seed=7).dtype == torch.float16


@pytest.mark.parametrize("size", [-0.1, 101, float("nan"), float("inf")])
def test_noise_has_a_size(size: float):
    with pytest.raises(SpecError, match=r"^noise = .*: must be between 0 and 100$"):
        add_noise(LATENTS, size, seed=0)


def test_channels_are_zeroed_and_the_rest_stays():
    before = LATENTS.clone()

    zeroed = zero_channels(LATENTS, [1, 3])

    assert zeroed[:, [1, 3]].abs().max() == 0
    assert torch.equal(zeroed[:, [0, 2]], LATENTS[:, [0, 2]])
    assert torch.equal(LATENTS, before)
    assert torch.equal(zero_channels(LATENTS, []), LATENTS)


@pytest.mark.parametrize("channel", [-1, 4])
def test_a_channel_that_is_not_there_is_refused(channel: int):
    with pytest.raises(SpecError, match=f"^channel = {channel}: must be between 0 and 3$"):
        zero_channels(LATENTS, [channel])


@given(bits=st.integers(1, 16))
def test_few_bits_are_few_levels_no_farther_than_half_a_step(bits: int):
    rounded = round_to_bits(LATENTS, bits)

    for sample, original in zip(rounded.flatten(0, 1), LATENTS.flatten(0, 1), strict=True):
        step = (original.max() - original.min()) / (2**bits - 1)
        assert len(sample.unique()) <= 2**bits
        # float32 rounds once more, by at most 2⁻²² of numbers below 4
        assert (sample - original).abs().max() <= step / 2 + 1e-6
        assert (sample.min(), sample.max()) == (original.min(), original.max())


def test_a_plain_channel_stays_what_it_is():
    plain = torch.full((1, 1, 4, 4), 0.3)

    assert torch.equal(round_to_bits(plain, 1), plain)


@pytest.mark.parametrize("bits", [0, 17])
def test_bits_have_bounds(bits: int):
    with pytest.raises(SpecError, match=f"^bits = {bits}: must be between 1 and 16$"):
        round_to_bits(LATENTS, bits)


def test_latents_go_along_the_great_circle_and_pixels_along_the_line():
    start, end = LATENTS[:1], LATENTS[1:]

    assert torch.equal(mix_latents(start, end, 0.3), slerp(start, end, 0.3))
    assert torch.equal(mix_pixels(start, end, 0.25), torch.lerp(start, end, 0.25))
    # Half way the line is shorter by √½ between independent draws, the circle is not.
    assert mix_latents(start, end, 0.5).std() > 0.95
    assert mix_pixels(start, end, 0.5).std() < 0.8
    for mix in (mix_latents, mix_pixels):
        assert torch.equal(mix(start, end, 0), start)
        assert torch.equal(mix(start, end, 1), end)
        with pytest.raises(SpecError, match=r"^weight = 1\.5: must be between 0 and 1$"):
            mix(start, end, 1.5)
