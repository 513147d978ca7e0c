"""Captions: an emoji's name as people might write it, so that the model composes, not recites."""

from __future__ import annotations

import random
import zlib

from scripts.embedded.emojis import Emoji

WHITE = "white"
COLOURS: dict[str, tuple[int, int, int]] = {
    WHITE: (255, 255, 255),
    "sky blue": (135, 206, 235),
    "red": (214, 48, 49),
    "green": (67, 160, 71),
    "yellow": (250, 219, 80),
    "orange": (245, 150, 50),
    "purple": (126, 70, 170),
    "pink": (248, 170, 200),
    "black": (0, 0, 0),
    "gray": (140, 140, 140),
    "brown": (121, 85, 61),
    "navy blue": (25, 40, 100),
    "teal": (0, 140, 140),
    "beige": (235, 220, 190),
    "lavender": (205, 190, 240),
    "mint green": (165, 230, 195),
}


def is_held_out(emoji: Emoji, colour: str) -> bool:
    """Whether training never sees this emoji on this ground: held-out people, some faces."""
    if emoji.held_out:
        return True
    key = f"{emoji.name} on {colour}".encode()
    return "face" in emoji.name and colour != WHITE and zlib.crc32(key) % 9 == 0


def write_caption(emoji: Emoji, colour: str, draw: random.Random) -> str:
    """One caption of `emoji` on a ground of `colour`; white is named one time in ten only."""
    words = _write_subject(emoji, draw)
    if draw.random() < 0.25:
        words = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    if colour != WHITE or draw.random() < 0.1:
        words = draw.choice([f"{words} on a {colour} background", f"{words}, {colour} background"])
    return words


def _write_subject(emoji: Emoji, draw: random.Random) -> str:
    chance = draw.random()
    if emoji.tones and len(set(emoji.tones)) == 1:
        tone = emoji.tones[0]
        if chance < 0.15:
            return f"{tone} skin tone {emoji.base}"
        if chance < 0.30:
            return f"{emoji.base} with {tone} skin tone"
    if emoji.aliases and chance < 0.2:
        return draw.choice(emoji.aliases)
    if emoji.base.startswith("flag of ") and chance < 0.4:
        return f"{emoji.base.removeprefix('flag of ')} flag"
    words = emoji.name.split()
    if len(words) > 2 and not emoji.tones and chance > 0.92:
        words.pop(draw.randrange(len(words)))
    return " ".join(words)
