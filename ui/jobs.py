"""Morphs that are being made, each in a thread of the app's own, whoever watches or not.

A job is found again by the id of its run, and what it made lies in the folder of that id. One is
made at a time, in the order of their start. Knows no widgets.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event, Lock
from typing import TYPE_CHECKING, Literal, Protocol

from pipeline.errors import GreatcircleError, SpecError
from pipeline.files import new_run_id
from pipeline.record import anonymise_model
from ui.draw import duration
from ui.meter import Meter
from ui.runs import Runs, StoredRun
from ui.thumbs import Thumb, make_thumb

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.model import Model
    from pipeline.render import Progress
    from pipeline.run import MorphRun
    from pipeline.spec import ModelSpec, MorphSpec
    from pipeline.tensors import Pixels
    from pipeline.timeline import Timeline

State = Literal["waiting", "running", "done", "stopped", "failed"]

PREVIEW_SECONDS = 0.4  # between two looks at a step
RECENT = 40  # runs that are searched for one of the same values
REMEMBERED = 50  # jobs that are over, and their last words


class BusyError(GreatcircleError):
    """Too many morphs wait already."""


class Source(Protocol):
    """A model that is on its way, as `ui.loading.Attempt` is."""

    spec: ModelSpec

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it is there, or has failed, after at most so many seconds."""

    def model(self) -> Model:
        """The model. Raises what went wrong."""


class _StoppedError(Exception):
    """Whoever watches has pressed stop."""


class Job:
    """One morph on its way. Its thread writes, any number of pages read.

    `traced` are the pictures by which the way was found, by position, `preview` what the present
    step looks like, as often as `look` asks for it.
    """

    def __init__(self, id: str, runs: Runs, spec: MorphSpec, source: Source) -> None:
        self.id, self.spec, self._runs = id, spec, runs
        self.state: State = "waiting"
        self.error: str | None = None
        self.meter: Meter | None = None
        self.traced: dict[float, Thumb] = {}
        self.preview: Image.Image | None = None
        self.newest: int | None = None
        self.over = Event()
        self._source: Source | None = source
        self._doing = "waiting"
        self._stop = Event()
        self._looked = self._previewed = 0.0

    @property
    def is_live(self) -> bool:
        """Whether anything can still come of it."""
        return not self.over.is_set()

    @property
    def timeline(self) -> Timeline | None:
        """Where all frames lie, once that is known."""
        return None if self.meter is None else self.meter.timeline

    @property
    def share(self) -> float | None:
        """How much is done, in [0, 1]; None while nobody can know."""
        return None if self.meter is None else self.meter.share

    def look(self) -> Image.Image | None:
        """The present step's picture; while someone looks, there will be another one."""
        self._looked = time.monotonic()
        return self.preview

    def is_of(self, spec: MorphSpec, source: Source) -> bool:
        """Whether this is what would be made of `spec` and `source`."""
        return self._source is source and self.spec == spec

    def stop(self) -> None:
        """End it within a step; what is done is kept."""
        self._stop.set()

    def say(self) -> str:
        """One line about where it stands, or how it ended."""
        match self.state:
            case "failed":
                return self.error or "failed"
            case "stopped":
                return f"stopped: {self._say_kept()}; the same values, or its run, go on from there"
            case "done":
                return self._doing
        if self._stop.is_set():
            return "stopping after this step"
        return self.meter.say() if self.meter and not self._doing else self._doing

    def _say_kept(self) -> str:
        try:
            stored = self._runs.open(self.id)
        except GreatcircleError:
            return "nothing was begun"
        frames = f"{stored.count_frames()} of {stored.num_frames} frames"
        return f"kept {frames} and {stored.count_renders()} renders"

    def run(self) -> None:
        """Make it, to whatever end. Called once, by the thread of the job."""
        try:
            self._check()
            self.state = "running"
            self._make()
            self.state = "done"
        except _StoppedError:
            self.state = "stopped"
        except GreatcircleError as error:
            self.error, self.state = str(error), "failed"
        except Exception as error:  # a thread of its own has nobody else to tell
            logging.getLogger(__name__).exception("run %s", self.id)
            self.error = f"{type(error).__name__}: an error of the program, said where it runs"
            self.state = "failed"
        finally:
            self._source = self.preview = None  # a model is large
            self.over.set()

    def _check(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _make(self) -> None:
        from pipeline.outcome import film, measure
        from pipeline.run import MorphRun

        run = MorphRun(self._runs.folder(self.id), self._wait_for_model(), self.spec)
        self.meter, self._doing = Meter(run.cost), ""
        self._render(run, self.meter)
        timeline = self.meter.timeline
        assert timeline is not None
        self._check()
        self._doing = "writing the film"
        film(run.store, run.plan, timeline)
        self._check()
        self._doing = "measuring the morph"
        measure(run, timeline)
        renders = self.meter.traced | {p.position for p in timeline.frames if p.is_rendered}
        took = duration(self.meter.seconds)
        self._doing = f"{len(timeline.frames)} frames from {len(renders)} renders in {took}"

    def _wait_for_model(self) -> Model:
        assert self._source is not None
        self._doing = "waiting for the model"
        while not self._source.wait(0.2):
            self._check()
        return self._source.model()

    def _render(self, run: MorphRun, meter: Meter) -> None:
        from pipeline.render import Progress
        from pipeline.run import Saved, Traced

        with closing(run.render()) as events:
            for event in events:
                self._check()
                meter.note(event)
                match event:
                    case Progress():
                        self._preview(event)
                    case Traced(position=position, pixels=pixels):
                        self.traced[position] = _thumb_of(pixels, position)
                    case Saved(indices=indices):
                        self.newest = indices[-1]

    def _preview(self, progress: Progress) -> None:
        """Look at a step, if anyone else does, and not at every one."""
        now = time.monotonic()
        if now - self._looked < 3 and now - self._previewed > PREVIEW_SECONDS:
            self._previewed = now
            self.preview = progress.preview()[0]


def _thumb_of(pixels: Pixels, position: float) -> Thumb:
    from pipeline.pictures import to_images

    return make_thumb(to_images(pixels)[0], f"{position:.3f}")


class Jobs:
    """All morphs of the app: `limit` may wait while one is made."""

    def __init__(self, runs: Runs, limit: int = 16) -> None:
        self.runs, self.limit = runs, limit
        self._jobs: dict[str, Job] = {}
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="morph")

    def find(self, id: str) -> Job | None:
        """The job of that id, if it was started since the app is open."""
        return self._jobs.get(id)

    def start(self, source: Source, spec: MorphSpec) -> Job:
        """Begin to make `spec`, or go on with it where a run of the same values was stopped.

        Raises `SpecError` for what the model, if it is there, cannot make; `BusyError`.
        """
        with self._lock:
            self._check_room()
            if not source.wait(0):
                return self._submit(Job(new_run_id(), self.runs, spec, source))
            model = source.model()
            spec = model.resolve(spec)
            for job in self._jobs.values():
                if job.is_live and job.is_of(spec, source):
                    return job
            same = (run for run in self.runs.open_all(RECENT) if _is_same(run, model, spec))
            found = next((run.id for run in same if not self._is_live(run.id)), None)
            return self._submit(Job(found or new_run_id(), self.runs, spec, source))

    def resume(self, source: Source, id: str) -> Job:
        """Go on with the run of that id. Raises `SpecError` where the model is another one."""
        with self._lock:
            if self._is_live(id):
                return self._jobs[id]
            self._check_room()
            stored, model = self.runs.open(id), source.model()
            plan = stored.plan
            if plan.model_hash != model.hash or plan.hashes != dict(model.hashes):
                raise SpecError(
                    f"run {id!r}: was made with {plan.model_name} ({plan.model_hash[:10]}), "
                    f"this is {model.name} ({model.hash[:10]}): load that one to go on"
                )
            spec = plan.spec.replace(model=source.spec)
            return self._submit(Job(id, self.runs, model.resolve(spec), source))

    def _is_live(self, id: str) -> bool:
        return id in self._jobs and self._jobs[id].is_live

    def count_before(self, job: Job) -> int:
        """How many have to end before `job` can begin."""
        ids = [other.id for other in list(self._jobs.values()) if other.is_live]
        return ids.index(job.id) if job.id in ids else 0

    def _check_room(self) -> None:
        live = sum(job.is_live for job in self._jobs.values())
        if live > self.limit:
            raise BusyError(f"{live} morphs are being made or wait: try again when one is done")

    def _submit(self, job: Job) -> Job:
        over = [old.id for old in self._jobs.values() if not old.is_live]
        for id in [job.id, *over[:-REMEMBERED]]:
            self._jobs.pop(id, None)
        self._jobs[job.id] = job
        self._thread.submit(job.run)
        return job

    def close(self) -> None:
        """Stop all, each within a step, and wait for it."""
        for job in list(self._jobs.values()):
            job.stop()
        self._thread.shutdown(wait=True)


def _is_same(run: StoredRun, model: Model, spec: MorphSpec) -> bool:
    """Whether `run` is what `model` would make of a resolved `spec`."""
    plan = run.plan
    wanted = spec.replace(model=anonymise_model(spec.model))
    return (
        plan.spec == wanted and plan.model_hash == model.hash and plan.hashes == dict(model.hashes)
    )
