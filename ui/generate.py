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
    SCHEDULERS,
    ImageSpec,
    ModelSpec,
    Sampling,
    StillSpec,
    Variation,
)
from ui import markup
from ui.command import as_command
from ui.draw import Pace, Picture, draw, duration
from ui.loading import Attempt, Loading

if TYPE_CHECKING:
    from pipeline.model import Model

Updates = dict[Any, Any]
"""New values by component."""

GPU: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}
"""One model, one run at a time: every event that renders waits in the same queue."""

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""What answers at once, also while others wait for the model."""

SAMPLING = ("num_inference_steps", "guidance_scale", "scheduler", "width", "height")
START = ("image", "fit", "strength", "variation_seed", "variation_strength")
FIELDS = ("prompt", "negative_prompt", "plain", "seed", "random", "count", *START, *SAMPLING)
IN_THE_GALLERY = 60
KEYS = "Ctrl + Enter generates, Esc stops"


def spec_of(values: Mapping[str, Any], model: ModelSpec) -> StillSpec:
    """The spec of the page's `values`, by field name. Raises SpecError."""
    given = {name: _whole(values[name]) for name in FIELDS if values[name] not in (None, "")}
    sampling = {name: given[name] for name in SAMPLING if name in given}
    if "image" in given:
        sampling |= {"strength": given["strength"]} if "strength" in given else {}
    spec = StillSpec(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"] or None,
        plain=bool(values["plain"]),
        seed=0 if values["random"] else _whole(values["seed"]),
        count=_whole(values["count"]),
        variation=_variation(given),
        image=ImageSpec(source=given["image"], fit=given["fit"]) if "image" in given else None,
        sampling=Sampling(**sampling),
        model=model,
    )
    return _with_random_seed(spec) if values["random"] else spec


def _variation(given: Mapping[str, Any]) -> Variation | None:
    """A variation, where any of the way is to be gone."""
    if given.get("variation_strength", 0) == 0:
        return None
    return Variation(seed=given.get("variation_seed", 0), strength=given["variation_strength"])


def _whole(value: Any) -> Any:
    """A number field may write 7 as 7.0; what is not whole stays as it is, to be refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
        choices = [("default", ""), *((name, name) for name in SCHEDULERS)]
        with gr.Group():
            with gr.Row():
                self.seed = gr.Number(label="Seed", value=0, min_width=80)
                self.random = gr.Checkbox(
                    label="random", value=True, min_width=80, elem_id="random"
                )
            with gr.Row():
                self.count = gr.Number(label="Images", value=1, min_width=80)
                self.scheduler = gr.Dropdown(choices, value="", label="Scheduler", min_width=80)
            with gr.Row():
                self.num_inference_steps = self._number("Steps")
                self.guidance_scale = self._number("Guidance")
            with gr.Row():
                self.width = self._number("Width")
                self.height = self._number("Height")

    def _build_start(self) -> None:
        with gr.Accordion("Start from a picture", open=False, elem_id="start-image"):
            self.image = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload"], height=200
            )
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

    def _number(self, label: str) -> gr.Number:
        """A number the model has a default for; it opens once the model is there."""
        return gr.Number(label=label, value=None, placeholder="…", interactive=False, min_width=80)

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
    def model_fields(self) -> list[Any]:
        """The fields whose defaults only the model knows, and whether they are filled in."""
        return [*(getattr(self, name) for name in SAMPLING), self.is_filled_in]

    def empty(self) -> Updates:
        """The numbers without a value, which shows as a 0 unless it is said."""
        empty = {getattr(self, name): None for name in SAMPLING if name != "scheduler"}
        return {**empty, self.is_filled_in: False}

    def defaults(self, model: Model) -> Updates:
        """`model_fields`, filled in and opened."""
        sampling = model.complete(Sampling())
        numbers = {
            getattr(self, name): gr.Number(value=getattr(sampling, name), interactive=True)
            for name in SAMPLING
            if name != "scheduler"
        }
        choices = [(f"default: {sampling.scheduler}", ""), *((n, n) for n in SCHEDULERS)]
        scheduler = gr.Dropdown(choices, value="")
        return {**numbers, self.scheduler: scheduler, self.is_filled_in: True}

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
