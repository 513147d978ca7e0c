"""What can be done to a picture's latents, and what it does to the picture.

Knows widgets, and a picture that made its trip; checks nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipeline.errors import GreatcircleError, SpecError
from ui import markup
from ui.findings import make_cells, say_decibels
from ui.loading import Loading
from ui.picture_field import PictureField
from ui.sampling import GPU, Updates

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.codec import Codec
    from pipeline.model import Model
    from pipeline.render import Progress
    from pipeline.tensors import Latents, Pixels

ALL = "all"
BITS = (ALL, 8, 6, 4, 3, 2, 1)
NOISE_SEED = 0  # one draw, so that only its size changes
DISTURB = "noise, channels left out, fewer bits: what the picture can do without"
MIX = "half of one picture and half of another: between their latents, and between their pixels"


@dataclass(frozen=True, eq=False)
class Sent:
    """A picture that made its trip, what it became on the way, and by which model, counted."""

    pixels: Pixels
    latents: Latents
    back: Pixels
    count: int

    def codec(self, loading: Loading) -> Codec:
        """The codec that it went through. Raises SpecError if there is another model by now."""
        if loading.count != self.count:
            raise SpecError("the picture went through another model: send it there and back again")
        return loading.model().codec


def told(status: gr.HTML, updates: Iterator[Updates]) -> Iterator[Updates]:
    """`updates`; what is wrong ends them with one line, in `status` and over the page."""
    try:
        yield from updates
    except GreatcircleError as error:
        yield {status: markup.progress(str(error), kind="failed")}
        raise gr.Error(str(error), print_exception=False) from None


def open_slider(id: str) -> gr.ImageSlider:
    """Two pictures over one another, lossless."""
    return gr.ImageSlider(
        format="png",
        interactive=False,
        show_label=False,
        max_height=440,
        buttons=["download", "fullscreen"],
        elem_id=id,
        elem_classes=["gc-slider"],
    )


def say_step(progress: Progress) -> str:
    """How far the drawing of a sample is."""
    return f"drawing it · step {progress.index + 1} of {progress.count}"


def to_image(pixels: Pixels) -> Image:
    """One picture's pixels as it is shown."""
    from pipeline.pictures import to_images

    return to_images(pixels)[0]


def _need(sent: Sent | None) -> Sent:
    if sent is None:
        raise SpecError("no picture yet: send one there and back first")
    return sent


class DisturbPanel:
    """Builds itself in the `Blocks` that is open; `sent` holds the picture, or None."""

    def __init__(self, loading: Loading, sent: gr.State) -> None:
        self.loading, self.sent = loading, sent
        gr.HTML(markup.title("Disturb its latents"))
        with gr.Group():
            self.noise = gr.Slider(
                0, 2, 0, step=0.05, label="Noise: 1 is as much as latents vary", buttons=[]
            )
            self.channels = gr.CheckboxGroup([], label="Channels set to 0", elem_id="channels")
            self.bits = gr.Radio(list(BITS), value=ALL, label="Bits for each number")
        self.button = gr.Button("Disturb", elem_id="disturb")
        self.status = gr.HTML(markup.progress(DISTURB, kind="idle"), elem_id="disturb-status")
        self.slider = open_slider("disturbed")
        self.cells = gr.HTML("", elem_id="disturbed-cells")
        self._wire()

    def _wire(self) -> None:
        settings = (self.noise.release, self.channels.input, self.bits.input)
        inputs = {self.sent, self.noise, self.channels, self.bits}
        _run_on((self.button.click, *settings), self.on_disturb, inputs, self.outputs)

    @property
    def outputs(self) -> list[Any]:
        """What is shown of a disturbance."""
        return [self.status, self.slider, self.cells]

    def clear(self) -> Updates:
        """Nothing disturbed."""
        return {
            self.status: markup.progress(DISTURB, kind="idle"),
            self.slider: None,
            self.cells: "",
        }

    def empty(self) -> Updates:
        """No channels: the model that has some is on its way."""
        return {self.channels: gr.CheckboxGroup([], value=[])}

    def defaults(self, model: Model) -> Updates:
        """The model's channels to choose from."""
        return {self.channels: gr.CheckboxGroup(list(range(model.codec.channels)), value=[])}

    def on_disturb(self, values: Updates) -> Iterator[Updates]:
        """Do all that is chosen to the latents at once, and decode them."""
        yield from told(self.status, self._disturb(values))

    def _disturb(self, values: Updates) -> Iterator[Updates]:
        from pipeline.quality import measure_psnr
        from pipeline.roundtrip import decode

        sent = _need(values[self.sent])
        codec = sent.codec(self.loading)
        yield {self.status: markup.progress("decoding")}
        latents = self._change(sent.latents, values)
        pixels = decode(codec, latents)
        said = (
            "left: as it came back, right: disturbed · "
            f"{say_decibels(measure_psnr(sent.back, pixels).item())} to each other, "
            f"{say_decibels(measure_psnr(sent.pixels, pixels).item())} to the original"
        )
        yield {
            self.status: markup.progress(said, 1.0, kind="done"),
            self.slider: (to_image(sent.back), to_image(pixels)),
            self.cells: markup.tiles(list(make_cells(codec, latents)), "cells"),
        }

    def _change(self, latents: Latents, values: Updates) -> Latents:
        from pipeline.disturb import add_noise, round_to_bits, zero_channels

        if values[self.bits] != ALL:
            latents = round_to_bits(latents, values[self.bits])
        latents = add_noise(latents, values[self.noise], NOISE_SEED)
        return zero_channels(latents, values[self.channels])


class MixPanel:
    """Builds itself in the `Blocks` that is open; `sent` holds the first picture, or None."""

    def __init__(self, loading: Loading, sent: gr.State) -> None:
        self.loading, self.sent = loading, sent
        gr.HTML(markup.title("Mix it with another picture"))
        with gr.Group():
            self.other = PictureField("other", "a woman", label="The other picture")
            self.weight = gr.Slider(
                0, 1, 0.5, step=0.05, label="How much of the other", buttons=[], elem_id="weight"
            )
        self.button = gr.Button("Mix", elem_id="mix")
        self.status = gr.HTML(markup.progress(MIX, kind="idle"), elem_id="mix-status")
        self.slider = open_slider("mixed")
        self._wire()

    def _wire(self) -> None:
        changes = (self.button.click, self.weight.release, *self.other.chosen)
        inputs = {self.sent, self.weight, *self.other.inputs}
        _run_on(changes, self.on_mix, inputs, self.outputs)

    @property
    def outputs(self) -> list[Any]:
        """What is shown of a mixture."""
        return [self.status, self.slider]

    def clear(self) -> Updates:
        """Nothing mixed."""
        return {self.status: markup.progress(MIX, kind="idle"), self.slider: None}

    def on_mix(self, values: Updates) -> Iterator[Updates]:
        """Mix the two pictures, by slerp of their latents and by their pixels."""
        yield from told(self.status, self._mix(values))

    def _mix(self, values: Updates) -> Iterator[Updates]:
        from pipeline.fitting import fit_image
        from pipeline.pictures import to_pixels
        from pipeline.quality import measure_psnr
        from pipeline.render import Progress
        from pipeline.roundtrip import mix_pictures

        sent = _need(values[self.sent])
        codec = sent.codec(self.loading)
        for event in self.other.look(values, self.loading.model()):
            if isinstance(event, Progress):
                yield {self.status: markup.progress(say_step(event))}
            else:
                image = event
        yield {self.status: markup.progress("mixing")}
        height, width = sent.pixels.shape[2:]
        other = to_pixels(fit_image(image, (width, height), "crop").image)
        mixed, faded = mix_pictures(codec, sent.pixels, other, values[self.weight])
        said = (
            "left: by latents (slerp), right: by pixels (cross-fade) · "
            f"{say_decibels(measure_psnr(mixed, faded).item())} to each other"
        )
        yield {
            self.status: markup.progress(said, 1.0, kind="done"),
            self.slider: (to_image(mixed), to_image(faded)),
        }


def _run_on(changes: Any, answer: Any, inputs: set[Any], outputs: list[Any]) -> None:
    """Answer every change in the one queue for the model; of many at once, the last."""
    for change in changes:
        change(
            answer,
            inputs=inputs,
            outputs=outputs,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
            **GPU,
        )
