"""Time: how speed goes along a way, and which frames are where between keyframes.

Pure arithmetic on plain numbers. Knows no pictures, and nothing of how fast they change: that is
`retime`, which what is said here composes with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

from pipeline.errors import SpecError

Easing = Literal["linear", "smoothstep"] | tuple[float, float, float, float]


@dataclass(frozen=True)
class Moment:
    """A frame's place in time: keyframe `index` itself, or a `share` of the way to the next."""

    index: int
    share: float = 0.0


def lay_out(
    num_frames: int, holds: Sequence[int], durations: Sequence[float], *, loop: bool = False
) -> list[Moment]:
    """The moments of `num_frames` frames; every keyframe has one, and as many more as it holds.

    The others are shared among the ways between keyframes in proportion to their `durations`, of
    which a loop has as many as keyframes and an open morph one less. On each way they lie evenly.
    Raises `SpecError` for fewer frames than there must be.
    """
    ways = len(holds) if loop else len(holds) - 1
    if len(durations) != ways:
        raise ValueError(f"{len(durations)} durations for {ways} ways: must be as many")
    left = num_frames - len(holds) - sum(holds)
    if left < 0:
        held = f", which hold {sum(holds)} more" if any(holds) else ""
        raise SpecError(
            f"num_frames = {num_frames}: must be at least {num_frames - left}"
            f" for {len(holds)} keyframes{held}"
        )
    counts = [*_apportion(left, durations), 0]
    moments: list[Moment] = []
    for index, (hold, count) in enumerate(zip(holds, counts, strict=False)):
        moments += [Moment(index)] * (1 + hold)
        moments += [Moment(index, (k + 1) / (count + 1)) for k in range(count)]
    return moments


def _apportion(count: int, weights: Sequence[float]) -> list[int]:
    """`count` in whole parts, as near to the proportions of `weights` as they come.

    Each part's end is rounded, so no part is off by a frame for what others lost.
    """
    ends = [round(count * end / sum(weights)) for end in accumulate(weights, initial=0.0)]
    return [end - start for start, end in pairwise(ends)]


def check_easing(easing: Any) -> Any:
    """`easing` as it is given, if it is one. Raises `SpecError`."""
    if isinstance(easing, list):
        easing = tuple(easing)
    numbers = isinstance(easing, tuple) and all(type(x) in (int, float) for x in easing)
    if easing not in ("linear", "smoothstep") and not (numbers and len(easing) == 4):
        raise SpecError(_no_easing(easing))
    ease(easing, 0.5)
    return easing


def ease(easing: Easing, position: float) -> float:
    """Where `position` in [0, 1] moves to: "linear", "smoothstep" or a cubic Bézier x1, y1, x2, y2.

    The Bézier is that of CSS, from (0, 0) to (1, 1). 0 and 1 stay, and nothing goes back: a curve
    that would is a `SpecError`.
    """
    position = unit(position, "position")
    match easing:
        case "linear":
            return position
        case "smoothstep":
            return position * position * (3 - 2 * position)
        case (x1, y1, x2, y2):
            return _ease_bezier(x1, y1, x2, y2, position)
    raise SpecError(_no_easing(easing))


def _no_easing(easing: object) -> str:
    return f"easing = {easing!r}: must be linear, smoothstep or numbers x1, y1, x2, y2"


def _ease_bezier(x1: float, y1: float, x2: float, y2: float, position: float) -> float:
    _check_bezier(x1, y1, x2, y2)
    if position in (0, 1):
        return position

    # Bisection: x never falls, so neither does what is found, not even by rounding.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _bezier(x1, x2, middle) < position:
            low = middle
        else:
            high = middle
    return min(_bezier(y1, y2, high), 1.0)


def _bezier(first: float, second: float, s: float) -> float:
    """One coordinate of the curve 0, first, second, 1."""
    return 3 * (1 - s) ** 2 * s * first + 3 * (1 - s) * s**2 * second + s**3


def _check_bezier(x1: float, y1: float, x2: float, y2: float) -> None:
    curve = f"easing = {listed([x1, y1, x2, y2])}"
    if not (0 <= x1 <= 1 and 0 <= x2 <= 1):
        raise SpecError(f"{curve}: x1 and x2 must be between 0 and 1")

    # The slope of y is 3 times (1-s)² y1 + 2s(1-s) (y2-y1) + s² (1-y2), for s in [0, 1]: it is
    # nowhere negative exactly when the outer coefficients are not and the inner one hardly is.
    finite = math.isfinite(y1 - y2)
    if not (finite and y1 >= 0 and y2 <= 1 and y2 - y1 >= -math.sqrt(y1 * (1 - y2))):
        raise SpecError(f"{curve}: goes back on its way; y1 and y2 between 0 and 1 never do")


def unit(value: float, name: str) -> float:
    """`value`, if it is in [0, 1]. Raises ValueError under its `name`."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}: must be between 0 and 1")
    return float(value)


def listed(values: Sequence[float]) -> str:
    """Numbers for people: (1, 0.5, 2)."""
    return f"({', '.join(f'{value:g}' for value in values)})"
