"""A spec to pictures on disk, and what is said on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.errors import OutputError, RenderError
from pipeline.model import Model
from pipeline.pictures import read_record
from pipeline.render import Progress, points, render
from pipeline.spec import Sampling, StillSpec
from ui.draw import Pace, Picture, draw, duration

SMALL = Sampling(num_inference_steps=2, guidance_scale=1, height=64, width=64)
"""Cheap, and all that the tests here need."""


def spec_of(count: int = 1, **sampling: Any) -> StillSpec:
    return StillSpec(prompt="a pear", seed=3, count=count, sampling=SMALL.replace(**sampling))


def test_steps_then_a_picture_and_so_on(embedded: Model, tmp_path: Path) -> None:
    spec = embedded.resolve(spec_of(count=2))
    events = list(draw(embedded, spec, tmp_path))

    assert [type(event) for event in events] == [Progress, Progress, Picture] * 2
    pictures = [event for event in events if isinstance(event, Picture)]
    assert [picture.spec for picture in pictures] == [spec.single(0), spec.single(1)]
    assert sorted(tmp_path.iterdir()) == [picture.file for picture in pictures]
    assert [read_record(picture.file).spec for picture in pictures] == [p.spec for p in pictures]


def test_who_stops_asking_keeps_what_is_finished(embedded: Model, tmp_path: Path) -> None:
    events: Any = draw(embedded, embedded.resolve(spec_of(count=3)), tmp_path)
    for event in events:
        if isinstance(event, Picture):
            break
    events.close()
    assert list(tmp_path.iterdir()) == [event.file]


def test_nothing_is_written_of_what_is_not_a_number(embedded: Model, tmp_path: Path) -> None:
    """T22: a UNet that gives NaN at each of twelve places of the run."""

    class Broken(torch.nn.Module):
        def __init__(self, sound: torch.nn.Module, at: int) -> None:
            super().__init__()
            self.sound, self.at, self.calls = sound, at, 0
            self.config = sound.config

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            (prediction,) = self.sound(*args, **kwargs)
            self.calls += 1
            if self.calls == self.at:
                prediction = prediction.clone()
                prediction[..., 0, 0] = float("nan")
            return (prediction,)

    spec = embedded.resolve(spec_of(count=3, num_inference_steps=4))
    for at in range(1, 13):
        broken = replace(embedded, unet=Broken(embedded.unet, at))
        folder = tmp_path / str(at)
        with pytest.raises(RenderError, match="not finite"):
            list(draw(broken, spec, folder))
        assert len(list(folder.iterdir())) == (at - 1) // 4, "those before it are kept, no more"


def test_a_folder_without_the_space_is_refused_before_the_work(
    embedded: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="MB are needed"):
        next(draw(embedded, embedded.resolve(spec_of()), tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


SCHEDULERS = ("pndm", "euler-ancestral", "dpm++2m", "unipc")
"""Four that keep state between steps or draw noise: a shared one would spoil pictures, or crash."""


def pixels_of(model: Model, number: int) -> bytes:
    """Render `number`: a prompt, a seed and a scheduler of its own."""
    prompt = ("a pear", "a blue car", "a smiling face")[number % 3]
    sampling = SMALL.replace(scheduler=SCHEDULERS[number % 4])
    spec = model.resolve(StillSpec(prompt=prompt, seed=number, sampling=sampling))
    frames = render(model, spec.sampling, points(model, spec))
    return b"".join(frame.pixels.numpy().tobytes() for frame in frames)


@pytest.mark.parametrize("renders", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_many_users_of_one_model_get_their_own_pictures(embedded: Model, renders: int) -> None:
    """T23: eight threads, bit for bit what each would get alone."""
    alone = [pixels_of(embedded, number) for number in range(12)]
    asked = [number % 12 for number in range(8 * renders)]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda number: pixels_of(embedded, number), asked))

    assert together == [alone[number] for number in asked]
    assert len(set(alone)) == 12


# What is said on the way


def progress(indices: range, index: int, count: int) -> Progress:
    nothing: Any = None
    return Progress(
        indices=indices, index=index, count=count, _step=nothing, _scheduler=nothing, _model=nothing
    )


def test_one_picture_needs_no_number() -> None:
    assert Pace(1).say(progress(range(1), 0, 20)) == "step 1 of 20"


def test_the_pace_of_the_steps_tells_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 130.0, 131.0, 132.0])
    monkeypatch.setattr("ui.draw.time", SimpleNamespace(monotonic=lambda: next(now)))
    pace = Pace(2)

    said = [pace.say(progress(range(1), step, 20)) for step in range(3)]

    assert said == [
        "image 1 of 2 · step 1 of 20",
        "image 1 of 2 · step 2 of 20 · 38 s left",
        "image 1 of 2 · step 3 of 20 · 37 s left",
    ]


def test_batches_are_named_by_their_ends() -> None:
    assert Pace(5).say(progress(range(2, 4), 0, 7)) == "image 3–4 of 5 · step 1 of 7"


def test_shares_grow_to_one() -> None:
    pace = Pace(3)
    batches = (range(2), range(2, 3))
    shares = [pace.share(progress(batch, step, 4)) for batch in batches for step in range(4)]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (150, "2 min"),
        (3570, "1 h 0 min"),
        (7300, "2 h 2 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
