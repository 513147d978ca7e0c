"""A morph on disk: what is rendered and what is solved, resumed, shared, edited, and even."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import sharing, workshop
from pipeline.errors import OutputError, RenderError
from pipeline.model import Model
from pipeline.pictures import open_image, to_images
from pipeline.quality import distance_rms, measure_psnr
from pipeline.render import Progress, Sample, render
from pipeline.run import MorphRun, Saved, Timed, Traced
from pipeline.spec import Keyframe, MorphSpec, Sampling
from pipeline.timeline import Timeline

QUICK = Sampling(num_inference_steps=2, batch_size=2, height=32, width=32, scheduler="ddim")
PAIR = (Keyframe(prompt="an apple", seed=1), Keyframe(prompt="a pear", seed=2))
FOUR = tuple(Keyframe(prompt=word, seed=k) for k, word in enumerate("abcd"))


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.001)


def morph(keyframes: Sequence[Keyframe] = PAIR, num_frames: int = 20, **more: Any) -> MorphSpec:
    return MorphSpec(
        **{"keyframes": keyframes, "num_frames": num_frames, "sampling": QUICK, **more}
    )


def finish(run: MorphRun) -> Timeline:
    """The timeline of a run that is gone through to its end."""
    for _ in run.render():
        pass
    timeline = run.load_timeline()
    assert timeline is not None
    return timeline


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "frames").iterdir()}


class Counter:
    """Counts what goes through the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples = 0
        sample_steps = workshop.sample_steps

        def counted(*arguments: Any) -> Iterator[Progress | Sample]:
            for event in sample_steps(*arguments):
                self.samples += isinstance(event, Sample)
                yield event

        monkeypatch.setattr(workshop, "sample_steps", counted)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


class Swaying(nn.Module):
    """A UNet that answers otherwise the nearer the prompt is to the second of `PAIR`.

    How sudden that is, `steepness` says: in the path's own measure, by the logistic function.
    """

    def __init__(self, model: Model, steepness: float) -> None:
        super().__init__()
        start, end = (model.text.encode(keyframe.prompt).embeds for keyframe in PAIR)
        self.unet, self.config, self.steepness = model.unet, model.unet.config, steepness
        self.start, self.towards = start, end - start

    def forward(self, latents: Tensor, timestep: Tensor, **extras: Any) -> tuple[Tensor]:
        offset = (extras["encoder_hidden_states"] - self.start) * self.towards
        share = offset.flatten(1).sum(1) / self.towards.square().sum()
        gate = torch.sigmoid(self.steepness * (share - 0.5)).view(-1, 1, 1, 1)
        return (self.unet(latents, timestep, **extras)[0] * (1 - 1.5 * gate),)


@pytest.fixture
def hurrying(tiny: Model) -> Model:
    """Most of the change comes within a fifth of the way."""
    return replace(tiny, unet=Swaying(tiny, 20))


@pytest.fixture
def leaping(tiny: Model) -> Model:
    """The change comes at once."""
    return replace(tiny, unet=Swaying(tiny, 1e9))


class TestExact:
    def test_frames_are_what_the_path_renders(self, tiny: Model, tmp_path: Path) -> None:
        run = MorphRun(tmp_path, tiny, morph(num_frames=7, exact=True, even=False))
        timeline = finish(run)
        assert [place.position for place in timeline.frames] == [k / 6 for k in range(7)]
        points = [run.path(place.position) for place in timeline.frames]
        frames = render(tiny, run.spec.sampling, points)
        for place, frame in zip(timeline.frames, frames, strict=True):
            assert place.is_rendered and place.measured_db is None
            found = open_image(run.store.frame_file(place.key))
            assert found.tobytes() == frame.image.tobytes()

    def test_every_keyframe_is_rendered_once_in_a_loop_with_holds(
        self, tiny: Model, tmp_path: Path, counter: Counter
    ) -> None:
        keyframes = [keyframe.replace(hold=0.25) for keyframe in FOUR]
        run = MorphRun(tmp_path, tiny, morph(keyframes, 40, loop=True, exact=True, even=False))
        timeline = finish(run)
        # Four keyframes of 1 + 6 frames at 24 fps leave 12 of 40 for what is between them.
        assert len(timeline.frames) == 40 and counter.samples == 16 == len(files(tmp_path))


class TestSolved:
    def test_solved_frames_are_as_near_as_is_said(self, tiny: Model, tmp_path: Path) -> None:
        run = MorphRun(tmp_path, tiny, morph(num_frames=97, even=False))
        timeline = finish(run)
        solved = [place for place in timeline.frames if not place.is_rendered]
        assert len(solved) > 48
        points = [run.path(place.position) for place in solved]
        for place, frame in zip(solved, render(tiny, run.spec.sampling, points), strict=True):
            assert place.measured_db is not None and place.measured_db >= 40
            found = open_image(run.store.frame_file(place.key))
            (exact,) = to_images(frame.pixels)
            a, b = (torch.tensor(list(i.tobytes())).double() for i in (found, exact))
            # Rounding both to 8 bits alone leaves 55.9 dB between pictures that differ by little.
            assert 10 * torch.log10(255**2 / (a - b).square().mean().clamp_min(1e-9)) > 47

    def test_the_renders_do_not_grow_with_the_frames(
        self, tiny: Model, tmp_path: Path, counter: Counter
    ) -> None:
        counts = []
        for num_frames in (25, 97, 385):
            counter.samples = 0
            finish(MorphRun(tmp_path / str(num_frames), tiny, morph(num_frames=num_frames)))
            counts.append(counter.samples)
        assert counts[0] == counts[1] == counts[2] < 25

    def test_more_frames_are_solved_from_the_same_renders(
        self, tiny: Model, tmp_path: Path, counter: Counter
    ) -> None:
        finish(MorphRun(tmp_path, tiny, morph(num_frames=25)))
        counter.samples = 0
        finish(MorphRun(tmp_path, tiny, morph(num_frames=97)))
        assert counter.samples == 0

    def test_the_cost_is_kept_to(self, tiny: Model, tmp_path: Path, counter: Counter) -> None:
        for number, more in enumerate(
            [{}, {"even": False}, {"exact": True}, {"loop": True, "keyframes": FOUR}]
        ):
            counter.samples = 0
            run = MorphRun(tmp_path / str(number), tiny, morph(**{"num_frames": 40, **more}))
            finish(run)
            assert run.cost.least <= counter.samples <= run.cost.most
            assert run.cost.unet_calls == -(-run.cost.most // 2) * 2


class TestEven:
    def test_frames_are_moved_until_the_picture_changes_evenly(
        self, hurrying: Model, tmp_path: Path
    ) -> None:
        def variation(folder: str, **more: Any) -> float:
            run = MorphRun(tmp_path / folder, hurrying, morph(num_frames=40, exact=True, **more))
            found = [run.store.load_latents(place.key) for place in finish(run).frames]
            latents = [one for one in found if one is not None]
            gaps = torch.cat([distance_rms(a, b) for a, b in pairwise(latents)])
            return float(gaps.std(correction=0) / gaps.mean())

        assert variation("even") < 0.1 < 0.4 < variation("plain", even=False)

    def test_the_timeline_says_how(self, hurrying: Model, tmp_path: Path) -> None:
        keyframes = (*PAIR, PAIR[0])
        timeline = finish(MorphRun(tmp_path, hurrying, morph(keyframes, 60, path="straight")))
        assert timeline.keyframes == (0, 0.5, 1)
        assert timeline.timemap is not None and len(timeline.timemap) == 2
        assert all(found[-1] < 0.1 < 0.4 < found[0] for found in timeline.variations)
        assert timeline.frames[0].position == 0 and timeline.frames[-1].position == 1

    def test_easing_composes_with_it(self, tiny: Model, tmp_path: Path) -> None:
        plain = finish(MorphRun(tmp_path, tiny, morph(num_frames=41)))
        eased = finish(MorphRun(tmp_path, tiny, morph(num_frames=41, easing="smoothstep")))
        assert eased.timemap == plain.timemap
        # Smoothstep is at 5/32 after a quarter of the time: frame 10 of 41 is where 6.25 would be.
        low, high = plain.frames[6].position, plain.frames[7].position
        assert low < eased.frames[10].position < high
        assert eased.frames[20].position == pytest.approx(plain.frames[20].position)


class TestJump:
    @pytest.mark.parametrize("even", [True, False])
    def test_no_frame_is_solved_across_it(self, leaping: Model, tmp_path: Path, even: bool) -> None:
        run = MorphRun(tmp_path, leaping, morph(num_frames=64, even=even))
        timeline = finish(run)
        solved = [place for place in timeline.frames if not place.is_rendered]
        assert solved
        points = [run.path(place.position) for place in solved]
        for place, frame in zip(solved, render(leaping, run.spec.sampling, points), strict=True):
            found = open_image(run.store.frame_file(place.key))
            pixels = torch.tensor(list(found.tobytes())).view(1, 32, 32, 3).permute(0, 3, 1, 2)
            assert measure_psnr(pixels / 127.5 - 1, frame.pixels) > 40

    def test_it_is_said_to_be_one(self, leaping: Model, tmp_path: Path) -> None:
        timeline = finish(MorphRun(tmp_path, leaping, morph(num_frames=64)))
        ((start, end, size),) = timeline.jumps
        # The blend is nearer to its end from 0.5 on, up to how a blend keeps its tokens' lengths.
        assert 0.4 < start < end < 0.6 and end - start < 1 / 64 and size > 0.1
        # It takes no time: the frames on both sides of it are neighbours.
        before = max(k for k, p in enumerate(timeline.frames) if p.position <= (start + end) / 2)
        assert timeline.frames[before + 1].position > (start + end) / 2


class TestResume:
    def test_stopped_anywhere_it_ends_the_same(self, tiny: Model, tmp_path: Path) -> None:
        spec = morph(num_frames=9)
        whole = MorphRun(tmp_path / "whole", tiny, spec)
        count = sum(1 for _ in whole.render())
        wanted = files(tmp_path / "whole"), whole.load_timeline()
        for stop in range(1, count, count // 7):
            folder = tmp_path / str(stop)
            events = MorphRun(folder, tiny, spec).render()
            for _ in range(stop):
                next(events)
            events.close()
            run = MorphRun(folder, tiny, spec)
            finish(run)
            assert (files(folder), run.load_timeline()) == wanted

    def test_at_most_a_batch_is_lost(self, tiny: Model, tmp_path: Path, counter: Counter) -> None:
        spec = morph(num_frames=9)
        finish(MorphRun(tmp_path / "whole", tiny, spec))
        needed = counter.samples
        for stop in (3, 8, 13):
            counter.samples = 0
            events = MorphRun(tmp_path / str(stop), tiny, spec).render()
            for _ in range(stop):
                next(events)
            events.close()
            finish(MorphRun(tmp_path / str(stop), tiny, spec))
            assert counter.samples <= needed + 2

    def test_a_finished_run_renders_nothing_and_tells_all(
        self, tiny: Model, tmp_path: Path, counter: Counter
    ) -> None:
        finish(MorphRun(tmp_path, tiny, morph()))
        counter.samples, before = 0, files(tmp_path)
        events = list(MorphRun(tmp_path, tiny, morph()).render())
        saved = [index for e in events if isinstance(e, Saved) for index in e.indices]
        assert sorted(saved) == list(range(20))
        assert counter.samples == 0 and files(tmp_path) == before

    def test_what_is_damaged_is_made_again(self, tiny: Model, tmp_path: Path) -> None:
        finish(MorphRun(tmp_path, tiny, morph()))
        before = files(tmp_path)
        first, second, *_ = sorted((tmp_path / "frames").iterdir())
        first.write_bytes(first.read_bytes()[:-200])
        second.unlink()
        for latents in (tmp_path / "latents").iterdir():
            latents.write_bytes(latents.read_bytes()[:-8])
        (tmp_path / "timeline.json").write_text('{"frames": 3}')
        finish(MorphRun(tmp_path, tiny, morph()))
        assert files(tmp_path) == before

    def test_an_edited_keyframe_leaves_the_other_ways_alone(
        self, tiny: Model, tmp_path: Path, counter: Counter
    ) -> None:
        spec = morph(FOUR, 40, path="straight", exact=True, even=False)
        finish(MorphRun(tmp_path, tiny, spec))
        counter.samples = 0
        edited = spec.replace(keyframes=(*FOUR[:3], Keyframe(prompt="another", seed=9)))
        finish(MorphRun(tmp_path, tiny, edited))
        assert counter.samples == 13  # of 40: the last way's 12 between, and its keyframe


class TestSharing:
    def test_several_writers_make_one_run(
        self, tiny: Model, tmp_path: Path, counter: Counter
    ) -> None:
        spec = morph(FOUR, 60, loop=True)
        alone = MorphRun(tmp_path / "alone", tiny, spec)
        timeline, needed = finish(alone), counter.samples
        counter.samples = 0
        runs = [MorphRun(tmp_path / "shared", tiny, spec) for _ in range(3)]
        threads = [Thread(target=finish, args=[run]) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counter.samples == needed
        assert files(tmp_path / "shared") == files(tmp_path / "alone")
        assert runs[0].load_timeline() == timeline


class TestEvents:
    def test_come_in_order(self, tiny: Model, tmp_path: Path) -> None:
        events = list(MorphRun(tmp_path, tiny, morph(num_frames=30)).render())
        timed = next(k for k, event in enumerate(events) if isinstance(event, Timed))
        kinds = [[type(e) for e in part] for part in (events[:timed], events[timed + 1 :])]
        assert {Traced, Progress} == set(kinds[0]) and Saved in kinds[1] and Traced not in kinds[1]

    def test_step_noise_does_not_flicker(self, tiny: Model, tmp_path: Path) -> None:
        sampling = QUICK.replace(scheduler="euler-ancestral", num_inference_steps=4)
        run = MorphRun(
            tmp_path, tiny, morph(num_frames=65, even=False, exact=True, sampling=sampling)
        )
        frames = [run.store.read_frame(place.key) for place in finish(run).frames]
        levels = [torch.tensor(list(image.tobytes())).double() for image in frames]
        near = max(float((a - b).square().mean().sqrt()) for a, b in pairwise(levels))
        far = float((levels[0] - levels[-1]).square().mean().sqrt())
        assert near < far / 10  # a fresh generator for each frame makes them all as far apart


class TestRefusals:
    def test_numbers_that_are_not_finite_leave_nothing(self, tiny: Model, tmp_path: Path) -> None:
        run = MorphRun(tmp_path, replace(tiny, unet=Swaying(tiny, math.nan)), morph())
        with pytest.raises(RenderError, match="position 0: its latents are not finite numbers"):
            finish(run)
        assert not files(tmp_path) and not list((tmp_path / "latents").iterdir())

    def test_a_folder_without_the_space_is_refused_before_the_work(
        self, tiny: Model, tmp_path: Path
    ) -> None:
        huge = QUICK.replace(height=8192, width=8192)
        with pytest.raises(OutputError, match="MB are needed there"):
            MorphRun(tmp_path / "run", tiny, morph(num_frames=100_000, sampling=huge))
        assert not (tmp_path / "run").exists()

    def test_no_path_is_written_down(self, tiny: Model, tmp_path: Path) -> None:
        run = MorphRun(tmp_path / "secret-place", tiny, morph(num_frames=5))
        finish(run)
        for file in (tmp_path / "secret-place").rglob("*"):
            if file.is_file():
                raw = file.read_bytes()
                assert b"secret-place" not in raw and str(tmp_path).encode() not in raw

    def test_metadata_can_be_off(self, tiny: Model, tmp_path: Path) -> None:
        texts: list[Mapping[str, Any]] = []
        for folder, metadata in (("on", True), ("off", False)):
            run = MorphRun(tmp_path / folder, tiny, morph(num_frames=5), metadata=metadata)
            texts.append(run.store.frame_record(finish(run).frames[2].key))
        assert texts[0]["place"]["position"] == pytest.approx(0.5, abs=0.3) and not texts[1]
        json.dumps(texts[0])
