"""What was measured of the cost of denoising, held against what it should cost.

Plain values and their ratios. Knows no clock, no device and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.cost import Cost, Exponent, fit_exponent

STEPS = 50
"""Steps of a picture, where one number is wanted for it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A rung at one side: what one guided step and one decoding took, and what they should.

    Seconds are medians over the rounds. Peaks are bytes in use at most above what was in use
    before, weights that is; None where the system does not say. `cost` is of one guided step.
    """

    rung: str
    side: int
    rounds: int
    step_seconds: float
    fastest_step_seconds: float
    step_seconds_iqr: float
    decode_seconds: float
    step_peak_bytes: int | None
    decode_peak_bytes: int | None
    cost: Cost
    decode_cost: Cost | None

    @property
    def flops_per_second(self) -> float:
        """How fast the guided step was computed."""
        return self.cost.flops / self.step_seconds

    def picture_seconds(self, steps: int) -> float:
        """Seconds for a picture of that many guided steps."""
        return steps * self.step_seconds + self.decode_seconds

    def picture_flops(self, steps: int) -> int:
        """FLOPs of a picture of that many guided steps."""
        return steps * self.cost.flops + (self.decode_cost.flops if self.decode_cost else 0)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A rung against the latent network for pictures of one side: theory, and what was measured.

    The first three are of one guided step, the last two of a picture of `STEPS` of them, decoded.
    """

    rung: str
    side: int
    flop_ratio: float
    traffic_ratio: float
    time_ratio: float
    picture_flop_ratio: float
    picture_time_ratio: float


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a rung grows with the side: its FLOPs, and its seconds over the same sides."""

    rung: str
    sides: tuple[int, ...]
    analytic: Exponent
    measured: Exponent


def compare(readings: Sequence[Reading]) -> list[Distance]:
    """Each rung against the latent one, wherever both were measured."""
    latent = {r.side: r for r in readings if r.rung == "latent"}
    return [
        Distance(
            rung=reading.rung,
            side=reading.side,
            flop_ratio=reading.cost.flops / base.cost.flops,
            traffic_ratio=reading.cost.traffic_bytes / base.cost.traffic_bytes,
            time_ratio=reading.step_seconds / base.step_seconds,
            picture_flop_ratio=reading.picture_flops(STEPS) / base.picture_flops(STEPS),
            picture_time_ratio=reading.picture_seconds(STEPS) / base.picture_seconds(STEPS),
        )
        for reading in readings
        if reading.rung != "latent" and (base := latent.get(reading.side))
    ]


def fit_growth(readings: Sequence[Reading]) -> list[Growth]:
    """How each rung grows that was measured at two sides or more."""
    rungs = dict.fromkeys(reading.rung for reading in readings)
    growths = []
    for rung in rungs:
        own = sorted((r for r in readings if r.rung == rung), key=lambda reading: reading.side)
        if len(own) > 1:
            sides = tuple(reading.side for reading in own)
            analytic = fit_exponent(sides, [reading.cost.flops for reading in own])
            measured = fit_exponent(sides, [reading.step_seconds for reading in own])
            growths.append(Growth(rung=rung, sides=sides, analytic=analytic, measured=measured))
    return growths
