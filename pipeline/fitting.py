"""Pictures of any size, brought to a size that a model takes, and back.

Knows sizes and images; knows no files, no pixels in [-1, 1] and no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from pipeline.errors import SpecError
from pipeline.spec import Fit

SMALLEST, LARGEST = 16, 8192
"""Pixels along a side, as in a spec."""

Size = tuple[int, int]
"""Width and height in pixels."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels; whole numbers under "pad"."""


@dataclass(frozen=True)
class Fitted:
    """A picture at its new size; `box` is what `fit_box` gives."""

    image: Image.Image
    box: Box


def choose_size(
    size: Size, area: int, multiple: int, width: int | None = None, height: int | None = None
) -> Size:
    """Width and height with the aspect of `size`, near `area`, in multiples of `multiple`.

    A side that is given stays, and the other follows it. A side that is not given is rounded, by
    half a `multiple` at most. Raises `SpecError` for a given side that is no multiple, and where
    the picture is so long that a side would be out of bounds.
    """
    for name, side in (("width", width), ("height", height)):
        if side is not None and side % multiple:
            raise SpecError(f"{name} = {side}: must be a multiple of {multiple}")

    aspect = size[0] / size[1]
    across = math.sqrt(area * aspect) if height is None else height * aspect
    across = across if width is None else width
    down = across / aspect if height is None else height

    chosen = round(across / multiple) * multiple, round(down / multiple) * multiple
    if not all(SMALLEST <= side <= LARGEST for side in chosen):
        raise SpecError(
            f"a picture of {size[0]} × {size[1]} pixels would become {chosen[0]} × {chosen[1]}: "
            f"sides must be between {SMALLEST} and {LARGEST}, say width and height"
        )
    return chosen


def fit_image(image: Image.Image, size: Size, fit: Fit) -> Fitted:
    """An RGB `image` at `size`, its aspect kept; one of that size comes back as it is.

    "crop" fills the size and cuts what hangs over, on both sides alike. "pad" shows all of it and
    repeats its edges outwards: an autoencoder then sees the picture itself nearly as it would with
    its true surroundings, more so than with a mirrored, grey or black border.
    """
    box = fit_box(image.size, size, fit)
    if image.size == size:
        return Fitted(image, box)
    if fit == "crop":
        return Fitted(image.resize(size, Image.Resampling.LANCZOS, box=box), box)
    left, top, right, bottom = map(int, box)
    whole = image.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    return Fitted(_extend(whole, size, (left, top)), box)


def fit_box(old: Size, new: Size, fit: Fit) -> Box:
    """What of a picture of size `old` fills `new` ("crop"), or where in `new` it lies ("pad")."""
    is_wider = new[0] * old[1] >= new[1] * old[0]
    if fit == "crop":
        width, height = float(old[0]), float(old[1])
        if is_wider:
            height = old[0] * new[1] / new[0]
        else:
            width = old[1] * new[0] / new[1]
        left, top = (old[0] - width) / 2, (old[1] - height) / 2
        return left, top, left + width, top + height
    columns, rows = new
    if is_wider:
        columns = max(1, round(new[1] * old[0] / old[1]))
    else:
        rows = max(1, round(new[0] * old[1] / old[0]))
    x, y = (new[0] - columns) // 2, (new[1] - rows) // 2
    return x, y, x + columns, y + rows


def _extend(image: Image.Image, size: Size, place: tuple[int, int]) -> Image.Image:
    """`image` at `place` in a picture of `size`, longer in one direction: its edges fill the rest.

    Each edge is stretched over all there is; the last covers the first, and the image both.
    """
    width, height = image.size
    beside = width < size[0]
    first = (0, 0, 1, height) if beside else (0, 0, width, 1)
    last = (width - 1, 0, width, height) if beside else (0, height - 1, width, height)
    extended = image.crop(first).resize(size, Image.Resampling.NEAREST)
    extended.paste(image.crop(last).resize(size, Image.Resampling.NEAREST), place)
    extended.paste(image, place)
    return extended
