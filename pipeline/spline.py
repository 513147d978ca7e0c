"""A cubic spline through tensors at places on a line.

Knows no model and no path.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


class Spline:
    """The cubic through `values`, (nodes, …), at rising `nodes`, twice differentiable.

    Its ends are not-a-knot: the first two cubics are one, and the last two. Two or three values are
    joined by the one polynomial through them. Everything is in float64 on the CPU.

    De Boor, "A practical guide to splines", 1978, chapter IV.
    """

    def __init__(self, nodes: Sequence[float], values: Tensor) -> None:
        self._nodes = list(nodes)
        self._values = values.cpu().double()
        self._curvatures = _curvatures(self._nodes, self._values)

    def __call__(self, position: float) -> Tensor:
        """The value at `position`, shaped like one of `values`."""
        k = min(max(bisect_right(self._nodes, position) - 1, 0), len(self._nodes) - 2)
        left, right = self._nodes[k : k + 2]
        width = right - left
        a, b = (right - position) / width, (position - left) / width
        line = a * self._values[k] + b * self._values[k + 1]
        bend = (a**3 - a) * self._curvatures[k] + (b**3 - b) * self._curvatures[k + 1]
        return line + width**2 / 6 * bend


def _curvatures(nodes: list[float], values: Tensor) -> Tensor:
    """The second derivatives at `nodes`, by elimination without pivots.

    The rows of the ends are put into their neighbours', and all rows are then diagonally dominant.
    """
    count, width = len(nodes), [b - a for a, b in pairwise(nodes)]
    bends = torch.zeros_like(values)
    if count < 3:
        return bends

    def turn(i: int) -> Tensor:
        return (values[i + 1] - values[i]) / width[i] - (values[i] - values[i - 1]) / width[i - 1]

    if count == 3:
        return (bends + 2 / (width[0] + width[1])) * turn(1)

    lower = [0.0, *width[:-1]]
    diagonal = [1.0, *(2 * (a + b) for a, b in pairwise(width))]
    upper = [0.0, *width[1:]]
    first, last = width[0] / width[1], width[-1] / width[-2]
    diagonal[1] += width[0] * (1 + first)
    upper[1] -= width[0] * first
    diagonal[-1] += width[-1] * (1 + last)
    lower[-1] -= width[-1] * last

    for i in range(1, count - 1):
        share = lower[i] / diagonal[i - 1] if i > 1 else 0.0
        diagonal[i] -= share * upper[i - 1]
        bends[i] = 6 * turn(i) - share * bends[i - 1]
    for i in range(count - 2, 0, -1):
        bends[i] = (bends[i] - upper[i] * bends[i + 1]) / diagonal[i]
    bends[0] = (1 + first) * bends[1] - first * bends[2]
    bends[-1] = (1 + last) * bends[-2] - last * bends[-3]
    return bends
