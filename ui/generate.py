"""The Generate page: widgets -> StillSpec -> pictures, shown as they form.

Thin: it checks nothing itself. What is wrong with a value, the spec says in its own words. A text
box cannot tell an empty text from none, so an empty negative prompt means that none was given.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipeline.errors import GreatcircleError
from pipeline.spec import (
    DEFAULT_STRENGTH,
    FITS,
    MAX_SEED,
    ImageSpec,
    ModelSpec,
    Sampling,
    StillSpec,
    Variation,
)
from ui import markup, sampling
from ui.command import as_command
from ui.draw import Pace, Picture, draw, duration
from ui.loading import Attempt, Loading
from ui.picture_field import open_upload
from ui.sampling import GPU, QUIET, SAMPLING, Updates, given, whole

if TYPE_CHECKING:
    from pipeline.model import Model

START = ("image", "fit", "strength", "variation_seed", "variation_strength")
FIELDS = ("prompt", "negative_prompt", "plain", "seed", "random", "count", *START, *SAMPLING)
IN_THE_GALLERY = 60
KEYS = "Ctrl + Enter generates, Esc stops"


def spec_of(values: Mapping[str, Any], model: ModelSpec) -> StillSpec:
    """The spec of the page's `values`, by field name. Raises SpecError."""
    found = given({name: values[name] for name in FIELDS})
    asked = {name: found[name] for name in SAMPLING if name in found}
    if "image" in found:
        asked |= {"strength": found["strength"]} if "strength" in found else {}
    spec = StillSpec(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"] or None,
        plain=bool(values["plain"]),
        seed=0 if values["random"] else whole(values["seed"]),
        count=whole(values["count"]),
        variation=_variation(found),
        image=ImageSpec(source=found["image"], fit=found["fit"]) if "image" in found else None,
        sampling=Sampling(**asked),
        model=model,
    )
    return _with_random_seed(spec) if values["random"] else spec


def _variation(found: Mapping[str, Any]) -> Variation | None:
    """A variation, where any of the way is to be gone."""
    if found.get("variation_strength", 0) == 0:
        return None
    return Variation(seed=found.get("variation_seed", 0), strength=found["variation_strength"])


def _with_random_seed(spec: StillSpec) -> StillSpec:
    """A seed that nobody chose, with room above it for the seeds of all the pictures."""
    return spec.replace(seed=secrets.randbelow(MAX_SEED + 2 - spec.count))


@dataclass
class Run:
    """What one press of the button has come to: for the page, and for whoever stops it."""

    before: list[Picture]
    count: int = 1
    pictures: list[Picture] = field(default_factory=list)
    ended_itself: bool = False
    over: Event = field(default_factory=Event)

    @property
    def gallery(self) -> list[Picture]:
        """This run's pictures and those before, the newest first."""
        return [*reversed(self.pictures), *self.before][:IN_THE_GALLERY]

    def kept(self) -> str:
        """How many pictures there are of those that were asked for."""
        if not self.pictures:
            return "nothing was finished, nothing is kept"
        return f"kept {len(self.pictures)} of {self.count}"


class GeneratePage:
    """Builds itself in the `Blocks` that is open; `folder` is where pictures are kept."""

    def __init__(self, loading: Loading, folder: Path) -> None:
        self.loading, self.folder = loading, folder
        self.run, self.pictures = gr.State(None), gr.State([])
        self.is_filled_in = gr.State(False)
        with gr.Row(elem_id="generate-page"):
            with gr.Column(scale=4, min_width=320, elem_id="controls"):
                self._build_words()
                self._build_numbers()
                self._build_start()
            with gr.Column(scale=7, min_width=320, elem_id="results"):
                self._build_results()
        self._wire()

    def _build_words(self) -> None:
        with gr.Group():
            self.prompt = gr.Textbox(
                label="Prompt",
                lines=3,
                max_lines=10,
                placeholder="a red apple on a sky blue background",
                autofocus=True,
                elem_id="prompt",
            )
            self.negative_prompt = gr.Textbox(
                label="Negative prompt", placeholder="what should stay out of it", max_lines=6
            )
            self.plain = gr.Checkbox(
                label="take brackets literally: otherwise (word:1.2) and [word] are weights",
                elem_id="plain",
            )
        with gr.Row(elem_id="buttons"):
            self.button = gr.Button("Generate", variant="primary", scale=3, elem_id="generate")
            self.stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, elem_id="stop")

    def _build_numbers(self) -> None:
        with gr.Group():
            with gr.Row():
                self.seed = gr.Number(label="Seed", value=0, min_width=80)
                self.random = gr.Checkbox(
                    label="random", value=True, min_width=80, elem_id="random"
                )
            with gr.Row():
                self.count = gr.Number(label="Images", value=1, min_width=80)
                self.scheduler = sampling.open_scheduler()
            with gr.Row():
                self.num_inference_steps = sampling.open_number("Steps")
                self.guidance_scale = sampling.open_number("Guidance")
            with gr.Row():
                self.width = sampling.open_number("Width")
                self.height = sampling.open_number("Height")

    def _build_start(self) -> None:
        with gr.Accordion("Start from a picture", open=False, elem_id="start-image"):
            self.image = open_upload("Picture", id="start-picture")
            with gr.Row():
                self.strength = gr.Number(
                    label="Strength: 1 leaves nothing of it", value=DEFAULT_STRENGTH, step=0.05
                )
                self.fit = gr.Dropdown(list(FITS), value=FITS[0], label="Fit", min_width=80)
        with gr.Accordion("Vary", open=False, elem_id="vary"), gr.Row():
            self.variation_strength = gr.Number(
                label="How far to another noise, up to 1", value=0, step=0.05
            )
            self.variation_seed = gr.Number(label="Its seed", value=0)

    def _build_results(self) -> None:
        self.status = gr.HTML(markup.progress(KEYS, kind="idle"), elem_id="status")
        self.picture = gr.Image(
            format="jpeg",
            interactive=False,
            show_label=False,
            buttons=["download", "fullscreen"],
            elem_id="picture",
        )
        self.gallery = gr.Gallery(
            show_label=False,
            columns=8,
            fit_columns=False,
            height="auto",
            allow_preview=False,
            interactive=False,
            visible=False,
            elem_id="gallery",
        )
        self.details = gr.HTML("", elem_id="details")
        self.command = gr.Textbox(
            label="The same picture as a command",
            interactive=False,
            lines=2,
            buttons=["copy"],
            visible=False,
            elem_id="command",
        )

    def _wire(self) -> None:
        inputs = {getattr(self, name) for name in FIELDS}
        shown = [self.picture, self.details, self.command]
        drawing = self.button.click(
            self.on_generate,
            inputs={*inputs, self.is_filled_in, self.pictures},
            outputs=[*shown, self.status, self.gallery, self.pictures, self.seed, self.run],
            show_progress="minimal",
            show_progress_on=self.status,
            api_visibility="private",
            **GPU,
        )
        # Two listeners, in this order: one that also ran a function would cancel only after it.
        self.stop.click(None, cancels=[drawing], **QUIET)
        self.stop.click(
            self.on_stop,
            inputs=self.run,
            outputs=[*shown, self.status, self.gallery, self.pictures],
            **QUIET,
        )
        # The picture's own aspect decides, unless a side is then typed.
        self.image.upload(lambda: [None, None], outputs=[self.width, self.height], **QUIET)
        self.gallery.select(self.on_select, inputs=self.pictures, outputs=shown, **QUIET)

    @property
    def _sampling(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SAMPLING}

    @property
    def model_fields(self) -> list[Any]:
        """The fields whose defaults only the model knows, and whether they are filled in."""
        return [*self._sampling.values(), self.is_filled_in]

    def empty(self) -> Updates:
        """The numbers without a value."""
        return {**sampling.empty(self._sampling), self.is_filled_in: False}

    def defaults(self, model: Model) -> Updates:
        """`model_fields`, filled in and opened."""
        return {**sampling.defaults(self._sampling, model), self.is_filled_in: True}

    def on_generate(self, values: Updates) -> Iterator[Updates]:
        """Draw what the widgets say. After an error the finished pictures, and its line, stay."""
        run = Run(before=values[self.pictures])
        attempt = self.loading.latest
        try:
            fields = {name: values[getattr(self, name)] for name in FIELDS}
            if not values[self.is_filled_in]:
                fields |= dict.fromkeys(SAMPLING)
            spec = spec_of(fields, attempt.spec)
            run.count = spec.count
            yield {self.run: run, self.seed: spec.seed}
            yield from self._draw(attempt, spec, run)
            run.ended_itself = True
        except GreatcircleError as error:
            run.ended_itself = True
            yield {self.status: markup.progress(str(error), kind="failed")}
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            run.over.set()

    def _draw(self, attempt: Attempt, spec: StillSpec, run: Run) -> Iterator[Updates]:
        while not attempt.wait(0.5):
            yield {self.status: markup.progress(attempt.say())}
        model = attempt.model()
        pace = Pace(spec.count)

        for event in draw(model, model.resolve(spec), self.folder):
            if isinstance(event, Picture):
                run.pictures.append(event)
                yield self._show(run.gallery)
            else:
                status = markup.progress(pace.say(event), pace.share(event))
                yield {self.status: status, self.picture: event.preview()[0]}

        said = "1 picture" if spec.count == 1 else f"{spec.count} pictures"
        said = f"{said} in {duration(pace.seconds)}"
        yield {self.status: markup.progress(said, 1.0, kind="done")}

    def on_stop(self, run: Run | None) -> Updates:
        """Say what was kept, once the run that is being cancelled has come to its end."""
        if run is None or run.ended_itself:
            return {self.status: markup.progress("stopped: nothing was being drawn", kind="idle")}
        run.over.wait(30)
        said = {self.status: markup.progress(f"stopped: {run.kept()}", kind="done")}
        return said | (self._show(run.gallery) if run.gallery else {self.picture: None})

    def on_select(self, pictures: list[Picture], chosen: gr.SelectData) -> Updates:
        """Show one of the finished pictures, with what it was made from."""
        return self._describe(pictures[chosen.index])

    def _show(self, pictures: list[Picture]) -> Updates:
        """All finished pictures, the newest of them large."""
        thumbnails = [(str(picture.file), f"seed {picture.spec.seed}") for picture in pictures]
        gallery = gr.Gallery(value=thumbnails, visible=len(pictures) > 1, selected_index=None)
        return {
            self.pictures: pictures,
            self.gallery: gallery,
            **self._describe(pictures[0]),
        }

    def _describe(self, picture: Picture) -> Updates:
        """The PNG itself, not an encoding of it, and what it was made from."""
        return {
            self.picture: str(picture.file),
            self.details: markup.settings(picture.spec),
            self.command: gr.Textbox(value=as_command(picture.spec), visible=True),
        }
