"""What is lost, by hand computation and against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from pipeline.codec import PixelCodec, Posterior
from pipeline.loss import measure_compression, measure_fidelity, measure_latents


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_fidelity_is_that_of_torchmetrics():
    a = draw(0, 3, 32, 32)
    b = (a + 0.1 * draw(1, 3, 32, 32)).clamp(-1, 1)

    found = measure_fidelity(a, b)

    expected = peak_signal_noise_ratio(b, a, data_range=2.0).item()
    assert found.psnr == pytest.approx(expected, abs=1e-4)  # torchmetrics counts in float32
    expected = structural_similarity_index_measure(b, a, data_range=2.0).item()
    assert found.ssim == pytest.approx(expected, abs=1e-4)
    assert found.lpips is None


def test_errors_of_colours_by_hand():
    grey = torch.zeros(1, 3, 8, 8)
    other = grey.clone()
    other[:, 1] = 2 / 255  # green, by one level everywhere
    other[:, 2, 3, 4] = 2 * 40 / 255  # blue, by 40 levels in one of 64 places

    found = measure_fidelity(grey, other, lpips=lambda a, b: torch.tensor([0.25]))

    assert found.channel_errors == pytest.approx((0, 1, 5))  # √(40²/64)
    assert found.worst_error == pytest.approx(40)
    assert found.lpips == 0.25


def test_what_is_not_shown_is_no_error():
    white = torch.ones(1, 3, 8, 8)

    found = measure_fidelity(white, 3 * white)

    assert (found.psnr, found.ssim, found.worst_error) == (math.inf, 1, 0)


def test_a_report_is_json_that_reads_again():
    white = torch.ones(1, 3, 8, 8)
    found = measure_fidelity(white, white)

    text = found.model_dump_json()

    assert '"psnr":"Infinity"' in text
    assert type(found).model_validate_json(text) == found


def test_a_shift_by_one_pixel_is_penalised():
    stripes = draw(0, 3, 1, 64).repeat(1, 1, 64, 1)

    found = measure_fidelity(stripes, stripes.roll(1, 3))

    assert found.psnr < 12
    assert found.ssim < 0.5
    assert found.worst_error > 100


def posterior(dtype: torch.dtype, kl: float | None = None) -> Posterior:
    latents = torch.ones(1, 4, 16, 16, dtype=dtype)
    return Posterior(latents, kl=None if kl is None else torch.tensor([kl]))


def test_compression_by_hand():
    pixels = draw(0, 3, 128, 128)

    exact = measure_compression(PixelCodec(), pixels, posterior(torch.float32, kl=math.log(2) * 80))
    half = measure_compression(PixelCodec(), pixels, posterior(torch.float16))

    assert (exact.numbers_in, exact.numbers_out, exact.ratio) == (49_152, 1024, 48)
    assert (exact.bits_in, exact.bits_out, exact.bits_ratio) == (393_216, 32_768, 12)
    assert exact.posterior_bits == pytest.approx(80)
    assert (half.bits_out, half.bits_ratio, half.posterior_bits) == (16_384, 24, None)


def test_a_codebook_counts_by_its_indices(monkeypatch: pytest.MonkeyPatch):
    codec = PixelCodec()
    monkeypatch.setattr(codec, "codebook", 1024, raising=False)

    found = measure_compression(codec, draw(0, 3, 128, 128), posterior(torch.float32))

    assert (found.bits_out, found.bits_ratio) == (2560, 153.6)  # 256 cells of 10 bits


def test_latents_by_hand():
    latents = torch.tensor([3.0, -3.0, 3.0, -3.0, 1, 1, 1, 1]).view(1, 2, 2, 2)
    variance = torch.full_like(latents, 0.04)

    found = measure_latents(latents, Posterior(latents, variance))

    assert found.std == pytest.approx(math.sqrt(5))
    assert found.largest == 3
    assert found.channel_stds == (3, 0)
    assert found.health.channel_means == (0, 1)
    assert found.posterior_std == pytest.approx(0.2)
    assert measure_latents(latents, Posterior(latents)).posterior_std is None
