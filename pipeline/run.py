"""A morph on disk: planned, rendered, resumed, filmed. One folder, any number of writers.

Everything in it is content-addressed, so what is there and verifies is never made again: to resume,
to change a keyframe, to have more frames and to share the work among processes are one mechanism.

    plan.json       the resolved spec, and what it is made with
    timeline.json   frame -> position -> key, and the map from time to position
    frames/KEY.png  what the film is made of
    latents/KEY     what was rendered, frames or not: the rest is solved from it
    morph.mp4       the film; report.json and report.png, what was measured of it
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from pipeline.course import MEASURABLE_DB, Cost, Course, find_cost
from pipeline.curve import Curve, Node, trace
from pipeline.errors import SpecError
from pipeline.files import prepare_folder
from pipeline.model import Model
from pipeline.morph import find_path
from pipeline.quality import distance_rms
from pipeline.record import Plan, anonymise_model, current_versions
from pipeline.render import Progress
from pipeline.retime import Retimed, TimeMap, retime
from pipeline.sharing import Waiting, share
from pipeline.spec import MorphSpec
from pipeline.store import Store
from pipeline.tensors import Latents, Pixels
from pipeline.timeline import Place, Timeline
from pipeline.workshop import Making, Workshop

PROBES = 65
"""Places on each way that its speed is measured at."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A picture that was rendered to know the path by; it may or may not become a frame."""

    position: float
    pixels: Pixels
    foretold_db: float | None


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Where all frames lie is known now."""

    timeline: Timeline


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A frame is on the disk, at all of `indices`. `flagged` is what a safety checker says."""

    indices: tuple[int, ...]
    place: Place
    file: Path
    flagged: bool | None = None


Event = Making | Traced | Timed | Saved


@final
class MorphRun:
    """The morph `spec`, rendered with `model` into `folder`, which is made and tried at once.

    Raises `OutputError` where the folder cannot hold it.
    """

    def __init__(
        self, folder: Path, model: Model, spec: MorphSpec, *, metadata: bool = True
    ) -> None:
        self.folder, self.model, self.metadata = folder, model, metadata
        self.spec = model.resolve(spec)
        self.path = find_path(model, self.spec)
        self._course = Course(self.spec, self.path)
        _, rows, columns = model.noise_shape(self.spec.sampling)
        size = rows * columns * model.codec.downscale**2
        prepare_folder(folder, self.spec.num_frames * 3 * size)
        self.store = Store(folder, max_pixels=size)
        self._workshop = Workshop(self.store, model, self.spec.sampling, self.path)

    @cached_property
    def plan(self) -> Plan:
        """What is written down before anything is rendered, free of paths."""
        return Plan(
            spec=self.spec.replace(model=anonymise_model(self.spec.model)),
            model_name=self.model.name,
            model_hash=self.model.hash,
            hashes=dict(self.model.hashes),
            device=self.model.device.type,
            dtype=str(self.model.dtype).removeprefix("torch."),
            versions=current_versions(),
        )

    @cached_property
    def cost(self) -> Cost:
        """What it takes, if nothing of it is there yet."""
        return find_cost(self.model, self.spec)

    def render(self) -> Iterator[Event]:
        """Every step on the way to all frames, which are on the disk at the end.

        What is there already is told of like what is new. Raises `RenderError` and `OutputError`;
        whatever ends it, what was kept is whole, and the next run goes on from there.
        """
        self.store.sweep()
        self.store.remember("plan", self.plan.model_dump(mode="json"))
        curve = (yield from self._trace()) if self._course.is_traced else None
        timeline = yield from self._time(curve)
        yield Timed(timeline=timeline)
        yield from self._fill(timeline, curve)

    def _trace(self) -> Generator[Event, None, Curve]:
        """Render what it takes to know the path, and return its curve."""
        for event in trace(
            self._workshop.render,
            self._workshop.decode,
            self._course.candidates,
            self._course.keyframes,
            self.path.corners,
            close=self._course.close,
            tolerance_db=self.spec.tolerance_db,
            grain=self._course.grain,
            limit=self._course.limit,
        ):
            match event:
                case Curve():
                    return event
                case Node(position=position, pixels=pixels, foretold_db=found):
                    yield Traced(position=position, pixels=pixels, foretold_db=found)
                case Progress() | Waiting():
                    yield event
        raise AssertionError("a trace ends with its curve")

    def _time(self, curve: Curve | None) -> Generator[Event, None, Timeline]:
        """Find out where each frame lies; the timeline, which is on the disk by then."""
        timemap, found = TimeMap.identity(self.path.bounds), Timeline(keyframes=self.path.bounds)
        if self.spec.even:
            assert curve is not None
            found = yield from self._even_out(curve)
            timemap = TimeMap.from_lists(found.timemap)
        places = tuple(self._place(timemap(time), curve) for time in self._course.times)
        timeline = found.replace(frames=places)
        self._remember(timeline)
        return timeline

    def _even_out(self, curve: Curve) -> Generator[Event, None, Timeline]:
        """The map that makes the speed even, found by whoever comes first, and used by all."""
        support = [(node, self._workshop.key(node)) for node in sorted(curve.nodes)]
        key = self._workshop.identity.timed(support, [PROBES, MEASURABLE_DB, *self.path.bounds])

        def is_timed(key: str) -> bool:
            found = self.load_timeline()
            return found is not None and found.timemap_key == key

        def work(_: Sequence[str]) -> Iterator[Event]:
            self._remember(self._retime(curve).replace(timemap_key=key))
            yield from ()

        yield from share(self.store, [[key]], is_timed, work)
        found = self.load_timeline()
        assert found is not None
        return found

    def _retime(self, curve: Curve) -> Timeline:
        """Measure how fast the latents change along the curve; nothing is rendered or decoded."""

        def look(positions: Sequence[float]) -> Iterator[Latents]:
            return (self._measure(curve, position) for position in positions)

        events = retime(look, distance_rms, self.path.bounds, loop=self.spec.loop, count=PROBES)
        last = next(event for event in events if isinstance(event, Retimed))
        return Timeline(
            keyframes=self.path.bounds,
            timemap=last.timemap.to_lists(),
            variations=last.variations,
            jumps=[(jump.start, jump.end, jump.distance) for jump in last.jumps],
        )

    def load_timeline(self) -> Timeline | None:
        """What is written down of it, perhaps by another writer, perhaps of another spec."""
        values = self.store.remembered("timeline")
        try:
            return Timeline(**values) if isinstance(values, dict) else None
        except SpecError:
            return None  # damaged, or of another version: made anew

    def _remember(self, timeline: Timeline) -> None:
        self.store.remember("timeline", timeline.model_dump(mode="json"))

    def _place(self, position: float, curve: Curve | None) -> Place:
        """The frame at `position`: whether it is rendered, and its key."""
        solved = curve is not None and not self.spec.exact and curve.is_settled(position)
        if not solved or curve is None or position in curve.nodes:
            return Place(position=position, key=self._workshop.key(position), is_rendered=True)
        support = [(node, self._workshop.key(node)) for node in curve.support(position)]
        return Place(
            position=position,
            key=self._workshop.identity.solved(position, support),
            is_rendered=False,
            measured_db=curve.measured_db(position),
        )

    def _fill(self, timeline: Timeline, curve: Curve | None) -> Iterator[Event]:
        """Make the frames that are missing: first what is only decoded, then what is rendered."""
        indices: dict[str, list[int]] = {}
        for index, place in enumerate(timeline.frames):
            indices.setdefault(place.key, []).append(index)
        places = {place.key: place for place in timeline.frames}
        told: set[str] = set()

        def tell(key: str, flagged: bool | None = None) -> Saved:
            told.add(key)
            file = self.store.frame_file(key)
            return Saved(indices=tuple(indices[key]), place=places[key], file=file, flagged=flagged)

        def make(keys: Sequence[str]) -> Iterator[Event]:
            rendered = [key for key in keys if places[key].is_rendered]
            missing = [key for key in rendered if not self._workshop.is_sampled(key)]
            yield from self._workshop.sample([places[key].position for key in missing])
            for key in keys:
                yield tell(key, self._make_frame(places[key], curve))

        yield from (tell(key) for key in places if self._workshop.is_framed(key))
        nodes = {self._workshop.key(node) for node in ([] if curve is None else curve.nodes)}
        heavy = [key for key, place in places.items() if place.is_rendered and key not in nodes]
        light = [key for key in places if key not in {*heavy}]
        chunks = [chunk for keys in (light, heavy) for chunk in self._workshop.chunks(keys)]
        yield from share(self.store, chunks, self._workshop.is_framed, make)
        yield from [tell(key) for key in places if key not in told]

    def _make_frame(self, place: Place, curve: Curve | None) -> bool | None:
        """Decode and keep one frame; what the safety checker says of it."""
        if place.is_rendered:
            latents = self._workshop.load(place.key)
        else:
            assert curve is not None
            latents = curve(place.position)
        record = None
        if self.metadata:
            plan = self.plan.model_dump(mode="json")
            record = {"place": place.model_dump(mode="json"), "plan": plan}
        return self._workshop.save_frame(place.key, place.position, latents, record)

    def _measure(self, curve: Curve, position: float) -> Latents:
        """The latents at `position`; where the picture leaps, those of the nearer side."""
        if curve.measured_db(position) < MEASURABLE_DB:
            nodes = list(curve.nodes)
            k = bisect_right(nodes, position)
            start, end = nodes[k - 1 : k + 1]
            if self._course.is_leap(start, end):
                return curve.nodes[start if position - start < end - position else end]
        return curve(position)
