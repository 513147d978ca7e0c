"""Even speed: move frames along a path until the picture changes evenly.

Cheap pictures, the probes, are taken along each segment between two keyframes, and the distances
between neighbours say how fast the picture changes. From them comes a map from time to position.
How many probes it takes depends on the path and not on the number of frames.

Knows no model and no distance: what a probe is and how far apart two are, its callers say. It may
be a picture, or the latents of one.
Knows nothing of easing or holds: position = timemap(eased time).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, pstdev
from typing import Any

from pipeline.errors import RenderError, SpecError
from pipeline.quality import Distance
from pipeline.tensors import Pixels

Probe = Callable[[Sequence[float]], Iterable[Pixels]]
Knot = tuple[float, float]

COUNT = 17  # probes along a segment, ends included
PASSES = 3
TOLERANCE = 0.1
FLOOR = 1e-3  # of the mean speed: what does not change takes some time too
LARGE = 1.5  # times the mean distance: a gap that is looked into
HALVINGS = 6  # leave a thousandth of the segment: after two, what is steep would pass for a jump
JUMP = 0.9  # the share of a gap's distance that two halvings leave at a jump


@dataclass(frozen=True)
class TimeMap:
    """From time to position: piecewise, one piece for each segment between keyframes.

    `segments` hold (time, position) pairs that rise in both. The first and last pair of a segment
    are its keyframes, whose time is their position. Two pairs are the identity.

    Between the pairs runs the monotone cubic of Fritsch & Carlson (SIAM J. Numer. Anal. 17, 1980)
    with the weighted harmonic slopes of Fritsch & Butland (SIAM J. Sci. Stat. Comput. 5, 1984).
    Raises `SpecError` where the pairs are not such.
    """

    segments: tuple[tuple[Knot, ...], ...]

    def __post_init__(self) -> None:
        for segment in self.segments:
            _check_segment(segment)
        for (*_, end), (start, *_) in pairwise(self.segments):
            if start != end:
                raise SpecError(f"timemap: a segment ends at {end}, the next begins at {start}")

    @classmethod
    def identity(cls, bounds: Sequence[float]) -> TimeMap:
        """The map that moves nothing, between keyframes at rising `bounds`."""
        return cls(tuple(((a, a), (b, b)) for a, b in pairwise(bounds)))

    @classmethod
    def from_lists(cls, lists: Any) -> TimeMap:
        """The map that `to_lists` wrote down. Raises `SpecError`."""
        try:
            segments = tuple(tuple((t + 0.0, p + 0.0) for t, p in pairs) for pairs in lists)
        except (TypeError, ValueError, OverflowError):
            raise SpecError("timemap: must be a list of pairs of numbers a segment") from None
        return cls(segments)

    def to_lists(self) -> list[list[list[float]]]:
        """Plain lists for JSON, which keeps every digit of them."""
        return [[list(pair) for pair in segment] for segment in self.segments]

    def __call__(self, time: float) -> float:
        """The position at `time`; exact at every pair. Raises ValueError outside the segments."""
        for segment in self.segments:
            if segment[0][0] <= time <= segment[-1][0]:
                return _follow(segment, time)
        raise ValueError(f"time = {time}: must be between the first and the last keyframe")


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A probe: a cheap picture at a position."""

    position: float
    pixels: Pixels


@dataclass(frozen=True, kw_only=True)
class Jump:
    """Between these positions the picture changes by `distance`, and no slower for being closer."""

    start: float
    end: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Retimed:
    """The map that was found, and how even the change was on the way to it.

    `variations` are, for each segment, the coefficients of variation of the distances between
    neighbouring probes: first at even positions, then after each pass. Jumps are taken out of them,
    and stand in `jumps`. `probes` is the number of pictures that were taken.
    """

    timemap: TimeMap
    variations: tuple[tuple[float, ...], ...]
    jumps: tuple[Jump, ...]
    probes: int


def retime(
    probe: Probe,
    distance: Distance,
    bounds: Sequence[float],
    *,
    loop: bool = False,
    count: int = COUNT,
    passes: int = PASSES,
    tolerance: float = TOLERANCE,
) -> Iterator[Probed | Retimed]:
    """The probes of a path with keyframes at rising `bounds`, as they come; `Retimed` is last.

    `probe` gives pictures at the positions asked for, one by one, and never twice at one position.
    Those of a segment are kept until it is done. `distance` is that of two pictures, at least 0.
    With `loop` the last keyframe is the first, and its picture too.

    A segment begins with `count` even positions. They are moved to where, by the distances between
    all probes so far, the picture changes evenly, and are probed there, until the coefficient of
    variation is below `tolerance` or `passes` times. Keyframes stay. Gaps that are large are halved
    again and again; what two halvings do not shrink is a jump. It takes no time, for nothing in it
    could be shown more slowly. Jumps smaller than a gap cannot be told from ordinary change.

    Even are the probes; frames that lie much closer may be less so. Along a curve through 33 frames
    of the embedded model, √(1 − SSIM) varied by 0.05 from frame to frame of 25 and by 0.21 of 97
    with a `count` of 17, by 0.04 and 0.09 with 33.

    Raises `RenderError` where a distance is not a number of at least 0.
    """
    if count < 3 or passes < 0:
        raise ValueError(f"count = {count}, passes = {passes}: must be at least 3 and 0")
    seen = _Probes(probe, distance, {bounds[-1]: bounds[0]} if loop else {})
    segments: list[_Segment] = []
    for start, end in pairwise(bounds):
        segment = _Segment(start, end, seen, halvings=2 * count)
        yield from segment.even_out(count, passes, tolerance)
        segments.append(segment)
        seen.forget_all_but(end, bounds[0])
    yield Retimed(
        timemap=TimeMap(tuple(segment.pairs for segment in segments)),
        variations=tuple(tuple(segment.variations) for segment in segments),
        jumps=tuple(jump for segment in segments for jump in segment.jumps),
        probes=seen.taken,
    )


def most_probes(segments: int, *, count: int = COUNT, passes: int = PASSES) -> int:
    """How many probes `retime` takes at most: every pass is gone, and every halving is made."""
    return 1 + segments * (count - 1 + passes * (count - 2) + 2 * count)


class _Probes:
    """The pictures by position, each taken once, and the distances between them.

    `same` tells which position shows the picture of which other.
    """

    def __init__(self, probe: Probe, distance: Distance, same: dict[float, float]) -> None:
        self.taken = 0
        self._probe, self._distance, self._same = probe, distance, same
        self._pixels: dict[float, Pixels] = {}
        self._distances: dict[Knot, float] = {}

    def look(self, positions: Sequence[float]) -> Iterator[Probed]:
        """Probe what is not known yet of `positions`."""
        keys = dict.fromkeys(self._same.get(position, position) for position in positions)
        missing = [key for key in keys if key not in self._pixels]
        for position, pixels in zip(missing, self._probe(missing), strict=True):
            self._pixels[position] = pixels
            self.taken += 1
            yield Probed(position=position, pixels=pixels)

    def measure(self, start: float, end: float) -> float:
        """The distance between two pictures, both probed before."""
        if start == end:
            return 0.0
        if (start, end) not in self._distances:
            first, second = (self._pixels[self._same.get(p, p)] for p in (start, end))
            found = float(self._distance(first, second))
            if not 0 <= found < math.inf:
                raise RenderError(f"pictures at {start:g} and {end:g} are {found} apart: no number")
            self._distances[start, end] = found
        return self._distances[start, end]

    def forget_all_but(self, *positions: float) -> None:
        """Free the other pictures."""
        keys = {self._same.get(position, position) for position in positions}
        self._pixels = {key: self._pixels[key] for key in keys}


class _Segment:
    """The way from one keyframe to the next: its probes, its jumps and its pairs of the map."""

    def __init__(self, start: float, end: float, seen: _Probes, halvings: int) -> None:
        self.pairs: tuple[Knot, ...] = ((start, start), (end, end))
        self.variations: list[float] = []
        self.jumps: list[Jump] = []
        self._seen = seen
        self._stops: list[float] = []
        self._halvings = halvings

    def even_out(self, count: int, passes: int, tolerance: float) -> Iterator[Probed]:
        """Probe, and fit the map to what is found, until the change is even."""
        for _ in range(passes + 1):
            positions = self._spread(count)
            yield from self._look(positions)
            yield from self._search(positions)
            changes = [self._change(a, b) for a, b in pairwise(positions)]
            self.variations.append(_variation(changes))
            self._fit(positions, changes)
            if self.variations[-1] < tolerance:
                break

    def _spread(self, count: int) -> list[float]:
        """Positions that are even in time, and not inside a jump."""
        (start, _), (end, _) = self.pairs[0], self.pairs[-1]
        inner = [start + (end - start) * k / (count - 1) for k in range(1, count - 1)]
        positions = [start, *(_follow(self.pairs, time) for time in inner), end]
        for jump in self.jumps:
            positions = [jump.start if jump.start < p < jump.end else p for p in positions]
        return positions

    def _look(self, positions: Sequence[float]) -> Iterator[Probed]:
        for position in positions:
            if position not in self._stops:
                insort(self._stops, position)
        yield from self._seen.look(positions)

    def _search(self, positions: Sequence[float]) -> Iterator[Probed]:
        """Halve the large gaps, and in them the larger half, to see which of them are jumps."""
        changes = {gap: self._change(*gap) for gap in pairwise(positions)}
        mean = fmean(changes.values())
        large = [(change, gap) for gap, change in changes.items() if change > LARGE * mean]
        hunts = [[found] for found in sorted(large, reverse=True) if not self._jumps_in(*found[1])]
        hunts = hunts[: self._halvings // HALVINGS]
        for _ in range(HALVINGS):
            self._halvings -= len(hunts)
            middles = sorted((a + b) / 2 for *_, (_, (a, b)) in hunts)
            yield from self._look(middles)
            for hunt in hunts:
                a, b = hunt[-1][1]
                middle = (a + b) / 2
                hunt.append(max((self._change(*half), half) for half in ((a, middle), (middle, b))))
            hunts = [hunt for hunt in hunts if hunt[-1][0] > mean]
        for hunt in hunts:
            (before, _), _, (left, (a, b)) = hunt[-3:]
            if left >= JUMP * before:
                self.jumps.append(Jump(start=a, end=b, distance=left))
        self.jumps.sort(key=lambda jump: jump.start)

    def _change(self, start: float, end: float) -> float:
        """The distance from `start` to `end`, without the jumps between them."""
        total = 0.0
        for jump in self._jumps_in(start, end):
            total += self._seen.measure(start, jump.start)
            start = jump.end
        return total + self._seen.measure(start, end)

    def _jumps_in(self, start: float, end: float) -> list[Jump]:
        return [jump for jump in self.jumps if start <= jump.start and jump.end <= end]

    def _fit(self, positions: Sequence[float], changes: Sequence[float]) -> None:
        """Give each stretch between probes the time that is its share of all change.

        A step between `positions` weighs what is measured across it, since distances do not add up
        and finer stretches would weigh more. The probes within it say how it is divided.
        """
        shares: list[float] = []
        for (a, b), change in zip(pairwise(positions), changes, strict=True):
            stops = self._stops[bisect_left(self._stops, a) : bisect_right(self._stops, b)]
            parts = [self._change(*stretch) for stretch in pairwise(stops)]
            shares += [change * part / (sum(parts) or 1) for part in parts]

        widths = [b - a for a, b in pairwise(self._stops)]
        slowest = FLOOR * (sum(shares) + sum(jump.distance for jump in self.jumps)) / sum(widths)
        if slowest > 0:
            spans = [max(share, slowest * w) for share, w in zip(shares, widths, strict=True)]
            start, end = self._stops[0], self._stops[-1]
            scale = (end - start) / sum(spans)
            times = [start + scale * span for span in accumulate(spans[:-1], initial=0.0)]
            self.pairs = tuple(zip([*times, end], self._stops, strict=True))


def _variation(changes: Sequence[float]) -> float:
    """The standard deviation over the mean; 0 where nothing changes."""
    return pstdev(changes) / (fmean(changes) or 1)


def _follow(pairs: Sequence[Knot], time: float) -> float:
    """The position at `time`: exact at every pair, and never past the next."""
    if len(pairs) == 2:
        return time
    k = min(bisect_right(pairs, time, key=lambda pair: pair[0]), len(pairs) - 1) - 1
    (start, low), (end, high) = pairs[k : k + 2]
    if time == end:
        return high
    width, rise = end - start, high - low
    share = (time - start) / width
    first, last = width * _slope(pairs, k), width * _slope(pairs, k + 1)
    bend = share * (1 - share) * (first * (1 - share) - last * share)
    return min(max(low + rise * share**2 * (3 - 2 * share) + bend, low), high)


def _slope(pairs: Sequence[Knot], k: int) -> float:
    """The slope at pair `k` of at least three, such that the curve beside it never goes back."""
    if k == 0:
        return _end_slope(pairs[:3])
    if k == len(pairs) - 1:
        return _end_slope(pairs[-1:-4:-1])
    (before, left), (after, right) = _secant(*pairs[k - 1 : k + 1]), _secant(*pairs[k : k + 2])
    first, last = before + 2 * after, after + 2 * before
    return (first + last) / (first / left + last / right)


def _end_slope(pairs: Sequence[Knot]) -> float:
    """That of the parabola through the end and its two neighbours, within what stays monotone."""
    (near, first), (far, second) = _secant(*pairs[:2]), _secant(*pairs[1:])
    return min(max(((2 * near + far) * first - near * second) / (near + far), 0), 3 * first)


def _secant(a: Knot, b: Knot) -> tuple[float, float]:
    """The width between two pairs, and the slope."""
    return abs(b[0] - a[0]), (b[1] - a[1]) / (b[0] - a[0])


def _check_segment(segment: Sequence[Knot]) -> None:
    if len(segment) < 2:
        raise SpecError(f"timemap: a segment has {len(segment)} pairs: must have at least 2")
    for a, b in pairwise(segment):
        if not (-math.inf < a[0] < b[0] < math.inf and -math.inf < a[1] < b[1] < math.inf):
            raise SpecError(f"timemap: {list(a)} comes before {list(b)}: must rise in both")
    for time, position in (segment[0], segment[-1]):
        if time != position:
            raise SpecError(f"timemap: keyframe at time {time}, position {position}: must be equal")
