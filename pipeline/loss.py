"""How much of a picture is lost on the way through latents, and what stands for it there.

Knows codecs by what they say of themselves; knows no model and no file, and sends nothing anywhere.
"""

from __future__ import annotations

import math

from pipeline.codec import Codec, Posterior
from pipeline.quality import Distance, Health, Value, measure_health, measure_psnr, measure_ssim
from pipeline.tensors import Latents, Pixels

_LEVELS = 127.5  # grey levels to 1 in [-1, 1]
_BITS_OF_A_COLOUR = 8


class Fidelity(Value):
    """How like its original a picture is.

    `psnr` in decibels is infinite and `ssim` 1 where they are equal. `channel_errors` are the root
    mean square errors of red, green and blue, and `worst_error` is the largest of all, in grey
    levels of 255. `lpips` is None where its weights are not there.
    """

    psnr: float
    ssim: float
    lpips: float | None
    channel_errors: tuple[float, float, float]
    worst_error: float


class Compression(Value):
    """What stands for a picture, in numbers and in bits: 8 a colour, and a latent's as it is held.

    Of a codebook only the index of each cell counts. `posterior_bits` is the divergence of the
    posterior from the unit Gaussian, in bits: what its draws tell of the picture.
    """

    numbers_in: int
    numbers_out: int
    ratio: float
    bits_in: int
    bits_out: float
    bits_ratio: float
    posterior_bits: float | None


class LatentReport(Value):
    """Latents of one picture: of all numbers, and for each channel.

    `std` is the root mean square distance from 0, which scaling brings near 1 for pictures like
    those of the training. `posterior_std` is the posterior's own deviation, averaged over all
    numbers. `health` holds them against a Gaussian's draw, which a picture's latents are not:
    neighbouring cells are alike.
    """

    std: float
    largest: float
    channel_stds: tuple[float, ...]
    posterior_std: float | None
    health: Health


def measure_fidelity(pixels: Pixels, back: Pixels, lpips: Distance | None = None) -> Fidelity:
    """How like `pixels` the picture `back` is, both (1, 3, height, width)."""
    error = (pixels.double().clamp(-1, 1) - back.double().clamp(-1, 1)).abs()[0] * _LEVELS
    red, green, blue = error.square().mean((1, 2)).sqrt().tolist()
    return Fidelity(
        psnr=measure_psnr(pixels, back).item(),
        ssim=measure_ssim(pixels, back).item(),
        lpips=None if lpips is None else lpips(pixels, back).item(),
        channel_errors=(red, green, blue),
        worst_error=error.max().item(),
    )


def measure_compression(codec: Codec, pixels: Pixels, posterior: Posterior) -> Compression:
    """How much less the latents of one picture are than its `pixels`."""
    latents, kl = posterior.mean, posterior.kl
    numbers_in, numbers_out = pixels.numel(), latents.numel()
    bits_in, bits_out = numbers_in * _BITS_OF_A_COLOUR, float(latents.nbytes * 8)
    if codec.codebook is not None:
        bits_out = latents[:, 0].numel() * math.log2(codec.codebook)
    return Compression(
        numbers_in=numbers_in,
        numbers_out=numbers_out,
        ratio=numbers_in / numbers_out,
        bits_in=bits_in,
        bits_out=bits_out,
        bits_ratio=bits_in / bits_out,
        posterior_bits=None if kl is None else kl.item() / math.log(2),
    )


def measure_latents(latents: Latents, posterior: Posterior) -> LatentReport:
    """The statistics of one picture's latents, the mode of `posterior` or a draw from it."""
    x, variance = latents.detach().cpu().double()[0], posterior.variance
    return LatentReport(
        std=x.square().mean().sqrt().item(),
        largest=x.abs().max().item(),
        channel_stds=tuple(x.std((1, 2), correction=0).tolist()),
        posterior_std=None if variance is None else variance.double().sqrt().mean().item(),
        health=measure_health(latents),
    )
