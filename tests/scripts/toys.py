"""Pictures in the place of emoji: plain shapes, which need no font."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scripts.embedded.emojis import Emoji
from scripts.embedded.retrieval import Renders


def create_renders(names: Sequence[str], tones: Sequence[str] = ()) -> Renders:
    """One blotched disc for each name, alone and in every tone."""
    emojis = [
        Emoji(
            characters="x",
            name=f"{name}, {tone} skin tone" if tone else name,
            tones=(tone,) if tone else (),
            base=name,
            aliases=(),
        )
        for name in names
        for tone in ("", *tones)
    ]
    return Renders(emojis, torch.stack([_draw(seed) for seed in range(len(emojis))]))


def _draw(seed: int) -> Tensor:
    """Blotches of random colours in a disc, uint8, (128, 128, 4), on transparent ground."""
    generator = torch.Generator().manual_seed(seed)
    blotches = torch.randint(256, (3, 4, 4), generator=generator, dtype=torch.uint8)
    colours = blotches.repeat_interleave(32, 1).repeat_interleave(32, 2)
    ways = torch.linspace(-1, 1, 128)
    disc = (ways.square()[:, None] + ways.square()) < 0.85
    return torch.cat([colours, 255 * disc[None].to(torch.uint8)]).permute(1, 2, 0).contiguous()
