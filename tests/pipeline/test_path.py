"""Paths: what lies between keyframes, what is kept exactly, and where they bend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import SpecError
from pipeline.interpolate import blend_embeds, slerp
from pipeline.noise import NoiseMix
from pipeline.path import Path, Point
from pipeline.tensors import PromptEmbeds

quick = settings(deadline=None, max_examples=30)

SHAPE = (4, 16, 16)
FLOAT32 = 1e-6  # of a radian or of a length: what is left of float64 after rounding


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embeds(seed: int, pooled: bool) -> PromptEmbeds:
    return PromptEmbeds(draw(seed, 1, 8, 16), draw(seed, 1, 12) if pooled else None)


def keypoint(seed: int, prompt: int, scale: float = 3.0, *, pooled: bool = False) -> Point:
    noise = NoiseMix.single(seed)
    return Point(
        noise=noise.draw(SHAPE),
        step_noise=noise,
        prompt_embeds=embeds(prompt, pooled),
        negative_prompt_embeds=embeds(99, pooled),
        guidance_scale=scale,
    )


def points(seeds: Sequence[int], prompts: Sequence[int] | None = None) -> list[Point]:
    return [keypoint(seed, prompt) for seed, prompt in zip(seeds, prompts or seeds, strict=True)]


def angle(a: Tensor, b: Tensor) -> float:
    u, v = a.double().flatten(), b.double().flatten()
    u, v = u / u.norm(), v / v.norm()
    return 2 * math.atan2((u - v).norm().item(), (u + v).norm().item())


def same(a: Point, b: Point) -> bool:
    tensors = [(a.noise, b.noise)] + [
        (getattr(p, part), getattr(q, part))
        for p, q in (
            (a.prompt_embeds, b.prompt_embeds),
            (a.negative_prompt_embeds, b.negative_prompt_embeds),
        )
        for part in ("embeds", "pooled")
        if getattr(p, part) is not None
    ]
    return (
        all(torch.equal(p, q) for p, q in tensors)
        and a.guidance_scale == b.guidance_scale
        and a.step_noise == b.step_noise
    )


every_kind = pytest.mark.parametrize(
    ("loop", "smooth"), [(False, False), (False, True), (True, False), (True, True)]
)


@every_kind
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_keyframes_are_met_bit_for_bit(loop: bool, smooth: bool, count: int) -> None:
    keypoints = points(range(count))
    path = Path(keypoints=keypoints, loop=loop, is_smooth=smooth)
    assert len(path.bounds) == count + loop
    assert (path.bounds[0], path.bounds[-1]) == (0, 1)
    for bound, point in zip(path.bounds, [*keypoints, keypoints[0]], strict=False):
        assert same(path(bound), point)


@every_kind
@quick
@given(position=st.floats(0, 1))
def test_noise_stays_on_its_shell(loop: bool, smooth: bool, position: float) -> None:
    path = Path(keypoints=points([1, 2, 3, 4]), loop=loop, is_smooth=smooth)
    # Radii of 1,024 numbers are 32 ± 0.7; a mixture's is between those, or hardly beyond.
    assert 0.9 < path(position).noise.std() < 1.1


@every_kind
def test_what_all_keyframes_share_stays_as_it_is(loop: bool, smooth: bool) -> None:
    keypoints = points([7, 7, 7, 7], [1, 2, 3, 4])
    path = Path(keypoints=keypoints, loop=loop, is_smooth=smooth)
    for position in (0.1, 0.37, 0.5, 0.93):
        point = path(position)
        assert torch.equal(point.noise, keypoints[0].noise)
        assert point.step_noise == NoiseMix.single(7)
        negative = point.negative_prompt_embeds.embeds
        assert torch.equal(negative, keypoints[0].negative_prompt_embeds.embeds)
        assert point.guidance_scale == 3.0
        assert not torch.equal(point.prompt_embeds.embeds, keypoints[0].prompt_embeds.embeds)


def test_a_straight_way_is_slerp_of_noise_and_a_blend_of_prompts() -> None:
    a, b = keypoint(1, 1, 2.0, pooled=True), keypoint(2, 2, 6.0, pooled=True)
    point = Path(keypoints=[a, b], is_smooth=False, widths=(6, 10))(0.25)
    assert torch.equal(point.noise, slerp(a.noise, b.noise, 0.25))
    assert torch.equal(point.noise, point.step_noise.draw(SHAPE))
    expected = blend_embeds(a.prompt_embeds.embeds, b.prompt_embeds.embeds, 0.25, "nlerp", (6, 10))
    assert torch.equal(point.prompt_embeds.embeds, expected)
    assert a.prompt_embeds.pooled is not None and b.prompt_embeds.pooled is not None
    pooled = slerp(a.prompt_embeds.pooled, b.prompt_embeds.pooled, 0.25)
    assert point.prompt_embeds.pooled is not None
    assert torch.equal(point.prompt_embeds.pooled, pooled)
    assert point.guidance_scale == 3.0


def test_a_smooth_path_through_two_is_the_straight_one() -> None:
    a, b = points([1, 2])
    straight = Path(keypoints=[a, b], is_smooth=False)
    smooth = Path(keypoints=[a, b], is_smooth=True)
    assert all(same(smooth(k / 7), straight(k / 7)) for k in range(8))


@pytest.mark.parametrize("loop", [False, True])
def test_a_smooth_path_is_gone_evenly_and_has_no_corner(loop: bool) -> None:
    path = Path(keypoints=points([1, 2, 3, 4]), loop=loop)
    assert path.corners == ()
    noises = [path(k / 300).noise for k in range(301)]
    steps = [angle(a, b) for a, b in pairwise(noises)]
    # A chord is shorter than its arc by the curvature: 1e-5 here. The rest is rounding.
    assert max(steps) / min(steps) < 1.01
    assert max(turns(path, lambda point: point.noise)) < 0.02


def turns(path: Path, part: Callable[[Point], Tensor]) -> list[float]:
    """How far the direction of `part` turns at each keyframe, in radians.

    Between places 1e-4 apart a curve of these paths turns by some 0.005, and a corner by a radian.
    """
    corners = []
    for bound in path.bounds[0 if path.loop else 1 : -1]:
        before, after = bound - 1e-4, bound + 1e-4
        start, middle, end = (part(path(place % 1)).double() for place in (before, bound, after))
        corners.append(angle(middle - start, end - middle))
    return corners


def test_a_straight_path_bends_at_its_keyframes_and_says_so() -> None:
    path = Path(keypoints=points([1, 2, 3, 4]), is_smooth=False)
    assert path.bounds == (0, 1 / 3, 2 / 3, 1) and path.corners == path.bounds
    assert min(turns(path, lambda point: point.noise)) > 1


@pytest.mark.parametrize("loop", [False, True])
def test_prompts_have_no_corner_on_a_smooth_path(loop: bool) -> None:
    path = Path(keypoints=points([1, 2, 3, 4]), loop=loop)
    assert max(turns(path, lambda point: point.prompt_embeds.embeds)) < 0.02


def test_noise_that_moves_on_some_ways_only_has_corners() -> None:
    path = Path(keypoints=points([1, 1, 1, 1, 2, 3], [1, 2, 3, 4, 5, 6]))
    assert path.corners == path.bounds == (0, 0.2, 0.4, pytest.approx(0.6), 0.8, 1)


def test_a_loop_closes() -> None:
    path = Path(keypoints=points([1, 2, 3]), loop=True)
    assert angle(path(0.999).noise, path(0).noise) < 0.03
    assert same(path(1.0), path(0.0))


def test_guidance_is_mixed_and_never_negative() -> None:
    scales = [10.0, 0.0, 0.0, 10.0]
    keypoints = [keypoint(k, k, scale) for k, scale in enumerate(scales)]
    path = Path(keypoints=keypoints)
    found = [path(k / 50).guidance_scale for k in range(51)]
    assert min(found) == 0 and max(found) >= 10


def test_the_great_circle_of_prompts_needs_a_straight_path() -> None:
    path = Path(keypoints=points([1, 2, 3]), blend="slerp")
    with pytest.raises(SpecError, match="needs path = 'straight'"):
        path(0.3)


@pytest.mark.parametrize("position", [-0.1, 1.1, math.nan])
def test_there_is_nothing_beyond_the_ends(position: float) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        Path(keypoints=points([1, 2]))(position)


def test_a_path_needs_two_keypoints_and_no_start_image() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Path(keypoints=points([1]))
    a, b = points([1, 2])
    started = Point(**{**vars(b), "start": b.noise})
    with pytest.raises(ValueError, match="must be from noise alone"):
        Path(keypoints=[a, started])
