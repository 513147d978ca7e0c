"""Morphs made several ways with one model: seconds from prompts to a closed film, and the reports.

Knows no command line. What is measured of a film is measured by the same report for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import torch

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.noise import draw_noise
from pipeline.outcome import film
from pipeline.pictures import open_image, to_pixels
from pipeline.quality import DISTANCES, distance_in
from pipeline.report import MorphReport, measure_morph
from pipeline.run import MorphRun
from pipeline.spec import MorphSpec
from pipeline.timeline import find_segments
from pipeline.video import write_video
from scripts.benchmarks.counts import Counts
from scripts.benchmarks.walk import slerp, walk


@dataclass(frozen=True, kw_only=True)
class Film:
    """How long a film took, how many renders are in it, and its frames on the disk.

    `processor_seconds` are those of all threads. `counts` say what the networks were asked for,
    where somebody counted.
    """

    seconds: float
    processor_seconds: float
    renders: int
    files: Sequence[Path]
    counts: Counts | None = None


class Spent(TypedDict):
    """Seconds by the clock, and of the processor in all threads."""

    seconds: float
    processor_seconds: float


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began, self._began_processor = time.perf_counter(), time.process_time()

    def read(self) -> Spent:
        """What has gone since; the watch runs on."""
        return Spent(
            seconds=time.perf_counter() - self._began,
            processor_seconds=time.process_time() - self._began_processor,
        )


Maker = Callable[[Path], Film]


def ours(model: Model, spec: MorphSpec) -> Maker:
    """As this program makes it, from nothing."""

    def make(folder: Path) -> Film:
        watch = Stopwatch()
        run = MorphRun(folder, model, spec)
        for _ in run.render():
            pass
        timeline = run.load_timeline()
        assert timeline is not None
        film(run.store, run.plan, timeline)
        spent = watch.read()
        files = [run.store.frame_file(place.key) for place in timeline.frames]
        return Film(**spent, renders=len(run.store.latent_keys()), files=files)

    return make


def theirs(model: Model, spec: MorphSpec, batch_size: int) -> Maker:
    """As stable-diffusion-videos makes it; its film is written by the same writer."""
    if model.text.zeros_if_no_negative or len(model.text.encoders) > 1:
        raise SpecError("model: that algorithm knows one text encoder, and no XL")

    def make(folder: Path) -> Film:
        watch = Stopwatch()
        folder.mkdir(parents=True)
        files = walk(model, model.resolve(spec), batch_size, folder)
        write_video(iter(files), folder / "film.mp4", fps=spec.video.fps, kind="mp4")
        return Film(**watch.read(), renders=len(files), files=files)

    return make


def interleave(makers: dict[str, Maker], rounds: int) -> Iterator[tuple[str, Film, Path]]:
    """Each way in turn, round by round; a film's files are there until the next is asked for."""
    for _ in range(rounds):
        for name, make in makers.items():
            with TemporaryDirectory(prefix="greatcircle-") as folder:
                place = Path(folder) / "film"
                yield name, make(place), place


def report(model: Model, spec: MorphSpec, made: Film) -> MorphReport:
    """The morph report of a film, by its frames alone."""
    frames = _Files(made.files)
    segments = find_segments(spec)
    if len(made.files) != spec.num_frames:
        ways = len(spec.keyframes) - (not spec.loop)
        step = len(made.files) // ways
        segments = [(way * step, (way + 1) * step - 1) for way in range(ways)]
    encoder = distance_in(lambda pixels: model.codec.encode(pixels.to(model.device)))
    return measure_morph(frames, segments, distances={**DISTANCES, "encoder": encoder})


def midpoint_std(model: Model, spec: MorphSpec) -> dict[str, float]:
    """The standard deviation of the noise half way between the first two keyframes, both ways."""
    from pipeline.morph import find_path

    first, second, *_ = spec.keyframes
    shape = model.noise_shape(spec.sampling)
    a, b = draw_noise(first.seed, shape), draw_noise(second.seed, shape)
    path = find_path(model, spec)
    middle = path((path.bounds[0] + path.bounds[1]) / 2).noise
    return {"ours": float(middle.std()), "theirs": float(slerp(0.5, a, b).std())}


def compare(found: Sequence[Path], exact: Sequence[Path]) -> dict[str, float]:
    """How far frames are from those that were all rendered, in 8 bits: worst and mean, in dB."""
    errors = []
    for a, b in zip(found, exact, strict=True):
        difference = to_pixels(open_image(a)).double() - to_pixels(open_image(b)).double()
        errors.append(float(difference.square().mean()))
    mean = sum(errors) / len(errors)
    return {"worst_psnr": _decibels(max(errors)), "mean_psnr": _decibels(mean)}


def compare_solved(made: Film, exact: Film) -> tuple[int, dict[str, float]]:
    """How many frames of `made` are solved, and how far those are from the same ones rendered."""
    pairs = [(a, b) for a, b in zip(made.files, exact.files, strict=True) if a.name != b.name]
    return len(pairs), compare(*zip(*pairs, strict=True)) if pairs else {}


def _decibels(error: float) -> float:
    """Of a mean square error in [-1, 1]; what is equal stands as 100."""
    return float(10 * torch.log10(torch.tensor(4 / max(error, 4e-10))))


class _Files(Sequence[Any]):
    """Pictures in files, read when they are asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        return to_pixels(open_image(self._files[index]))
