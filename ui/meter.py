"""How far a morph that is being made is, and how long it will still take. Knows no thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ui.draw import duration

if TYPE_CHECKING:
    from pipeline.run import Cost, Event
    from pipeline.timeline import Timeline


class _Mean:
    """The mean of numbers as they come; 0 while there is none."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, number: float) -> None:
        self.total, self.count = self.total + number, self.count + 1

    @property
    def value(self) -> float:
        return self.total / max(self.count, 1)


class Meter:
    """Takes in a run's events, and says in one line where it stands.

    What one step takes, and one picture after its last step, is measured from event to event.
    """

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.timeline: Timeline | None = None
        self.traced: set[float] = set()
        self.saved: set[int] = set()
        self._began = time.monotonic()
        self._last: tuple[float, Event | None] = (self._began, None)
        self._step, self._picture = _Mean(), _Mean()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def note(self, event: Event) -> None:
        """Count what happened."""
        from pipeline.render import Progress
        from pipeline.run import Saved, Timed, Traced

        now, (then, last) = time.monotonic(), self._last
        self._last = now, event
        match event:
            case Progress() if isinstance(last, Progress):
                self._step.add(now - then)
            case Traced(position=position):
                self.traced.add(position)
                self._picture.add(now - then)
            case Timed(timeline=timeline):
                self.timeline = timeline
            case Saved(indices=indices):
                self.saved |= {*indices}
                self._picture.add(now - then)

    @property
    def share(self) -> float | None:
        """How much is done, in [0, 1]; None while nobody can know."""
        return None if self.timeline is None else len(self.saved) / self.cost.num_frames

    def say(self) -> str:
        """Such as "finding the way · 14 renders, at most 97 · step 3 of 8 · 2 s to 20 s left"."""
        if self.timeline is None:
            count = f"{len(self.traced)} renders, at most {self.cost.most}"
            return " · ".join(["finding the way", count, *self._say_step(), *self._way_left()])
        count = f"frame {len(self.saved)} of {self.cost.num_frames}"
        return " · ".join([count, *self._say_step(), *self._frames_left(self.timeline)])

    def _say_step(self) -> list[str]:
        from pipeline.render import Progress

        _, step = self._last
        return [f"step {step.index + 1} of {step.count}"] if isinstance(step, Progress) else []

    def _seconds_for(self, renders: int, pictures: int) -> float:
        batches = -(-renders // self.cost.batch_size)
        return batches * self.cost.calls * self._step.value + pictures * self._picture.value

    def _way_left(self) -> list[str]:
        """What is left is only known from both sides: how bent the way is shows on the way."""
        if not self._step.count:
            return []
        counts = (max(n - len(self.traced), 0) for n in (self.cost.least, self.cost.most))
        least, most = (self._seconds_for(count, count) for count in counts)
        if least < 1:
            return [f"at most {duration(most)} left"]
        return [f"{duration(least)} to {duration(most)} left"]

    def _frames_left(self, timeline: Timeline) -> list[str]:
        if not self.saved:
            return []
        left = [place for k, place in enumerate(timeline.frames) if k not in self.saved]
        renders = {p.position for p in left if p.is_rendered} - self.traced
        return [f"{duration(self._seconds_for(len(renders), len(left)))} left"]
