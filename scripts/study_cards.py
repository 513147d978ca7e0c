"""What the study of latent space looks at: scenes of one content each, and a judge for each.

A judge is given scenes as they went in and as they came back, and says which share was kept: 1 is
all of it, 0 is none. Knows no codec.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import SpecError
from pipeline.pictures import to_pixels
from pipeline.quality import distance_colour
from pipeline.tensors import Pixels

SIDE = 256
"""Pixels along a scene's side, before it is made smaller."""

SCENES = 8
PEOPLE = 4 * SCENES
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket")

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_CELL = 32  # pixels of a letter or a patch of colour
_GRAIN = 16  # pixels of a grain of noise
_LINE = 4  # pixels

Judge = Callable[[Pixels, Pixels], float]


@dataclass(frozen=True)
class Card:
    """Scenes of one content, (scenes, 3, 256, 256), how it is judged, and what is counted."""

    name: str
    scenes: Pixels
    judge: Judge
    measure: str


def draw_cards() -> Iterator[Card]:
    """Every content there is; people need a font and a package, photographs a package."""
    yield Card("edges", _draw_many(_draw_edges), judge_edges, "of the slope kept")
    yield Card("text", _draw_many(_draw_text), judge_tiles(_CELL), "of letters recognised")
    yield Card("colours", _draw_many(_draw_colours), judge_colours, "of colours kept")
    yield Card("noise", _draw_many(_draw_noise), judge_variance, "of variance kept")
    if find_spec("emoji") is not None and (people := _draw_people()) is not None:
        yield Card("people", people, judge_tiles(SIDE // 2), "of people recognised")
    if find_spec("skimage") is not None:
        yield Card("photographs", _load_photographs(), judge_variance, "of variance kept")


def shrink(scenes: Pixels, side: int) -> Pixels:
    """`scenes` at `side` pixels, each the mean of those it takes the place of."""
    return scenes if side == scenes.shape[-1] else F.interpolate(scenes, (side, side), mode="area")


def judge_edges(pixels: Pixels, back: Pixels) -> float:
    """How steep edges still are: the slope of a regression of the new gradients on the old."""
    old, new = (
        torch.cat([x.diff(dim=2).flatten(), x.diff(dim=3).flatten()]) for x in (pixels, back)
    )
    return float((old @ new) / (old @ old))


def judge_variance(pixels: Pixels, back: Pixels) -> float:
    """The share of the variance within each scene that is not lost; 0 if a plain one keeps more."""
    spread = (pixels - pixels.mean((2, 3), keepdim=True)).square().sum()
    return max(0.0, float(1 - (pixels - back).square().sum() / spread))


def judge_colours(pixels: Pixels, back: Pixels) -> float:
    """What is left of differences of colour (CIE 1976) between the scene and its mean."""
    plain = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    left, before = distance_colour(pixels, back).sum(), distance_colour(pixels, plain).sum()
    return max(0.0, float(1 - left / before))


def judge_tiles(cell: int) -> Judge:
    """The share of tiles, `cell` pixels wide in a scene of 256, whose nearest old one is their own.

    The judge knows all tiles to the last bit, so only what the trip does can mislead it.
    """

    def judge(pixels: Pixels, back: Pixels) -> float:
        size = cell * pixels.shape[-1] // SIDE
        old, new = _cut(pixels, size), _cut(back, size)
        looks, own = torch.unique(old, dim=0, return_inverse=True)
        nearest = torch.cdist(new.double(), looks.double()).argmin(1)
        return float((nearest == own).double().mean())

    return judge


def _cut(pixels: Pixels, size: int) -> torch.Tensor:
    """Tiles of `size` pixels, each one row of numbers, the scenes' rows one after the other."""
    tiles = pixels.unfold(2, size, size).unfold(3, size, size)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)


def _draw_many(draw: Callable[[random.Random], Pixels]) -> Pixels:
    chance = random.Random(0)
    return torch.cat([draw(chance) for _ in range(SCENES)])


def _draw_edges(chance: random.Random) -> Pixels:
    """Black lines and rings at all angles on white."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")  # drawn larger: smooth when shrunk
    canvas = ImageDraw.Draw(image)
    for _ in range(12):
        a, b, c, d = (chance.uniform(0, image.width) for _ in range(4))
        canvas.line((a, b, c, d), "black", 4 * _LINE)
        radius = chance.uniform(20, 200)
        canvas.ellipse((a - radius, d - radius, a + radius, d + radius), None, "black", 4 * _LINE)
    return to_pixels(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _draw_text(chance: random.Random) -> Pixels:
    """Letters and digits, black on white, each in the middle of a cell."""
    font = ImageFont.load_default(size=26)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    canvas = ImageDraw.Draw(image)
    for top in range(0, SIDE, _CELL):
        for left in range(0, SIDE, _CELL):
            middle = (left + _CELL // 2, top + _CELL // 2)
            canvas.text(middle, chance.choice(_LETTERS), "black", font, "mm")
    return to_pixels(image)


def _draw_colours(chance: random.Random) -> Pixels:
    """Patches of any colour."""
    count = SIDE // _CELL
    return _enlarge([[chance.uniform(-1, 1) for _ in range(3)] for _ in range(count**2)], count)


def _draw_noise(chance: random.Random) -> Pixels:
    """Grains of grey, normally distributed."""
    count = SIDE // _GRAIN
    greys = [max(-1.0, min(1.0, chance.gauss(0, 0.4))) for _ in range(count**2)]
    return _enlarge([[grey] * 3 for grey in greys], count)


def _enlarge(colours: list[list[float]], count: int) -> Pixels:
    """`count` × `count` colours as patches that fill a scene."""
    grid = torch.tensor(colours).T.reshape(1, 3, count, count)
    return F.interpolate(grid, (SIDE, SIDE), mode="nearest")


def _draw_people() -> Pixels | None:
    """People that the embedded autoencoder was never shown, four a scene; None without the font."""
    from scripts.embedded.emojis import draw_emojis, list_emojis

    try:
        held_out = [emoji for emoji in list_emojis() if emoji.held_out]
    except SpecError:
        return None
    chosen = random.Random(0).sample(held_out, PEOPLE)
    glyphs = torch.from_numpy(draw_emojis(chosen)).permute(0, 3, 1, 2).float() / 255
    white = glyphs[:, :3] * glyphs[:, 3:] + 1 - glyphs[:, 3:]
    rows = white.unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
    return (rows.flatten(4).flatten(2, 3) * 2 - 1).contiguous()


def _load_photographs() -> Pixels:
    """The middles of photographs that scikit-image brings in its package."""
    from skimage import data

    images = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    scenes = []
    for image in images:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        box = (left, top, left + side, top + side)
        scenes.append(to_pixels(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)))
    return torch.cat(scenes)
