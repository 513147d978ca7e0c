"""How long a smooth way on the shell of noise is, and where on it an even traveller is.

Knows angles only. The weights of Catmull and Rom, taken as they are, change the angular speed on
one way up to threefold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from pipeline.interpolate import catmull_rom, catmull_rom_slopes
from pipeline.tensors import Noise

Floats = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)  # the speed is smooth: 1e-10 is left
_ITERATIONS = 8
_STILL = 1e-6  # radians: differences of squares leave the root of their rounding


@final
class Arc:
    """The way between the second and the third of four noises, as `mix` goes it.

    The angle between two mixtures depends on the inner products of the noises alone.
    """

    def __init__(self, noises: Sequence[Noise]) -> None:
        flat = np.stack([noise.flatten().double().cpu().numpy() for noise in noises])
        self._products: Floats = flat @ flat.T
        length = self._measure(1.0)
        self.length = length if length > _STILL else 0.0
        """In radians; 0 where the noise stays."""

    def travel(self, share: float) -> float:
        """The weight for `catmull_rom` at which `share` of the length is behind.

        Where the noise stays, the weight is the share itself.
        """
        if not self.length or share in (0, 1):
            return share
        target, low, high, weight = share * self.length, 0.0, 1.0, share
        for _ in range(_ITERATIONS):  # Newton's, kept between what is known to be too low and high
            beyond = self._measure(weight) - target
            low, high = (weight, high) if beyond < 0 else (low, weight)
            guess = weight - beyond / max(self._speeds(np.array([weight]))[0], _STILL)
            weight = guess if low <= guess <= high else (low + high) / 2
        return float(weight)

    def _measure(self, weight: float) -> float:
        """The length of the way up to `weight`, by Gauss and Legendre."""
        places = weight * (_NODES + 1) / 2
        return float(weight / 2 * (_WEIGHTS @ self._speeds(places)))

    def _speeds(self, places: Floats) -> Floats:
        """Radians to a unit of weight: how fast y / |y| turns, where y' is across it."""
        at = np.array([catmull_rom(place) for place in places])
        along = np.array([catmull_rom_slopes(place) for place in places])
        yy = np.einsum("ni,ij,nj->n", at, self._products, at)
        yd = np.einsum("ni,ij,nj->n", at, self._products, along)
        dd = np.einsum("ni,ij,nj->n", along, self._products, along)
        across: Floats = np.sqrt(np.maximum(yy * dd - yd**2, 0)) / np.maximum(yy, 1e-300)
        return across
