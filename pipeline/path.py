"""Points: everything that decides a frame. Paths: the points between those of the keyframes.

Knows noise and embeds; knows no scheduler, no autoencoder and no pixels. Where a point comes from
is its maker's business: a prompt and a seed, or one day a picture.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar, final

import torch
from torch import Tensor

from pipeline.arc import Arc
from pipeline.interpolate import blend_embeds, catmull_rom, mix, mix_embeds, neighbours, slerp
from pipeline.noise import NoiseMix
from pipeline.spec import BlendMode
from pipeline.tensors import Latents, Noise, PromptEmbeds

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in the space that a frame is rendered from; each tensor has batch size 1.

    `step_noise` feeds the schedulers that draw noise at each step. `start` are the latents of an
    image to start from instead of noise alone.
    """

    noise: Noise
    step_noise: NoiseMix
    prompt_embeds: PromptEmbeds
    negative_prompt_embeds: PromptEmbeds
    guidance_scale: float
    start: Latents | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Path:
    """Through `keypoints` in their order, in a `loop` back to the first: a point at each position.

    Straight, it goes to the next on a great circle of noise, and prompts are blended between the
    two. Smooth, it has no corner: the weights are those of Catmull and Rom, and each way is gone
    evenly in the angle of the noise. All that a point holds is mixed by the same weights. What two
    keypoints share stays as it is, bit for bit, and so do the keypoints themselves.

    `widths` are those of several text encoders' blocks. The keypoints have as many tokens each, and
    no `start`, which nothing is known to lie between.
    """

    keypoints: Sequence[Point]
    loop: bool = False
    is_smooth: bool = True
    blend: BlendMode = "nlerp"
    widths: Sequence[int] = ()

    def __post_init__(self) -> None:
        if len(self.keypoints) < 2:
            raise ValueError(f"{len(self.keypoints)} keypoints: a path has at least 2")
        if any(point.start is not None for point in self.keypoints):
            raise ValueError("a keypoint starts from an image: must be from noise alone")

    def __call__(self, position: float) -> Point:
        """The point at `position` in [0, 1]."""
        index, share = self._find(position)
        if share == 0:
            return self.keypoints[index % len(self.keypoints)]
        if self._is_curved:
            return self._mix(index, share)
        return self._blend(index, share)

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """The positions of the keypoints, and 1 where a loop closes.

        On a smooth path they are as far apart as the noises, so that nothing changes its speed.
        """
        lengths = self._lengths if self._is_even else [1.0] * self.ways
        ends = [0.0, *accumulate(lengths)]
        return (*(end / ends[-1] for end in ends[:-1]), 1.0)

    @cached_property
    def corners(self) -> tuple[float, ...]:
        """The positions where the path may bend."""
        return () if self._is_even else self.bounds

    @property
    def ways(self) -> int:
        """How many ways between neighbouring keypoints there are."""
        return len(self.keypoints) if self.loop else len(self.keypoints) - 1

    @property
    def _is_curved(self) -> bool:
        """Two keypoints have no other way between them than the straight one."""
        return self.is_smooth and len(self.keypoints) > 2

    @cached_property
    def _is_even(self) -> bool:
        """Whether all of a smooth path is gone at one speed: noise moves on all ways, or on none.

        Where it moves on some, there is no common measure of how long the ways are.
        """
        moving = [length > 0 for length in self._lengths]
        return self._is_curved and all(moving) == any(moving)

    @cached_property
    def _arcs(self) -> list[Arc]:
        noises = [point.noise for point in self.keypoints]
        count = len(noises)
        return [
            Arc([noises[k] for k in neighbours(way, count, self.loop)]) for way in range(self.ways)
        ]

    @cached_property
    def _lengths(self) -> list[float]:
        lengths = [arc.length for arc in self._arcs] if self._is_curved else [0.0] * self.ways
        return lengths if any(lengths) else [1.0] * self.ways

    def _find(self, position: float) -> tuple[int, float]:
        """The way that `position` lies on, and what share of it is gone."""
        if not 0 <= position <= 1:
            raise ValueError(f"position = {position}: must be between 0 and 1")
        index = bisect_right(self.bounds, position) - 1
        if index == self.ways:
            return index, 0.0
        start, end = self.bounds[index : index + 2]
        return index, (position - start) / (end - start)

    def _blend(self, index: int, share: float) -> Point:
        """On the straight way from a keypoint to the next."""
        a, b = self.keypoints[index], self.keypoints[(index + 1) % len(self.keypoints)]
        (seed_a, *more_a), (seed_b, *more_b) = a.step_noise.seeds, b.step_noise.seeds
        if more_a or more_b:
            step_noise = NoiseMix.mixture([a.step_noise, b.step_noise], [1 - share, share])
        else:
            step_noise = NoiseMix.between(seed_a, seed_b, share)

        def blend(p: Tensor, q: Tensor) -> Tensor:
            return blend_embeds(p, q, share, self.blend, self.widths)

        return Point(
            noise=_unless_same(a.noise, b.noise, lambda p, q: slerp(p, q, share)),
            step_noise=step_noise,
            prompt_embeds=_blend_prompts(a.prompt_embeds, b.prompt_embeds, blend, share),
            negative_prompt_embeds=_blend_prompts(
                a.negative_prompt_embeds, b.negative_prompt_embeds, blend, share
            ),
            guidance_scale=_mix_numbers([a.guidance_scale, b.guidance_scale], [1 - share, share]),
        )

    def _mix(self, index: int, share: float) -> Point:
        """On the smooth way from a keypoint to the next."""
        around = neighbours(index, len(self.keypoints), self.loop)
        points = [self.keypoints[k] for k in around]
        weights = catmull_rom(self._arcs[index].travel(share))

        def mix_prompts(prompts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
            return mix_embeds(prompts, weights, self.blend, self.widths)

        return Point(
            noise=_mix_distinct([p.noise for p in points], weights, mix),
            step_noise=NoiseMix.mixture([p.step_noise for p in points], weights),
            prompt_embeds=_mix_all([p.prompt_embeds for p in points], weights, mix_prompts),
            negative_prompt_embeds=_mix_all(
                [p.negative_prompt_embeds for p in points], weights, mix_prompts
            ),
            guidance_scale=_mix_numbers([p.guidance_scale for p in points], weights),
        )


Blend = Callable[[Tensor, Tensor], Tensor]
Mix = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


def _unless_same(a: Tensor, b: Tensor, blend: Blend) -> Tensor:
    return a if torch.equal(a, b) else blend(a, b)


def _blend_prompts(a: PromptEmbeds, b: PromptEmbeds, blend: Blend, share: float) -> PromptEmbeds:
    pooled = None
    if a.pooled is not None and b.pooled is not None:
        pooled = _unless_same(a.pooled, b.pooled, lambda p, q: slerp(p, q, share))
    return PromptEmbeds(_unless_same(a.embeds, b.embeds, blend), pooled)


def _mix_all(prompts: Sequence[PromptEmbeds], weights: Sequence[float], mixed: Mix) -> PromptEmbeds:
    pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
    return PromptEmbeds(
        _mix_distinct([prompt.embeds for prompt in prompts], weights, mixed),
        _mix_distinct(pooled, weights, mix) if pooled else None,
    )


def _mix_distinct(tensors: Sequence[Tensor], weights: Sequence[float], mixed: Mix) -> Tensor:
    """Equal tensors count as one with their weights together, and one alone stays as it is."""
    kinds: list[Tensor] = []
    shares: list[float] = []
    for tensor, weight in zip(tensors, weights, strict=True):
        for k, known in enumerate(kinds):
            if known is tensor or torch.equal(known, tensor):
                shares[k] += weight
                break
        else:
            kinds.append(tensor)
            shares.append(weight)
    return kinds[0] if len(kinds) == 1 else mixed(kinds, shares)


def _mix_numbers(numbers: Sequence[float], weights: Sequence[float]) -> float:
    """Never below 0, where negative weights could lead, and exact where all are equal."""
    if len(set(numbers)) == 1:
        return numbers[0]
    return max(sum(n * w for n, w in zip(numbers, weights, strict=True)), 0.0)
