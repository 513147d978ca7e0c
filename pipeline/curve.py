"""Few renders, many frames: exact renders at well-placed nodes, and a curve through their latents.

Along a smooth path the final latents are a smooth function of position. So a few nodes are
rendered, a cubic spline is laid through their latents, and the middle of every gap between them is
rendered to see how well the spline foretold it. Gaps where it misses the tolerance are refined, so
the path decides how many renders there are. Asked anywhere, the curve says if its answer will do.

Knows no model, prompt or file, no frames and no time: what a render is, its callers say. What is
shorter than a gap and lies beside its middle is not seen, as by any sampling.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple, TypeVar, final

import torch
from torch import Tensor

from pipeline.quality import measure_psnr
from pipeline.spec import TOLERANCE_DB
from pipeline.spline import Spline
from pipeline.tensors import Latents, Pixels

Event = TypeVar("Event")
Render = Callable[[Sequence[float]], Iterable[Latents | Event]]
Decode = Callable[[Latents], Pixels]
Run = tuple[float, ...]  # nodes that one spline goes through
Test = tuple[float, bool]  # the PSNR in decibels, and whether the gap is settled

MINIMUM = 5  # nodes from one keyframe to the next to begin with, evenly spread
WIDE = 0.75  # of a gap: a half that is wider was hardly tested
STEEP = 3  # times the slopes beside it: no curve that is resolved has that, and a jump has
UNTESTED: Test = (-math.inf, False)


class Grain(NamedTuple):
    """A width below which less is asked of a gap: to be within `tolerance_db` of a render."""

    width: float
    tolerance_db: float


@dataclass(frozen=True, kw_only=True)
class Node:
    """An exact render.

    `foretold_db` is the PSNR, in decibels, of what the curve foretold there, if it did.
    """

    position: float
    latents: Latents
    pixels: Pixels
    foretold_db: float | None = None


def trace(
    render: Render[Event],
    decode: Decode,
    candidates: Sequence[float],
    keyframes: Sequence[float],
    corners: Iterable[float] = (),
    *,
    close: float | None = None,
    tolerance_db: float = TOLERANCE_DB,
    minimum: int = MINIMUM,
    grain: Grain | None = None,
    limit: int | None = None,
) -> Iterator[Node | Event | Curve]:
    """The nodes of a curve as they are rendered, in rounds; the `Curve` is last.

    `render` gives the final latents at rising positions, one by one, and is called once a round.
    Whatever else it yields on the way is passed on. `decode` gives their picture, in [-1, 1]. Nodes
    are chosen from the rising `candidates`. All `keyframes` are nodes; the first is the first
    candidate. The last candidate is a node too. No spline crosses the `corners`, keyframes at which
    the path may bend. With `close` the path is a loop that ends there, after the last candidate, in
    a node that has the first one's latents and is not rendered again.

    The first round takes `minimum` candidates from one keyframe to the next, evenly spread. A gap
    is settled when the render in its middle, and those in the middles beside it, are within
    `tolerance_db` of what the curve through the other nodes foretold. The PSNR is that of float
    pixels clamped to [-1, 1]: in 8 bits rounding would add errors of its own, 0.7 dB at 48 dB.
    At a jump nodes close up to neighbouring candidates, and no spline crosses it. Gaps no wider
    than a `grain` stay as they are, settled or not, if they are within its own tolerance. There are
    no more than `limit` renders, unless the first round has.

    Nodes and curve depend on the arguments and the nodes' latents alone: a round is decided when
    the last is complete, by sums of one order in float64. Resumed, or batched otherwise, they are
    the same if `render` gives the same latents.

    Raises `RenderError` where pixels are not finite, ValueError where arguments are not as said.
    """
    grid = [*candidates] if close is None else [*candidates, close]
    corners = _check(grid, keyframes, corners, tolerance_db, minimum)
    first = _begin(grid, keyframes, minimum)
    search, steep = _Search(grid, first, corners, grain), set[float]()
    nodes: dict[float, Latents] = {}
    curve = Curve(nodes, [], search.tests)
    wanted = [grid[index] for index in first if grid[index] != close]

    while wanted:
        found: dict[float, float] = {}
        for event in _render(render, decode, wanted, curve):
            if isinstance(event, Node):
                nodes[event.position] = event.latents
                if event.foretold_db is not None:
                    found[event.position] = event.foretold_db
            yield event
        nodes |= {} if close is None else {close: nodes[grid[0]]}
        if found:
            search.judge(found, steep, tolerance_db)
        steep = _find_steep(nodes, corners)
        curve = Curve(nodes, _join(sorted(nodes), corners, steep), search.tests)
        search.keep(len(search.open) if limit is None else max(limit - len(nodes), 0))
        wanted = [*search.open]
    yield curve


def _render(
    render: Render[Event], decode: Decode, wanted: Sequence[float], curve: Curve
) -> Iterator[Node | Event]:
    """One round: a node at each position, and what `curve` foretold there if it has any nodes."""
    positions = iter(wanted)
    for latents in render(wanted):
        if not isinstance(latents, Tensor):
            yield latents
            continue
        position, pixels, db = next(positions), decode(latents), None
        if curve.nodes:
            db = float(measure_psnr(decode(curve(position)), pixels))
        yield Node(position=position, latents=latents, pixels=pixels, foretold_db=db)
    if (missing := next(positions, None)) is not None:
        raise ValueError(f"render: gave no latents at {missing:g}")


def count_nodes(
    candidates: Sequence[float],
    keyframes: Sequence[float],
    *,
    close: float | None = None,
    minimum: int = MINIMUM,
) -> tuple[int, int]:
    """How many renders `trace` needs: at least, and at most.

    At most: all candidates. At least: the first round's nodes, and the middles of their gaps.
    """
    grid = [*candidates] if close is None else [*candidates, close]
    _check(grid, keyframes, (), TOLERANCE_DB, minimum)
    first = _begin(grid, keyframes, minimum)
    middles = sum(high - low > 1 for low, high in pairwise(first))
    return len(first) + middles - (close is not None), len(candidates)


@final
class Curve:
    """Latents at every position from the first node to the last. Made by `trace`; never changes.

    Splines run from corner to corner. They leave out steep gaps, which lines cross: through both
    sides of a jump they would swing for many gaps around it. Raises ValueError outside the nodes.
    """

    def __init__(
        self, nodes: Mapping[float, Latents], runs: list[Run], tests: Mapping[float, Test]
    ) -> None:
        self._nodes = {position: nodes[position] for position in sorted(nodes)}
        self._positions = [*self._nodes]
        self._runs, self._starts = runs, [run[0] for run in runs]
        self._tests = dict(tests)
        self._splines: dict[Run, Spline] = {}

    @property
    def nodes(self) -> Mapping[float, Latents]:
        """The exact latents by position, rising. A loop has those of its first node twice."""
        return MappingProxyType(self._nodes)

    def __call__(self, position: float) -> Latents:
        """The latents at `position`: a node's own, or others of its dtype and on its device."""
        run = self.support(position)
        if position in self._nodes:
            return self._nodes[position]
        if run not in self._splines:
            self._splines[run] = Spline(run, torch.stack([self._nodes[node] for node in run]))
        like = self._nodes[run[0]]
        return self._splines[run](position).to(like.dtype).to(like.device)

    def support(self, position: float) -> Run:
        """The positions of all nodes whose latents decide those at `position`, rising.

        A node's is itself, also where a loop closes.
        """
        if self._is_node(position):
            return (position,)
        return self._runs[bisect_right(self._starts, position) - 1]

    def measured_db(self, position: float) -> float:
        """The PSNR, in decibels, of what was foretold nearest to `position`; infinite at a node.

        That is at one end of its gap, before it was a node: where the path is smooth, the error is
        now some 24 dB less. Minus infinity where neighbouring candidates were nodes untested.
        """
        return self._find_test(position)[0]

    def is_settled(self, position: float) -> bool:
        """Whether `position` is a node or in a settled gap; elsewhere, render the picture."""
        return self._find_test(position)[1]

    def _find_test(self, position: float) -> Test:
        if self._is_node(position):
            return math.inf, True
        return self._tests[self._positions[bisect_right(self._positions, position) - 1]]

    def _is_node(self, position: float) -> bool:
        first, last = self._positions[0], self._positions[-1]
        if not first <= position <= last:
            raise ValueError(f"position = {position}: must be from {first:g} to {last:g}")
        return position in self._nodes


class _Search:
    """The gaps that are `open`, by the positions of their middles, and the `tests` of all others.

    Candidates are counted. A gap is two neighbouring nodes; its test is found by the first.
    """

    def __init__(
        self,
        grid: list[float],
        first: list[int],
        corners: Collection[float],
        grain: Grain | None,
    ) -> None:
        self._grid, self._grain = grid, grain or Grain(0, 0)
        self._corners = {index for index in first if grid[index] in corners}
        self._stuck: set[int] = set()  # the ends of gaps that were missed and cannot be halved
        self.tests = {grid[index]: UNTESTED for index in first[:-1]}
        self._open(pairwise(first))

    def _open(self, gaps: Iterable[tuple[int, int]]) -> None:
        halved = [(low, self._middle(low, high), high) for low, high in gaps if high - low > 1]
        self.open = {self._grid[middle]: (low, middle, high) for low, middle, high in halved}

    def judge(
        self, found: Mapping[float, float], steep: Collection[float], tolerance_db: float
    ) -> None:
        """Halve the gaps whose middles were foretold and rendered: settled, or open again.

        One good middle may be luck: a steep change is foretold at its centre by its symmetry. So
        halves beside a gap that is missed, or that the spline leaves out, stay open too.
        """
        missed = {middle for middle, db in found.items() if db < tolerance_db}
        missed |= {middle for middle, (low, *_) in self.open.items() if self._grid[low] in steep}
        touched = self._stuck | {node for middle in missed for node in self.open[middle][::2]}
        touched -= self._corners

        rough = []
        for middle, gap in self.open.items():
            for half in pairwise(gap):
                good = middle not in missed and touched.isdisjoint(half) and self._tells(gap, half)
                self.tests[self._grid[half[0]]] = found[middle], good
                if good:
                    continue
                if self._is_worth(half, found[middle]):
                    rough.append(half)
                elif middle in missed:
                    self._stuck.update(half)
        self._open(rough)

    def _middle(self, low: int, high: int) -> int:
        """The candidate between two that is nearest to half way, which need not be their middle."""
        place = (self._grid[low] + self._grid[high]) / 2
        near = bisect_right(self._grid, place, low + 1, high - 1)
        return min({near, max(near - 1, low + 1)}, key=lambda k: (abs(self._grid[k] - place), k))

    def _tells(self, gap: tuple[int, int, int], half: tuple[int, int]) -> bool:
        """Whether a test in `gap` tells of `half`: not where it was made near the other end."""
        low, _, high = (self._grid[k] for k in gap)
        return self._grid[half[1]] - self._grid[half[0]] <= WIDE * (high - low)

    def keep(self, count: int) -> None:
        """Leave but `count` gaps open, the widest."""
        widths = {p: self._grid[low] - self._grid[high] for p, (low, _, high) in self.open.items()}
        kept = {*sorted(self.open, key=lambda position: widths[position])[:count]}
        self.open = {position: gap for position, gap in self.open.items() if position in kept}

    def _is_worth(self, half: tuple[int, int], db: float) -> bool:
        """Whether a gap that is not settled, of which `db` was measured, is to be halved."""
        low, high = half
        is_wide = self._grid[high] - self._grid[low] > self._grain.width
        return high - low > 1 and (is_wide or db < self._grain.tolerance_db)


def _begin(grid: Sequence[float], keyframes: Sequence[float], minimum: int) -> list[int]:
    """The first nodes: all candidates from one keyframe to the next that has but `minimum`."""
    keys = sorted({*map(grid.index, keyframes), len(grid) - 1})
    nodes = {keys[0]}
    for low, high in pairwise(keys):
        steps = min(minimum - 1, high - low)
        nodes |= {low + round((high - low) * k / steps) for k in range(1, steps + 1)}
    return sorted(nodes)


def _join(nodes: list[float], corners: Collection[float], steep: Collection[float]) -> list[Run]:
    """The runs of nodes through which splines go: parted at corners and around steep gaps."""
    runs: list[list[float]] = [[]]
    for node, following in zip(nodes, [*nodes[1:], *nodes[:1]], strict=True):
        runs[-1].append(node)
        if node in corners:
            runs.append([node])
        if node in steep:
            runs += [[node, following], []]
    return [tuple(run) for run in runs if run]


def _find_steep(nodes: Mapping[float, Latents], corners: Collection[float]) -> set[float]:
    """The gaps, by their first nodes, that are `STEEP` times as steep as those beside them."""
    positions = sorted(nodes)
    rises = (b - a for a, b in pairwise(nodes[p].cpu().double() for p in positions))
    widths = (b - a for a, b in pairwise(positions))
    slopes = [float(rise.norm()) / width for rise, width in zip(rises, widths, strict=True)]
    before = [0.0 if p in corners else s for p, s in zip(positions, [0.0, *slopes], strict=True)]
    after = [0.0 if p in corners else s for p, s in zip(positions, [*slopes, 0.0], strict=True)]
    gaps = zip(positions, slopes, before, after[1:], strict=False)
    return {position for position, slope, *beside in gaps if slope > STEEP * max(beside)}


def _check(
    grid: Sequence[float],
    keyframes: Sequence[float],
    corners: Iterable[float],
    tolerance_db: float,
    minimum: int,
) -> frozenset[float]:
    """The corners, if all is as `trace` says."""
    corners = frozenset(corners)
    if not grid or not all(map(math.isfinite, grid)) or any(a >= b for a, b in pairwise(grid)):
        raise ValueError("candidates: must be finite, and rise to where the loop closes")
    if not grid[:1] == [*keyframes[:1]] or not set(keyframes) <= set(grid):
        raise ValueError("keyframes: must be candidates, and the first of them the first")
    if not corners <= {*keyframes, grid[-1]}:
        raise ValueError("corners: must be keyframes")
    if not tolerance_db > 0:
        raise ValueError(f"tolerance_db = {tolerance_db}: must be above 0")
    if minimum < 2:
        raise ValueError(f"minimum = {minimum}: must be at least 2")
    return corners
