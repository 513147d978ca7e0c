"""The Generate page: its handlers as plain functions, without a browser and without a server."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace
from typing import Any

import gradio as gr
import PIL.Image
import pytest
import torch

from pipeline.errors import CheckpointError, SpecError
from pipeline.model import Model
from pipeline.spec import (
    MAX_SEED,
    SCHEDULERS,
    ImageSpec,
    ModelSpec,
    Sampling,
    StillSpec,
    Variation,
)
from scripts import generate
from tests.ui.conftest import at_hand, loading_once
from ui.generate import FIELDS, GeneratePage, Run, spec_of
from ui.loading import Loading

BLANK: dict[str, Any] = {
    "prompt": "a pear",
    "negative_prompt": "",
    "seed": 7,
    "random": False,
    "count": 1,
    "num_inference_steps": 2,
    "guidance_scale": None,
    "scheduler": "",
    "width": None,
    "height": None,
    "plain": False,
    "image": None,
    "fit": "crop",
    "strength": 0.8,
    "variation_seed": 0,
    "variation_strength": 0,
}


def build(loading: Loading, folder: Path) -> GeneratePage:
    """A page in blocks of its own, made in an event loop of its own: see `ui.app`."""

    async def make() -> GeneratePage:
        with gr.Blocks(analytics_enabled=False):
            return GeneratePage(loading, folder)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, make()).result()


@pytest.fixture
def page(embedded: Model, tmp_path: Path) -> GeneratePage:
    return build(at_hand(embedded), tmp_path)


Updates = Generator[dict[Any, Any], None, None]


def press(page: GeneratePage, before: Any = (), **fields: Any) -> Updates:
    """What the button's handler yields for these fields, the others as in BLANK."""
    values = {getattr(page, name): value for name, value in {**BLANK, **fields}.items()}
    updates = page.on_generate({**values, page.is_filled_in: True, page.pictures: list(before)})
    assert isinstance(updates, Generator)
    return updates


def final(updates: list[dict[Any, Any]]) -> dict[Any, Any]:
    """What stands on the page after all of them."""
    return {component: value for update in updates for component, value in update.items()}


# Widgets to a spec


def test_the_fields_are_the_spec_s() -> None:
    values = {
        **BLANK,
        "negative_prompt": "a leaf",
        "count": 2.0,
        "guidance_scale": 3,
        "scheduler": "euler",
        "width": 64.0,
        "height": 128,
    }
    assert spec_of(values, ModelSpec(device="cpu")) == StillSpec(
        prompt="a pear",
        negative_prompt="a leaf",
        seed=7,
        count=2,
        sampling=Sampling(
            num_inference_steps=2, guidance_scale=3, scheduler="euler", width=64, height=128
        ),
        model=ModelSpec(device="cpu"),
    )


def test_empty_means_not_given() -> None:
    spec = spec_of({**BLANK, "num_inference_steps": None}, ModelSpec())
    assert spec.negative_prompt is None
    assert spec.sampling == Sampling()


def test_a_start_image_and_a_variation_are_the_spec_s_too() -> None:
    values = {**BLANK, "image": "/cache/x/apple.png", "fit": "pad", "strength": 0.5, "plain": True}
    spec = spec_of({**values, "variation_seed": 9, "variation_strength": 0.25}, ModelSpec())

    assert spec.image == ImageSpec(source="/cache/x/apple.png", fit="pad")
    assert spec.sampling.strength == 0.5
    assert spec.variation == Variation(seed=9, strength=0.25)
    assert spec.plain


def test_without_an_image_strength_means_nothing_and_without_a_way_its_seed() -> None:
    spec = spec_of({**BLANK, "strength": 0.5, "variation_seed": 9}, ModelSpec())

    assert spec == spec_of(BLANK, ModelSpec())


def test_a_picture_is_drawn_from_another(page: GeneratePage, root: Path) -> None:
    start = root / "tests" / "data" / "references" / "pizza.png"

    shown = final(list(press(page, image=str(start), strength=0.5)))

    assert "start image" in shown[page.details]
    assert "pizza.png" in shown[page.details]
    assert "--image pizza.png" in shown[page.command].value
    assert str(start) not in shown[page.command].value


def test_a_random_seed_leaves_room_for_all_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda end: end - 1)
    spec = spec_of({**BLANK, "random": True, "seed": None, "count": 10}, ModelSpec())
    assert spec.seed + spec.count - 1 == MAX_SEED


def test_random_seeds_differ() -> None:
    seeds = {spec_of({**BLANK, "random": True}, ModelSpec()).seed for _ in range(20)}
    assert len(seeds) == 20


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"num_inference_steps": 0}, lambda: Sampling(num_inference_steps=0)),
        ({"num_inference_steps": -1.0}, lambda: Sampling(num_inference_steps=-1)),
        ({"num_inference_steps": 1e9}, lambda: Sampling(num_inference_steps=10**9)),
        ({"num_inference_steps": 2.5}, lambda: Sampling(num_inference_steps=2.5)),
        ({"num_inference_steps": float("nan")}, lambda: Sampling(num_inference_steps=float("nan"))),
        ({"guidance_scale": float("nan")}, lambda: Sampling(guidance_scale=float("nan"))),
        ({"guidance_scale": float("inf")}, lambda: Sampling(guidance_scale=float("inf"))),
        ({"guidance_scale": -1}, lambda: Sampling(guidance_scale=-1)),
        ({"width": 0}, lambda: Sampling(width=0)),
        ({"height": 10**5}, lambda: Sampling(height=10**5)),
        ({"scheduler": "dpm"}, lambda: Sampling(scheduler="dpm")),
        ({"seed": -1}, lambda: StillSpec(prompt="a pear", seed=-1)),
        ({"seed": 2.0**32}, lambda: StillSpec(prompt="a pear", seed=2**32)),
        ({"seed": None}, lambda: StillSpec(prompt="a pear", seed=None)),
        ({"count": 0}, lambda: StillSpec(prompt="a pear", count=0)),
        ({"prompt": "x" * 10_001}, lambda: StillSpec(prompt="x" * 10_001)),
        ({"prompt": None}, lambda: StillSpec(prompt=None)),
    ],
    ids=lambda x: "spec" if callable(x) else str(x)[:40],
)
def test_bad_input_is_refused_in_the_spec_s_own_words(
    fields: dict[str, Any], same: Callable[[], Any], tmp_path: Path
) -> None:
    """Without a model: none is needed to know."""
    with pytest.raises(SpecError) as expected:
        same()
    page = build(Loading(ModelSpec()), tmp_path)

    updates = press(page, **fields)
    with pytest.raises(gr.Error) as raised:
        list(updates)

    assert raised.value.message == str(expected.value)
    assert not list(tmp_path.iterdir())


def test_what_only_the_model_knows_is_refused_in_its_words(page: GeneratePage) -> None:
    with pytest.raises(gr.Error) as raised:
        list(press(page, width=100))
    assert raised.value.message == "width = 100: must be a multiple of 8"
    assert not list(page.folder.iterdir())


# Drawing


def test_a_picture_forms_and_stays(page: GeneratePage) -> None:
    updates = list(press(page))
    previews = [
        u[page.picture] for u in updates if isinstance(u.get(page.picture), PIL.Image.Image)
    ]
    shown = final(updates)
    file = Path(shown[page.picture])

    assert len(previews) == 2
    assert list(page.folder.iterdir()) == [file]
    assert file.read_bytes().startswith(b"\x89PNG")
    assert shown[page.seed] == 7
    assert "1 picture in" in shown[page.status]
    assert "--seed 7 " in shown[page.command].value
    assert "a pear" in shown[page.details]
    assert not shown[page.gallery].visible, "one picture is no gallery"
    assert [picture.file for picture in shown[page.pictures]] == [file]


def test_its_command_makes_the_same_picture(page: GeneratePage, tmp_path: Path) -> None:
    """Also as one of several, by another program, from a model loaded anew."""
    shown = final(list(press(page, count=2, negative_prompt="a leaf", scheduler="euler-ancestral")))
    words = shlex.split(shown[page.command].value)

    assert generate.main([*words[3:], "--out", str(tmp_path / "again")]) == 0

    (again,) = (tmp_path / "again").iterdir()
    assert again.read_bytes() == Path(shown[page.picture]).read_bytes()


def test_the_newest_stands_first_and_the_older_stay(page: GeneratePage) -> None:
    first = final(list(press(page)))[page.pictures]
    shown = final(list(press(page, before=first, count=2, seed=20)))

    assert [picture.spec.seed for picture in shown[page.pictures]] == [21, 20, 7]
    gallery = shown[page.gallery]
    assert gallery.visible
    assert [item["caption"] for item in gallery.value] == ["seed 21", "seed 20", "seed 7"]


def test_progress_is_told(page: GeneratePage) -> None:
    said = [u[page.status] for u in press(page, count=2) if page.status in u]
    assert "image 1 of 2 · step 1 of 2" in said[0]
    assert "width: 25.0%" in said[0]
    assert "image 2 of 2 · step 2 of 2 · " in said[3]
    assert "s left" in said[3]
    assert "2 pictures in" in said[-1]


def test_choosing_a_thumbnail_shows_it_as_it_was_made(page: GeneratePage) -> None:
    pictures = final(list(press(page, count=2)))[page.pictures]
    chosen: Any = SimpleNamespace(index=1)

    shown = page.on_select(pictures, chosen)

    assert shown[page.picture] == str(pictures[1].file)
    assert "--seed 7 " in shown[page.command].value


# Stopping


def test_stop_says_what_it_kept(page: GeneratePage) -> None:
    updates = press(page, count=3)
    run = next(updates)[page.run]
    for update in updates:
        if page.gallery in update:
            break
    Timer(0.05, updates.close).start()  # as the framework does it, from elsewhere

    said = page.on_stop(run)

    assert "stopped: kept 1 of 3" in said[page.status]
    assert said[page.picture] == str(next(page.folder.iterdir()))


def test_stop_before_anything_is_finished(page: GeneratePage) -> None:
    updates = press(page)
    run = next(updates)[page.run]
    next(updates)
    updates.close()

    said = page.on_stop(run)

    assert "nothing was finished, nothing is kept" in said[page.status]
    assert said[page.picture] is None, "no unfinished picture is left to be downloaded"
    assert not list(page.folder.iterdir())


def test_stop_when_nothing_runs(page: GeneratePage) -> None:
    updates = list(press(page))
    for run in (None, final(updates)[page.run]):
        said = page.on_stop(run)
        assert list(said) == [page.status]
        assert "nothing was being drawn" in said[page.status]


def test_what_was_there_before_a_run_stays_in_the_gallery() -> None:
    picture: Any = object()
    run = Run(before=[picture], count=4)
    assert run.gallery == [picture]
    assert run.kept() == "nothing was finished, nothing is kept"


def test_stop_after_an_error_has_nothing_to_stop(page: GeneratePage) -> None:
    updates = press(page, width=100)
    run = next(updates)[page.run]
    with pytest.raises(gr.Error):
        list(updates)
    assert "nothing was being drawn" in page.on_stop(run)[page.status]


# Errors in the midst of it


def test_a_render_that_goes_wrong_is_an_error_and_no_file(embedded: Model, tmp_path: Path) -> None:
    """T22, on the page."""

    class Broken(torch.nn.Module):
        config = embedded.unet.config

        def forward(self, latents: Any, *args: Any, **kwargs: Any) -> Any:
            return (latents * float("nan"),)

    page = build(at_hand(replace(embedded, unet=Broken())), tmp_path)
    with pytest.raises(gr.Error, match="not finite") as raised:
        list(press(page))

    assert not raised.value.print_exception
    assert list(tmp_path.iterdir()) == []


def test_the_error_stays_on_the_page_after_its_toast_is_gone(page: GeneratePage) -> None:
    updates = press(page, num_inference_steps=0)
    assert "num_inference_steps = 0: must be" in next(updates)[page.status]
    with pytest.raises(gr.Error):
        next(updates)


# Before the model is there


def test_a_run_waits_for_the_model_and_takes_its_defaults(embedded: Model, tmp_path: Path) -> None:
    go = Event()
    loading = loading_once(go, embedded)
    loading.start()
    page = build(loading, tmp_path)
    values = {getattr(page, name): BLANK[name] for name in FIELDS}
    # Numbers without a value reach the handler as zeros.
    values |= {getattr(page, n): 0 for n in ("num_inference_steps", "guidance_scale", "width")}
    updates = page.on_generate({**values, page.is_filled_in: False, page.pictures: []})

    next(updates)
    assert "loading embedded" in next(updates)[page.status]
    go.set()
    picture = final(list(updates))[page.pictures][0]

    sampling = embedded.complete(Sampling())
    assert picture.spec.sampling == sampling


def test_a_model_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    def fail(_: ModelSpec) -> Any:
        raise CheckpointError("model 'x': no such folder")

    loading = Loading(ModelSpec(source="x"), load=fail)
    loading.start()
    with pytest.raises(gr.Error, match="model 'x': no such folder"):
        list(press(build(loading, tmp_path)))


def test_the_model_s_defaults_fill_the_fields(page: GeneratePage, embedded: Model) -> None:
    shown = page.defaults(embedded)
    sampling = embedded.complete(Sampling())

    for name in ("num_inference_steps", "guidance_scale", "width", "height"):
        number = shown[getattr(page, name)]
        assert (number.value, number.interactive) == (getattr(sampling, name), True)
    labels, values = zip(*shown[page.scheduler].choices, strict=True)
    assert labels[0] == f"default: {sampling.scheduler}"
    assert values == ("", *SCHEDULERS)
    assert set(shown) == set(page.model_fields)
