"""Easings, and which frames are where: every property, every refusal."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.timing import Easing, Moment, check_easing, ease, lay_out

quick = settings(deadline=None, max_examples=40)

weights = st.floats(0, 1)

CURVES: list[Easing] = [
    "linear",
    "smoothstep",
    (0.25, 0.1, 0.25, 1.0),
    (0.42, 0.0, 0.58, 1.0),
    (1.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 1.0, 0.0),
    (0.3, 1.1, 0.6, 0.9),
]


class TestEase:
    @pytest.mark.parametrize("easing", CURVES)
    def test_is_pinned_and_never_goes_back(self, easing: Easing) -> None:
        assert ease(easing, 0) == 0 and ease(easing, 1) == 1
        moved = [ease(easing, i / 500) for i in range(501)]
        # Evaluated curves wobble in the last place.
        assert all(b >= a - 2e-16 for a, b in itertools.pairwise(moved))
        assert min(moved) >= 0 and max(moved) <= 1

    @quick
    @given(*[st.floats(0, 1)] * 6)
    def test_any_bezier_within_the_square_is_monotone(
        self, x1: float, y1: float, x2: float, y2: float, first: float, second: float
    ) -> None:
        low, high = sorted((first, second))
        curve = (x1, y1, x2, y2)
        assert 0 <= ease(curve, low) <= ease(curve, high) + 1e-15 <= 1 + 1e-15

    @quick
    @given(*[st.integers(-50, 150).map(lambda percent: percent / 100)] * 2)
    @example(1.1, 0.9)
    @example(1.1, 1.0)
    @example(4 / 3, 0.9)
    def test_refuses_a_bezier_exactly_when_it_falls(self, y1: float, y2: float) -> None:
        s = torch.linspace(0, 1, 20001, dtype=torch.float64)
        y = 3 * (1 - s) ** 2 * s * y1 + 3 * (1 - s) * s**2 * y2 + s**3
        fall = -y.diff().min().item()
        assume(not 0 < fall < 1e-9 and not 0 < -fall < 1e-9)  # too near to tell by sampling
        if fall > 0:
            with pytest.raises(SpecError, match="goes back"):
                ease((0.3, y1, 0.6, y2), 0.5)
        else:
            ease((0.3, y1, 0.6, y2), 0.5)

    @quick
    @given(weights)
    def test_known_curves(self, position: float) -> None:
        assert ease("linear", position) == position
        assert ease("smoothstep", position) == pytest.approx(3 * position**2 - 2 * position**3)
        thirds = (1 / 3, 0.0, 2 / 3, 1.0)  # x(s) = s, and y(s) is smoothstep
        assert ease(thirds, position) == pytest.approx(ease("smoothstep", position), abs=1e-14)
        diagonal = (0.2, 0.2, 0.7, 0.7)
        assert ease(diagonal, position) == pytest.approx(position, abs=1e-14)

    def test_is_the_css_curve(self) -> None:
        # "ease" of CSS Easing Functions, half way in time: 0.8024 in every browser.
        assert ease((0.25, 0.1, 0.25, 1.0), 0.5) == pytest.approx(0.8024, abs=1e-4)

    @pytest.mark.parametrize(
        ("easing", "said"),
        [
            ("bounce", "easing = 'bounce': must be linear, smoothstep or numbers x1, y1, x2, y2"),
            ((0.1, 0.2, 0.3), "must be linear, smoothstep"),
            ((-0.1, 0, 0.5, 1), "x1 and x2 must be between 0 and 1"),
            ((0.1, 0, math.nan, 1), "x1 and x2 must be between 0 and 1"),
            ((0.5, -0.1, 0.5, 1), "goes back"),
            ((0.5, 0, 0.5, 1.4), "goes back"),
            ((0.5, math.inf, 0.5, 0.5), "goes back"),
            ((0.5, 0.5, 0.5, -math.inf), "goes back"),
            ((0.5, math.nan, 0.5, 1), "goes back"),
        ],
    )
    def test_a_bad_easing_is_refused_wherever_it_is_asked(self, easing: Easing, said: str) -> None:
        for position in (0, 0.5, 1):
            with pytest.raises(SpecError, match=said):
                ease(easing, position)

    @pytest.mark.parametrize("position", [-0.01, 1.01, math.nan])
    def test_a_place_off_the_path(self, position: float) -> None:
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            ease("linear", position)


class TestLayOut:
    def test_every_keyframe_has_a_frame_and_the_others_lie_evenly(self) -> None:
        assert lay_out(5, [0, 0], [1]) == [
            Moment(0), Moment(0, 0.25), Moment(0, 0.5), Moment(0, 0.75), Moment(1),
        ]  # fmt: skip

    def test_a_loop_ends_before_its_first_frame_comes_again(self) -> None:
        assert lay_out(4, [0, 0], [1, 1], loop=True) == [
            Moment(0), Moment(0, 0.5), Moment(1), Moment(1, 0.5),
        ]  # fmt: skip

    def test_a_hold_repeats_its_keyframe(self) -> None:
        moments = lay_out(6, [2, 0], [1])
        assert moments[:3] == [Moment(0)] * 3
        assert [moment.share for moment in moments[3:]] == [1 / 3, 2 / 3, 0]

    @quick
    @given(
        st.lists(st.integers(0, 5), min_size=2, max_size=8),
        st.integers(0, 500),
        st.booleans(),
        st.data(),
    )
    def test_shares_frames_in_proportion(
        self, holds: list[int], more: int, loop: bool, data: st.DataObject
    ) -> None:
        ways = len(holds) if loop else len(holds) - 1
        durations = data.draw(st.lists(st.floats(0.01, 100), min_size=ways, max_size=ways))
        num_frames = len(holds) + sum(holds) + more

        moments = lay_out(num_frames, holds, durations, loop=loop)

        assert len(moments) == num_frames
        assert moments == sorted(moments, key=lambda moment: (moment.index, moment.share))
        for index, hold in enumerate(holds):
            assert moments.count(Moment(index)) == 1 + hold
        for index, duration in enumerate(durations):
            count = sum(moment.index == index and moment.share > 0 for moment in moments)
            # Both ends of a part are rounded to whole frames.
            assert abs(count - more * duration / sum(durations)) <= 1 + 1e-9

    def test_too_few_frames_are_refused_with_how_many_it_takes(self) -> None:
        with pytest.raises(SpecError, match=r"num_frames = 2: must be at least 3 for 3 keyframes$"):
            lay_out(2, [0, 0, 0], [1, 1])
        said = "num_frames = 5: must be at least 7 for 3 keyframes, which hold 4 more"
        with pytest.raises(SpecError, match=said):
            lay_out(5, [1, 0, 3], [1, 1])


@pytest.mark.parametrize("easing", ["linear", "smoothstep", (0.1, 0.0, 0.5, 1.0), (0, 0, 1, 1)])
def test_what_is_an_easing_passes(easing: Easing) -> None:
    assert check_easing(easing) == easing
    assert check_easing(list(easing) if isinstance(easing, tuple) else easing) == easing


@pytest.mark.parametrize(
    "easing", ["", "ease", 3, None, [1, 2, 3], ["a", 0, 0, 0], {}, [True, 0, 1, 1], (0, 2, 0, 0)]
)
def test_what_is_no_easing_is_refused(easing: object) -> None:
    with pytest.raises(SpecError, match="easing = "):
        check_easing(easing)
