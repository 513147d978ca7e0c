"""The rounds of the speed benchmark: prepared, warmed up, interleaved, and their readings.

Knows arms, their films and the limit; knows no table and no command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch

from pipeline.model import Model
from pipeline.spec import MorphSpec
from scripts.benchmarks.arms import (
    Arm,
    build_arms,
    check_comparable,
    counted,
    find_best_batch,
    find_their_batch,
    shorten,
)
from scripts.benchmarks.counts import count_waits
from scripts.benchmarks.fidelity import Reference, measure_loss
from scripts.benchmarks.films import Film, interleave
from scripts.benchmarks.limit import Rate, best_rate, count_work, measure_rate
from scripts.benchmarks.random_model import RANDOM


@dataclass(kw_only=True)
class Readings:
    """Of one arm: its films, round by round, and how true the first of them is, in dB.

    `solved` are frames that were not rendered. `float32_psnr` is of arms whose frames are the
    plain pipeline's, `worst_psnr` and `mean_psnr` of those that solve frames.
    """

    arm: Arm
    films: list[Film] = field(default_factory=list)
    solved: int = 0
    float32_psnr: float | None = None
    worst_psnr: float | None = None
    mean_psnr: float | None = None


@final
class Trials:
    """All arms for a resolved `spec`, `rounds` films each after `warmups` short ones.

    `open_float32` gives the model once more, for the reference. Raises `SpecError` where the arms
    cannot make the same film. With random weights nothing is solved: how many frames could be is a
    property of the weights.
    """

    def __init__(
        self,
        model: Model,
        spec: MorphSpec,
        rounds: int,
        warmups: int,
        open_float32: Callable[[], Model],
    ) -> None:
        check_comparable(model, spec)
        self.model, self.spec, self.rounds, self.warmups = model, spec, rounds, warmups
        self.is_random = spec.model.source == RANDOM
        self.work = count_work(model, spec)
        self.rates = [measure_rate(model.device, model.dtype)]
        self.readings: list[Readings] = []
        self.waits = count_waits(model, spec)
        self._open_float32 = open_float32

    @property
    def rate(self) -> Rate:
        """The fastest matrix product of all rounds."""
        return best_rate(self.rates)

    @property
    def limit_seconds(self) -> float:
        """Of the film, each frame rendered once and nothing else done."""
        return self.spec.num_frames * self.work.picture / self.rate.flops_per_second

    @property
    def _arm_count(self) -> int:
        return len(build_arms(self.model, self.spec, 1, 1)) - 2 * self.is_random

    @property
    def summary(self) -> str:
        """What is going to be made, in one line."""
        least = self.rounds * self._arm_count * self.limit_seconds
        return (
            f"{self._arm_count} ways × {self.rounds} rounds of {self.spec.num_frames} frames after "
            f"{self.warmups} short films each: {least:.0f} s if all were rendered at the limit"
        )

    @property
    def total(self) -> int:
        """How many lines `run` yields."""
        return 2 + self._arm_count * (self.rounds + 1)

    def run(self) -> Iterator[str]:
        """Everything; before each part, a line that says what it is."""
        yield "the best batch"
        best, most = find_best_batch(self.model, self.spec), find_their_batch(self.model, self.spec)
        arms = build_arms(self.model, self.spec, best, most)
        arms = [arm for arm in arms if not (arm.is_lossy and self.is_random)]
        self.readings = [Readings(arm=arm) for arm in arms]
        for arm in arms:
            yield f"warming up: {arm.name}"
            self._warm_up(arm)
        yield "the reference"
        yield from self._make_films(Reference(self._find_reference(), self.spec))

    def _warm_up(self, arm: Arm) -> None:
        short = shorten(self.spec, arm.batch_size)
        for _ in interleave({arm.name: arm.create(short)}, self.warmups):
            pass

    def _make_films(self, reference: Reference) -> Iterator[str]:
        """The rounds; a film is held against what it should be while it is there."""
        readings = {one.arm.name: one for one in self.readings}
        makers = {
            name: counted(self.model, one.arm.create(self.spec)) for name, one in readings.items()
        }
        for number in range(1, self.rounds + 1):
            for name, film, folder in interleave(makers, 1):
                yield f"round {number} of {self.rounds}: {name}"
                if number == 1:
                    self._judge(readings[name], film, folder, reference)
                readings[name].films.append(film)
            self.rates.append(measure_rate(self.model.device, self.model.dtype))

    def _judge(self, readings: Readings, film: Film, folder: Path, reference: Reference) -> None:
        if readings.arm.is_same:
            readings.float32_psnr = reference.measure(film.files)
        if readings.arm.is_lossy:
            spec = self.spec.replace(even=readings.arm.is_even)
            readings.solved, found = measure_loss(self.model, spec, film, folder)
            readings.worst_psnr, readings.mean_psnr = (
                found.get("worst_psnr"),
                found.get("mean_psnr"),
            )

    def _find_reference(self) -> Model:
        """The model in float32: itself, or loaded once more."""
        return self.model if self.model.dtype == torch.float32 else self._open_float32()
