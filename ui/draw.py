"""A spec to pictures on disk, step by step: what the page and the HTTP endpoint have in common.

Knows no widgets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.spec import StillSpec

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.render import Progress


class Picture(NamedTuple):
    """A finished picture: its PNG, and the spec that makes it alone."""

    file: Path
    spec: StillSpec


def draw(model: Model, spec: StillSpec, folder: Path) -> Iterator[Progress | Picture]:
    """Every step of every picture of a resolved `spec`, and each picture once it is saved.

    Raises OutputError, before the work where `folder` cannot hold it, and RenderError.
    """
    from pipeline.render import Progress, points, render_steps
    from pipeline.stills import Stills

    stills = Stills(folder, model, spec)
    for event in render_steps(model, spec.sampling, points(model, spec)):
        if isinstance(event, Progress):
            yield event
        else:
            yield Picture(stills.save(event), spec.single(event.index))


class Pace:
    """How far a run of `count` pictures is, and how long it will still take."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._began = time.monotonic()
        self._first: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def share(self, progress: Progress) -> float:
        """How much of the whole run is done, in (0, 1]."""
        done = len(progress.indices) * (progress.index + 1) / progress.count
        return (progress.indices.start + done) / self.count

    def say(self, progress: Progress) -> str:
        """Such as "image 2 of 4 · step 7 of 20 · 3 s left"; no time is told at the first step."""
        step = f"step {progress.index + 1} of {progress.count}"
        left = self._left(self.share(progress))
        return " · ".join([*self._images(progress.indices), step, *left])

    def _images(self, indices: range) -> list[str]:
        if self.count == 1:
            return []
        last = f"–{indices.stop}" if len(indices) > 1 else ""
        return [f"image {indices.start + 1}{last} of {self.count}"]

    def _left(self, share: float) -> list[str]:
        """The first step sets the clock going: it also pays for what happens only once."""
        if self._first is None:
            self._first = (self.seconds, share)
            return []
        began, before = self._first
        seconds = (self.seconds - began) / (share - before) * (1 - share)
        return [f"{duration(seconds)} left"]


def duration(seconds: float) -> str:
    """Seconds in words: 0.8 s, 12 s, 4 min, 1 h 20 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
