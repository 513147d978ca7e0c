"""The length of a smooth way on the shell, and even travel along it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.arc import Arc
from pipeline.interpolate import catmull_rom, mix

quick = settings(deadline=None, max_examples=20)


def draw(seed: int) -> Tensor:
    return torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(seed))


def angle(a: Tensor, b: Tensor) -> float:
    u, v = a.double().flatten(), b.double().flatten()
    u, v = u / u.norm(), v / v.norm()
    return 2 * math.atan2((u - v).norm().item(), (u + v).norm().item())


def walk(noises: list[Tensor], weights: list[float]) -> list[float]:
    """The angles between mixtures at neighbouring weights, by the mixtures themselves."""
    exact = [noise.double() for noise in noises]
    mixed = [mix(exact, catmull_rom(weight)) for weight in weights]
    return [angle(a, b) for a, b in pairwise(mixed)]


@quick
@given(st.lists(st.integers(0, 6), min_size=4, max_size=4).filter(lambda s: s[1] != s[2]))
def test_the_length_is_that_of_the_mixtures(seeds: list[int]) -> None:
    noises = [draw(seed) for seed in seeds]
    chords = walk(noises, [k / 400 for k in range(401)])
    # A polygon with 400 sides is shorter than its curve by about one part in 400².
    assert Arc(noises).length == pytest.approx(sum(chords), rel=1e-4)


@quick
@given(st.permutations([1, 2, 3, 4]))
def test_equal_shares_are_equal_angles(seeds: list[int]) -> None:
    noises = [draw(seed) for seed in seeds]
    arc = Arc(noises)
    steps = walk(noises, [arc.travel(k / 100) for k in range(101)])
    plain = walk(noises, [k / 100 for k in range(101)])
    # What bends between two steps is left; without it the speed varies many times as much.
    assert max(steps) / min(steps) < 1.001 < 1.1 < max(plain) / min(plain)


@quick
@given(st.floats(0, 1), st.floats(0, 1))
def test_travel_never_goes_back(first: float, second: float) -> None:
    arc = Arc([draw(seed) for seed in range(4)])
    low, high = sorted((first, second))
    assert 0 <= arc.travel(low) <= arc.travel(high) + 1e-12 <= 1 + 1e-12


def test_ends_stay() -> None:
    arc = Arc([draw(seed) for seed in range(4)])
    assert (arc.travel(0), arc.travel(1)) == (0, 1)


def test_noise_that_stays_has_no_length_and_the_weight_is_the_share() -> None:
    arc = Arc([draw(3)] * 4)
    assert arc.length == 0 and arc.travel(0.3) == 0.3


def test_two_noises_are_joined_by_their_great_circle() -> None:
    a, b = draw(1), draw(2)
    assert Arc([a, a, b, b]).length == pytest.approx(angle(a, b), abs=1e-9)
