"""What comes of a finished morph: its film, its report, and whether all of it is whole.

Knows a run's folder; renders nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, final, overload

from PIL import Image

from pipeline.checkpoint import hash_file
from pipeline.errors import OutputError, PictureError, SpecError
from pipeline.figures import draw_report
from pipeline.files import write_atomically
from pipeline.pictures import save_png, to_pixels
from pipeline.quality import DISTANCES, distance_in
from pipeline.record import Plan
from pipeline.report import MorphReport, measure_morph
from pipeline.run import MorphRun
from pipeline.spec import MorphSpec
from pipeline.store import Fault, Store
from pipeline.tensors import Pixels
from pipeline.timeline import Timeline, find_pace, find_segments, find_times
from pipeline.video import boomerang, probe, write_sequence, write_video

SHEET = 18  # frames on the contact sheet at most


def film(store: Store, plan: Plan, timeline: Timeline, *, metadata: bool = True) -> Path:
    """Make the film of frames that are all there and whole, at constant memory; its file.

    A "png" film is a folder of numbered pictures. Raises `OutputError`.
    """
    with store.writing():
        file = _film(store, plan, timeline, metadata=metadata)
    if file.is_file():
        store.remember("film", {"file": file.name, "sha256": hash_file(file)})
    return file


def _film(store: Store, plan: Plan, timeline: Timeline, *, metadata: bool) -> Path:
    spec = plan.spec
    files = [store.frame_file(place.key) for place in timeline.frames]
    ordered = boomerang(files) if spec.video.boomerang else iter(files)
    checked = _check(store, ordered)
    if spec.video.kind == "png":
        file = store.folder / "sequence"
        write_sequence(checked, file)
        return file
    file = store.folder / f"morph.{spec.video.kind}"
    write_video(
        checked,
        file,
        fps=spec.video.fps,
        kind=spec.video.kind,
        loop=spec.loop or spec.video.boomerang,
        metadata=plan.model_dump_json() if metadata else None,
    )
    return file


def measure(run: MorphRun, timeline: Timeline) -> MorphReport:
    """The morph report of a finished run, kept beside its film as JSON and as a picture."""
    spec, codec, device = run.spec, run.model.codec, run.model.device
    times = find_times(spec, timeline.keyframes)
    frames = _Frames(run.store, timeline)
    report = measure_morph(
        frames,
        find_segments(spec),
        distances={"encoder": distance_in(lambda p: codec.encode(p.to(device))), **DISTANCES},
        pace=find_pace(times, 1.0 if spec.loop else 1 + 1 / spec.num_frames),
        noises=(run.path(place.position).noise for place in timeline.frames),
    )
    json = report.model_dump_json(indent=1).encode()

    def write(stream: BinaryIO) -> None:
        stream.write(json)

    write_atomically(run.folder / "report.json", write)
    save_png(draw_report(report, frames.thumbnails()), run.folder / "report.png", None)
    return report


def open_run(folder: Path) -> tuple[Store, Plan, Timeline | None]:
    """What is written down in the folder of a run. Raises `SpecError` where it is none."""
    if not (folder / "plan.json").is_file():
        raise SpecError(f"{folder}: is no run of a morph: there is no plan.json")
    store = Store(folder)
    plan, timeline = store.remembered("plan"), store.remembered("timeline")
    try:
        if not isinstance(plan, dict):
            raise SpecError("is damaged")
        return store, Plan(**plan), Timeline(**timeline) if isinstance(timeline, dict) else None
    except SpecError as error:
        raise SpecError(f"{folder}: plan.json: {error}") from None


def verify(folder: Path) -> Iterator[Fault]:
    """All that is wrong with the run in `folder`. Raises `SpecError` where it is none."""
    store, plan, timeline = open_run(folder)
    if timeline is None or not timeline.frames:
        yield Fault("timeline.json", "is missing or damaged, or the run was stopped before it")
        return
    if len(timeline.frames) != plan.spec.num_frames:
        count, wanted = len(timeline.frames), plan.spec.num_frames
        yield Fault("timeline.json", f"has {count} frames, the plan has {wanted}")
    yield from store.verify([place.key for place in timeline.frames])
    yield from _verify_film(store, plan.spec)


def _verify_film(store: Store, spec: MorphSpec) -> Iterator[Fault]:
    film = store.remembered("film")
    if spec.video.kind == "png":
        return
    name = f"morph.{spec.video.kind}"
    if not isinstance(film, dict) or film.get("file") != name:
        yield Fault(name, "is not made yet")
        return
    file = store.folder / name
    try:
        if hash_file(file) != film.get("sha256"):
            yield Fault(name, "is not what was written")
        wanted = count_film_frames(spec)
        if (found := probe(file).frames) != wanted:
            yield Fault(name, f"has {found} frames, the plan has {wanted}")
    except (OSError, PictureError) as error:
        yield Fault(name, f"cannot be read: {error}")


def count_film_frames(spec: MorphSpec) -> int:
    """How many frames the film has: on the way back, neither end is shown twice."""
    return 2 * spec.num_frames - 2 if spec.video.boomerang else spec.num_frames


def _check(store: Store, files: Iterator[Path]) -> Iterator[Path]:
    for file in files:
        if not store.has_frame(file.stem):
            raise OutputError(f"{file.name}: is missing or damaged, the same command remakes it")
        yield file


@final
class _Frames(Sequence[Pixels]):
    """The frames of a timeline, read from the disk each time one is asked for."""

    def __init__(self, store: Store, timeline: Timeline) -> None:
        self._store, self._places = store, timeline.frames

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pixels]: ...
    def __getitem__(self, index: int | slice) -> Pixels | Sequence[Pixels]:
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        return to_pixels(self._store.read_frame(self._places[index].key))

    def thumbnails(self) -> dict[int, Image.Image]:
        """Some frames, evenly spread in time, by their index."""
        last = len(self._places) - 1
        steps = min(SHEET - 1, last)
        indices = {round(last * k / steps) for k in range(steps + 1)}
        return {k: self._store.read_frame(self._places[k].key) for k in sorted(indices)}
