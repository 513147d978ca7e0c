"""The morph report: how direct and how even a morph is, and whether it is one at all.

Knows pictures and noises as tensors, and where the keyframes lie; no model, no spec and no file.
Frames are read when they are needed, and no more than five are held.

The length of a path alone, as published, ranks a cut before a cross-fade before a morph, the wrong
way round. So no number here stands alone: directness comes with evenness, with the largest gap and
with what a cross-fade would explain.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal

from pipeline.errors import RenderError
from pipeline.quality import (
    DISTANCES,
    CrossFade,
    Distance,
    Health,
    Value,
    measure_health,
    measure_psnr,
)
from pipeline.tensors import Noise, Pixels

Kind = Literal["morph", "cross-fade", "cut", "loop", "still", "short"]

FADED = 0.05
"""The novelty below which frames are a cross-fade of their ends.

Measured on the embedded model at 128 px: cross-fades of stored pictures have up to 0.01, those in
linear light 0.07 to 0.12, those of latents 0.06 to 0.16, morphs 0.18 to 0.40. R² does not part
them: it is 0.97 to 1 for all these cross-fades, and for morphs 0.58 to 0.995, most where both ends
lie on the same ground.
"""

NEARLY_FADED = 0.15  # a novelty that other cross-fades have, and hardly any morph
EVEN = 0.1  # a coefficient of variation below which the speed is even
JUMPY = 4.0  # times the mean: a gap that stands out
CUT = 0.5  # the share of all change that is in one gap
LISTED = 3  # segments at most that a verdict goes into
LEVEL = 1 / 255  # half a grey level of 8 bits, in pixels


class Figures(Value):
    """The speed of a morph, under one distance D with gaps d between neighbouring frames.

    `directness` is D(first, last) / Σd, and None for a loop. `cv` is the coefficient of variation
    of the gaps, against the pace where one was meant. `peak` is the largest gap over the mean, or
    over the pace where that is faster. All are None where nothing moves.
    """

    directness: float | None
    cv: float | None
    peak: float | None


class Speed(Figures):
    """The gaps themselves, in the distance's own unit, and `chord`, which is D(first, last)."""

    gaps: tuple[float, ...]
    chord: float


class SegmentReport(Value):
    """The frames `first` to `last`, both included, which are those of two keyframes.

    `crossfade` is, for each frame between, the R² of its regression on the two ends and a constant:
    1 for a cross-fade and for a cut. `novelty` is the root mean square of what these regressions
    leave over, as a share of the difference of the ends, and the mean over frames; None for a loop.
    `start_psnr` and `end_psnr` hold the ends against their references, in decibels. `pace` is the
    share of the way that each gap was meant to go. The verdict goes by the first distance.
    """

    first: int
    last: int
    speeds: dict[str, Speed]
    pace: tuple[float, ...] | None
    crossfade: tuple[float, ...]
    crossfade_mean: float | None
    novelty: float | None
    start_psnr: float | None
    end_psnr: float | None
    kind: Kind
    verdict: str


class MorphReport(Value):
    """A morph, by segments and in all; figures by the name of their distance.

    `means` are over segments. `totals` take all gaps together, so that segments of unlike speed
    count in `cv`; `directness` is there the segments' chords over the length of them all.
    `crossfade_mean` is over frames. `health` is that of each frame's noise.
    """

    num_frames: int
    segments: tuple[SegmentReport, ...]
    means: dict[str, Figures]
    totals: dict[str, Figures]
    crossfade_mean: float | None
    health: tuple[Health, ...]
    verdict: str


def measure_morph(
    frames: Sequence[Pixels],
    segments: Sequence[tuple[int, int]] | None = None,
    *,
    distances: Mapping[str, Distance] = DISTANCES,
    pace: Sequence[float] | None = None,
    references: Mapping[int, Pixels] | None = None,
    noises: Iterable[Noise] = (),
) -> MorphReport:
    """The report of `frames`, each (1, 3, height, width).

    `frames` may be anything with a length that reads a frame when it is asked for one. It is asked
    in order, but for the last frame of a segment, which is read beforehand too. `segments` are the
    first and last frame between two keyframes, without holds; None is all frames. As a last frame,
    the number of frames stands for frame 0, which closes a loop. `pace[k]`, above 0, is how far the
    gap after frame k was meant to go, in any unit: what an easing asks for. `references` are the
    pictures that frames should equal, by the frame's index. `noises` are the frames' own.

    Raises `RenderError` where a number is not finite.
    """
    segments = [(0, len(frames) - 1)] if segments is None else segments
    _check(len(frames), segments)
    reports = [
        _measure_segment(frames, segment, distances, pace, references or {}) for segment in segments
    ]
    totals = {name: _total_figures(reports, name, pace) for name in distances}
    health = tuple(map(measure_health, noises))
    return MorphReport(
        num_frames=len(frames),
        segments=tuple(reports),
        means={name: _mean_figures([r.speeds[name] for r in reports]) for name in distances},
        totals=totals,
        crossfade_mean=_mean([r2 for report in reports for r2 in report.crossfade]),
        health=health,
        verdict=_say_morph(reports, next(iter(totals.values()))) + _say_health(health),
    )


def _check(count: int, segments: Sequence[tuple[int, int]]) -> None:
    for first, last in segments:
        if not 0 <= first < last <= count:
            raise ValueError(f"segment {first} to {last}: must go forward among {count} frames")


def _measure_segment(
    frames: Sequence[Pixels],
    segment: tuple[int, int],
    distances: Mapping[str, Distance],
    pace: Sequence[float] | None,
    references: Mapping[int, Pixels],
) -> SegmentReport:
    first, last = segment
    start, end = frames[first], frames[last % len(frames)]
    closed, still = not _differ(start, end), True
    fade, fits = CrossFade(start, end), list[tuple[float, float]]()
    gaps: dict[str, list[float]] = {name: [] for name in distances}
    for before, frame in _neighbours(frames, first, last, start, end):
        for name, distance in distances.items():
            gaps[name].append(_measure(name, distance, before, frame))
        still = still and not _differ(start, frame)
        if frame is not end:
            fits.append(fade.fit(frame))

    part = None if pace is None else _shares(pace[first:last], last - first)
    speeds = {}
    for name, distance in distances.items():
        chord = _measure(name, distance, start, end)
        figures = _NOTHING if still else _figures(gaps[name], None if closed else chord, part)
        speeds[name] = Speed(**dict(figures), gaps=tuple(gaps[name]), chord=chord)
    crossfade = [r2 for r2, _ in fits]
    novelty = None if closed else _mean([left for _, left in fits])
    kind = _judge(next(iter(speeds.values())), novelty)
    return SegmentReport(
        first=first,
        last=last,
        speeds=speeds,
        pace=part,
        crossfade=tuple(crossfade),
        crossfade_mean=_mean(crossfade),
        novelty=novelty,
        start_psnr=_psnr(start, references.get(first)),
        end_psnr=_psnr(end, references.get(last % len(frames))),
        kind=kind,
        verdict=_say_segment(kind, speeds, first, _mean(crossfade), novelty),
    )


def _neighbours(
    frames: Sequence[Pixels], first: int, last: int, start: Pixels, end: Pixels
) -> Iterator[tuple[Pixels, Pixels]]:
    before = start
    for index in range(first + 1, last):
        frame = frames[index]
        yield before, frame
        before = frame
    yield before, end


def _measure(name: str, distance: Distance, a: Pixels, b: Pixels) -> float:
    found = float(distance(a, b))
    if not 0 <= found < math.inf:
        raise RenderError(f"distance {name}: two frames are {found} apart, which is no number")
    return found


_NOTHING = Figures(directness=None, cv=None, peak=None)


def _figures(gaps: Sequence[float], chord: float | None, pace: Sequence[float] | None) -> Figures:
    length, even = sum(gaps), 1 / len(gaps)
    if not length:
        return _NOTHING
    pairs = [
        (gap / length, part) for gap, part in zip(gaps, pace or [even] * len(gaps), strict=True)
    ]
    return Figures(
        directness=None if chord is None else chord / length,
        cv=math.sqrt(sum((share - part) ** 2 / part for share, part in pairs)),
        peak=max(share / max(part, even) for share, part in pairs),
    )


def _mean_figures(speeds: Sequence[Figures]) -> Figures:
    return Figures(
        directness=_mean([s.directness for s in speeds if s.directness is not None]),
        cv=_mean([s.cv for s in speeds if s.cv is not None]),
        peak=_mean([s.peak for s in speeds if s.peak is not None]),
    )


def _total_figures(
    reports: Sequence[SegmentReport], name: str, pace: Sequence[float] | None
) -> Figures:
    """Of all segments as one way; loops are no part of its directness."""
    moving = [report for report in reports if report.speeds[name].cv is not None]
    gaps = [gap for report in moving for gap in report.speeds[name].gaps]
    steps = [pace[k] for r in moving for k in range(r.first, r.last)] if pace is not None else None
    direct = [s for r in moving if (s := r.speeds[name]).directness is not None]
    if not moving:
        return _NOTHING
    length = sum(sum(speed.gaps) for speed in direct)
    figures = _figures(gaps, None, steps and _shares(steps, len(gaps)))
    directness = sum(speed.chord for speed in direct) / length if length else None
    return Figures(directness=directness, cv=figures.cv, peak=figures.peak)


def _judge(speed: Speed, novelty: float | None) -> Kind:
    if len(speed.gaps) == 1:
        return "short"
    if speed.cv is None:
        return "still"
    # Of two or three gaps, one may well have half of the change.
    if max(speed.gaps) >= max(CUT, 2 / len(speed.gaps)) * sum(speed.gaps):
        return "cut"
    if novelty is None:
        return "loop"
    return "cross-fade" if novelty < FADED else "morph"


def _say_segment(
    kind: Kind,
    speeds: Mapping[str, Speed],
    first: int,
    crossfade: float | None,
    novelty: float | None,
) -> str:
    name, speed = next(iter(speeds.items()))
    match kind:
        case "short":
            return "too short: there is no frame between its ends"
        case "still":
            return "still: nothing changes"
        case "cut":
            share = max(speed.gaps) / sum(speed.gaps)
            return f"a cut: {share:.0%} of the change is {_say_where(speed, first)}"
        case "loop":
            what = "a loop: it ends where it begins"
        case _:
            nearly = ", hardly more than a cross-fade" if (novelty or 0) < NEARLY_FADED else ""
            what = "a cross-fade" if kind == "cross-fade" else f"a morph{nearly}"
            what += f" (cross-fade R² {crossfade or 0:.3f}, novelty {novelty or 0:.3f})"
    cv = speed.cv or 0
    what += f"; {'even' if cv < EVEN else 'uneven'} speed by {name}, CV {cv:.2f}"
    jumps = [
        f"; a jump by {name}, {peak:.1f} times the mean {_say_where(speed, first)}"
        for name, speed in speeds.items()
        if (peak := speed.peak or 0) >= JUMPY
    ]
    return what + "".join(jumps)


def _say_where(speed: Speed, first: int) -> str:
    index = first + speed.gaps.index(max(speed.gaps))
    return f"between frames {index} and {index + 1}"


def _say_morph(reports: Sequence[SegmentReport], total: Figures) -> str:
    """That of the only segment, or how many there are of each kind, and each that stands out."""
    if len(reports) == 1:
        return reports[0].verdict
    kinds = Counter(report.kind for report in reports)
    counts = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
    odd = [f"; segment {i}: {r.verdict}" for i, r in enumerate(reports, 1) if _stands_out(r)]
    if len(odd) > LISTED:
        odd[LISTED:] = [f"; and {len(odd) - LISTED} more that stand out"]
    return f"{len(reports)} segments: {counts}; CV {total.cv or 0:.2f} over all" + "".join(odd)


def _stands_out(report: SegmentReport) -> bool:
    jumps = any((speed.peak or 0) >= JUMPY for speed in report.speeds.values())
    return jumps or report.kind != "morph"


def _say_health(health: Sequence[Health]) -> str:
    ill = [index for index, found in enumerate(health) if found.faults]
    if not health or not ill:
        return "; all noises are healthy" if health else ""
    worst = max(ill, key=lambda index: health[index].worst)
    fault = health[worst].faults[0]
    return f"; {len(ill)} of {len(health)} noises are not healthy, worst in frame {worst}: {fault}"


def _differ(a: Pixels, b: Pixels) -> bool:
    """Whether two frames are told apart in 8 bits."""
    return bool((a.clamp(-1, 1) - b.clamp(-1, 1)).abs().max() > LEVEL)


def _psnr(frame: Pixels, reference: Pixels | None) -> float | None:
    return None if reference is None else float(measure_psnr(frame, reference))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _shares(steps: Sequence[float], count: int) -> tuple[float, ...]:
    if len(steps) != count or not all(0 < step < math.inf for step in steps):
        raise ValueError("pace: each gap of a segment must have a step above 0")
    return tuple(step / sum(steps) for step in steps)
