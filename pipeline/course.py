"""What a morph asks of its path: when each frame is due, where renders may lie, what it will cost.

Knows the spec and the path; renders nothing and knows no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

from pipeline.curve import Grain, count_nodes
from pipeline.denoise import create_scheduler
from pipeline.model import Model
from pipeline.morph import find_path
from pipeline.path import Path
from pipeline.spec import MorphSpec
from pipeline.timeline import find_times

MEASURABLE_DB = 30.0
"""How near a solved picture must be to measure how fast the morph changes; no eye is asked.

Where it is not, the picture may leap, and renders close in on the place.
"""

GRID, FINEST = 8, 256
"""Steps of each way that renders are placed on: those that any film is worth, and the finest."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a morph takes: how many frames, how many of them rendered, what that asks of the UNet.

    `least` and `most` are renders. Each takes `calls` of the UNet, and `batch_size` go together.
    """

    num_frames: int
    least: int
    most: int
    calls: int
    batch_size: int

    @property
    def unet_calls(self) -> int:
        """Calls of the UNet at most, batch by batch."""
        return -(-self.most // self.batch_size) * self.calls


@final
@dataclass(frozen=True)
class Course:
    """The way of a resolved `spec` along its `path`."""

    spec: MorphSpec
    path: Path

    @cached_property
    def times(self) -> list[float]:
        """When each frame is due, eased, in positions of the path."""
        return find_times(self.spec, self.path.bounds)

    @property
    def keyframes(self) -> Sequence[float]:
        """The positions of the keyframes, each once."""
        return self.path.bounds[: len(self.path.keypoints)]

    @property
    def close(self) -> float | None:
        """Where a loop closes."""
        return 1.0 if self.spec.loop else None

    @property
    def is_traced(self) -> bool:
        """Whether the path must be known beyond the frames that are rendered anyway."""
        return self.spec.even or not self.spec.exact

    @cached_property
    def candidates(self) -> list[float]:
        """Where renders may be placed: at the frames, or wherever those may be moved to.

        Then they are a fraction of a way apart that does not depend on the frames, so that what is
        rendered for few frames serves for more.
        """
        if not self.spec.even:
            return sorted({*self.times, *self.keyframes})
        positions = set(self.keyframes)
        for start, end in pairwise(self.path.bounds):
            positions |= {start + (end - start) * k / FINEST for k in range(FINEST)}
        return sorted(positions)

    @property
    def grain(self) -> Grain | None:
        """Where renders are as near as frames will be, they need only tell how fast it changes."""
        if not self.spec.even:
            return None
        return Grain(1 / max(self.spec.num_frames, GRID * self.path.ways), MEASURABLE_DB)

    @property
    def limit(self) -> int:
        """Renders to know the path by, at most."""
        return 2 * (self.spec.num_frames + GRID * self.path.ways)

    def is_leap(self, start: float, end: float) -> bool:
        """Whether two neighbouring renders are as close as any may be."""
        return end - start < 1.5 * min(b - a for a, b in pairwise(self.path.bounds)) / FINEST

    def count(self) -> tuple[int, int]:
        """How many renders it takes, at least and at most."""
        frames = len(set(self.times))
        if not self.is_traced:
            return frames, frames
        least, most = count_nodes(self.candidates, self.keyframes, close=self.close)
        if self.spec.even:  # frames that are moved may miss every render that is there
            most = min(most, self.limit) + frames
        return max(least, frames * self.spec.exact), most


def find_cost(model: Model, spec: MorphSpec) -> Cost:
    """What the morph takes with `model`, if nothing of it is there yet."""
    spec = model.resolve(spec)
    least, most = Course(spec, find_path(model, spec)).count()
    sampling = spec.sampling
    assert sampling.scheduler and sampling.num_inference_steps and sampling.batch_size
    scheduler = create_scheduler(
        sampling.scheduler, model.scheduler_config, sampling.num_inference_steps, "cpu"
    )
    return Cost(
        num_frames=spec.num_frames,
        least=least,
        most=most,
        calls=len(scheduler.timesteps),
        batch_size=sampling.batch_size,
    )
