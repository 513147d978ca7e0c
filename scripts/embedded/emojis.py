"""The training pictures: every emoji that draws as one glyph, with its name as words.

Knows nothing of captions' variety, backgrounds or training: see `captions` and `compose`.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import SpecError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
GLYPH_SIZE = 109  # the one bitmap size the font has
GLYPH_WIDTH = 140  # wider is more than one glyph: the font does not know the sequence
SIDE = 128
DRAWN_WIDTH = 120  # leaves a margin, so that small shifts and zooms stay inside

_TONE = re.compile(r"_(light|medium-light|medium|medium-dark|dark)_skin_tone")
_PEOPLE = {"man", "woman", "person", "boy", "girl", "child", "men", "women", "people"}


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One picture of the training set: its characters, its name, and what it is a variant of."""

    characters: str
    name: str
    tones: tuple[str, ...]
    base: str
    aliases: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """A composition (one tone, one role) that training never sees: one in seven, by name."""
        role = set(self.base.split()) & _PEOPLE
        return len(self.tones) == 1 and bool(role) and zlib.crc32(self.name.encode()) % 7 == 0


def _is_flag(characters: str) -> bool:
    return all("\U0001f1e6" <= c <= "\U0001f1ff" for c in characters) or "\U000e007f" in characters


def _words(key: str) -> str:
    return key.strip(":").replace("_", " ").replace("’", "'").lower()


def _describe(characters: str, entry: dict) -> Emoji:
    key = entry["en"]
    tones = tuple(_TONE.findall(key))
    base = _words(_TONE.sub("", key))
    if _is_flag(characters):
        base = f"flag of {base}"
    name = ", ".join([base, *(f"{tone} skin tone" for tone in dict.fromkeys(tones))])
    if len(tones) > 1 and tones[0] != tones[1]:
        name = f"{base}, {tones[0]} skin tone and {tones[1]} skin tone"
    aliases = tuple(_words(a) for a in entry.get("alias", ()) if not tones and len(a) > 5)
    return Emoji(characters=characters, name=name, tones=tones, base=base, aliases=aliases)


def list_emojis() -> list[Emoji]:
    """Every fully qualified emoji that the font draws as one glyph, in code point order."""
    import emoji

    font = _load_font()
    missing = _draw(font, "\U000ffffd").tobytes()
    found = []
    for characters, entry in sorted(emoji.EMOJI_DATA.items()):
        if entry["status"] != emoji.STATUS["fully_qualified"]:
            continue
        if font.getlength(characters) > GLYPH_WIDTH:
            continue
        if _draw(font, characters).tobytes() != missing:
            found.append(_describe(characters, entry))
    return found


def draw_emojis(emojis: list[Emoji]) -> np.ndarray:
    """Pictures of `emojis` as uint8 RGBA, shape (number, SIDE, SIDE, 4), on transparent ground."""
    font = _load_font()
    return np.stack([np.asarray(_fit(_draw(font, e.characters))) for e in emojis])


def _load_font() -> ImageFont.FreeTypeFont:
    if not FONT.exists():
        raise SpecError(f"{FONT.name} is missing: apt-get install fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), GLYPH_SIZE, layout_engine=ImageFont.Layout.RAQM)


def _draw(font: ImageFont.FreeTypeFont, characters: str) -> Image.Image:
    glyph = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(glyph).text((0, 0), characters, font=font, embedded_color=True)
    return glyph


def _fit(glyph: Image.Image) -> Image.Image:
    height = round(glyph.height * DRAWN_WIDTH / glyph.width)
    small = glyph.resize((DRAWN_WIDTH, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(small, ((SIDE - DRAWN_WIDTH) // 2, (SIDE - height) // 2))
    return canvas
