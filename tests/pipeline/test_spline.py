"""Cubic splines, held to numpy's solution of their equations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.spline import Spline

quick = settings(max_examples=30)


def evenly(count: int) -> list[float]:
    return [k / (count - 1) for k in range(count)]


class TestSpline:
    @quick
    @given(
        st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
        st.lists(st.floats(-1, 1), min_size=4, max_size=4),
        st.floats(0, 1),
    )
    def test_is_the_polynomial_itself_up_to_the_third_degree(
        self, widths: list[float], coefficients: list[float], share: float
    ) -> None:
        """Which is what not-a-knot ends are for; fewer nodes fix a polynomial of lower degree."""
        nodes = [sum(widths[:k]) for k in range(len(widths) + 1)]
        polynomial = np.polynomial.Polynomial(coefficients[: len(nodes)])
        spline = Spline(nodes, torch.tensor([[polynomial(node)] for node in nodes]))

        position = share * nodes[-1]
        # Numbers up to 12³, and widths that differ by 100: of sixteen digits ten are left.
        assert spline(position).item() == pytest.approx(polynomial(position), abs=1e-6)

    @quick
    @given(st.lists(st.floats(0.05, 1), min_size=4, max_size=12), st.integers(0, 1000))
    def test_is_what_its_defining_equations_say(self, widths: list[float], seed: int) -> None:
        """Four unknowns a piece, solved whole: an independent way to the same curve."""
        nodes = np.concatenate([[0], np.cumsum(widths)])
        values = np.random.default_rng(seed).normal(size=len(nodes))
        pieces = _solve_whole(nodes, values)

        spline = Spline(nodes.tolist(), torch.tensor(values)[:, None])

        for k, piece in enumerate(pieces):
            for share in (0.1, 0.5, 0.9):
                away = share * widths[k]
                truth = np.polynomial.Polynomial(piece)(away)
                assert spline(nodes[k] + away).item() == pytest.approx(truth, abs=1e-8)

    def test_meets_its_values_exactly(self) -> None:
        nodes, values = [0.0, 0.1, 0.15, 0.6, 0.9, 1.0], torch.randn(6, 1, 4, 8, 8)
        spline = Spline(nodes, values)

        assert all(torch.equal(spline(n), v) for n, v in zip(nodes, values, strict=True))

    def test_misses_sixteen_times_less_on_half_the_width(self) -> None:
        def error(count: int) -> float:
            nodes = evenly(count)
            spline = Spline(nodes, torch.tensor([[math.sin(5 * node)] for node in nodes]))
            return max(abs(spline(p).item() - math.sin(5 * p)) for p in evenly(401))

        # Fourth order, at the ends too; 2⁴ is the limit, which 17 nodes have not quite reached.
        assert error(17) / error(33) == pytest.approx(16, rel=0.2)


def _solve_whole(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The coefficients of every cubic, in powers of the distance from its left node."""
    count = len(nodes) - 1
    rows, right = [], []

    def demand(value: float, *terms: tuple[int, Sequence[float]]) -> None:
        row = np.zeros(4 * count)
        for piece, coefficients in terms:
            row[4 * piece : 4 * piece + 4] += coefficients
        rows.append(row)
        right.append(value)

    for k, width in enumerate(np.diff(nodes)):
        demand(values[k], (k, (1, 0, 0, 0)))
        demand(values[k + 1], (k, (1, width, width**2, width**3)))
        if k + 1 < count:
            demand(0, (k, (0, 1, 2 * width, 3 * width**2)), (k + 1, (0, -1, 0, 0)))
            demand(0, (k, (0, 0, 2, 6 * width)), (k + 1, (0, 0, -2, 0)))
    for k in (0, count - 2):
        demand(0, (k, (0, 0, 0, 1)), (k + 1, (0, 0, 0, -1)))
    return np.linalg.solve(np.array(rows), np.array(right)).reshape(count, 4)
