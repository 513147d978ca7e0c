"""Small pictures that travel inside the page itself, so that nothing is published for them."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import NamedTuple

from PIL import Image

SIDE = 112  # pixels of the longer side at most
QUALITY = 82


class Thumb(NamedTuple):
    """A small picture as a URI, and what it shows."""

    uri: str
    caption: str


def make_thumb(image: Image.Image, caption: str) -> Thumb:
    """`image`, made small."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, format="JPEG", quality=QUALITY)
    code = base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumb(f"data:image/jpeg;base64,{code}", caption)
