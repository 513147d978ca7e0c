"""Frames to times and segments: pure arithmetic over what a morph asks for."""

from __future__ import annotations

import pytest

from pipeline.errors import SpecError
from pipeline.spec import Keyframe, MorphSpec, VideoSpec
from pipeline.timeline import Place, Timeline, find_pace, find_segments, find_times
from pipeline.timing import Easing, ease


def morph(
    count: int, num_frames: int, *, loop: bool = False, easing: Easing = "linear", hold: float = 0
) -> MorphSpec:
    keyframes = tuple(Keyframe(prompt=str(k), hold=hold) for k in range(count))
    return MorphSpec(
        keyframes=keyframes,
        num_frames=num_frames,
        loop=loop,
        easing=easing,
        video=VideoSpec(fps=2),
    )


def test_times_go_from_bound_to_bound() -> None:
    assert find_times(morph(3, 5), (0, 0.4, 1)) == [0, 0.2, 0.4, pytest.approx(0.7), 1]


def test_a_loop_never_arrives() -> None:
    assert find_times(morph(2, 4, loop=True), (0, 0.5, 1)) == [0, 0.25, 0.5, 0.75]


def test_a_keyframes_easing_comes_before_the_morphs() -> None:
    spec = morph(3, 9, easing="smoothstep")
    first, *others = spec.keyframes
    spec = spec.replace(keyframes=(first.replace(easing=(0.0, 0.0, 0.5, 1.0)), *others))
    times = find_times(spec, (0, 0.5, 1))
    assert times[1] == pytest.approx(0.5 * ease((0.0, 0.0, 0.5, 1.0), 0.25))
    assert times[5] == pytest.approx(0.5 + 0.5 * ease("smoothstep", 0.25))


def test_segments_leave_out_holds() -> None:
    spec = morph(3, 3 + 3 * 4 + 2 * 2, hold=2)  # 4 more frames at each keyframe, 2 on each way
    assert find_segments(spec) == [(4, 7), (11, 14)]
    times = find_times(spec, (0, 0.5, 1))
    assert times[:5] == [0] * 5 and times[7:12] == [0.5] * 5 and times[14:] == [1] * 5


def test_the_last_segment_of_a_loop_ends_where_the_first_begins() -> None:
    assert find_segments(morph(2, 4, loop=True)) == [(0, 2), (2, 4)]


def test_segments_may_have_nothing_between_their_ends() -> None:
    assert find_segments(morph(3, 3)) == [(0, 1), (1, 2)]


def test_pace_is_never_nothing() -> None:
    assert find_pace([0, 0, 0.25, 1], 1.5) == [1e-9, 0.25, 0.75, 0.5]


def test_a_timeline_is_read_back_as_it_was_written() -> None:
    timeline = Timeline(
        keyframes=(0, 1 / 3, 1),
        frames=(
            Place(position=0, key="a", is_rendered=True),
            Place(position=0.1 + 0.2, key="b", is_rendered=False, measured_db=51.3),
        ),
        timemap=(((0, 0), (0.1, 0.2), (1, 1)),),
        timemap_key="c",
        variations=((0.5, 0.08),),
        jumps=((0.2, 0.3, 0.9),),
    )
    assert Timeline(**timeline.model_dump(mode="json")) == timeline


def test_another_kind_of_timeline_is_refused() -> None:
    with pytest.raises(SpecError, match="unknown key 'frame'"):
        Timeline(keyframes=(0, 1), frame=3)
