"""The Morph page: its handlers as plain functions, without a browser and without a server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image
import pytest

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling, VideoSpec
from tests.ui.conftest import at_hand
from ui.jobs import Job, Jobs
from ui.keyframes import BLANK, FEWEST, MOST, keyframe_of, values_of
from ui.loading import Loading
from ui.morph import EXAMPLE, MorphPage
from ui.morph_fields import FIELDS, rows_of, spec_of
from ui.quick import spread
from ui.runs import Runs

NUMBERS: dict[str, Any] = {
    "num_frames": 3,
    "loop": False,
    "path": "smooth",
    "blend": "nlerp",
    "easing": "linear",
    "even": False,
    "exact": True,
    "tolerance_db": 40,
    "fps": 24.0,
    "kind": "mp4",
    "boomerang": False,
    "plain": False,
    "num_inference_steps": 1,
    "guidance_scale": None,
    "scheduler": "",
    "width": 64.0,
    "height": 64,
}
ROWS = [values_of(keyframe) for keyframe in EXAMPLE]


def build(loading: Loading, folder: Path, *, is_shared: bool = False) -> MorphPage:
    """A page in blocks of its own, made in an event loop of its own: see `ui.app`."""

    async def make() -> MorphPage:
        with gr.Blocks(analytics_enabled=False):
            return MorphPage(loading, Jobs(Runs(folder / "morphs")), is_shared=is_shared)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, make()).result()


@pytest.fixture
def page(embedded: Model, tmp_path: Path) -> Iterator[MorphPage]:
    found = build(at_hand(embedded), tmp_path)
    yield found
    found.jobs.close()


def filled(page: MorphPage, rows: Sequence[Any] = ROWS, **fields: Any) -> dict[Any, Any]:
    """What the widgets send for these rows and fields, the others as in NUMBERS."""
    values = {page.fields.by_name[name]: v for name, v in {**NUMBERS, **fields}.items()}
    shown = [*rows, *[BLANK] * (MOST - len(rows))]
    for row, given in zip(page.table.rows, shown, strict=True):
        values |= {field: given[name] for name, field in row.fields.items()}
    return {**values, page.table.count: len(rows), page.fields.is_filled_in: True}


def tick(page: MorphPage, id: str | None, last: str = "", **more: Any) -> dict[Any, Any]:
    seen, held = more.get("seen", {}), more.get("held", False)
    values = {page.run: id, page.last: last, page.view.seen: seen, page.view.is_held: held}
    return page.on_tick(values)


def made(page: MorphPage, **fields: Any) -> Job:
    """A morph, from the button to its end."""
    job = page.jobs.find(page.on_make(filled(page, **fields))[page.run])
    assert job is not None
    assert job.over.wait(60)
    assert job.state == "done", job.say()
    return job


# Widgets to a spec, and back


def test_the_fields_are_the_spec_s() -> None:
    rows = [
        {**BLANK, "prompt": "a man", "seed": 7.0, "guidance_scale": "2.5", "hold": 0.5},
        {**BLANK, "prompt": "", "negative_prompt": "a hat", "easing": "0.4, 0, 0.6, 1"},
        {**BLANK, "prompt": "a cat", "duration": 2},
    ]
    values = {**NUMBERS, "num_frames": 60.0, "loop": True, "plain": True, "even": True}
    assert spec_of(
        rows, {**values, "easing": "0.42, 0, 1, 1"}, ModelSpec(device="cpu")
    ) == MorphSpec(
        keyframes=(
            Keyframe(prompt="a man", seed=7, guidance_scale=2.5, hold=0.5, plain=True),
            Keyframe(prompt="", negative_prompt="a hat", easing=(0.4, 0, 0.6, 1), plain=True),
            Keyframe(prompt="a cat", duration=2, plain=True),
        ),
        num_frames=60,
        loop=True,
        easing=(0.42, 0, 1, 1),
        exact=True,
        tolerance_db=40,
        video=VideoSpec(fps=24, kind="mp4"),
        sampling=Sampling(num_inference_steps=1, width=64, height=64),
        model=ModelSpec(device="cpu"),
    )


def test_a_run_s_values_come_back_as_they_were_typed(embedded: Model) -> None:
    rows = [
        {**BLANK, "prompt": "a man", "seed": 7, "guidance_scale": "2.5", "hold": 0.5},
        {**BLANK, "prompt": "a cat", "easing": "smoothstep", "duration": 2.0},
    ]
    spec = spec_of(rows, {**NUMBERS, "num_frames": 60}, ModelSpec())
    assert rows_of(embedded.resolve(spec)) == rows


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"num_frames": 1}, lambda: MorphSpec(keyframes=EXAMPLE, num_frames=1)),
        ({"num_frames": 2.5}, lambda: MorphSpec(keyframes=EXAMPLE, num_frames=2.5)),
        ({"num_frames": 10**9}, lambda: MorphSpec(keyframes=EXAMPLE, num_frames=10**9)),
        ({"fps": 0}, lambda: VideoSpec(fps=0)),
        ({"fps": 60, "kind": "gif"}, lambda: VideoSpec(fps=60, kind="gif")),
        ({"kind": "avi"}, lambda: VideoSpec(kind="avi")),
        ({"path": "/etc/passwd"}, lambda: MorphSpec(keyframes=EXAMPLE, path="/etc/passwd")),
        ({"blend": "add"}, lambda: MorphSpec(keyframes=EXAMPLE, blend="add")),
        ({"easing": "bounce"}, lambda: MorphSpec(keyframes=EXAMPLE, easing="bounce")),
        ({"easing": "1, 2"}, lambda: MorphSpec(keyframes=EXAMPLE, easing=(1.0, 2.0))),
        ({"tolerance_db": 7}, lambda: MorphSpec(keyframes=EXAMPLE, tolerance_db=7)),
        ({"num_inference_steps": 0}, lambda: Sampling(num_inference_steps=0)),
        ({"guidance_scale": float("inf")}, lambda: Sampling(guidance_scale=float("inf"))),
        (
            {"loop": True, "boomerang": True},
            lambda: MorphSpec(keyframes=EXAMPLE, loop=True, video=VideoSpec(boomerang=True)),
        ),
    ],
    ids=lambda x: "spec" if callable(x) else str(x)[:40],
)  # fmt: skip
def test_bad_numbers_are_refused_in_the_spec_s_own_words(
    fields: dict[str, Any], same: Callable[[], Any], tmp_path: Path
) -> None:
    """T12: without a model, of which nothing is asked, and nothing is begun."""
    with pytest.raises(SpecError) as expected:
        same()
    page = build(Loading(ModelSpec()), tmp_path)
    for press in (page.on_make, lambda values: list(page.on_preview(values))):
        with pytest.raises(gr.Error) as raised:
            press(filled(page, **fields))
        assert raised.value.message == str(expected.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"seed": -1}, lambda: Keyframe(prompt="a", seed=-1)),
        ({"seed": None}, lambda: Keyframe(prompt="a", seed=None)),
        ({"guidance_scale": "much"}, lambda: Keyframe(prompt="a", guidance_scale="much")),
        ({"guidance_scale": "-1"}, lambda: Keyframe(prompt="a", guidance_scale="-1")),
        ({"hold": float("inf")}, lambda: Keyframe(prompt="a", hold=float("inf"))),
        ({"duration": 0}, lambda: Keyframe(prompt="a", duration=0)),
        ({"easing": "2, 0, 0, 1"}, lambda: Keyframe(prompt="a", easing=(2.0, 0.0, 0.0, 1.0))),
        ({"prompt": "x" * 10_001}, lambda: Keyframe(prompt="x" * 10_001)),
        ({"prompt": None}, lambda: Keyframe(prompt=None)),
    ],
    ids=lambda x: "spec" if callable(x) else str(x)[:40],
)
def test_bad_keyframes_are_refused_in_the_spec_s_own_words(
    values: dict[str, Any], same: Callable[[], Any]
) -> None:
    with pytest.raises(SpecError) as expected:
        same()
    with pytest.raises(SpecError) as raised:
        keyframe_of({**BLANK, "prompt": "a", **values}, plain=False)
    assert str(raised.value) == str(expected.value)


def test_what_only_the_model_knows_is_refused_before_anything_is_begun(page: MorphPage) -> None:
    with pytest.raises(gr.Error, match=r"^'width = 100: must be a multiple of 8'$"):
        page.on_make(filled(page, width=100))
    assert not page.jobs.runs.root.exists()


# The table


def prompts(page: MorphPage, updates: dict[Any, Any]) -> list[str]:
    shown = page.table.rows[: updates[page.table.count]]
    assert [updates[row.box].visible for row in page.table.rows].count(True) == len(shown)
    return [updates[row.prompt] for row in shown]


def press(page: MorphPage, button: gr.Button, values: dict[Any, Any]) -> dict[Any, Any]:
    """What the listener on `button` answers."""
    blocks = page.table.count.parent
    while blocks.parent is not None:
        blocks = blocks.parent
    (fn,) = [f for f in blocks.fns.values() if (button._id, "click") in f.targets and f.fn]
    return fn.fn(values)


def test_rows_are_added_moved_and_taken_away(page: MorphPage) -> None:
    rows = [{**BLANK, "prompt": name, "thumb": name} for name in "abc"]
    one, two, three = page.table.rows[:3]

    assert prompts(page, page.table.on_add(filled(page, rows))) == ["a", "b", "c", "c"]
    for button, expected in (
        (one.down, "bac"),
        (two.up, "bac"),
        (two.down, "acb"),
        (one.up, "abc"),
        (three.down, "abc"),
        (two.remove, "ac"),
    ):
        answer = press(page, button, filled(page, rows))
        assert "".join(prompts(page, answer)) == expected
        assert "".join(answer[row.thumb] for row in page.table.rows[: len(expected)]) == expected


def test_there_are_never_too_few_rows_nor_too_many(page: MorphPage) -> None:
    few, many = [BLANK] * FEWEST, [BLANK] * MOST
    removed = press(page, page.table.rows[0].remove, filled(page, few))
    assert len(prompts(page, removed)) == FEWEST
    with pytest.raises(gr.Error, match=f"{MOST} keyframes"):
        page.table.on_add(filled(page, many))


# In seconds


def test_a_preview_shows_the_path_and_says_what_the_whole_takes(page: MorphPage) -> None:
    updates = list(page.on_preview(filled(page, even=True, exact=False, num_frames=48)))
    strips = [u[page.view.strip].count("<img") for u in updates if page.view.strip in u]

    assert strips == list(range(10)), "one by one"
    said = updates[-1][page.view.status]
    assert re.search(r"48 frames from \d+ to \d+ renders, at most \d+ calls of the UNet", said)
    assert not page.jobs.runs.root.exists(), "nothing is written"


def test_a_keyframe_is_drawn_and_others_are_not_asked(page: MorphPage) -> None:
    rows = [ROWS[0], {**BLANK, "seed": -1}]
    updates = list(page.on_draw(filled(page, rows), range(1)))
    shown = {k: v for u in updates for k, v in u.items()}
    assert set(shown) == {page.view.status, page.table.rows[0].thumb}
    assert 'src="data:image/jpeg;base64,' in shown[page.table.rows[0].thumb]


@pytest.mark.parametrize(
    ("bounds", "loop", "count"),
    [((0, 1), False, 9), ((0, 0.3, 1), False, 9), ((0, 0.2, 0.6, 1), True, 9), ((0, 1), True, 8)],
)
def test_a_preview_goes_through_all_keyframes(
    bounds: tuple[float, ...], loop: bool, count: int
) -> None:
    positions = spread(bounds, loop=loop)
    assert len(positions) == count
    assert positions == sorted(positions)
    assert set(bounds[: len(bounds) - loop]) <= set(positions)


# Runs


def test_a_morph_is_made_while_the_page_looks(page: MorphPage) -> None:
    answer = page.on_make(filled(page, num_inference_steps=4, exact=False))
    id, seen, pictures, lines = answer[page.run], {}, [], []
    assert answer[page.last] == id
    assert answer[page.timer].active

    while not (told := tick(page, id, seen=seen)).get(page.timer):
        seen = told[page.view.seen]
        pictures.append(told.get(page.view.picture))
        lines.append(told[page.view.status])
        time.sleep(0.02)

    assert any(isinstance(picture, PIL.Image.Image) for picture in pictures), "a step's preview"
    assert any("finding the way" in line for line in lines)
    stored = page.jobs.runs.open(id)
    assert told[page.view.video]["value"] == str(stored.film)
    assert told[page.view.picture] == str(stored.frame(0))
    assert told[page.view.figure]["value"] == str(stored.report)
    assert told[page.view.slider].maximum == 2
    assert "gc-done" in told[page.view.status]
    assert str(stored.verdict).split(";")[0][:6] in told[page.view.details]
    assert told[page.view.command].value.startswith("python -m scripts.morph --from 'man on a sky")
    assert told[page.timer].active is False
    assert [value for _, value in told[page.chosen].choices] == [id]


def test_it_is_found_again_after_the_app_was_restarted(
    page: MorphPage, embedded: Model, tmp_path: Path
) -> None:
    id = made(page).id
    later = build(at_hand(embedded), tmp_path)

    remembered = tick(later, None, last=id)
    by_id = later.on_open({later.chosen: f" {id} "})

    for shown in (remembered, by_id):
        assert shown[later.run] == id
        assert shown[later.view.video]["value"].endswith(f"{id}/morph.mp4")
    nothing = tick(later, None, last="20200101-000000-abcdef")
    assert nothing[later.run] == ""
    assert later.view.video not in nothing


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_other_films(page: MorphPage, kind: str) -> None:
    shown = page._open(made(page, kind=kind).id)
    film = shown[page.view.loop]
    assert film is None if kind == "png" else film["value"].endswith("morph.gif")
    assert shown[page.view.video] in (None, {**gr.update(value=None, visible=False)})


def test_the_slider_shows_the_frame_itself_and_then_nothing_moves_it(page: MorphPage) -> None:
    job = made(page)
    stored = page.jobs.runs.open(job.id)

    shown = page.on_scrub({page.run: job.id, page.view.slider: 2.0})

    assert shown[page.view.picture] == str(stored.frame(2))
    assert "frame 2 · position 1.0000 · rendered" in shown[page.view.caption]
    assert shown[page.view.is_held]
    file = stored.frame(1)
    assert file is not None
    file.unlink()
    missing = page.on_scrub({page.run: job.id, page.view.slider: 1})
    assert "frame 1 is not there yet" in missing[page.view.caption]
    assert page.view.picture not in missing


def test_stop_and_go_on(page: MorphPage) -> None:
    id = page.on_make(filled(page, num_frames=40, num_inference_steps=8))[page.run]
    assert "stopping after this step" in page.on_stop(id)
    job = page.jobs.find(id)
    assert job is not None
    job.over.wait(60)
    told = tick(page, id)
    assert "stopped: " in told[page.view.status]

    assert page.on_make(filled(page, num_frames=3))[page.run] != id
    again = page.on_make(filled(page, num_frames=40, num_inference_steps=8))[page.run]
    page.on_stop(again)
    assert (again == id) == (page.jobs.runs.root / id / "plan.json").is_file()


def test_stop_when_nothing_is_made(page: MorphPage) -> None:
    for id in (None, "", "20200101-000000-abcdef"):
        assert "no morph was being made" in page.on_stop(id)


@pytest.mark.parametrize("id", ["", "../../etc", "20200101-000000-abcdef", None])
def test_what_is_no_run_is_said(page: MorphPage, id: Any) -> None:
    values = {page.chosen: id, page.run: None, page.view.slider: 0}
    for press in (page.on_open, page.on_take, page.on_resume):
        with pytest.raises(gr.Error, match=r"^.run .*(must be an id such as|there is none)"):
            press(values)
    with pytest.raises(gr.Error, match=r"^.run "):
        page.on_scrub({**values, page.run: id})


def test_a_run_s_values_are_taken(page: MorphPage) -> None:
    job = made(page, fps=12, kind="gif")
    shown = page.on_take({page.chosen: None, page.run: job.id})
    assert prompts(page, shown) == [keyframe.prompt for keyframe in EXAMPLE]
    assert shown[page.fields.fps] == 12
    assert shown[page.fields.kind] == "gif"
    assert set(shown) <= {*page.table.outputs, *page.fields.by_name.values()}


def test_runs_of_others_are_not_listed(embedded: Model, tmp_path: Path, page: MorphPage) -> None:
    id = made(page).id
    shared = build(at_hand(embedded), tmp_path, is_shared=True)
    assert tick(shared, None)[shared.chosen].choices == []
    assert shared.on_open({shared.chosen: id})[shared.run] == id, "but who knows the id"


# The model


def test_the_model_s_defaults_fill_the_fields(page: MorphPage, embedded: Model) -> None:
    shown = page.defaults(embedded)
    assert shown[page.fields.num_inference_steps].value == embedded.defaults["num_inference_steps"]
    assert set(shown) <= set(page.model_fields)
    assert set(page.empty()) <= set(page.model_fields)


def test_before_the_model_is_there_its_numbers_are_not_given(page: MorphPage) -> None:
    """Numbers without a value reach the handler as zeros."""
    values = {**filled(page, num_inference_steps=0, width=0), page.fields.is_filled_in: False}
    assert page._spec(values, page.loading.latest).sampling == Sampling()


def test_every_field_is_one_of_the_spec_s() -> None:
    assert set(FIELDS) == set(NUMBERS)
