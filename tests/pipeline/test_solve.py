"""Few renders, many frames: what is rendered, what is solved, and how near it comes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import RenderError
from pipeline.quality import measure_psnr
from pipeline.solve import Rendered, Solved, Spline, count_renders, solve

quick = settings(max_examples=30)

Curve = Callable[[float], Tensor]

SHAPE = (1, 4, 8, 8)
FRAMES = (25, 97, 385)  # each has the frames of the one before, and three between every two


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WAVES = [draw(k) / 2 for k in range(6)]


def wander(pace: float) -> Curve:
    """Six waves at once, the fastest of which turns by `pace` radians from one end to the other."""
    rates = [pace * (k + 1) / 6 for k in range(6)]
    return lambda p: sum(
        (math.sin(r * p + k) * w for k, (r, w) in enumerate(zip(rates, WAVES, strict=True))),
        torch.zeros(SHAPE, dtype=torch.float64),
    )


def logistic(rate: float, centre: float) -> Callable[[float], float]:
    return lambda p: 1 / (1 + math.exp(-max(-600.0, min(600.0, rate * (p - centre)))))


def evenly(num_frames: int) -> list[float]:
    return [k / (num_frames - 1) for k in range(num_frames)]


def decode(latents: Tensor) -> Tensor:
    """A picture that leans against its limits, as pictures do."""
    return torch.tanh(0.7 * latents[:, :3].float())


class Path:
    """A curve of latents that is rendered, in float32 as a model would: what was asked for."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.rounds: list[list[float]] = []

    def __call__(self, positions: Sequence[float]) -> Iterator[Tensor]:
        self.rounds.append(list(positions))
        return (self.curve(position).float() for position in positions)

    @property
    def rendered(self) -> list[float]:
        return [position for positions in self.rounds for position in positions]


class Run:
    """All events of `solve`, and what holds for every one of them."""

    def __init__(self, path: Path, positions: Sequence[float], **options: object) -> None:
        events = list(solve(path, decode, positions, **options))  # type: ignore[arg-type]
        self.rendered = [event for event in events if isinstance(event, Rendered)]
        self.solved = [event for event in events if isinstance(event, Solved)]
        self.errors = [
            float(measure_psnr(e.pixels, decode(path.curve(e.position).float())))
            for e in self.solved
        ]

        indices = [index for event in events for index in event.indices]
        assert sorted(indices) == list(range(len(positions)))
        assert all(positions[i] == event.position for event in events for i in event.indices)
        assert [event.position for event in self.rendered] == path.rendered
        assert all(torch.equal(e.latents, path.curve(e.position).float()) for e in self.rendered)
        assert all(torch.equal(event.pixels, decode(event.latents)) for event in events)
        assert len(path.rendered) == len(set(path.rendered)) <= len(set(positions))
        assert all(event.nearest_db >= options.get("tolerance_db", 48) for event in self.solved)


class TestSpline:
    @quick
    @given(
        st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
        st.lists(st.floats(-1, 1), min_size=4, max_size=4),
        st.floats(0, 1),
    )
    def test_is_the_polynomial_itself_up_to_the_third_degree(
        self, widths: list[float], coefficients: list[float], share: float
    ) -> None:
        """Which is what not-a-knot ends are for; fewer nodes fix a polynomial of lower degree."""
        nodes = [sum(widths[:k]) for k in range(len(widths) + 1)]
        polynomial = np.polynomial.Polynomial(coefficients[: len(nodes)])
        spline = Spline(nodes, torch.tensor([[polynomial(node)] for node in nodes]))

        position = share * nodes[-1]
        # Numbers up to 12³, and widths that differ by 100: of sixteen digits ten are left.
        assert spline(position).item() == pytest.approx(polynomial(position), abs=1e-6)

    @quick
    @given(st.lists(st.floats(0.05, 1), min_size=4, max_size=12), st.integers(0, 1000))
    def test_is_what_its_defining_equations_say(self, widths: list[float], seed: int) -> None:
        """Four unknowns a piece, solved whole: an independent way to the same curve."""
        nodes = np.concatenate([[0], np.cumsum(widths)])
        values = np.random.default_rng(seed).normal(size=len(nodes))
        pieces = _solve_whole(nodes, values)

        spline = Spline(nodes.tolist(), torch.tensor(values)[:, None])

        for k, piece in enumerate(pieces):
            for share in (0.1, 0.5, 0.9):
                away = share * widths[k]
                truth = np.polynomial.Polynomial(piece)(away)
                assert spline(nodes[k] + away).item() == pytest.approx(truth, abs=1e-8)

    def test_meets_its_values_exactly(self) -> None:
        nodes, values = [0.0, 0.1, 0.15, 0.6, 0.9, 1.0], torch.stack([draw(k) for k in range(6)])
        spline = Spline(nodes, values)

        assert all(torch.equal(spline(n), v) for n, v in zip(nodes, values, strict=True))

    def test_misses_sixteen_times_less_on_half_the_width(self) -> None:
        def error(count: int) -> float:
            nodes = evenly(count)
            spline = Spline(nodes, torch.tensor([[math.sin(5 * node)] for node in nodes]))
            return max(abs(spline(p).item() - math.sin(5 * p)) for p in evenly(401))

        # Fourth order, at the ends too; 2⁴ is the limit, which 17 nodes have not quite reached.
        assert error(17) / error(33) == pytest.approx(16, rel=0.2)


def _solve_whole(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The coefficients of every cubic, in powers of the distance from its left node."""
    count = len(nodes) - 1
    rows, right = [], []

    def demand(value: float, *terms: tuple[int, Sequence[float]]) -> None:
        row = np.zeros(4 * count)
        for piece, coefficients in terms:
            row[4 * piece : 4 * piece + 4] += coefficients
        rows.append(row)
        right.append(value)

    for k, width in enumerate(np.diff(nodes)):
        demand(values[k], (k, (1, 0, 0, 0)))
        demand(values[k + 1], (k, (1, width, width**2, width**3)))
        if k + 1 < count:
            demand(0, (k, (0, 1, 2 * width, 3 * width**2)), (k + 1, (0, -1, 0, 0)))
            demand(0, (k, (0, 0, 2, 6 * width)), (k + 1, (0, 0, -2, 0)))
    for k in (0, count - 2):
        demand(0, (k, (0, 0, 0, 1)), (k + 1, (0, 0, 0, -1)))
    return np.linalg.solve(np.array(rows), np.array(right)).reshape(count, 4)


class TestSmoothPaths:
    def test_renders_do_not_grow_with_frames(self) -> None:
        counts = [len(Run(Path(wander(12)), evenly(n)).rendered) for n in FRAMES]

        # The nodes of the longer videos are those of the shorter, and some that it has no frames at
        assert counts[1] == counts[2] <= 25
        assert counts[0] <= counts[1]

    @pytest.mark.parametrize("num_frames", FRAMES)
    @pytest.mark.parametrize("pace", [2, 6, 12, 30])
    def test_the_tolerance_holds_at_every_frame(self, pace: float, num_frames: int) -> None:
        """Not only where it was measured. There it was measured before the node was put in."""
        run = Run(Path(wander(pace)), evenly(num_frames))

        assert all(error >= 48 for error in run.errors)
        if num_frames == 385:
            assert len(run.solved) > 300

    def test_a_finer_tolerance_takes_more_renders(self) -> None:
        runs = [Run(Path(wander(12)), evenly(97), tolerance_db=db) for db in (30, 48, 70)]

        for run, tolerance_db in zip(runs, (30, 48, 70), strict=True):
            assert all(error >= tolerance_db for error in run.errors)
        counts = [len(run.rendered) for run in runs]
        assert counts == sorted(set(counts))  # 17, 23, 39: half the width is worth 24 dB

    def test_a_path_that_stands_still_takes_the_least(self) -> None:
        positions = evenly(97)
        run = Run(Path(lambda p: WAVES[0]), positions)

        assert len(run.rendered) == count_renders(positions)[0] == 9
        assert {event.nearest_db for event in run.solved} == {math.inf}

    @quick
    @given(
        st.lists(st.integers(0, 10**4).map(lambda k: k / 10**4), min_size=1, max_size=60),
        st.integers(2, 9),
    )
    def test_any_positions_in_any_order(self, positions: list[float], minimum: int) -> None:
        """Uneven, repeated, unsorted: each frame comes once, and none is worse than 42 dB.

        Of positions at random some lie so that a test in the middle of a gap by number is at its
        edge by position, hence the 6 dB.
        """
        corners = [0.25, 0.5]
        run = Run(Path(wander(8)), positions, corners=corners, minimum=minimum)

        least, most = count_renders(positions, corners, minimum=minimum)
        assert least <= len(run.rendered) <= most == len(set(positions))
        assert all(error >= 42 for error in run.errors)

    def test_in_half_precision_frames_are_as_the_nodes_are(self) -> None:
        def render(positions: Sequence[float]) -> list[Tensor]:
            return [wander(3)(position).half() for position in positions]

        events = list(solve(render, decode, evenly(97)))

        assert {event.latents.dtype for event in events} == {torch.float16}
        assert {event.latents.shape for event in events} == {torch.Size(SHAPE)}
        # A node is off by half a unit in its last place, 2⁻¹² of up to 4: 70 dB at the worst.
        assert len([event for event in events if isinstance(event, Rendered)]) == 9


class TestRoughPaths:
    @pytest.mark.parametrize("place", [0.1234, 0.4371, 0.5, 0.97])
    @pytest.mark.parametrize("num_frames", FRAMES)
    def test_nodes_close_up_at_a_jump(self, num_frames: int, place: float) -> None:
        path, positions = (
            Path(lambda p: wander(3)(p) + 2 * WAVES[5] * (p > place)),
            evenly(num_frames),
        )
        run = Run(path, positions)

        before = max(p for p in positions if p <= place)
        after = min(p for p in positions if p > place)
        assert {before, after} <= set(path.rendered)
        assert all(error >= 48 for error in run.errors)
        # Twice the halvings from a quarter of the path to one frame, on both sides, and the rest.
        assert len(run.rendered) <= min(num_frames, 9 + 4 * math.log2(num_frames / 4) + 8)

    def test_a_path_of_jumps_is_rendered_whole(self) -> None:
        path, positions = Path(lambda p: draw(round(p * 1000))), evenly(40)

        run = Run(path, positions)

        assert run.solved == []
        assert sorted(path.rendered) == positions

    @pytest.mark.parametrize("place", [0.43, 183 / 384, 180 / 384])
    @pytest.mark.parametrize("rate", [20, 60, 200, 400])
    @pytest.mark.parametrize("num_frames", FRAMES)
    def test_a_steep_change_is_followed(self, num_frames: int, rate: float, place: float) -> None:
        """Also where a middle lies on its centre and is foretold by symmetry alone."""
        switch = logistic(rate, place)
        run = Run(Path(lambda p: wander(3)(p) + 2 * WAVES[5] * switch(p)), evenly(num_frames))

        assert all(error >= 48 for error in run.errors)
        assert len(run.rendered) <= 45

    def test_no_spline_crosses_a_corner(self) -> None:
        def bent(p: float) -> Tensor:
            return wander(3)(p) + 4 * WAVES[5] * abs(p - 0.41)

        whole = Run(Path(bent), evenly(385))
        parted = Run(Path(bent), evenly(385), corners=[0.0, 0.41, 1.0])

        assert all(error >= 48 for error in whole.errors + parted.errors)
        assert len(parted.rendered) == 18  # the least for two pieces
        assert len(whole.rendered) > 25

    def test_a_corner_on_a_frame_is_rendered_once_for_both_sides(self) -> None:
        path, positions = Path(wander(3)), evenly(97)

        run = Run(path, positions, corners=[0.0, 0.5, 1.0])

        assert path.rendered.count(0.5) == 1
        assert len(run.rendered) == count_renders(positions, [0.0, 0.5, 1.0])[0] == 17

    def test_a_hold_is_one_frame(self) -> None:
        path = Path(wander(3))
        positions = evenly(25)[:13] + [0.5] * 30 + evenly(25)[13:]

        run = Run(path, positions, corners=[0.5])

        (held,) = [event for event in run.rendered if event.position == 0.5]
        assert held.indices == tuple(range(12, 43))
        assert count_renders(positions)[1] == 25

    def test_what_lies_beside_the_middles_is_not_seen(self) -> None:
        """Said in the module: a blink of two frames between nodes passes unseen."""
        run = Run(Path(lambda p: wander(2)(p) + WAVES[5] * (0.19 < p < 0.21)), evenly(97))

        assert min(run.errors) < 48


class TestRounds:
    def test_each_round_rises_and_the_first_nodes_are_not_foretold(self) -> None:
        path = Path(wander(12))
        run = Run(path, evenly(97))

        assert path.rounds[0] == [0, 0.25, 0.5, 0.75, 1]
        assert all(positions == sorted(positions) for positions in path.rounds)
        assert [event.foretold_db is None for event in run.rendered] == [
            k < 5 for k in range(len(run.rendered))
        ]

    def test_the_nearest_error_is_that_of_a_neighbouring_render(self) -> None:
        run = Run(Path(wander(12)), evenly(97))
        foretold = {event.position: event.foretold_db for event in run.rendered}

        for event in run.solved:
            left = max(p for p in foretold if p < event.position)
            right = min(p for p in foretold if p > event.position)
            assert event.nearest_db in (foretold[left], foretold[right])

    def test_batches_change_nothing(self) -> None:
        """Whether renders come one by one, in lists, or from an earlier run: bit for bit."""
        curve, positions = wander(12), evenly(97)
        kept = {position: curve(position).float() for position in positions}

        whole = Run(Path(curve), positions)
        again = list(solve(lambda ps: [kept[p] for p in ps], decode, positions))

        for first, second in zip(
            whole.rendered + whole.solved, sorted(again, key=_kind), strict=True
        ):
            assert type(first) is type(second)
            assert first.position == second.position
            assert torch.equal(first.latents, second.latents)

    def test_neither_does_a_piece_beside_it(self) -> None:
        """What a segment gets does not depend on another, so that one can be edited."""

        def bent(p: float) -> Tensor:
            return wander(6)(p) if p <= 0.5 else wander(6)(0.5) + draw(9) * (p - 0.5) ** 3

        positions, corners = evenly(97), [0.0, 0.5, 1.0]
        one = Run(Path(wander(6)), positions, corners=corners)
        other = Run(Path(bent), positions, corners=corners)

        first = {event.position: event.latents for event in one.solved if event.position < 0.5}
        second = {event.position: event.latents for event in other.solved if event.position < 0.5}
        assert first.keys() == second.keys()
        assert all(torch.equal(first[position], second[position]) for position in first)

    def test_what_is_solved_is_forgotten(self) -> None:
        """Latents of nodes are held, and those of a piece only until it is solved."""
        alive: dict[float, weakref.ref[Tensor]] = {}

        def render(positions: Sequence[float]) -> Iterator[Tensor]:
            for position in positions:
                latents = wander(60 if position > 0.5 else 2)(position).float()
                alive[position] = weakref.ref(latents)
                yield latents
                del latents

        held = []
        for event in solve(render, decode, evenly(385), corners=[0.5]):
            if isinstance(event, Solved):
                held.append(
                    (event.position, {p for p, node in alive.items() if node() is not None})
                )
            del event

        assert held[0][0] < 0.5
        assert 0 in held[0][1]
        late = [nodes for position, nodes in held if position > 0.5]
        assert all(min(nodes) >= 0.5 for nodes in late)
        assert len(alive) < 150

    def test_frames_come_as_they_are_rendered(self) -> None:
        taken: list[float] = []

        def render(positions: Sequence[float]) -> Iterator[Tensor]:
            for position in positions:
                taken.append(position)
                yield wander(3)(position).float()

        first = next(solve(render, decode, evenly(97)))

        assert isinstance(first, Rendered)
        assert taken == [0.0]

    def test_exact_renders_all_in_the_order_of_time(self) -> None:
        path, positions = Path(wander(3)), evenly(97)

        run = Run(path, positions, corners=[0.5], exact=True)

        assert path.rounds == [positions]
        assert run.solved == []
        assert count_renders(positions, exact=True) == (97, 97)

    def test_no_frames_take_no_renders(self) -> None:
        path = Path(wander(3))

        assert list(solve(path, decode, [])) == []
        assert path.rounds == []
        assert count_renders([]) == (0, 0)

    def test_a_render_too_few_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            list(solve(lambda positions: [WAVES[0]], decode, evenly(25)))

    def test_pixels_that_are_no_numbers_are_an_error(self) -> None:
        with pytest.raises(RenderError, match="not finite"):
            list(solve(Path(lambda p: WAVES[0] * math.nan), decode, evenly(25)))

    @pytest.mark.parametrize(
        ("positions", "options", "message"),
        [
            ([0.0, math.nan], {}, "positions: must be finite"),
            ([0.0], {"tolerance_db": 0}, "tolerance_db = 0: must be above 0"),
            ([0.0], {"tolerance_db": math.nan}, "tolerance_db = nan"),
            ([0.0], {"minimum": 1}, "minimum = 1: must be at least 2"),
        ],
    )
    def test_options_out_of_range_are_refused(
        self, positions: list[float], options: dict[str, float], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            list(solve(Path(wander(3)), decode, positions, **options))  # type: ignore[arg-type]


def _kind(event: Rendered | Solved) -> bool:
    return isinstance(event, Solved)
