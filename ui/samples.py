"""Pictures to try things on, drawn on demand, each hard for an autoencoder in its own way.

Knows no widgets. All are made here, but for those that the model draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import SpecError
from pipeline.spec import StillSpec

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.render import Progress

SIDE = 256  # pixels

_TEXT = "What does latent space keep of small letters?"
_LETTERS = (44, 32, 24, 18, 14, 11, 9)  # pixels, from line to line
_GRAINS = 2, 4, 8, 16  # pixels of a grain of noise, from quarter to quarter


def draw_rectangles() -> Image.Image:
    """The card that codecs are judged by: rectangles of all sizes over one another."""
    from pipeline.pictures import to_images
    from pipeline.soundness import draw_card

    return to_images(draw_card(SIDE))[0]


def draw_letters() -> Image.Image:
    """The same words, smaller from line to line."""
    image = Image.new("RGB", (SIDE, SIDE), "#fbf7ee")
    pen, top = ImageDraw.Draw(image), 8
    for size, ink in zip(_LETTERS, ("#1f2937", "#b91c1c", "#1d4ed8", "#047857") * 2, strict=False):
        pen.text((8, top), _TEXT, fill=ink, font=ImageFont.load_default(size))
        top += round(1.45 * size)
    return image


def draw_rings() -> Image.Image:
    """Rings from coarse in the middle to as fine as pixels are in the corners."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    finest = SIDE / np.sqrt(2)  # where a ring is one pixel wide: the corner's distance
    waves = np.cos(np.pi * (x**2 + y**2) / (2 * finest))
    return Image.fromarray((127.5 * waves + 127.5).round().astype(np.uint8)).convert("RGB")


def draw_colours() -> Image.Image:
    """All hues from left to right, from pale to deep to dark, without an edge."""
    ramp = np.arange(SIDE, dtype=float)
    hue = np.broadcast_to(ramp, (SIDE, SIDE))
    down = np.broadcast_to(ramp[:, None] / (SIDE - 1), (SIDE, SIDE))
    saturation, value = np.clip(2 * down, 0, 1) * 255, np.clip(2 - 2 * down, 0, 1) * 255
    levels = np.stack([hue, saturation, value], 2).round().astype(np.uint8)
    return Image.fromarray(levels, "HSV").convert("RGB")


def draw_grains() -> Image.Image:
    """Noise in four quarters, its grains from fine to coarse."""
    draws, half = np.random.default_rng(0), SIDE // 2
    image = Image.new("RGB", (SIDE, SIDE))
    for i, grain in enumerate(_GRAINS):
        levels = draws.integers(0, 256, (half // grain, half // grain, 3), dtype=np.uint8)
        quarter = Image.fromarray(levels).resize((half, half), Image.Resampling.NEAREST)
        image.paste(quarter, (i % 2 * half, i // 2 * half))
    return image


_DRAWN: Mapping[str, Callable[[], Image.Image]] = MappingProxyType(
    {
        "rectangles": draw_rectangles,
        "letters": draw_letters,
        "rings": draw_rings,
        "colours": draw_colours,
        "grains": draw_grains,
    }
)
_PROMPTS = MappingProxyType({"a man": 2, "a woman": 2})  # and their seeds

SAMPLES = (*_DRAWN, *_PROMPTS)
"""What there is to choose from, by name; the last ones the model draws."""


def draw_sample(name: str | None, model: Model) -> Iterator[Progress | Image.Image]:
    """The picture called `name`, after the steps that it takes where the model draws it.

    Raises SpecError for a name that is none of `SAMPLES`.
    """
    if name not in SAMPLES:
        raise SpecError(f"sample = {name!r}: must be one of {', '.join(SAMPLES)}")
    if name in _DRAWN:
        yield _DRAWN[name]()
        return

    from pipeline.render import Progress, points, render_steps

    spec = model.resolve(StillSpec(prompt=name, seed=_PROMPTS[name]))
    for event in render_steps(model, spec.sampling, points(model, spec)):
        yield event if isinstance(event, Progress) else event.image
