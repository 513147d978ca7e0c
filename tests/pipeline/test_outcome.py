"""The film and the report of a finished morph, and what is found wrong with its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutputError, SpecError
from pipeline.model import Model
from pipeline.outcome import count_film_frames, film, measure, open_run, verify
from pipeline.report import MorphReport
from pipeline.run import MorphRun
from pipeline.spec import Keyframe, MorphSpec, Sampling, VideoSpec
from pipeline.timeline import Timeline
from pipeline.video import probe, read_metadata

QUICK = Sampling(num_inference_steps=2, batch_size=4, height=32, width=32, scheduler="ddim")
PAIR = (Keyframe(prompt="an apple", seed=1), Keyframe(prompt="a pear", seed=2))

Make = Callable[..., tuple[MorphRun, Timeline]]


@pytest.fixture
def make(tiny: Model, tmp_path: Path) -> Make:
    """A run gone through to its end, in a folder of its own."""

    def run(num_frames: int = 6, **more: Any) -> tuple[MorphRun, Timeline]:
        spec = MorphSpec(
            keyframes=PAIR, num_frames=num_frames, even=False, exact=True, sampling=QUICK, **more
        )
        made = MorphRun(tmp_path / "run", tiny, spec)
        for _ in made.render():
            pass
        timeline = made.load_timeline()
        assert timeline is not None
        return made, timeline

    return run


@pytest.mark.parametrize("kind", ["mp4", "webp", "gif"])
@pytest.mark.parametrize("boomerang", [False, True])
def test_a_film_has_all_frames_and_says_what_made_it(
    make: Make, kind: str, boomerang: bool
) -> None:
    run, timeline = make(video=VideoSpec(kind=kind, boomerang=boomerang, fps=10))
    file = film(run.store, run.plan, timeline)
    assert file.name == f"morph.{kind}"
    assert probe(file).frames == count_film_frames(run.spec) == (10 if boomerang else 6)
    text = read_metadata(file)
    assert text is not None and json.loads(text) == run.plan.model_dump(mode="json")
    assert not list(verify(run.folder))


def test_a_film_without_metadata_holds_none(make: Make) -> None:
    run, timeline = make()
    assert read_metadata(film(run.store, run.plan, timeline, metadata=False)) is None


def test_a_film_of_pictures_is_a_numbered_folder(make: Make) -> None:
    run, timeline = make(video=VideoSpec(kind="png"))
    folder = film(run.store, run.plan, timeline)
    assert sorted(file.name for file in folder.iterdir()) == [f"{k:06d}.png" for k in range(6)]
    assert not list(verify(run.folder))


def test_no_film_is_made_of_a_damaged_frame(make: Make) -> None:
    run, timeline = make()
    frame = run.store.frame_file(timeline.frames[3].key)
    frame.write_bytes(frame.read_bytes()[:-40])
    with pytest.raises(OutputError, match="is missing or damaged, the same command remakes it"):
        film(run.store, run.plan, timeline)
    assert not (run.folder / "morph.mp4").exists()


def test_the_report_is_kept_beside_the_film(make: Make) -> None:
    run, timeline = make(num_frames=12)
    report = measure(run, timeline)
    assert MorphReport(**json.loads((run.folder / "report.json").read_text())) == report
    assert report.num_frames == 12 == len(report.health)
    assert [(part.first, part.last) for part in report.segments] == [(0, 11)]
    assert list(report.means) == ["encoder", "ssim", "colour"]
    assert (run.folder / "report.png").stat().st_size > 10_000


def test_all_that_is_wrong_is_named(make: Make) -> None:
    run, timeline = make()
    assert [fault.name for fault in verify(run.folder)] == ["morph.mp4"]
    file = film(run.store, run.plan, timeline)

    missing, torn = (run.store.frame_file(timeline.frames[k].key) for k in (1, 2))
    missing.unlink()
    torn.write_bytes(torn.read_bytes()[:-40])
    file.write_bytes(file.read_bytes()[:-40])
    names = {fault.name for fault in verify(run.folder)}
    assert {missing.name, torn.name, "morph.mp4"} <= names

    (run.folder / "timeline.json").unlink()
    assert [fault.name for fault in verify(run.folder)] == ["timeline.json"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is no run of a morph: there is no plan\.json"):
        list(verify(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "plan.json").write_text('{"spec": 3}')
    with pytest.raises(SpecError, match=r"plan\.json: "):
        open_run(tmp_path)
