"""What cannot be seen by itself, as pictures: errors, the channels of latents, their colours.

Scales are fixed, so that two pictures can be compared. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from pipeline.pictures import to_images
from pipeline.tensors import Latents, Pixels

FULL_ERROR = 64
"""Grey levels, of 255, that an error map shows as the brightest; larger errors look the same."""

FULL_LATENT = 4.0
"""What channels show as full red, and its negative as full blue; 1 is a latent's deviation."""

_GAP = 4  # pixels between pictures of a strip


def draw_error(pixels: Pixels, back: Pixels) -> Image.Image:
    """Where one picture differs from another: black is equal, pale yellow `FULL_ERROR` levels.

    The error of a pixel is the root mean square over its colours, of what is shown: values beyond
    [-1, 1] are clipped.
    """
    difference = pixels.detach().cpu().double().clamp(-1, 1) - back.detach().cpu().double().clamp(
        -1, 1
    )
    levels = difference[0].square().mean(0).sqrt() * 127.5
    return _paint(levels / FULL_ERROR, "magma")


def draw_channels(latents: Latents, downscale: int) -> list[Image.Image]:
    """Each channel of one picture's latents, its cells `downscale` pixels wide.

    Red is above 0, blue below, white is 0.
    """
    shares = latents.detach().cpu().double()[0] / FULL_LATENT / 2 + 0.5
    return [_enlarge(_paint(share, "RdBu_r"), downscale) for share in shares]


def draw_colours(colours: Pixels, downscale: int) -> Image.Image:
    """What `Codec.colours` gives for one picture, its cells `downscale` pixels wide."""
    return _enlarge(to_images(colours)[0], downscale)


def join_strip(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height, side by side on white."""
    width = sum(image.width + _GAP for image in images) - _GAP
    strip = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width + _GAP
    return strip


def _paint(shares: Tensor, name: str) -> Image.Image:
    """Numbers in [0, 1], (rows, columns), as the colours of a map of matplotlib's."""
    import matplotlib

    return Image.fromarray(
        matplotlib.colormaps[name](shares.clamp(0, 1).numpy(), bytes=True)
    ).convert("RGB")


def _enlarge(image: Image.Image, times: int) -> Image.Image:
    size = image.width * times, image.height * times
    return image.resize(size, Image.Resampling.NEAREST)
