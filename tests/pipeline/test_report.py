"""The morph report: a cut, a cross-fade and a true morph are told apart, by numbers that hold."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import RenderError
from pipeline.interpolate import slerp
from pipeline.quality import DISTANCES, distance_in
from pipeline.report import FADED, MorphReport, measure_morph

PIXELS = {"pixels": distance_in(lambda pixels: pixels)}
"""Root mean square difference of pixels, which adds up along a line."""

SPREAD = {"spread": lambda a, b: (a - b).abs().flatten(1).amax(1)}
"""The largest difference: for plain frames the difference of their levels."""


def scene(position: float, side: int = 48) -> Tensor:
    """A disc that moves, grows and changes its colour before a shaded ground."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side, dtype=torch.float64)] * 2, indexing="ij")
    radius = 0.3 + 0.2 * position
    across = (x + 0.5 - position) ** 2 + (y + 0.3 * math.cos(math.pi * position)) ** 2
    disc = torch.sigmoid(40 * (radius - across.sqrt()))
    colour = torch.tensor([0.9, 0.4 - position, position - 0.8]).view(3, 1, 1)
    ground = torch.stack([-0.6 + 0.2 * y, -0.4 + 0.1 * x, -0.3 - 0.2 * y])
    return (disc * colour + (1 - disc) * ground)[None].float()


def morph(count: int = 25) -> list[Tensor]:
    return [scene(k / (count - 1)) for k in range(count)]


def cross_fade(count: int = 25) -> list[Tensor]:
    return [torch.lerp(scene(0), scene(1), k / (count - 1)) for k in range(count)]


def cut(count: int = 25, at: int = 10) -> list[Tensor]:
    return [scene(float(k >= at)) for k in range(count)]


def levels(*numbers: float) -> list[Tensor]:
    """Plain grey frames, whose gaps under `SPREAD` are known by heart."""
    return [torch.full((1, 3, 8, 8), number) for number in numbers]


def stored(frames: Sequence[Tensor]) -> list[Tensor]:
    """As they come back from a file of 8 bits."""
    return [((f * 0.5 + 0.5) * 255).round() / 255 * 2 - 1 for f in frames]


def draw(seed: int) -> Tensor:
    return torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distances", [DISTANCES, PIXELS], ids=["pictures", "pixels"])
@pytest.mark.parametrize("keep", [list, stored], ids=["floats", "8 bits"])
def test_a_cut_a_cross_fade_and_a_morph_are_told_apart(distances, keep):
    kinds = {}
    for frames in (cut(), cross_fade(), morph()):
        segment = measure_morph(keep(frames), distances=distances).segments[0]
        kinds[segment.kind] = segment
    assert list(kinds) == ["cut", "cross-fade", "morph"]

    for name in distances:
        jump, fade, true = (kinds[kind].speeds[name] for kind in kinds)
        assert jump.peak == pytest.approx(24)  # all of 24 gaps in one
        assert fade.peak is not None and fade.peak < 2
        assert true.peak is not None and true.peak < 2
        assert jump.cv == pytest.approx(math.sqrt(23))  # that of one in 24
    # 8 bits round by up to half of 1/255, about 1e-4 of the variance.
    assert kinds["cut"].crossfade_mean == pytest.approx(1, abs=1e-9)
    assert kinds["cross-fade"].crossfade_mean == pytest.approx(1, abs=1e-3)
    assert 0.2 < (kinds["morph"].crossfade_mean or 0) < 0.6
    novelties = [kinds[kind].novelty or 0 for kind in kinds]
    assert novelties[0] < 1e-6 and novelties[1] < 0.01 and novelties[2] > 5 * FADED


def test_length_alone_ranks_them_the_wrong_way_round():
    found = [
        measure_morph(frames, distances=PIXELS).totals["pixels"]
        for frames in (cut(), cross_fade(), morph())
    ]

    directness = [figures.directness or 0 for figures in found]
    assert directness[:2] == pytest.approx([1, 1])
    assert directness[2] < 0.5
    assert found[1].cv == pytest.approx(0, abs=1e-5)  # float32 frames: a step of 0.02 to 1e-7


def test_a_cross_fade_of_alike_ends_differs_from_a_morph_by_its_novelty():
    """Most of the picture stays, so R² is near 1 for both."""
    ground = 3 * scene(0.2) - 1.5
    small = [ground.clamp(-0.9, 0.9) + 0.1 * frame for frame in morph()]
    fade = [torch.lerp(small[0], small[-1], k / 24) for k in range(25)]

    moved, faded = (measure_morph(frames).segments[0] for frames in (small, fade))

    assert min(moved.crossfade) > 0.95 and min(faded.crossfade) > 0.95
    assert (moved.kind, faded.kind) == ("morph", "cross-fade")


def test_figures_by_hand():
    report = measure_morph(levels(-0.6, -0.5, -0.3, 0.0), distances=SPREAD)

    speed = report.segments[0].speeds["spread"]
    # float32 holds the levels to 1e-7.
    assert speed.gaps == pytest.approx((0.1, 0.2, 0.3), abs=1e-6)
    assert speed.chord == pytest.approx(0.6)
    assert speed.directness == pytest.approx(1)
    assert speed.cv == pytest.approx(math.sqrt(2 / 3) / 2, abs=1e-5)
    assert speed.peak == pytest.approx(1.5, abs=1e-5)
    assert report.totals["spread"].cv == speed.cv
    assert report.means["spread"].peak == speed.peak


def test_turning_back_costs_directness():
    speed = measure_morph(levels(0, 0.3, 0.1), distances=SPREAD).totals["spread"]

    assert speed.directness == pytest.approx(0.1 / 0.5)


walks = st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=12).filter(
    lambda numbers: abs(numbers[0] - numbers[-1]) > 0.1
)


@given(walk=walks)
def test_figures_of_any_walk(walk: list[float]):
    forth = measure_morph(levels(*walk), distances=SPREAD).segments[0]
    back = measure_morph(levels(*reversed(walk)), distances=SPREAD).segments[0]
    held = measure_morph(levels(walk[0], *walk), distances=SPREAD).segments[0]
    speed, reverse = forth.speeds["spread"], back.speeds["spread"]

    assert speed.cv is not None and speed.peak is not None and speed.directness is not None
    assert 0 <= speed.cv <= math.sqrt(len(walk) - 2) + 1e-9
    assert 1 - 1e-9 <= speed.peak <= len(walk) - 1 + 1e-9
    assert speed.directness <= 1 + 1e-6  # the triangle's inequality, on numbers of float32
    assert reverse.gaps == speed.gaps[::-1]
    assert (reverse.cv, reverse.peak) == pytest.approx((speed.cv, speed.peak))
    assert reverse.directness == pytest.approx(speed.directness)
    # One more frame that does not move: CV² + 1 grows by a gap.
    count = len(walk) - 1
    assert (held.speeds["spread"].cv or 0) ** 2 + 1 == pytest.approx(
        (speed.cv**2 + 1) * (count + 1) / count
    )


def test_a_morph_is_as_even_backwards_and_less_so_with_doubled_frames():
    frames = morph()
    forth, back = measure_morph(frames), measure_morph(frames[::-1])
    doubled = measure_morph([frame for frame in frames for _ in range(2)])

    for name, figures in forth.totals.items():
        assert dict(back.totals[name]) == pytest.approx(dict(figures))
        assert (doubled.totals[name].cv or 0) > 0.9 > (figures.cv or 0)  # 1 if half stand still
    assert back.segments[0].crossfade == pytest.approx(forth.segments[0].crossfade[::-1])
    assert back.segments[0].novelty == pytest.approx(forth.segments[0].novelty)


def test_what_an_easing_slows_is_not_uneven():
    eased = [(k / 12) ** 2 * (3 - 2 * k / 12) for k in range(13)]
    pace = [7 * (b - a) for a, b in pairwise(eased)]
    frames = levels(*(2 * position - 1 for position in eased))

    plain = measure_morph(frames, distances=SPREAD).totals["spread"]
    report = measure_morph(frames, distances=SPREAD, pace=pace)
    cutting = measure_morph(cut(13), distances=PIXELS, pace=pace).totals["pixels"]

    assert (plain.cv or 0) > 0.4
    assert report.totals["spread"].cv == pytest.approx(0, abs=1e-5)
    assert report.totals["spread"].peak == pytest.approx(1, abs=1e-5)
    assert sum(report.segments[0].pace or ()) == pytest.approx(1)
    assert cutting.peak == pytest.approx(12 / max(1, 12 * pace[9] / sum(pace)))


def test_segments_are_judged_apart_and_together_and_holds_are_left_out():
    frames = [*levels(0.0, 0.1, 0.2, 0.2, 0.2), *levels(0.5, 0.8)]
    report = measure_morph(frames, [(0, 2), (4, 6)], distances=SPREAD)

    assert [(s.first, s.last) for s in report.segments] == [(0, 2), (4, 6)]
    assert [s.speeds["spread"].cv for s in report.segments] == pytest.approx([0, 0], abs=1e-6)
    assert report.means["spread"].cv == pytest.approx(0, abs=1e-6)
    # Gaps 1, 1, 3, 3: a deviation of 1 about a mean of 2.
    assert report.totals["spread"].cv == pytest.approx(0.5, abs=1e-6)
    assert report.totals["spread"].peak == pytest.approx(1.5, abs=1e-6)
    assert report.totals["spread"].directness == pytest.approx(1)
    assert report.num_frames == 7


def test_a_cut_among_morphs_is_found_in_its_segment():
    frames = [*morph(13), *cut(11, at=6), *morph(13)]
    report = measure_morph(frames, [(0, 12), (13, 23), (24, 36)])

    assert [segment.kind for segment in report.segments] == ["morph", "cut", "morph"]
    assert "2 × morph, 1 × cut" in report.verdict
    assert "segment 2: a cut: 100% of the change is between frames 18 and 19" in report.verdict


def test_a_verdict_stays_short():
    verdict = measure_morph(cross_fade(), [(k, k + 2) for k in range(20)]).verdict

    assert verdict.startswith("20 segments: 20 × cross-fade")
    assert verdict.endswith("; and 17 more that stand out")


def test_a_jump_is_named_under_the_distance_that_sees_it():
    """The brightness of one half leaps, where the shapes go on evenly."""
    frames = morph()
    frames = [frame * 0.5 - 0.45 * (k > 12) for k, frame in enumerate(frames)]

    verdict = measure_morph(frames).verdict

    assert "a jump by colour" in verdict and "between frames 12 and 13" in verdict


def test_a_loop_has_no_directness():
    around = [scene(0.5 - 0.5 * math.cos(2 * math.pi * k / 24)) for k in range(24)]

    closed = measure_morph(around, [(0, 24)])
    written_out = measure_morph([*around, around[0]])
    in_two = measure_morph(around, [(0, 12), (12, 24)])

    assert closed.segments[0].kind == "loop"
    assert closed.segments[0].novelty is None
    assert closed.totals["ssim"].directness is None
    assert closed.totals == written_out.totals
    assert [segment.kind for segment in in_two.segments] == ["morph", "morph"]
    assert in_two.totals["ssim"].directness is not None


def test_ends_are_held_against_references():
    frames = [*levels(0.0, 0.1, 0.2, 0.3)]
    references = {0: levels(0.0)[0], 2: levels(0.4)[0]}

    report = measure_morph(frames, [(0, 2), (2, 4)], references=references, distances=SPREAD)

    first, second = report.segments
    assert first.start_psnr == math.inf
    assert first.end_psnr == pytest.approx(20, abs=1e-4)  # 0.2 of 2; levels are float32
    assert second.start_psnr == first.end_psnr
    assert second.end_psnr == math.inf  # frame 4 of 4 is frame 0
    assert measure_morph(frames).segments[0].start_psnr is None


def test_nothing_and_too_little_are_said():
    still = measure_morph(levels(0.1, 0.1, 0.1)).segments[0]
    noisy = measure_morph(levels(0.1, 0.1 + 1e-4, 0.1)).segments[0]  # less than a grey level
    short = measure_morph(levels(0.1, 0.9)).segments[0]

    assert still.kind == noisy.kind == "still"
    assert dict(still.speeds["ssim"])["cv"] is None and noisy.speeds["ssim"].peak is None
    assert short.kind == "short" and short.crossfade_mean is None and short.crossfade == ()
    assert short.speeds["ssim"].directness == pytest.approx(1)


def test_noises_are_judged_with_their_frames():
    frames = levels(*torch.linspace(-1, 1, 9).tolist())
    weights = [k / 8 for k in range(9)]

    good = measure_morph(frames, noises=(slerp(draw(1), draw(2), w) for w in weights))
    bad = measure_morph(frames, noises=(torch.lerp(draw(1), draw(2), w) for w in weights))

    assert len(good.health) == len(bad.health) == 9
    assert good.verdict.endswith("all noises are healthy")
    assert "of 9 noises are not healthy, worst in frame 4: standard deviation 0.7" in bad.verdict


class OnDemand(Sequence[Tensor]):
    """Frames that exist only while somebody holds them; `most` is how many did at once."""

    def __init__(self, count: int) -> None:
        self.count, self.most, self.read = count, 0, 0
        self._alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        frame = scene(index / (self.count - 1), side=16)
        self.read += 1
        self._alive.add(frame)
        self.most = max(self.most, len(self._alive))
        return frame


def test_few_frames_are_held_however_many_there_are():
    frames = OnDemand(200)

    measure_morph(frames, [(0, 100), (100, 199)])

    assert frames.most <= 5  # two ends, two neighbours, and the next
    assert frames.read == 201  # that between the segments twice


def test_a_report_goes_to_json_and_back():
    frames = morph(9)
    report = measure_morph(
        frames, pace=[1.0] * 8, references={0: frames[0]}, noises=map(draw, range(9))
    )

    text = report.model_dump_json()

    assert MorphReport.model_validate_json(text) == report
    json.loads(text, parse_constant=pytest.fail)  # Infinity and NaN are no JSON


@pytest.mark.parametrize(
    "segments", [[(0, 0)], [(3, 2)], [(-1, 2)], [(0, 5)]], ids=["empty", "back", "before", "after"]
)
def test_segments_that_are_none_are_refused(segments):
    with pytest.raises(ValueError, match="must go forward among 4 frames"):
        measure_morph(levels(0, 0.1, 0.2, 0.3), segments)


@pytest.mark.parametrize("pace", [[1.0], [1.0, 0.0, 1.0], [1.0, math.nan, 1.0]])
def test_a_pace_that_stands_still_is_refused(pace):
    with pytest.raises(ValueError, match="a step above 0"):
        measure_morph(levels(0, 0.1, 0.2, 0.3), pace=pace)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_distance_that_is_no_number_is_refused(value: float):
    with pytest.raises(RenderError, match="distance odd: two frames are"):
        measure_morph(morph(4), distances={"odd": lambda a, b: torch.tensor([value])})
