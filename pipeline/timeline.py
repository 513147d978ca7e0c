"""Which frame lies where: from a frame's index to its time, its position and its file.

Knows plain numbers and keys; no model and no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pipeline.spec import MorphSpec
from pipeline.timing import ease
from pipeline.values import Spec

Segment = tuple[int, int]


class Place(Spec):
    """A frame of a morph: where it is on the path, and the key of its picture.

    One that is not rendered is solved, and `measured_db` is the error measured nearest to it.
    """

    position: float
    key: str
    is_rendered: bool
    measured_db: float | None = None


class Timeline(Spec):
    """The frames of a morph in the order of time, and how it came to that order.

    `keyframes` are their positions, with 1 where a loop closes. `timemap` has the pairs of time and
    position of each way, under the key of what they were measured on. `variations` say how evenly
    the picture changed before each pass, way by way, and `jumps` where it leaps: from, to, how far.
    """

    keyframes: tuple[float, ...]
    frames: tuple[Place, ...] = ()
    timemap: tuple[tuple[tuple[float, float], ...], ...] | None = None
    timemap_key: str | None = None
    variations: tuple[tuple[float, ...], ...] = ()
    jumps: tuple[tuple[float, float, float], ...] = ()


def find_times(spec: MorphSpec, bounds: Sequence[float]) -> list[float]:
    """The eased time of each frame, in which keyframe i is due at `bounds[i]`."""
    times = []
    for moment in spec.moments():
        start = bounds[moment.index]
        if moment.share:
            easing = spec.keyframes[moment.index].easing or spec.easing
            start += ease(easing, moment.share) * (bounds[moment.index + 1] - start)
        times.append(start)
    return times


def find_segments(spec: MorphSpec) -> list[Segment]:
    """The first and last frame of each way, without holds; a loop's last frame is its first."""
    stops: dict[int, list[int]] = {}
    for frame, moment in enumerate(spec.moments()):
        if not moment.share:
            stops.setdefault(moment.index, []).append(frame)
    held = list(stops.values())
    arrivals = [frames[0] for frames in held[1:]] + [spec.num_frames] * spec.loop
    return [(frames[-1], arrival) for frames, arrival in zip(held, arrivals, strict=False)]


def find_pace(times: Sequence[float], end: float) -> list[float]:
    """How far each frame is meant to go to the next, in time; never quite nothing."""
    return [max(b - a, 1e-9) for a, b in pairwise([*times, end])]
