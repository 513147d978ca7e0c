"""What `scripts.morph` does once it knows what is wanted: cost, progress, film, several processes.

Knows no options. Several processes share the missing frames through the run's folder; they need not
know of each other, but where a launcher counts them, the first speaks for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import GreatcircleError, PictureError, SpecError
from scripts.command import Stopped, hand_over, progress_bar, say

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.record import Plan
    from pipeline.run import Cost, Event, MorphRun
    from pipeline.spec import ModelSpec, MorphSpec
    from pipeline.timeline import Timeline


@dataclass(frozen=True)
class Worker:
    """One of `count` processes that a launcher started, and its place among those of its machine.

    `accelerate launch` and `torchrun` count them in RANK, WORLD_SIZE and LOCAL_RANK.
    """

    rank: int = 0
    count: int = 1
    local_rank: int | None = None

    @classmethod
    def here(cls) -> Worker:
        """This process. Raises `SpecError` where a count is none."""
        rank, count = _count_from("RANK"), _count_from("WORLD_SIZE")
        return cls(rank or 0, count or 1, _count_from("LOCAL_RANK"))

    @property
    def is_first(self) -> bool:
        """Whether it speaks, films and measures for all."""
        return self.rank == 0

    def choose_device(self, spec: ModelSpec) -> ModelSpec:
        """`spec` on a GPU of its own, where there are several and none was chosen."""
        if spec.device is not None or self.local_rank is None:
            return spec
        import torch

        if (count := torch.cuda.device_count()) < 2:
            return spec
        return spec.replace(device=f"cuda:{self.local_rank % count}")


def _count_from(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not (text.isdecimal() and len(text) < 10):
        raise SpecError(f"{variable} = {text!r}: a launcher sets it to a number")
    return None if text is None else int(text)


def read_plan(source: Path | None) -> Plan | None:
    """The plan of the run, film or frame that `source` is; None where it is a TOML file, or none.

    Raises `SpecError` and `PictureError`.
    """
    if source is None or source.suffix.lower() == ".toml":
        return None
    if os.path.isdir(source):
        from pipeline.outcome import open_run

        return open_run(source)[1]

    from pipeline.files import parse_json
    from pipeline.record import Plan

    text = _read_text(source)
    try:
        values = parse_json(text)
        values = values.get("plan") if source.suffix.lower() == ".png" else values
        if not isinstance(values, dict):
            raise SpecError("they are no morph's")
        return Plan(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"{source.name}: its settings are not valid: {error}") from None


def _read_text(file: Path) -> bytes:
    """What stands in a film or a frame beside its pixels."""
    from pipeline.containers import png_text
    from pipeline.pictures import TEXT_NAME, opened
    from pipeline.video import read_metadata

    match file.suffix.lower():
        case ".png":
            with opened(file) as stream:
                text = png_text(stream, TEXT_NAME.encode())
        case ".mp4" | ".webp" | ".gif":
            found = read_metadata(file)
            text = None if found is None else found.encode()
        case _:
            raise SpecError(
                f"source {file.name!r}: must be a .toml file, or a run, film or frame of ours"
            )
    if text is None:
        raise PictureError(f"{file.name}: holds no settings: give one saved with its metadata")
    return text


def make(
    folder: Path, model: Model, spec: MorphSpec, worker: Worker, *, metadata: bool, report: bool
) -> None:
    """Render what is missing in `folder`; the first process says how far it is, films, measures."""
    from pipeline.run import MorphRun

    run = MorphRun(folder, model, spec, metadata=metadata)
    with _kept(folder):
        if worker.is_first:
            _make_film(run, worker, report)
        else:
            for _ in run.render():
                pass


def _make_film(run: MorphRun, worker: Worker, report: bool) -> None:
    from pipeline.outcome import film, measure

    if (kept := _count_kept(run.folder))[0] + kept[1]:
        say(f"{_say_kept(run.folder)}: what fits is used")
    start, share = time.monotonic(), _state_cost(run, worker)
    with progress_bar(run.cost.most + share * run.cost.num_frames) as advance:
        meter = Meter(run.cost, share)
        for event in run.render():
            meter.see(event)
            advance(meter.done, meter.text)
        assert meter.timeline is not None
        advance(meter.done, "making the film")
        file = film(run.store, run.plan, meter.timeline, metadata=run.metadata)
        hand_over(file)
        advance(meter.done, "measuring it" if report else "done")
        found = measure(run, meter.timeline) if report else None
    say(f"{_say_made(meter)}; {time.monotonic() - start:.0f} s")
    if found is not None:
        say(found.verdict)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Whatever ends the block early, say what is kept of it."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        raise Stopped(f"{_say_kept(folder)}; the same command goes on from there") from None
    except GreatcircleError as error:
        kept = f"{_say_kept(folder)}; the same command goes on from there"
        raise type(error)(f"{error}; {kept}") from error


def _say_kept(folder: Path) -> str:
    return "{} frames and {} renders are kept in {}".format(*_count_kept(folder), folder)


def _count_kept(folder: Path) -> tuple[int, int]:
    """How many frames and renders are in `folder`, whatever they were made for."""
    frames, latents = (
        sum(name.endswith(suffix) for name in os.listdir(folder / place))
        for place, suffix in (("frames", ".png"), ("latents", ".safetensors"))
    )
    return frames, latents


def _say_made(meter: Meter) -> str:
    assert meter.timeline is not None
    frames = meter.timeline.frames
    measured = [place.measured_db for place in frames if place.measured_db is not None]
    text = f"{len(frames)} frames from {meter.renders} renders"
    return f"{text}, those between at {min(measured):.1f} dB or more" if measured else text


def _state_cost(run: MorphRun, worker: Worker) -> float:
    """Say what the run takes, and return what a picture costs as a share of what a render does."""
    cost = run.cost
    step, picture = _time_step(run), _time_picture(run)
    least, most = (
        -(-renders // cost.batch_size) * cost.calls * step / worker.count
        + (renders + cost.num_frames) * picture
        for renders in (cost.least, cost.most)
    )
    several = f" by {worker.count} processes" if worker.count > 1 else ""
    say(
        f"{cost.num_frames} frames from {cost.least} to {cost.most} renders{several}: at most "
        f"{cost.unet_calls} UNet calls of {cost.batch_size}, {_say_range(least, most)}"
    )
    return picture / (picture + step * cost.calls / cost.batch_size)


def _time_step(run: MorphRun) -> float:
    """Seconds of one UNet call, after one that warms up: that is all that is done for nothing."""
    from pipeline.render import sample_steps

    points = [run.path(0.0)] * run.cost.batch_size
    marks = [time.perf_counter()]
    steps = sample_steps(run.model, run.spec.sampling, points)
    for _ in islice(steps, min(2, run.cost.calls)):
        _synchronise(run.model)
        marks.append(time.perf_counter())
    steps.close()
    return marks[-1] - marks[-2]


def _time_picture(run: MorphRun) -> float:
    """Seconds to decode one picture, after one that warms up."""
    latents = run.path(0.0).noise.to(run.model.device, run.model.dtype)
    for _ in range(2):
        start = time.perf_counter()
        run.model.codec.decode(latents).cpu()
    return time.perf_counter() - start


def _synchronise(model: Model) -> None:
    """Wait for a device that works on while the program goes on."""
    import torch

    if model.device.type != "cpu":
        torch.accelerator.synchronize(model.device)


def _say_range(least: float, most: float) -> str:
    low, high = f"{least:.0f}", f"{most:.0f}"
    return f"about {low} s" if low == high else f"about {low} to {high} s"


class Meter:
    """How far a run is, counted in renders; it never goes back. `share` is what a picture counts.

    How many `renders` it takes is known when all frames are placed; until then, how many at most.
    """

    def __init__(self, cost: Cost, share: float) -> None:
        self.done, self.text = 0.0, "rendering"
        self.timeline: Timeline | None = None
        self._cost, self._share = cost, share
        self._traced: set[float] = set()
        self._left: set[str] = set()  # keys of what is yet to be rendered
        self._saved, self._batch, self.renders = 0, 0.0, 0

    def see(self, event: Event) -> None:
        """Take in what happened."""
        from pipeline.render import Progress
        from pipeline.run import Saved, Timed, Traced
        from pipeline.sharing import Waiting

        match event:
            case Progress(indices=indices, index=index, count=count):
                self._batch = len(indices) * (index + 1) / count
            case Traced(position=position):
                self._traced.add(position)
                self._batch = 0.0
                self.text = f"finding the path: {len(self._traced)} renders"
            case Timed(timeline=timeline):
                self._place(timeline)
            case Saved(indices=indices, place=place, flagged=flagged):
                self._save(indices, place.key, bool(flagged))
            case Waiting():
                self.text = "others are at what is left"
        self.done = max(self.done, self._count())

    def _place(self, timeline: Timeline) -> None:
        self.timeline = timeline
        rendered = {place.position: place.key for place in timeline.frames if place.is_rendered}
        self._left = {key for at, key in rendered.items() if at not in self._traced}
        self.renders = len(self._traced) + len(self._left)

    def _save(self, indices: Sequence[int], key: str, is_flagged: bool) -> None:
        self._left.discard(key)
        self._saved += len(indices)
        self._batch = max(self._batch - 1, 0.0)
        self.text = f"frame {self._saved} of {self._cost.num_frames}"
        if is_flagged:
            say(f"the safety checker flags frame {indices[0] + 1}, kept as it is")

    def _count(self) -> float:
        if self.timeline is None:
            return len(self._traced) + self._batch
        return self._cost.most - len(self._left) + self._batch + self._share * self._saved
