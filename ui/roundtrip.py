"""The Round trip page: a picture to latents and back, what was lost, and what latents can bear.

Thin: it checks nothing itself. What is measured and drawn, the library measures and draws.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipeline.spec import ModelSpec
from pipeline.trip import TripSpec
from ui import markup
from ui.draw import duration
from ui.findings import latent_facts, make_cells, make_tile, say_decibels, say_fidelity, trip_facts
from ui.loading import Loading
from ui.perturb import DisturbPanel, MixPanel, Sent, open_slider, say_step, to_image, told
from ui.picture_field import PictureField
from ui.sampling import GPU, QUIET, Updates, given

if TYPE_CHECKING:
    from pipeline.codec import Codec
    from pipeline.model import Model
    from pipeline.roundtrip import RoundTrip, TripReport

FIELDS = ("size", "repeat", "seed")
TILES = 8  # pictures of repeated trips that are shown, at most
TRIPS = 6
SIDES = (
    "left of the handle the original, right of it what came back; in the other picture the error: "
    "black is none, pale yellow {} levels of 255 or more"
)


class RoundTripPage:
    """Builds itself in the `Blocks` that is open."""

    def __init__(self, loading: Loading) -> None:
        self.loading = loading
        self.sent = gr.State(None)
        with gr.Row(elem_id="trip-page"):
            with gr.Column(scale=4, min_width=320, elem_id="trip-controls"):
                self._build_controls()
            with gr.Column(scale=7, min_width=320, elem_id="trip-results"):
                self._build_results()
        self.repeated = gr.HTML("", elem_id="repeated")
        with gr.Row(elem_id="perturb"):
            with gr.Column(min_width=320):
                self.disturb = DisturbPanel(self.loading, self.sent)
            with gr.Column(min_width=320):
                self.mix = MixPanel(self.loading, self.sent)
        self._wire()

    def _build_controls(self) -> None:
        with gr.Group():
            self.picture = PictureField("trip", "rectangles")
        with gr.Row():
            self.button = gr.Button("There and back", variant="primary", scale=3, elem_id="send")
            self.stop = gr.Button(
                "Stop", variant="stop", scale=1, min_width=80, elem_id="stop-trip"
            )
        with gr.Group(), gr.Row():
            # Texts: a number that is left empty arrives as 0.
            self.size = gr.Textbox(label="Square of", placeholder="its size", min_width=80)
            self.repeat = gr.Number(label="Trips", value=TRIPS, min_width=80)
            self.seed = gr.Textbox(label="Seed of a draw", placeholder="none", min_width=100)

    def _build_results(self) -> None:
        self.status = gr.HTML(_idle(), elem_id="trip-status")
        with gr.Row():
            with gr.Column(min_width=260):
                self.slider = open_slider("trip-slider")
            with gr.Column(min_width=260):
                self.error = gr.Image(
                    format="png",
                    interactive=False,
                    show_label=False,
                    buttons=["download", "fullscreen"],
                    elem_id="trip-error",
                )
        self.caption = gr.HTML("", elem_id="trip-caption")
        self.found = gr.HTML("", elem_id="trip-found")

    def _wire(self) -> None:
        inputs = {*self.picture.inputs, self.size, self.repeat, self.seed}
        sending = [
            change(
                self.on_send,
                inputs=inputs,
                outputs=self.outputs,
                trigger_mode="always_last",
                show_progress="hidden",
                api_visibility="private",
                **GPU,
            )
            for change in (self.button.click, *self.picture.chosen)
        ]
        # Two listeners, in this order: one that also ran a function would cancel only after it.
        self.stop.click(None, cancels=sending, **QUIET)
        self.stop.click(self.on_stop, outputs=self.status, **QUIET)

    @property
    def outputs(self) -> list[Any]:
        """What a trip shows, and what it takes away of what was done to the last one."""
        shown = [self.sent, self.status, self.slider, self.error, self.caption]
        shown += [self.found, self.repeated]
        return [*shown, *self.disturb.outputs, *self.mix.outputs]

    @property
    def model_fields(self) -> list[Any]:
        """The choice of channels, which only the model knows."""
        return [self.disturb.channels]

    def empty(self) -> Updates:
        """No channels to choose from."""
        return self.disturb.empty()

    def defaults(self, model: Model) -> Updates:
        """The channels of the model's latents."""
        return self.disturb.defaults(model)

    def on_send(self, values: Updates) -> Iterator[Updates]:
        """Send the picture there and back, once and then again and again."""
        yield from told(self.status, self._send(values))

    def on_stop(self) -> Updates:
        """Say that it was stopped; what is shown stays."""
        return {self.status: markup.progress("stopped", kind="idle")}

    def _send(self, values: Updates) -> Iterator[Updates]:
        from pipeline.render import Progress
        from pipeline.roundtrip import fit_trip, measure_trip

        attempt, count, began = self.loading.latest, self.loading.count, time.monotonic()
        spec = self._spec(values, attempt.spec)
        yield self._clear()
        while not attempt.wait(0.5):
            yield self._busy(attempt.say())
        model = attempt.model()
        for event in self.picture.look(values, model):
            if isinstance(event, Progress):
                yield self._busy(say_step(event))
            else:
                image = event

        yield self._busy("on its trip")
        pixels = fit_trip(model.codec, image, spec.size)
        trip, report = measure_trip(model.codec, pixels, seed=spec.seed)
        yield self._show(model.codec, trip, report)
        yield {self.sent: Sent(pixels, trip.latents, trip.back, count)}
        yield from self._repeat(model.codec, trip, spec.repeat)
        said = f"{say_fidelity(report)} · in {duration(time.monotonic() - began)}"
        yield {self.status: markup.progress(said, 1.0, kind="done")}

    def _spec(self, values: Updates, model: ModelSpec) -> TripSpec:
        fields = given({name: _read(values[getattr(self, name)]) for name in FIELDS})
        return TripSpec(images=(self.picture.name(values),), model=model, **fields)

    def _busy(self, line: str, share: float | None = None) -> Updates:
        return {self.status: markup.progress(line, share)}

    def _clear(self) -> Updates:
        """Nothing sent, and nothing done to it."""
        empty = {self.sent: None, self.slider: None, self.error: None}
        words = {self.caption: "", self.found: "", self.repeated: ""}
        done = {**self.disturb.clear(), **self.mix.clear()}
        return {**empty, **words, **done, **self._busy("looking at it")}

    def _show(self, codec: Codec, trip: RoundTrip, report: TripReport) -> Updates:
        """What was lost in one trip, and the latents half way."""
        from pipeline.soundness import check_codec
        from pipeline.views import FULL_ERROR, draw_error

        warnings = [f"warning: {fault}" for fault in check_codec(codec).faults]
        return {
            self.slider: (to_image(trip.pixels), to_image(trip.back)),
            self.error: draw_error(trip.pixels, trip.back),
            self.caption: markup.line(SIDES.format(FULL_ERROR)),
            self.found: "".join(
                [
                    *map(markup.line, warnings),
                    markup.facts(trip_facts(report)),
                    markup.title("Its latents"),
                    markup.tiles(list(make_cells(codec, trip.latents)), "cells"),
                    markup.facts(latent_facts(report.latents)),
                    markup.more("Held against a draw of a Gaussian", report.latents.health.faults),
                ]
            ),
        }

    def _repeat(self, codec: Codec, first: RoundTrip, count: int) -> Iterator[Updates]:
        """Further trips, each from what the last one brought back, and some of their pictures."""
        from pipeline.quality import measure_psnr
        from pipeline.roundtrip import repeat_trips

        if count == 1:
            return
        shown = {round(1 + i * (count - 1) / (TILES - 1)) for i in range(TILES)}
        original = first.pixels
        tiles = [make_tile(to_image(original), "the original")]
        trips = chain([first], repeat_trips(codec, first.back, count - 1))
        for index, trip in enumerate(trips, 1):
            psnr, step = (measure_psnr(x, trip.back).item() for x in (original, trip.pixels))
            found = self._busy(f"trip {index} of {count}", index / count)
            if index in shown:
                words = f"trip {index} · {say_decibels(psnr)}"
                words += f", to the one before {say_decibels(step)}" if index > 1 else ""
                tiles.append(make_tile(to_image(trip.back), words))
                found[self.repeated] = markup.title("Again and again") + markup.tiles(tiles)
            yield found


def _read(value: Any) -> Any:
    """What was typed, as a number where it is a whole one; the spec knows the rest, or refuses."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value.strip()


def _idle() -> str:
    return markup.progress("choose a picture, and see what latents keep of it", kind="idle")
