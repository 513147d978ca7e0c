"""Morphs made by themselves: found again by their id, stopped, gone on with, refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from pipeline.errors import CheckpointError, SpecError
from pipeline.model import Model, load_model
from pipeline.outcome import verify
from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling
from tests.tiny import write_tiny_checkpoint
from tests.ui.conftest import at_hand, loading_once
from ui.jobs import BusyError, Job, Jobs
from ui.loading import Attempt, Loading
from ui.runs import Runs

SPEC = MorphSpec(
    keyframes=(Keyframe(prompt="a red apple"), Keyframe(prompt="a green pear", seed=1)),
    num_frames=4,
    even=False,
    exact=True,
    sampling=Sampling(num_inference_steps=1, guidance_scale=1.0, batch_size=2),
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of a few thousand random weights."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    return load_model(ModelSpec(source=str(folder), device="cpu"))


@pytest.fixture
def source(tiny: Model) -> Attempt:
    """The tiny model, loaded."""
    return at_hand(tiny).latest


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(Runs(tmp_path / "morphs"))
    yield found
    found.close()


def ended(job: Job) -> Job:
    assert job.over.wait(60), job.say()
    return job


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


class Slow(torch.nn.Module):
    """A UNet that waits for a word before each call but the first few."""

    def __init__(self, unet: Any, free: int) -> None:
        super().__init__()
        self.unet, self.config, self.left = unet, unet.config, free
        self.go = Event()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            self.go.wait(60)
        return self.unet(*args, **kwargs)


def slowed(tiny: Model, free: int = 0) -> tuple[Attempt, Slow]:
    """A model that stands still after `free` calls, and its UNet."""
    unet = Slow(tiny.unet, free)
    return at_hand(replace(tiny, unet=unet)).latest, unet


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_go_on_by_themselves_and_are_found_by_their_ids(
    jobs: Jobs, source: Attempt, count: int
) -> None:
    """T24: nobody watches, and the app is opened anew before anyone asks."""
    jobs.limit = count
    specs = [SPEC.replace(num_frames=2 + k) for k in range(count)]
    started = [jobs.start(source, spec) for spec in specs]
    assert [jobs.count_before(job) for job in started][-1] == count - 1, "one at a time"
    for job in started:
        assert ended(job).state == "done", job.say()

    later = Runs(jobs.runs.root)
    assert later.list(100) == sorted((job.id for job in started), reverse=True)
    for job, spec in zip(started, specs, strict=True):
        stored = later.open(job.id)
        assert list(verify(stored.folder)) == []
        assert stored.count_frames() == spec.num_frames
        assert stored.film is not None
        assert stored.report is not None


def test_it_says_how_far_it_is(jobs: Jobs, tiny: Model) -> None:
    source, unet = slowed(tiny, free=1)
    job = jobs.start(source, SPEC.replace(exact=False))
    wait_until(lambda: job.meter is not None and unet.left < 0)

    assert job.meter is not None
    assert job.state == "running"
    assert job.say().startswith("finding the way · ")
    assert job.meter.cost.num_frames == 4
    unet.go.set()
    assert ended(job).say().startswith("4 frames from 4 renders in ")
    assert job.share == 1.0
    assert [thumb.uri[:22] for thumb in job.traced.values()] == ["data:image/jpeg;base64"] * 4


def test_stopped_within_a_step_and_gone_on_with_by_the_same_values(
    jobs: Jobs, tiny: Model, source: Attempt
) -> None:
    slow, unet = slowed(tiny, free=1)
    job = jobs.start(slow, SPEC)
    wait_until(lambda: unet.left < 0)
    job.stop()
    assert job.say() == "stopping after this step"
    unet.go.set()

    assert ended(job).state == "stopped"
    assert unet.left == -1, "no step was begun after the stop"
    assert "stopped: kept 2 of 4 frames and 2 renders" in job.say()
    assert jobs.runs.open(job.id).film is None

    again = ended(jobs.start(source, SPEC))
    assert again.id == job.id
    assert again.state == "done"
    assert jobs.runs.open(job.id).count_frames() == 4


def test_gone_on_with_by_its_id(jobs: Jobs, tiny: Model, source: Attempt) -> None:
    slow, unet = slowed(tiny)
    job = jobs.start(slow, SPEC)
    wait_until(lambda: unet.left < 0)
    job.stop()
    unet.go.set()
    ended(job)

    later = Jobs(jobs.runs)
    assert ended(later.resume(source, job.id)).state == "done"
    assert len(jobs.runs.list(9)) == 1
    later.close()


def test_not_gone_on_with_by_another_model(jobs: Jobs, source: Attempt, embedded: Model) -> None:
    job = ended(jobs.start(source, SPEC))
    with pytest.raises(SpecError, match=rf"run '{job.id}': was made with tiny.* load that one"):
        jobs.resume(at_hand(embedded).latest, job.id)


def test_other_values_are_another_run(jobs: Jobs, source: Attempt) -> None:
    first, second = (jobs.start(source, SPEC.replace(num_frames=n)) for n in (2, 3))
    assert first.id != second.id
    ended(second)


def test_what_is_being_made_is_not_begun_twice(jobs: Jobs, tiny: Model) -> None:
    source, unet = slowed(tiny)
    job = jobs.start(source, SPEC)
    assert jobs.start(source, SPEC) is job
    assert jobs.resume(source, job.id) is job
    unet.go.set()
    ended(job)


def test_too_many_are_refused_in_one_line_and_the_next_is_taken(jobs: Jobs, tiny: Model) -> None:
    """T13."""
    jobs.limit = 2
    source, unet = slowed(tiny)
    begun, refused = [], []
    for k in range(20):
        try:
            begun.append(jobs.start(source, SPEC.replace(num_frames=2 + k)))
        except BusyError as error:
            refused.append(str(error))

    assert len(begun) == 3
    assert set(refused) == {"3 morphs are being made or wait: try again when one is done"}
    for job in begun:
        job.stop()
    unet.go.set()
    for job in begun:
        assert ended(job).state == "stopped"
    assert ended(jobs.start(source, SPEC)).state == "done"


def test_a_waiting_one_that_is_stopped_has_begun_nothing(jobs: Jobs, tiny: Model) -> None:
    source, unet = slowed(tiny)
    first, second = (jobs.start(source, SPEC.replace(num_frames=n)) for n in (2, 3))
    second.stop()
    unet.go.set()
    assert ended(second).say().startswith("stopped: nothing was begun")
    assert ended(first).state == "done"
    assert jobs.runs.list(9) == [first.id]


def test_what_the_model_cannot_make_is_refused_before_anything_begins(
    jobs: Jobs, source: Attempt
) -> None:
    spec = SPEC.replace(sampling=SPEC.sampling.replace(width=17))
    with pytest.raises(SpecError, match=r"^width = 17: must be a multiple of 2$"):
        jobs.start(source, spec)
    assert not jobs.runs.root.exists()


def test_it_waits_for_the_model(jobs: Jobs, tiny: Model) -> None:
    ready = Event()
    loading = loading_once(ready, tiny)
    loading.start()
    job = jobs.start(loading.latest, SPEC)
    wait_until(lambda: job.say() == "waiting for the model")
    ready.set()
    assert ended(job).state == "done"


def test_it_keeps_its_model_when_the_app_takes_another(jobs: Jobs, tiny: Model) -> None:
    wrapped, unet = slowed(tiny)
    loading = Loading(ModelSpec(), load=lambda _: wrapped.model(), find_plans=lambda _: [])
    loading.start()
    loading.wait()
    job = jobs.start(loading.latest, SPEC)
    loading.change(ModelSpec(source="another"))
    unet.go.set()
    assert ended(job).state == "done"
    assert jobs.runs.open(job.id).plan.spec.model.source == "embedded"


def test_a_model_that_cannot_be_had_ends_it(jobs: Jobs) -> None:
    ready = Event()

    def fail(_: ModelSpec) -> Any:
        ready.wait()
        raise CheckpointError("model 'x': no such folder")

    loading = Loading(ModelSpec(source="x"), load=fail, find_plans=lambda _: [])
    loading.start()
    job = jobs.start(loading.latest, SPEC)
    ready.set()
    assert (ended(job).state, job.say()) == ("failed", "model 'x': no such folder")


def test_numbers_that_are_not_finite_end_it_in_one_line(jobs: Jobs, tiny: Model) -> None:
    """T22."""

    class Broken(torch.nn.Module):
        config = tiny.unet.config

        def forward(self, latents: Any, *args: Any, **kwargs: Any) -> Any:
            return (latents * float("nan"),)

    job = ended(jobs.start(at_hand(replace(tiny, unet=Broken())).latest, SPEC))
    assert job.state == "failed"
    assert "not finite" in job.say()
    assert jobs.runs.open(job.id).count_frames() == 0


def test_an_error_of_the_program_is_said_and_the_next_morph_is_made(
    jobs: Jobs, tiny: Model, source: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.outcome.film", fail)
        job = ended(jobs.start(source, SPEC))
    assert job.say() == "ZeroDivisionError: an error of the program, said where it runs"
    assert ended(jobs.start(source, SPEC)).state == "done"


def test_closing_stops_all(jobs: Jobs, tiny: Model) -> None:
    source, unet = slowed(tiny)
    started = [jobs.start(source, SPEC.replace(num_frames=n)) for n in (2, 3)]
    unet.go.set()
    jobs.close()
    assert all(not job.is_live for job in started)
