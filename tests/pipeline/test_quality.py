"""Numbers for pictures and noises against hand computation, a library, and what must fail."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from pipeline.errors import RenderError
from pipeline.interpolate import slerp
from pipeline.model import Model
from pipeline.quality import (
    DISTANCES,
    HEALTHY,
    CrossFade,
    Health,
    distance_colour,
    distance_in,
    distance_ssim,
    measure_health,
    measure_psnr,
    measure_ssim,
)

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, batch: int = 1, height: int = 24, width: int = 32) -> Tensor:
    return draw(seed, batch, 3, height, width).mul(0.4).clamp(-1, 1)


def plain(*colour: float) -> Tensor:
    return torch.tensor(colour).view(1, -1, 1, 1).expand(1, 3, 16, 16)


def test_psnr_by_hand():
    grey = torch.zeros(3, 3, 8, 8)
    other = torch.tensor([0.2, 0.02, 0.0]).view(3, 1, 1, 1) + grey

    # A difference of 0.2 in a range of 2 is a tenth: 20 dB; float32 holds 0.2 to eight digits.
    assert measure_psnr(grey, other).tolist() == pytest.approx([20, 40, math.inf], abs=1e-6)


def test_psnr_and_ssim_are_those_of_torchmetrics():
    a, b = picture(1, batch=3), picture(2, batch=3)
    b[1] = a[1] + 0.01 * b[1]
    settings = {"data_range": (-1.0, 1.0), "reduction": "none"}

    psnr = peak_signal_noise_ratio(a.double(), b.double(), dim=(1, 2, 3), **settings)
    ssim = structural_similarity_index_measure(
        a.double(), b.double(), sigma=1.5, kernel_size=11, k1=0.01, k2=0.03, **settings
    )

    # torchmetrics takes its logarithms in float32 when the range is given as numbers.
    torch.testing.assert_close(measure_psnr(a, b), psnr.double(), rtol=1e-6, atol=0)
    # Both sum 121 products in float64, in another order.
    torch.testing.assert_close(measure_ssim(a, b), ssim, rtol=0, atol=1e-12)


def test_ssim_of_plain_pictures_by_hand():
    """Without structure only the term of luminance is left."""
    expected = (2 * 0.5 * 0.25 + 0.02**2) / (0.5**2 + 0.25**2 + 0.02**2)

    found = measure_ssim(plain(0.5, 0.5, 0.5), plain(0.25, 0.25, 0.25))

    assert found.item() == pytest.approx(expected, abs=1e-9)  # the variances of plain: 1e-16 / C₂


@pytest.mark.parametrize("level", [-1.0, -0.3137, 0.1, 1.0])
def test_equal_pictures_are_equal_even_where_they_are_plain(level: float):
    """Float32 would leave a hundredth of √(1 − SSIM), as much as a slow morph moves."""
    a = picture(3)
    a[..., 4:20] = level

    assert measure_ssim(a, a.clone()).tolist() == [1.0]
    assert distance_ssim(a, a.clone()).tolist() == [0.0]
    assert distance_colour(a, a.clone()).tolist() == [0.0]
    assert measure_psnr(a, a.clone()).tolist() == [math.inf]


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # B. Lindbloom's calculator (brucelindbloom.com), sRGB, D65, no adaptation
        ((1, 1, 1), (100.0, 0.0, 0.0)),
        ((1, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 1, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 1), (32.2970, 79.1875, -107.8602)),
    ],
)
def test_colour_is_measured_as_in_cie_1976(rgb: tuple[int, ...], lab: tuple[float, ...]):
    colour = plain(*(2.0 * share - 1 for share in rgb))

    found = distance_colour(colour, plain(-1, -1, -1)).item()

    # The white point is the sum of the matrix's rows here, which differs in the sixth digit.
    assert found == pytest.approx(math.hypot(*lab), abs=1e-2)


def test_dark_colours_are_measured_on_the_straight_parts_of_their_curves():
    """Level 5 of 255 is below 0.04045, and below the cube root's end: L* = 903.3 · Y."""
    dark = plain(*[5 / 255 * 2 - 1] * 3)

    found = distance_colour(dark, plain(-1, -1, -1)).item()

    assert found == pytest.approx(5 / 255 / 12.92 * (29 / 3) ** 3, rel=1e-6)


@given(seed=SEEDS, name=st.sampled_from(sorted(DISTANCES)))
def test_a_distance_is_symmetric_and_sees_what_is_shown(seed: int, name: str):
    distance = DISTANCES[name]
    a, b = picture(seed, 2), picture(seed + 1, 2)

    assert distance(a, b).shape == (2,)
    assert (distance(a, b) > 0).all()
    torch.testing.assert_close(distance(a, b), distance(b, a), rtol=1e-12, atol=0)
    assert torch.equal(distance(3 * a, b), distance((3 * a).clamp(-1, 1), b))


def test_an_encoder_is_a_distance_and_looks_once_at_each_frame(tiny: Model):
    seen: list[Tensor] = []

    def encode(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return tiny.codec.encode(pixels)

    frames = [picture(seed) for seed in range(4)]
    distance = distance_in(encode)
    gaps = [distance(a, b).item() for a, b in pairwise(frames)]

    assert len(seen) == 4
    first, second = (tiny.codec.encode(frame) for frame in frames[:2])
    # Root mean square by torch in float32, against float64: seven digits.
    assert gaps[0] == pytest.approx((first - second).square().mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("measure", [measure_psnr, measure_ssim, *DISTANCES.values()])
def test_pictures_that_cannot_be_compared_are_refused(measure):
    a = picture(1)
    broken = a.clone()
    broken[0, 0, 0, 0] = math.nan

    with pytest.raises(ValueError, match="must be equal"):
        measure(a, picture(1, batch=2))  # torch would compare one with both
    with pytest.raises(ValueError, match="must be equal"):
        measure(a[0], a[0])
    with pytest.raises(RenderError, match=r"1 of 2304 numbers are not finite"):
        measure(a, broken)


def test_a_cross_fade_at_any_brightness_leaves_nothing():
    start, end = picture(1) * 0.3, picture(2) * 0.3
    fade = CrossFade(start, end)

    for frame in (start, end, 0.3 * start + 0.7 * end, 0.5 * start + 0.1 * end - 0.2):
        r2, novelty = fade.fit(frame)
        assert (1 - r2) < 1e-10  # the ends are float32: rounded at 1e-8, squared
        assert novelty < 1e-6


def test_what_a_cross_fade_leaves_by_hand():
    """On four squares: the ends have two of the patterns, the frame a third beside them."""
    a, b, c = (
        torch.tensor(signs).view(1, 1, 2, 2).expand(1, 3, 2, 2).float() * 0.25
        for signs in ([1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1])
    )

    r2, novelty = CrossFade(a, b).fit(0.5 * a + 0.5 * b + 2 * c)

    assert r2 == pytest.approx(0.5 / 4.5)  # ½² + ½² of ½² + ½² + 2²
    assert novelty == pytest.approx(2 / math.sqrt(2))  # of the length of a − b


def test_plain_and_equal_ends_are_no_trouble():
    grey, black = plain(0, 0, 0), plain(-1, -1, -1)
    textured = picture(1, height=16, width=16)

    assert CrossFade(black, plain(1, 1, 1)).fit(grey) == (1.0, pytest.approx(0, abs=1e-12))
    assert CrossFade(black, black).fit(grey) == (1.0, 0.0)
    assert CrossFade(textured, textured).fit(textured)[0] == pytest.approx(1)
    assert CrossFade(textured, -textured).fit(grey) == (1.0, pytest.approx(0, abs=1e-12))


def test_health_by_hand():
    """A chessboard of ±1 has the right norm and mean, and nothing else of a Gaussian."""
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1).expand(1, 4, 16, 16)

    health = measure_health(board)

    assert health.zs == 0
    assert health.channel_means == (0, 0, 0, 0)
    assert health.kurtosis == -2
    assert health.lag1 == (-1, -1)
    assert health.worst == pytest.approx(math.sqrt(4 * 15 * 16))
    assert len(health.faults) == 3


def test_a_gaussian_draw_is_healthy():
    """2,000 draws at a false alarm in 12,000 of them: 0.16 expected, more than 3 in 1 of 50,000."""
    alarms = [seed for seed in range(2000) if measure_health(draw(seed, 1, 4, 16, 16)).faults]

    assert len(alarms) <= 3


@given(seed=SEEDS, shape=st.sampled_from([(4, 16, 16), (4, 24, 16), (16, 16, 16), (4, 64, 64)]))
def test_what_slerp_travels_through_is_healthy_and_what_lerp_does_is_not(
    seed: int, shape: tuple[int, ...]
):
    start, end = draw(seed, 1, *shape), draw(seed ^ 1, 1, *shape)

    assert measure_health(slerp(start, end, 0.5)).faults == ()
    lerped = measure_health(torch.lerp(start, end, 0.5))
    assert lerped.faults[0].startswith("standard deviation 0.")
    # By √d / 2√2; the spread about it is ½ for a variance of ½, so this is 4 of its deviations.
    assert lerped.zs == pytest.approx(-math.sqrt(start.numel() / 8), abs=2)


def blur(noise: Tensor, axis: int) -> Tensor:
    """Half of each neighbour mixed in: variance as before, correlation 0.47 (of 1 + ¼)."""
    return (noise + 0.5 * noise.roll(1, axis)) / math.sqrt(1.25)


SPOILT = {
    "scaled": (lambda x: 1.22 * x, "standard deviation 1.2"),
    "zeros": (lambda x: 0 * x, "standard deviation 0:"),
    "ones": (lambda x: 0 * x + 1, "mean 1 of channel 0"),
    "correlated in rows": (lambda x: blur(x, 3), "in rows"),
    "correlated in columns": (lambda x: blur(x, 2), "in columns"),
    "grown from cells of 2 × 2": (
        lambda x: x[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3),
        "in rows",
    ),
    "one channel is shifted": (
        lambda x: x + torch.tensor([0, 0, 0.5, 0]).view(1, 4, 1, 1),
        "of channel 2",
    ),
    "uniform": (lambda x: torch.special.erf(x / 2**0.5) * 3**0.5, "excess kurtosis -1."),
    "long tails": (lambda x: x * x.abs() / 3**0.5, "excess kurtosis"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_no_gaussian_draw_is_found_and_named(name: str, seed: int):
    spoil, fault = SPOILT[name]

    health = measure_health(spoil(draw(seed, 1, 4, 16, 16)))

    assert health.worst > HEALTHY
    assert any(fault in line for line in health.faults), health.faults


def test_health_does_not_change_with_the_sign_and_goes_to_json_and_back():
    noise = draw(5, 1, 4, 16, 16).half()
    health = measure_health(noise)

    assert measure_health(-noise).worst == health.worst
    assert Health.model_validate_json(health.model_dump_json()) == health


def test_what_is_no_noise_is_refused():
    with pytest.raises(ValueError, match="must be one"):
        measure_health(draw(0, 2, 4, 8, 8))
    with pytest.raises(ValueError, match="must be one"):
        measure_health(draw(0, 1, 4, 1, 8))
    broken = draw(0, 1, 4, 8, 8)
    broken[0, 1, 2, 3] = math.inf
    with pytest.raises(RenderError, match="noise: 1 of 256 numbers are not finite"):
        measure_health(broken)
