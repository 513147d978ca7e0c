"""Noise from seeds: what a sample starts from, and what stochastic schedulers add at each step.

Knows no model and no path. Noise is drawn on the CPU, one generator a seed, so that a seed means
the same everywhere. Several seeds are mixed, in the start and in every step by the same weights:
else a morph under a stochastic scheduler would flicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.interpolate import mix, slerp
from pipeline.tensors import Noise


@dataclass(frozen=True)
class NoiseMix:
    """Seeds and how much of each: a mixture of them, or two on the great circle between them."""

    seeds: tuple[int, ...]
    weights: tuple[float, ...]
    is_arc: bool = False

    @classmethod
    def single(cls, seed: int) -> Self:
        """One seed alone."""
        return cls((seed,), (1.0,))

    @classmethod
    def between(cls, start: int, end: int, weight: float) -> Self:
        """`weight` of the great circle from one seed to another; at its ends one seed alone."""
        if start == end or weight in (0, 1):
            return cls.single(end if weight == 1 else start)
        return cls((start, end), (1 - weight, weight), is_arc=True)

    @classmethod
    def mixture(cls, mixes: Sequence[NoiseMix], weights: Sequence[float]) -> Self:
        """Several in one: what each seed weighs in all of them together."""
        shares: dict[int, float] = {}
        for part, weight in zip(mixes, weights, strict=True):
            for seed, share in zip(part.seeds, part.weights, strict=True):
                shares[seed] = shares.get(seed, 0.0) + weight * share
        used = {seed: share for seed, share in shares.items() if share != 0}
        if len(used) == 1:
            return cls.single(*used)
        return cls(tuple(used), tuple(used.values()))

    def draw(self, shape: tuple[int, ...]) -> Noise:
        """The unit Gaussian to start from, (1, *shape), in float32 on the CPU."""
        return self.blend([draw_noise(seed, shape) for seed in self.seeds])

    def continue_noise(self, shape: tuple[int, ...]) -> torch.Generator:
        """A generator that gives what follows `draw`: step noise, to be drawn `within` its mode."""
        generators = [continue_noise(seed, shape) for seed in self.seeds]
        return generators[0] if len(generators) == 1 else MixedGenerator(self, generators)

    def blend(self, noises: Sequence[Tensor]) -> Tensor:
        """One noise of each seed, (batch, …), as one."""
        if self.is_arc:
            start, end = noises
            return slerp(start, end, self.weights[1])
        return noises[0] if len(noises) == 1 else mix(noises, self.weights)


class MixedGenerator(torch.Generator):
    """Several generators as one: to be asked inside `drawing` only."""

    def __new__(cls, *_: object) -> Self:
        """A generator's C part takes a device alone."""
        generator: Self = super().__new__(cls)
        return generator

    def __init__(self, noise_mix: NoiseMix, generators: Sequence[torch.Generator]) -> None:
        self.noise_mix, self.generators = noise_mix, generators


class _Drawing(TorchFunctionMode):
    """While it is entered, `torch.randn` of a `MixedGenerator` mixes; for this thread alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        mixed = kwargs.get("generator")
        if func is not torch.randn or not isinstance(mixed, MixedGenerator):
            return func(*args, **kwargs)
        return mixed.noise_mix.blend(
            [func(*args, **kwargs | {"generator": g}) for g in mixed.generators]
        )


def drawing(generators: Sequence[torch.Generator]) -> AbstractContextManager[object]:
    """Where `generators` may be asked for noise; nothing at all if none of them is mixed."""
    is_mixed = any(isinstance(generator, MixedGenerator) for generator in generators)
    return _Drawing() if is_mixed else nullcontext()


def draw_noise(seed: int, shape: tuple[int, ...]) -> Noise:
    """The unit Gaussian of `seed`, (1, *shape): from the CPU, in float32, the same everywhere."""
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def continue_noise(seed: int, shape: tuple[int, ...]) -> torch.Generator:
    """The generator of `seed` after its start noise is drawn: what it gives next is step noise."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn((1, *shape), generator=generator)
    return generator
