"""The Round trip page: its handlers as plain functions, without a browser and without a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import PIL.Image
import pytest
import torch

from pipeline.disturb import add_noise, round_to_bits, zero_channels
from pipeline.model import Model
from pipeline.pictures import to_images
from pipeline.roundtrip import decode, fit_trip, measure_trip, mix_pictures
from pipeline.spec import ModelSpec
from pipeline.trip import TripSpec
from pipeline.views import draw_error
from tests.ui.conftest import at_hand, loading_once
from ui import markup
from ui.findings import say_decibels
from ui.loading import Loading
from ui.perturb import ALL, NOISE_SEED, Sent
from ui.roundtrip import TILES, RoundTripPage
from ui.samples import draw_sample
from ui.thumbs import Thumb

SMALL = "32"  # pixels: quick, and four cells along a side
BLANK: dict[str, Any] = {"size": SMALL, "repeat": 1, "seed": ""}

Shown = dict[Any, Any]


def build(loading: Loading) -> RoundTripPage:
    """A page in blocks of its own, made in an event loop of its own: see `ui.app`."""

    async def make() -> RoundTripPage:
        with gr.Blocks(analytics_enabled=False):
            return RoundTripPage(loading)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, make()).result()


@pytest.fixture
def page(embedded: Model) -> RoundTripPage:
    return build(at_hand(embedded))


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    file = tmp_path / "photograph.png"
    PIL.Image.linear_gradient("L").convert("RGB").resize((72, 50)).save(file)
    return file


def send(
    page: RoundTripPage, image: Path | None = None, sample: str | None = "rectangles", **fields: Any
) -> Generator[Shown, None, None]:
    """What the button's handler yields for this picture and these fields, the others as BLANK."""
    values = {getattr(page, name): value for name, value in {**BLANK, **fields}.items()}
    picked = {page.picture.image: image and str(image), page.picture.sample: sample}
    updates = page.on_send({**values, **picked})
    assert isinstance(updates, Generator)
    return updates


def final(updates: Generator[Shown, None, None]) -> Shown:
    """What stands on the page after all of them."""
    return {component: value for update in updates for component, value in update.items()}


def sent(page: RoundTripPage) -> Sent:
    found = final(send(page))[page.sent]
    assert isinstance(found, Sent)
    return found


def disturb(page: RoundTripPage, was: Sent | None, **how: Any) -> Generator[Shown, None, None]:
    panel = page.disturb
    values = {"noise": 0, "channels": [], "bits": ALL, **how}
    updates = panel.on_disturb(
        {**{getattr(panel, name): value for name, value in values.items()}, page.sent: was}
    )
    assert isinstance(updates, Generator)
    return updates


def mix(
    page: RoundTripPage, was: Sent | None, weight: float = 0.5, image: Path | None = None
) -> Generator[Shown, None, None]:
    panel, sample = page.mix, None if image else "colours"
    picked = {panel.other.image: image and str(image), panel.other.sample: sample}
    updates = panel.on_mix({page.sent: was, panel.weight: weight, **picked})
    assert isinstance(updates, Generator)
    return updates


def assert_fails(updates: Generator[Shown, None, None], status: gr.HTML, line: str) -> None:
    """The line stands on the page, and it is what the framework is told."""
    told = ""
    with pytest.raises(gr.Error) as raised:
        for update in updates:
            told = update.get(status, told)
    assert raised.value.message == line
    assert "gc-failed" in told
    assert line in unescape(told)


# One trip


def test_what_is_shown_is_what_the_library_finds(page: RoundTripPage, embedded: Model) -> None:
    (image,) = draw_sample("rectangles", embedded)
    assert isinstance(image, PIL.Image.Image)
    pixels = fit_trip(embedded.codec, image, int(SMALL))
    trip, report = measure_trip(embedded.codec, pixels, seed=7)

    shown = final(send(page, seed="7"))

    before, after = shown[page.slider]
    assert before.tobytes() == to_images(pixels)[0].tobytes()
    assert after.tobytes() == to_images(trip.back)[0].tobytes()
    assert shown[page.error].tobytes() == draw_error(pixels, trip.back).tobytes()
    found = shown[page.found]
    assert f"<dt>PSNR</dt><dd>{report.psnr:.2f} dB</dd>" in found
    assert "3,072 → 64, 48 : 1" in found
    assert report.sampled is not None
    assert f"{report.sampled.psnr:.2f} dB, SSIM {report.sampled.ssim:.4f}" in found
    assert found.count('src="data:image/png;base64,') == embedded.codec.channels + 1
    assert "gc-done" in shown[page.status]
    assert shown[page.repeated] == ""


def test_an_upload_keeps_its_size(page: RoundTripPage, photograph: Path) -> None:
    shown = final(send(page, photograph, None, size=""))

    assert shown[page.slider][0].size == (72, 48), "cut to multiples of 8"


def test_trips_are_repeated_and_some_of_them_shown(page: RoundTripPage, embedded: Model) -> None:
    (image,) = draw_sample("rectangles", embedded)
    assert isinstance(image, PIL.Image.Image)
    pixels = fit_trip(embedded.codec, image, int(SMALL))
    drift = measure_trip(embedded.codec, pixels, repeat=20)[1].drift

    told = final(send(page, repeat=20))[page.repeated]

    trips = [int(index) for index in re.findall(r"<figcaption>trip (\d+) ", told)]
    assert (len(trips), trips[0], trips[-1]) == (TILES, 1, 20)
    for index in trips:
        found = drift[index - 1]
        before = f", to the one before {found.step_psnr:.2f} dB" if index > 1 else ""
        assert f"<figcaption>trip {index} · {found.psnr:.2f} dB{before}</figcaption>" in told


def test_a_trip_is_shown_before_those_that_follow(page: RoundTripPage) -> None:
    updates = send(page, repeat=100)
    seen = next(update for update in updates if update.get(page.slider))
    updates.close()

    assert page.repeated not in seen


def test_another_trip_takes_away_what_was_done_to_the_last(page: RoundTripPage) -> None:
    first = next(send(page))

    assert first[page.sent] is None
    assert first[page.disturb.slider] is None
    assert first[page.mix.slider] is None


def test_the_page_waits_for_the_model(embedded: Model) -> None:
    event = Event()
    page = build(loading_once(event, embedded))
    page.loading.start()

    told = []
    for update in send(page):
        told.append(update.get(page.status, ""))
        if "loading embedded" in told[-1]:
            event.set()

    assert event.is_set()
    assert "gc-done" in told[-1]


def test_the_model_knows_its_channels(page: RoundTripPage, embedded: Model) -> None:
    (channels,) = page.model_fields
    assert [value for _, value in page.defaults(embedded)[channels].choices] == [0, 1, 2, 3]
    assert page.empty()[channels].choices == []


# Bad input, in the words of the library


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"size": "20"}, "size = 20: must be a multiple of 8, 16 or more"),
        ({"size": "0"}, "size = 0: must be between 16 and 8192"),
        (
            {"size": "big"},
            "size = 'big': should be a valid integer, unable to parse string as an integer",
        ),
        ({"repeat": 101}, "repeat = 101: must be between 1 and 100"),
        ({"repeat": float("nan")}, "repeat = nan: should be a finite number"),
        ({"seed": "-1"}, "seed = -1: must be between 0 and 4294967295"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_shown(
    page: RoundTripPage, fields: dict[str, Any], line: str
) -> None:
    assert_fails(send(page, **fields), page.status, line)


def test_no_picture_is_refused(page: RoundTripPage) -> None:
    with pytest.raises(gr.Error, match="images"):
        list(send(page, sample=None))


def test_an_upload_that_is_no_picture_is_refused(page: RoundTripPage, tmp_path: Path) -> None:
    file = tmp_path / "notes.png"
    file.write_text("not a picture")
    with pytest.raises(gr.Error) as raised:
        list(send(page, file, None))
    assert raised.value.message.startswith("notes.png: ")
    assert str(tmp_path) not in raised.value.message


def test_a_picture_that_is_too_small_is_refused(page: RoundTripPage, tmp_path: Path) -> None:
    file = tmp_path / "dot.png"
    PIL.Image.new("RGB", (15, 40)).save(file)
    line = "a picture of 15 × 40 pixels: sides must be 16 or more, or say a size"
    assert_fails(send(page, file, None, size=""), page.status, line)


# Disturbed


@pytest.mark.parametrize(
    ("how", "change"),
    [
        ({}, lambda latents: latents),
        ({"noise": 0.5}, lambda latents: add_noise(latents, 0.5, NOISE_SEED)),
        ({"channels": [1, 3]}, lambda latents: zero_channels(latents, [1, 3])),
        ({"bits": 2}, lambda latents: round_to_bits(latents, 2)),
    ],
)
def test_what_is_done_to_latents_is_what_is_shown(
    page: RoundTripPage, embedded: Model, how: dict[str, Any], change: Callable[..., torch.Tensor]
) -> None:
    was = sent(page)
    shown = final(disturb(page, was, **how))

    pixels = decode(embedded.codec, change(was.latents))
    before, after = shown[page.disturb.slider]
    assert before.tobytes() == to_images(was.back)[0].tobytes()
    assert after.tobytes() == to_images(pixels)[0].tobytes()


def test_undisturbed_latents_are_told_to_be(page: RoundTripPage) -> None:
    told = final(disturb(page, sent(page)))[page.disturb.status]
    assert "∞ dB to each other" in told


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"noise": float("nan")}, "noise = nan: must be between 0 and 100"),
        ({"channels": [4]}, "channel = 4: must be between 0 and 3"),
        ({"bits": 0}, "bits = 0: must be between 1 and 16"),
    ],
)
def test_bad_disturbances_are_refused(page: RoundTripPage, how: Any, line: str) -> None:
    assert_fails(disturb(page, sent(page), **how), page.disturb.status, line)


# Mixed


def test_mixtures_are_the_library_s(page: RoundTripPage, embedded: Model) -> None:
    was = sent(page)
    (image,) = draw_sample("colours", embedded)
    assert isinstance(image, PIL.Image.Image)
    other = fit_trip(embedded.codec, image, int(SMALL))

    shown = final(mix(page, was, 0.25))

    for image, pixels in zip(
        shown[page.mix.slider],
        mix_pictures(embedded.codec, was.pixels, other, 0.25),
        strict=True,
    ):
        assert image.tobytes() == to_images(pixels)[0].tobytes()


def test_a_picture_of_another_size_is_cut_to_the_first_s(
    page: RoundTripPage, photograph: Path
) -> None:
    shown = final(mix(page, sent(page), image=photograph))
    assert [image.size for image in shown[page.mix.slider]] == [(32, 32), (32, 32)]


def test_a_bad_weight_is_refused(page: RoundTripPage) -> None:
    line = "weight = 2: must be between 0 and 1"
    assert_fails(mix(page, sent(page), 2), page.mix.status, line)


# Without a picture, or with another model


@pytest.mark.parametrize("act", [disturb, mix])
def test_a_picture_must_have_been_sent(page: RoundTripPage, act: Any) -> None:
    with pytest.raises(gr.Error, match="no picture yet: send one there and back first"):
        list(act(page, None))


@pytest.mark.parametrize("act", [disturb, mix])
def test_latents_of_another_model_are_not_decoded(page: RoundTripPage, act: Any) -> None:
    was = sent(page)
    page.loading.change(ModelSpec())
    with pytest.raises(gr.Error, match="went through another model: send it there and back again"):
        list(act(page, was))


def test_equal_pictures_have_no_number() -> None:
    assert say_decibels(float("inf")) == "∞ dB"
    assert say_decibels(23.456) == "23.46 dB"


def test_the_page_asks_for_what_a_trip_is_asked_for() -> None:
    assert {"size", "repeat", "seed"} <= set(TripSpec.model_fields)


def test_words_from_elsewhere_are_escaped() -> None:
    tile = Thumb("data:image/png;base64,", "<b>&")
    for told in (markup.title("<b>&"), markup.more("<b>&", ["<b>&"]), markup.tiles([tile])):
        assert "<b>" not in told
        assert "&lt;b&gt;&amp;" in told
    assert markup.more("nothing", []) == ""
