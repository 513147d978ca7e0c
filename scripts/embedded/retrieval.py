"""Prompts, drawn by a model, and whether the nearest of all renders is the one that was asked for.

Knows what can be asked of the embedded model; knows nothing of codecs and arithmetic.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pipeline.model import Model
from pipeline.path import Point
from pipeline.render import points, render
from pipeline.spec import Sampling, StillSpec
from pipeline.tensors import Pixels
from scripts.embedded.captions import COLOURS, WHITE, is_held_out
from scripts.embedded.compose import place
from scripts.embedded.emojis import Emoji, draw_emojis, list_emojis
from scripts.embedded.judge import measure_grounds, rank, shrink

FIRST_SEED = 1_000_000  # far from any seed that a sheet was chosen by


@dataclass(frozen=True)
class Renders:
    """What there is to draw, and how it looks: `rgba` is uint8, (emojis, 128, 128, 4)."""

    emojis: list[Emoji]
    rgba: Tensor

    @classmethod
    def load(cls) -> Self:
        """All that the font has."""
        emojis = list_emojis()
        return cls(emojis, torch.from_numpy(draw_emojis(emojis)))

    def draw(self, index: int, colour: str = WHITE) -> Pixels:
        """One of them, (1, 3, 128, 128), on a ground of `colour`."""
        ground = (torch.tensor(COLOURS[colour]) / 255).view(1, 3, 1, 1)
        return place(self.rgba[index, None], ground, torch.ones(1), torch.zeros(1, 2))

    def looks(self, colour: str) -> Pixels:
        """All of them on a ground of `colour`, as small as the judge sees them."""
        ground = (torch.tensor(COLOURS[colour]) / 255).view(1, 3, 1, 1)
        return (self._small[:, :3] + (1 - self._small[:, 3:]) * ground) * 2 - 1

    @cached_property
    def _small(self) -> Tensor:
        """Shrunk once for all grounds: a plain ground is the same before and after."""
        parts = []
        for rgba in self.rgba.split(256):
            image = rgba.permute(0, 3, 1, 2).float() / 255
            parts.append(shrink(torch.cat([image[:, :3] * image[:, 3:], image[:, 3:]], 1)))
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, and what it asks for: an emoji, by index, on a ground."""

    prompt: str
    index: int
    colour: str = WHITE


def choose_seen(emojis: Sequence[Emoji], prompts: int) -> dict[str, list[Request]]:
    """About `prompts` names that training has seen, half of them things and half people."""
    draw = random.Random(0)
    seen = [i for i, emoji in enumerate(emojis) if not emoji.held_out]
    things = [i for i in seen if not emojis[i].tones]
    people = [i for i in seen if emojis[i].tones]
    chosen = {
        "things": draw.sample(things, min(len(things), prompts - prompts // 2)),
        "people": draw.sample(people, min(len(people), prompts // 2)),
    }
    return {
        group: [Request(prompt=emojis[i].name, index=i) for i in indices]
        for group, indices in chosen.items()
    }


def choose_held_out(emojis: Sequence[Emoji]) -> dict[str, list[Request]]:
    """Every composition that training never sees: people on white, faces on coloured grounds."""
    named = list(enumerate(emojis))
    return {
        "held_out_people": [Request(prompt=e.name, index=i) for i, e in named if e.held_out],
        "held_out_faces": [
            Request(prompt=f"{e.name} on a {colour} background", index=i, colour=colour)
            for i, e in named
            for colour in COLOURS
            if not e.held_out and is_held_out(e, colour)
        ],
    }


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Pictures, (number, 3, height, width), and the seconds that each of them took."""

    pixels: Pixels
    seconds: float


def draw_prompts(model: Model, sampling: Sampling, prompts: Sequence[str]) -> Drawing:
    """One picture of each of `prompts`, taken literally, each with a seed of its own."""

    def all_points() -> Iterator[Point]:
        for index, prompt in enumerate(prompts):
            seed = FIRST_SEED + index
            yield from points(
                model, StillSpec(prompt=prompt, plain=True, seed=seed, sampling=sampling)
            )

    started = time.perf_counter()
    pixels = draw_points(model, sampling, all_points())
    return Drawing(pixels=pixels, seconds=(time.perf_counter() - started) / len(prompts))


def draw_points(model: Model, sampling: Sampling, points: Iterable[Point]) -> Pixels:
    """The pictures of `points`."""
    return torch.cat([frame.pixels for frame in render(model, sampling, points)])


def rank_requests(drawn: Pixels, requests: Sequence[Request], renders: Renders) -> Tensor:
    """How many renders, on the ground asked for, are nearer to each picture than its own.

    A picture on another ground than was asked for is as far off as can be.
    """
    right = match_grounds(drawn, requests)
    ranks = torch.full((len(requests),), len(renders.emojis))
    for colour in dict.fromkeys(request.colour for request in requests):
        asked = torch.tensor([request.colour == colour for request in requests])
        own = torch.tensor([r.index for r in requests if r.colour == colour])
        ranks[asked] = rank(drawn[asked], renders.looks(colour), own)
    return ranks.where(right, len(renders.emojis))


def match_grounds(drawn: Pixels, requests: Sequence[Request]) -> Tensor:
    """Whether the ground of each picture is nearer to the colour asked for than to any other.

    True where a prompt names none.
    """
    colours = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    nearest = torch.cdist(measure_grounds(drawn), colours).argmin(1)
    asked = torch.tensor([list(COLOURS).index(request.colour) for request in requests])
    return (nearest == asked) | (asked == list(COLOURS).index(WHITE))


def count_hits(ranks: Tensor) -> dict[str, float]:
    """The shares of the pictures whose own render is the nearest, and among the nearest five."""
    return {f"top{count}": (ranks < count).float().mean().item() for count in (1, 5)}
