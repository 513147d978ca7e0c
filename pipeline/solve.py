"""Few renders, many frames: exact renders at well-placed frames, the others solved from them.

Along a smooth path the final latents are a smooth function of position. So a few frames, the
nodes, are rendered, a cubic spline is laid through their latents, and the middle of every gap
between them is rendered to see how well the spline foretold it. Gaps where it misses the tolerance
are refined. The number of renders then depends on the path and not on the number of frames.

Knows no model, prompt or file: what a render or a picture is, its callers say. What is shorter than
a gap and lies beside its middle is not seen, as by any sampling.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.quality import measure_psnr
from pipeline.tensors import Latents, Pixels

Render = Callable[[Sequence[float]], Iterable[Latents]]
Decode = Callable[[Latents], Pixels]
Gap = tuple[int, int]

TOLERANCE_DB = 48.0  # a root mean square error of 1.02 of 255 grey levels
MINIMUM = 5  # nodes a piece begins with, evenly spread over its frames
STEEP = 3  # times the slopes beside it: no curve that is resolved has that, and a jump has


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """An exact frame, at the `indices` that share its position (several in a hold).

    `foretold_db` is the PSNR, in decibels, of what the spline foretold there, if it did.
    """

    indices: tuple[int, ...]
    position: float
    latents: Latents
    pixels: Pixels
    foretold_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A frame from the spline, at the `indices` that share its position.

    `nearest_db` is the PSNR measured nearest to it: at one end of its gap, rendered to settle it.
    """

    indices: tuple[int, ...]
    position: float
    latents: Latents
    pixels: Pixels
    nearest_db: float


def solve(
    render: Render,
    decode: Decode,
    positions: Sequence[float],
    corners: Iterable[float] = (),
    *,
    tolerance_db: float = TOLERANCE_DB,
    minimum: int = MINIMUM,
    exact: bool = False,
) -> Iterator[Rendered | Solved]:
    """Every frame of `positions` once, rendered or solved; in rounds, not in the order of time.

    `render` gives the final latents at rising positions, one by one, and is called once a round.
    `decode` gives their picture, in [-1, 1]. No spline crosses the `corners`, positions where the
    path may bend (its keyframes). A hold is one position with several indices, and is one frame.

    A gap is settled when the frame in its middle, and those in the middles beside it, are within
    `tolerance_db` of what the spline through the other nodes foretold. The PSNR is that of float
    pixels clamped to [-1, 1]: in 8 bits rounding would add errors of its own, 0.7 dB at 48 dB.
    Nodes are frames, so none is wasted: there are never more renders than frames. At a jump they
    close up to neighbouring frames, and no spline crosses it. `exact` renders all.

    The nodes and the solved frames are functions of the positions, the corners and the nodes'
    latents alone: a round is decided when the last is complete, from its results in the order of
    positions, by sums of one order in float64. Resumed, or batched otherwise, a run has the same
    frames if `render` gives the same latents. Latents are kept of nodes only, and until their
    piece between two corners is solved. Raises `RenderError` where pixels are not finite.
    """
    _check(positions, tolerance_db, minimum)
    frames = _index(positions)
    pieces = [] if exact else [_Piece(piece) for piece in _split(sorted(frames), corners)]
    wanted = set(frames) if exact else {p for piece in pieces for p in piece.begin(minimum)}

    while wanted:
        ordered = sorted(wanted)
        for position, latents in zip(ordered, render(ordered), strict=True):
            pixels = decode(latents)
            found = [piece.receive(position, latents, pixels, decode) for piece in pieces]
            yield Rendered(
                indices=frames[position],
                position=position,
                latents=latents,
                pixels=pixels,
                foretold_db=next((db for db in found if db is not None), None),
            )
        for piece in list(pieces):
            piece.judge(tolerance_db)
            if not piece.open:
                pieces.remove(piece)
                yield from piece.solve(decode, frames)
        wanted = {position for piece in pieces for position in piece.foretell()}


def count_renders(
    positions: Sequence[float],
    corners: Iterable[float] = (),
    *,
    minimum: int = MINIMUM,
    exact: bool = False,
) -> tuple[int, int]:
    """How many renders `solve` needs: at least, and at most.

    At most: all positions that differ. At least: the first nodes, and the middles of their gaps.
    """
    _check(positions, TOLERANCE_DB, minimum)
    grid = sorted(set(positions))
    if exact:
        return len(grid), len(grid)
    least = set()
    for piece in map(_Piece, _split(grid, corners)):
        least.update(piece.begin(minimum))
        least.update(piece.positions[_middle(gap)] for gap in piece.open)
    return len(least), len(grid)


class Spline:
    """The cubic through `values`, (nodes, …), at rising `nodes`, twice differentiable.

    Its ends are not-a-knot: the first two cubics are one, and the last two. Two or three values are
    joined by the one polynomial through them. Everything is in float64 on the CPU.

    De Boor, "A practical guide to splines", 1978, chapter IV.
    """

    def __init__(self, nodes: Sequence[float], values: Tensor) -> None:
        self._nodes = list(nodes)
        self._values = values.cpu().double()
        self._curvatures = _curvatures(self._nodes, self._values)

    def __call__(self, position: float) -> Tensor:
        """The value at `position`, shaped like one of `values`."""
        k = min(max(bisect_right(self._nodes, position) - 1, 0), len(self._nodes) - 2)
        left, right = self._nodes[k : k + 2]
        width = right - left
        a, b = (right - position) / width, (position - left) / width
        line = a * self._values[k] + b * self._values[k + 1]
        bend = (a**3 - a) * self._curvatures[k] + (b**3 - b) * self._curvatures[k + 1]
        return line + width**2 / 6 * bend


def _curvatures(nodes: list[float], values: Tensor) -> Tensor:
    """The second derivatives at `nodes`, by elimination without pivots.

    The rows of the ends are put into their neighbours', and all rows are then diagonally dominant.
    """
    count, width = len(nodes), [b - a for a, b in pairwise(nodes)]
    bends = torch.zeros_like(values)
    if count < 3:
        return bends

    def turn(i: int) -> Tensor:
        return (values[i + 1] - values[i]) / width[i] - (values[i] - values[i - 1]) / width[i - 1]

    if count == 3:
        return (bends + 2 / (width[0] + width[1])) * turn(1)

    lower = [0.0, *width[:-1]]
    diagonal = [1.0, *(2 * (a + b) for a, b in pairwise(width))]
    upper = [0.0, *width[1:]]
    first, last = width[0] / width[1], width[-1] / width[-2]
    diagonal[1] += width[0] * (1 + first)
    upper[1] -= width[0] * first
    diagonal[-1] += width[-1] * (1 + last)
    lower[-1] -= width[-1] * last

    for i in range(1, count - 1):
        share = lower[i] / diagonal[i - 1] if i > 1 else 0.0
        diagonal[i] -= share * upper[i - 1]
        bends[i] = 6 * turn(i) - share * bends[i - 1]
    for i in range(count - 2, 0, -1):
        bends[i] = (bends[i] - upper[i] * bends[i + 1]) / diagonal[i]
    bends[0] = (1 + first) * bends[1] - first * bends[2]
    bends[-1] = (1 + last) * bends[-2] - last * bends[-3]
    return bends


class _Piece:
    """A smooth piece: its frames, the nodes among them, and the gaps between nodes.

    Frames are counted within the piece. A gap is two neighbouring nodes with frames between them.
    """

    def __init__(self, positions: list[float]) -> None:
        self.positions = positions
        self.open: list[Gap] = []
        self._settled: list[tuple[Gap, float]] = []
        self._nodes: dict[int, Latents] = {}
        self._foretold: dict[int, Latents] = {}
        self._found: dict[int, float] = {}
        self._cuts: set[int] = set()

    def begin(self, minimum: int) -> list[float]:
        """The first nodes: all frames where they are no more than `minimum`."""
        last = len(self.positions) - 1
        steps = min(minimum - 1, last)
        nodes = [round(last * k / steps) for k in range(steps + 1)] if steps else [0]
        self.open = [gap for gap in pairwise(nodes) if _holds_frames(gap)]
        return [self.positions[node] for node in nodes]

    def foretell(self) -> list[float]:
        """The middles of all open gaps, with what the spline says of them kept for `receive`."""
        spline = self._lay()
        self._foretold = {middle: spline(middle) for middle in map(_middle, self.open)}
        return [self.positions[middle] for middle in self._foretold]

    def receive(
        self, position: float, latents: Latents, pixels: Pixels, decode: Decode
    ) -> float | None:
        """Take an exact render if it is of this piece; the PSNR of what was foretold, if it was."""
        if not self.positions[0] <= position <= self.positions[-1]:
            return None
        frame = bisect_left(self.positions, position)
        self._nodes[frame] = latents
        if frame not in self._foretold:
            return None
        self._found[frame] = float(measure_psnr(decode(self._foretold.pop(frame)), pixels))
        return self._found[frame]

    def judge(self, tolerance_db: float) -> None:
        """Halve the gaps whose middles were foretold and rendered: settled, or open again.

        One good middle may be luck: a steep change is foretold at its centre by its symmetry. So
        halves beside a gap that was missed, or that the spline leaves out, stay open too.
        """
        if not self._found:
            return
        tested = [(*gap, self._found.pop(_middle(gap))) for gap in self.open]
        rough = [gap for *gap, db in tested if db < tolerance_db or gap[0] in self._cuts]
        touched = {node for gap in rough for node in gap}

        halves = [
            (half, db)
            for low, high, db in tested
            for half in pairwise((low, _middle((low, high)), high))
            if _holds_frames(half)
        ]
        self.open = [half for half, _ in halves if not touched.isdisjoint(half)]
        self._settled += [(half, db) for half, db in halves if touched.isdisjoint(half)]

    def solve(self, decode: Decode, frames: Mapping[float, tuple[int, ...]]) -> Iterator[Solved]:
        """The frames between the nodes, in order."""
        spline = self._lay()
        for (low, high), db in sorted(self._settled):
            for frame in range(low + 1, high):
                latents, position = spline(frame), self.positions[frame]
                yield Solved(
                    indices=frames[position],
                    position=position,
                    latents=latents,
                    pixels=decode(latents),
                    nearest_db=db,
                )

    def _lay(self) -> Callable[[int], Latents]:
        """From a frame to its latents: by splines that leave out steep gaps, by lines in those.

        A spline through both sides of a jump would swing for many gaps around it.
        """
        nodes = sorted(self._nodes)
        self._cuts = self._find_steep(nodes)
        runs: list[list[int]] = [[]]
        for node, following in zip(nodes, [*nodes[1:], 0], strict=True):
            runs[-1].append(node)
            if node in self._cuts:
                runs += [[node, following], []]
        starts = [run[0] for run in runs]

        @cache
        def lay(number: int) -> Spline:
            latents = torch.stack([self._nodes[node] for node in runs[number]])
            return Spline([self.positions[node] for node in runs[number]], latents)

        def at(frame: int) -> Latents:
            spline, like = lay(bisect_right(starts, frame) - 1), self._nodes[0]
            return spline(self.positions[frame]).to(like.dtype).to(like.device)

        return at

    def _find_steep(self, nodes: list[int]) -> set[int]:
        """The gaps, by their first nodes, that are `STEEP` times as steep as those beside them."""
        rises = (b - a for a, b in pairwise(self._nodes[n].cpu().double() for n in nodes))
        widths = (b - a for a, b in pairwise(self.positions[n] for n in nodes))
        slopes = [float(rise.norm()) / width for rise, width in zip(rises, widths, strict=True)]
        beside = zip([0.0, *slopes], [*slopes[1:], 0.0], strict=False)
        found = zip(nodes, slopes, beside, strict=False)
        return {node for node, slope, pair in found if slope > STEEP * max(pair)}


def _index(positions: Sequence[float]) -> dict[float, tuple[int, ...]]:
    """The frames at each position."""
    indices: dict[float, tuple[int, ...]] = {}
    for index, position in enumerate(positions):
        indices[position] = (*indices.get(position, ()), index)
    return indices


def _split(grid: list[float], corners: Iterable[float]) -> list[list[float]]:
    """The positions of each smooth piece; one on a corner belongs to both sides."""
    edges = [-math.inf, *sorted(set(corners)), math.inf]
    pieces = [[p for p in grid if low <= p <= high] for low, high in pairwise(edges)]
    return [piece for piece in pieces if piece]


def _middle(gap: Gap) -> int:
    return sum(gap) // 2


def _holds_frames(gap: Gap) -> bool:
    return gap[1] - gap[0] > 1


def _check(positions: Sequence[float], tolerance_db: float, minimum: int) -> None:
    if not all(map(math.isfinite, positions)):
        raise ValueError("positions: must be finite")
    if not tolerance_db > 0:
        raise ValueError(f"tolerance_db = {tolerance_db}: must be above 0")
    if minimum < 2:
        raise ValueError(f"minimum = {minimum}: must be at least 2")
