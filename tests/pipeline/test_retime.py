"""Even speed: the map from time to position, and how few cheap pictures it takes to find it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import RenderError, SpecError
from pipeline.quality import Distance
from pipeline.retime import COUNT, Probed, Retimed, TimeMap, most_probes, retime
from pipeline.timing import ease

quick = settings(max_examples=40)

Curve = Callable[[float], Tensor]

shares = st.lists(st.floats(1e-6, 1), min_size=3, max_size=20)
BENT = TimeMap((((0.0, 0.0), (0.2, 0.05), (0.25, 0.45), (0.5, 0.5)), ((0.5, 0.5), (1.0, 1.0))))


def rising(widths: Sequence[float]) -> list[float]:
    """Places from 0 to 1 whose widths have these proportions."""
    places = [sum(widths[:k]) / sum(widths) for k in range(len(widths) + 1)]
    return [0.0, *places[1:-1], 1.0]


def logistic(rate: float, centre: float) -> Callable[[float], float]:
    return lambda p: 1 / (1 + math.exp(-max(-600.0, min(600.0, rate * (p - centre)))))


def picture(value: float) -> Tensor:
    """A grey picture: the distance between two is that of their values."""
    return torch.full((1, 3, 2, 2), value, dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def wander(position: float) -> Tensor:
    """Twelve waves at once: it turns and never comes back, with a speed that is nearly even."""
    waves = torch.linspace(2, 14, 12, dtype=torch.float64)
    return torch.sin(waves * position + waves**2).reshape(1, 3, 2, 2)


def euclid(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm()


class Path:
    """A curve that is probed: what was asked for, in which requests."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.requests: list[list[float]] = []

    def __call__(self, positions: Sequence[float]) -> Iterator[Tensor]:
        self.requests.append(list(positions))
        return (self.curve(position) for position in positions)

    @property
    def probed(self) -> list[float]:
        return [position for request in self.requests for position in request]


def run(
    path: Path,
    measure: Distance = distance,
    bounds: Sequence[float] = (0.0, 1.0),
    *,
    loop: bool = False,
) -> Retimed:
    *probes, retimed = retime(path, measure, bounds, loop=loop)
    assert isinstance(retimed, Retimed)
    assert [probe.position for probe in probes if isinstance(probe, Probed)] == path.probed
    assert retimed.probes == len(path.probed) == len(set(path.probed))
    return retimed


def steps(
    timemap: Callable[[float], float],
    curve: Curve,
    measure: Distance,
    num_frames: int,
) -> list[float]:
    frames = [curve(timemap(k / (num_frames - 1))) for k in range(num_frames)]
    return [float(measure(a, b)) for a, b in pairwise(frames)]


def variation(changes: Sequence[float]) -> float:
    return pstdev(changes) / fmean(changes)


class TestTimeMap:
    @given(st.floats(0, 1))
    def test_the_identity_moves_nothing_by_no_bit(self, time: float) -> None:
        assert TimeMap.identity([0, 0.3, 1])(time) == time

    @quick
    @given(shares, shares, st.lists(st.floats(0, 1), min_size=2, max_size=30))
    def test_rises_and_meets_its_pairs_exactly(
        self, widths: list[float], rises: list[float], times: list[float]
    ) -> None:
        count = min(len(widths), len(rises))
        pairs = tuple(zip(rising(widths[:count]), rising(rises[:count]), strict=True))
        timemap = TimeMap((pairs,))

        assert [timemap(time) for time, _ in pairs] == [position for _, position in pairs]
        positions = [timemap(time) for time in sorted(times)]
        # Within a piece the last place is rounded: twelve operations on numbers up to 1.
        assert all(b >= a - 1e-15 for a, b in pairwise(positions))
        assert all(0 <= p <= 1 for p in positions)

    def test_follows_a_smooth_map_more_closely_than_lines_do(self) -> None:
        def smooth(time: float) -> float:
            return (time + time**2) / 2

        times = [k / 8 for k in range(9)]
        timemap = TimeMap((tuple((time, smooth(time)) for time in times),))

        errors = [abs(timemap(k / 97) - smooth(k / 97)) for k in range(98)]
        # A line misses a parabola by width² / 8 times its second derivative, here 1.
        assert max(errors) < 0.1 * (1 / 8) ** 2 / 8

    def test_composes_with_easing_and_leaves_keyframes_in_place(self) -> None:
        def position(time: float) -> float:
            return BENT(ease("smoothstep", time))

        assert [position(time) for time in (0, 0.5, 1)] == [0, 0.5, 1]
        positions = [position(k / 100) for k in range(101)]
        assert positions == sorted(positions)

    def test_json_keeps_every_digit(self) -> None:
        again = TimeMap.from_lists(json.loads(json.dumps(BENT.to_lists())))

        assert again == BENT

    @pytest.mark.parametrize(
        ("lists", "message"),
        [
            ([[[0, 0], [0.5, 0.6], [0.4, 0.7], [1, 1]]], "must rise in both"),
            ([[[0, 0], [0.5, 0.6], [0.7, 0.6], [1, 1]]], "must rise in both"),
            ([[[0, 0], [math.nan, 0.5], [1, 1]]], "must rise in both"),
            ([[[0, 0], [1, math.inf]]], "must rise in both"),
            ([[[0, 0.1], [1, 1]]], "keyframe at time 0.0, position 0.1: must be equal"),
            ([[[0, 0], [0.5, 0.5]], [[0.6, 0.6], [1, 1]]], "ends at .* begins at"),
            ([[[0, 0]]], "1 pairs: must have at least 2"),
            ([[]], "0 pairs: must have at least 2"),
            ([[[0, 0], [1, "1"]]], "pairs of numbers"),
            ([[[0, 0, 0], [1, 1]]], "pairs of numbers"),
            ([[[0, 0], [10**400, 1]]], "pairs of numbers"),
            ([0, 1], "pairs of numbers"),
            (None, "pairs of numbers"),
        ],
    )
    def test_refuses_lists_that_are_no_map(self, lists: object, message: str) -> None:
        with pytest.raises(SpecError, match=message) as caught:
            TimeMap.from_lists(lists)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("time", [-0.1, 1.1, math.nan])
    def test_has_nothing_outside_the_path(self, time: float) -> None:
        with pytest.raises(ValueError, match="between the first and the last keyframe"):
            BENT(time)


class TestEvenness:
    def test_a_morph_at_a_sigmoid_rate(self) -> None:
        """Even frames of it vary by 1.10; one pass of lines leaves 0.28, two leave 0.09."""
        path = Path(lambda p: picture(logistic(13.5, 0.5)(p)))

        retimed = run(path)

        before, after = retimed.variations[0]
        assert before == pytest.approx(1.11, abs=0.01)
        assert after < 0.01  # measured 0.005, after one pass, with 39 probes
        assert retimed.probes < 45
        assert retimed.jumps == ()
        # Frames lie between the probes, so what counts is what they see: measured 0.005 to 0.014.
        for num_frames in (25, 97, 385):
            changes = steps(retimed.timemap, path.curve, distance, num_frames)
            assert variation(changes) < 0.03
            assert max(changes) < 1.1 * fmean(changes)

    @pytest.mark.parametrize("rate", [40, 100, 300, 1000])
    def test_a_steep_change_is_slowed_down_and_is_no_jump(self, rate: float) -> None:
        path = Path(lambda p: picture(logistic(rate, 0.43)(p)))

        retimed = run(path)

        assert retimed.jumps == ()
        assert retimed.variations[0][0] > 2
        assert retimed.variations[0][-1] < 0.1
        assert variation(steps(retimed.timemap, path.curve, distance, 97)) < 0.1

    def test_a_distance_that_saturates(self) -> None:
        """As 1 - SSIM does: far pictures are all as far, and distances do not add up."""

        def saturating(a: Tensor, b: Tensor) -> Tensor:
            return (1 - (-((euclid(a, b) / 1.5) ** 2)).exp()).sqrt()

        path = Path(lambda p: wander(logistic(15, 0.5)(p)))
        retimed = run(path, saturating)

        assert retimed.variations[0][-1] < 0.1
        assert variation(steps(retimed.timemap, path.curve, saturating, 97)) < 0.1

    def test_what_is_even_is_left_at_that(self) -> None:
        path = Path(lambda p: picture(p))

        retimed = run(path)

        assert len(path.probed) == COUNT
        assert [retimed.timemap(k / 96) for k in range(97)] == pytest.approx(
            [k / 96 for k in range(97)], abs=1e-12
        )

    @pytest.mark.parametrize("value", [0.0, 0.7])
    def test_what_does_not_change_is_not_moved(self, value: float) -> None:
        retimed = run(Path(lambda p: picture(value)))

        assert retimed.timemap == TimeMap.identity([0, 1])
        assert retimed.variations == ((0.0,),)

    def test_stillness_takes_some_time_too(self) -> None:
        retimed = run(Path(lambda p: picture(max(0.0, p - 0.5))))

        # The still half takes half a thousandth of the time.
        assert retimed.timemap(2.5e-4) == pytest.approx(0.25, abs=0.01)
        assert retimed.timemap(0.5) == pytest.approx(0.75, abs=0.01)

    @settings(max_examples=20)
    @given(st.integers(0, 10_000))
    def test_any_curve_gets_a_map_within_the_bound(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        rate, centre, amount = torch.rand(3, generator=generator).tolist()
        curve = logistic(10 ** (3 * rate), centre)
        path = Path(lambda p: wander(p) + 10 * amount * curve(p))

        retimed = run(path, euclid)

        assert retimed.probes <= most_probes(1)
        positions = [retimed.timemap(k / 200) for k in range(201)]
        assert positions[0] == 0
        assert positions[-1] == 1
        assert all(b >= a - 1e-15 for a, b in pairwise(positions))
        if not retimed.jumps:
            even = steps(lambda time: time, path.curve, euclid, 49)
            moved = steps(retimed.timemap, path.curve, euclid, 49)
            # A steep change that is smaller than a gap is not seen, and stays as it is.
            assert variation(moved) < max(0.2, 1.1 * variation(even))


class TestSegments:
    def test_keyframes_stay_and_are_probed_once(self) -> None:
        bounds = [0.0, 0.3, 0.7, 1.0]
        path = Path(lambda p: wander(p**3))

        retimed = run(path, euclid, bounds)

        assert [retimed.timemap(bound) for bound in bounds] == bounds
        assert [path.probed.count(bound) for bound in bounds] == [1, 1, 1, 1]
        assert len(retimed.variations) == 3

    def test_a_segment_is_not_moved_for_another(self) -> None:
        bend = logistic(30, 0.75)
        path = Path(lambda p: picture(p if p < 0.5 else p + 20 * (bend(p) - bend(0.5))))

        retimed = run(path, bounds=[0.0, 0.5, 1.0])

        times = [k / 100 for k in range(51)]
        assert [retimed.timemap(time) for time in times] == pytest.approx(times, abs=1e-12)

    def test_a_loop_ends_with_its_first_picture(self) -> None:
        def around(p: float) -> Tensor:
            angle = 2 * math.pi * p**2
            return picture(0) + torch.tensor([math.cos(angle), math.sin(angle)])

        path = Path(around)
        retimed = run(path, euclid, [0.0, 0.5, 1.0], loop=True)

        assert 1.0 not in path.probed
        assert path.probed.count(0.0) == 1
        assert retimed.variations[1][-1] < 0.1

    def test_one_keyframe_has_no_segments(self) -> None:
        assert run(Path(wander), euclid, [0.0]).timemap == TimeMap(())


class TestJumps:
    @pytest.mark.parametrize("place", [0.2, 0.4371, 0.5, 0.93])
    def test_a_jump_is_said_and_costs_few_probes(self, place: float) -> None:
        path = Path(lambda p: picture(p + 0.5 * (p > place)))

        retimed = run(path)

        (jump,) = retimed.jumps
        assert jump.start <= place <= jump.end
        assert jump.end - jump.start < 1e-3
        assert jump.distance == pytest.approx(0.5, abs=1e-3)
        assert retimed.probes == COUNT + 6  # the gap is halved six times

    def test_both_sides_of_a_jump_are_even_and_it_takes_no_time(self) -> None:
        path = Path(lambda p: wander(p**2) + 2.0 * (p > 0.4371))

        retimed = run(path, euclid)

        changes = sorted(steps(retimed.timemap, path.curve, euclid, 97))
        # The jump falls between two frames, and the rest of that step is lost on the frame beside.
        assert changes[-1] > 20 * changes[-2]
        assert variation(changes[2:-1]) < 0.1

    def test_several_jumps(self) -> None:
        path = Path(lambda p: wander(p) + 2.0 * (p > 0.3) + 3.0 * (p > 0.8))

        places = [(jump.start, jump.end) for jump in run(path, euclid).jumps]

        assert len(places) == 2
        assert places[0][0] <= 0.3 <= places[0][1]
        assert places[1][0] <= 0.8 <= places[1][1]

    def test_jumps_that_are_many_stay_within_the_bound(self) -> None:
        places = [k / 11 for k in range(1, 11)]
        path = Path(lambda p: picture(p + sum(p > place for place in places)))

        retimed = run(path)

        assert retimed.probes <= most_probes(1)
        assert len(retimed.jumps) == 5  # as many as are halved for, with two halvings a probe

    def test_nothing_but_a_jump_is_not_moved(self) -> None:
        retimed = run(Path(lambda p: picture(float(p > 0.4371))))

        assert len(retimed.jumps) == 1
        times = [k / 96 for k in range(97)]
        assert [retimed.timemap(time) for time in times] == pytest.approx(times, abs=2e-3)


class TestGenerator:
    def test_probes_come_one_by_one(self) -> None:
        taken: list[float] = []

        def probe(positions: Sequence[float]) -> Iterator[Tensor]:
            for position in positions:
                taken.append(position)
                yield wander(position)

        events = retime(probe, euclid, [0.0, 1.0])
        first = next(events)

        assert isinstance(first, Probed)
        assert taken == [0.0]
        assert torch.equal(first.pixels, wander(0.0))

    def test_requests_rise(self) -> None:
        path = Path(lambda p: wander(logistic(15, 0.5)(p)))
        run(path, euclid)

        assert all(request == sorted(request) for request in path.requests)

    def test_a_probe_too_few_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            list(retime(lambda positions: [wander(0)], euclid, [0.0, 1.0]))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
    def test_a_distance_that_is_none_is_an_error(self, bad: float) -> None:
        with pytest.raises(RenderError, match="apart"):
            list(retime(Path(wander), lambda a, b: torch.tensor([bad]), [0.0, 1.0]))

    @pytest.mark.parametrize(("count", "passes"), [(2, 3), (17, -1)])
    def test_too_few_probes_are_refused(self, count: int, passes: int) -> None:
        with pytest.raises(ValueError, match="at least 3 and 0"):
            list(retime(Path(wander), euclid, [0.0, 1.0], count=count, passes=passes))
