"""What can be done to latents to see what they hold: noise, channels left out, few bits, mixtures.

Pure functions of tensors. Knows no model, no codec and no picture file.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from pipeline.errors import SpecError
from pipeline.interpolate import slerp
from pipeline.noise import draw_noise
from pipeline.tensors import Latents, Pixels


def add_noise(latents: Latents, size: float, seed: int) -> Latents:
    """`latents` plus `size` times a draw of the unit Gaussian.

    The first sample's noise is that of `seed`, the next one's of `seed` + 1, …. Raises `SpecError`
    for a size that is not between 0 and 100.
    """
    if not 0 <= size <= 100:
        raise SpecError(f"noise = {size:g}: must be between 0 and 100")
    if size == 0:
        return latents
    shape = tuple(latents.shape[1:])
    noise = torch.cat([draw_noise(seed + i, shape) for i in range(len(latents))])
    return latents + size * noise.to(latents)


def zero_channels(latents: Latents, channels: Collection[int]) -> Latents:
    """`latents` with 0 in each of `channels`. Raises `SpecError` for one that is not there."""
    count = latents.shape[1]
    for channel in channels:
        if not 0 <= channel < count:
            raise SpecError(f"channel = {channel}: must be between 0 and {count - 1}")
    zeroed = latents.clone()
    zeroed[:, list(channels)] = 0
    return zeroed


def round_to_bits(latents: Latents, bits: int) -> Latents:
    """`latents` with each number as one of 2^`bits` levels, even steps over its channel's range.

    Each sample and channel has its own range, from its smallest to its largest number. Raises
    `SpecError` unless `bits` is between 1 and 16.
    """
    if not 1 <= bits <= 16:
        raise SpecError(f"bits = {bits}: must be between 1 and 16")
    exact = latents.double()
    low, high = exact.amin((2, 3), keepdim=True), exact.amax((2, 3), keepdim=True)
    step = (high - low) / (2**bits - 1)
    levels = torch.where(step > 0, (exact - low) / step, 0.0).round()
    rounded: Latents = (low + levels * step).to(latents)
    return rounded


def mix_latents(start: Latents, end: Latents, weight: float) -> Latents:
    """`weight` of the way between two pictures' latents, along the great circle.

    Raises `SpecError` for a weight that is not in [0, 1], and where the ends are opposite.
    """
    _check_weight(weight)
    return slerp(start, end, weight)


def mix_pixels(start: Pixels, end: Pixels, weight: float) -> Pixels:
    """`weight` of the way between two pictures, pixel by pixel: a cross-fade, to compare with."""
    _check_weight(weight)
    return torch.lerp(start, end, weight)


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise SpecError(f"weight = {weight:g}: must be between 0 and 1")
