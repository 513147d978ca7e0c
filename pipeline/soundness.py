"""Whether a codec's scale is what it says, judged on one card of rectangles.

Knows any codec; knows no picture but the card, and no file.
"""

from __future__ import annotations

import torch

from pipeline.codec import Codec
from pipeline.quality import Value, measure_psnr
from pipeline.tensors import Pixels

STD_BOUNDS = 0.5, 2.0
"""The root mean square of latents of the test card, between which a scale is taken for sound.

A scaling factor left out, or applied twice, is off by 5.5 (Stable Diffusion 1 and 2) or 7.7 (XL).
"""

GAIN_BOUNDS = 0.8, 1.2
"""How much latents of the test card may shrink or grow by being decoded and encoded again."""


class CodecReport(Value):
    """Whether a codec does what it says, on one card: any fault is a line that names it.

    `std` is the root mean square of the card's latents, `gain` how much of them is left after they
    are decoded and encoded again, `psnr` what is left of the card, and `plain_psnr` what one plain
    colour leaves of it.
    """

    std: float
    gain: float
    psnr: float
    plain_psnr: float
    faults: tuple[str, ...]


def check_codec(codec: Codec) -> CodecReport:
    """Send a test card through `codec`, and see whether its scale is what it says.

    Latents of a sound autoencoder have about unit deviation, and are left as they were when they
    are decoded and encoded again. A `scaling_factor` that is left out moves the first, one that is
    applied on one way only moves the second. Raises `RenderError` where a number is not finite.
    Smaller faults than the bounds are not seen.
    """
    card = draw_card(16 * codec.downscale)
    card = card if codec.device is None else card.to(codec.device)
    latents = codec.encode(card)
    back = codec.decode(latents).float().clamp(-1, 1)
    x, y = latents.cpu().double(), codec.encode(back).cpu().double()
    std = x.square().mean().sqrt().item()
    gain = ((x * y).sum() / x.square().sum().clamp_min(torch.finfo(x.dtype).tiny)).item()
    psnr = measure_psnr(card, back).item()
    plain_psnr = measure_psnr(card, card.mean((2, 3), keepdim=True).expand_as(card)).item()

    faults = []
    if not STD_BOUNDS[0] <= std <= STD_BOUNDS[1]:
        faults.append(
            f"latents of the test card have deviation {std:.3g}, {STD_BOUNDS[0]:g} to "
            f"{STD_BOUNDS[1]:g} is sound: is scaling_factor that of this autoencoder?"
        )
    if not GAIN_BOUNDS[0] <= gain <= GAIN_BOUNDS[1]:
        faults.append(
            f"latents come back {gain:.3g} times as large, {GAIN_BOUNDS[0]:g} to "
            f"{GAIN_BOUNDS[1]:g} is sound: encoding and decoding do not scale alike"
        )
    if psnr < plain_psnr:
        faults.append(
            f"the test card comes back with {psnr:.1f} dB, less than one plain colour's "
            f"{plain_psnr:.1f}: this autoencoder keeps no picture"
        )
    return CodecReport(std=std, gain=gain, psnr=psnr, plain_psnr=plain_psnr, faults=tuple(faults))


def draw_card(side: int) -> Pixels:
    """Rectangles of all sizes and colours over one another, as in photographs: dead leaves."""
    generator = torch.Generator().manual_seed(0)
    card = torch.zeros(1, 3, side, side)
    for _ in range(200):
        y, x, size, aspect, *colour = torch.rand(7, generator=generator).tolist()
        height = 0.03 * side / (size + 0.05)
        width = height * (0.5 + aspect)
        top, left = round(y * side - height / 2), round(x * side - width / 2)
        rows = slice(max(top, 0), max(top + round(height), 0))
        columns = slice(max(left, 0), max(left + round(width), 0))
        card[0, :, rows, columns] = (torch.tensor(colour) * 2 - 1).view(3, 1, 1)
    return card
