"""The Morph page: keyframes and some numbers -> MorphSpec -> a run that goes on by itself.

Thin: it checks nothing itself. A morph is made by a job of the app, which the page only watches: it
goes on when the page is closed, and is found again by the id of its run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipeline.errors import GreatcircleError, SpecError
from pipeline.spec import Keyframe, MorphSpec
from ui import markup
from ui.film import RunView
from ui.jobs import Job, Jobs
from ui.keyframes import MOST, KeyframeTable, keyframe_of
from ui.loading import Attempt, Loading
from ui.morph_fields import MorphFields, rows_of, sampling_of, spec_of
from ui.quick import Stopwatch, draw_keyframe, draw_path
from ui.runs import StoredRun
from ui.sampling import GPU, QUICK, QUIET, Updates
from ui.thumbs import Thumb

if TYPE_CHECKING:
    from pipeline.model import Model
    from pipeline.render import Progress

EXAMPLE = tuple(
    Keyframe(prompt=f"{who} on a sky blue background", seed=5) for who in ("man", "woman")
)
"""What the page opens with: it works on the model that ships with the program."""

HINT = "Ctrl + Enter makes the morph, Esc stops; it goes on when the page is closed"
TICK_SECONDS = 0.5

BROWSER = {"storage_key": "greatcircle-morph", "secret": "greatcircle"}
"""Where a browser keeps the id of the run that it saw last; it is nobody's secret."""

LISTED = 20  # runs to choose from


class MorphPage:
    """Builds itself in the `Blocks` that is open.

    `is_shared`: others than the machine's owner use the app, so runs are not listed.
    """

    def __init__(self, loading: Loading, jobs: Jobs, *, is_shared: bool = False) -> None:
        self.loading, self.jobs, self.is_shared = loading, jobs, is_shared
        self.run = gr.State(None)  # the id of the run that is shown; None before the first look
        self.last = gr.BrowserState("", **BROWSER)
        self.table = KeyframeTable(EXAMPLE)
        self._build_buttons()
        with gr.Row(elem_id="morph-page"):
            with gr.Column(scale=4, min_width=320, elem_id="morph-controls"):
                self.fields = MorphFields()
                self._build_runs()
            with gr.Column(scale=7, min_width=320, elem_id="morph-results"):
                self.view = RunView(HINT)
        self.timer = gr.Timer(TICK_SECONDS)
        self._wire()

    def _build_buttons(self) -> None:
        with gr.Row(elem_id="morph-buttons"):
            self.add = gr.Button("Add a keyframe", min_width=120, elem_id="add-keyframe")
            self.draw_all = gr.Button("Draw all", min_width=90, elem_id="draw-all")
            self.preview = gr.Button("Preview", min_width=90, elem_id="preview")
            self.make = gr.Button(
                "Make the morph", variant="primary", min_width=160, scale=3, elem_id="make"
            )
            self.stop = gr.Button("Stop", variant="stop", min_width=80, elem_id="stop-morph")

    def _build_runs(self) -> None:
        with gr.Accordion("Runs", open=False, elem_id="runs"):
            self.chosen = gr.Dropdown(
                [],
                value=None,
                allow_custom_value=True,
                label="Choose a run, or type its id",
                elem_id="run-id",
            )
            with gr.Row():
                self.open = gr.Button("Open", size="sm", min_width=70, elem_id="open-run")
                self.resume = gr.Button("Go on", size="sm", min_width=70, elem_id="resume-run")
                self.take = gr.Button(
                    "Take its values", size="sm", min_width=110, elem_id="take-run"
                )

    def _wire(self) -> None:
        table, shown = self.table, [self.run, self.last, self.timer, *self.view.outputs]
        values = {*table.inputs, *self.fields.inputs}
        drawing = [self._wire_drawing(values, row.index, row.draw) for row in table.rows]
        drawing.append(self._wire_drawing(values, None, self.draw_all))
        drawing.append(self._queued(self.preview, self.on_preview, values, self._clear_outputs))
        self.add.click(table.on_add, inputs=table.inputs, outputs=table.outputs, **QUICK)
        self.make.click(self.on_make, inputs=values, outputs=shown, **QUICK)

        # Two listeners, in this order: one that also ran a function would cancel only after it.
        self.stop.click(None, cancels=drawing, **QUIET)
        self.stop.click(self.on_stop, inputs=self.run, outputs=self.view.status, **QUIET)

        watched = {self.run, self.last, self.view.seen, self.view.is_held}
        self.timer.tick(self.on_tick, inputs=watched, outputs=[*shown, self.chosen], **QUIET)
        self.view.slider.input(
            self.on_scrub,
            inputs={self.run, self.view.slider},
            outputs=[self.view.picture, self.view.caption, self.view.is_held],
            trigger_mode="always_last",
            **QUIET,
        )
        self.open.click(self.on_open, inputs={self.chosen}, outputs=shown, **QUICK)
        self.resume.click(self.on_resume, inputs={self.chosen, self.run}, outputs=shown, **QUICK)
        self.take.click(
            self.on_take,
            inputs={self.chosen, self.run},
            outputs=[*table.outputs, *self.fields.by_name.values()],
            **QUICK,
        )

    @property
    def _clear_outputs(self) -> list[Any]:
        return [self.view.status, self.view.strip]

    def _queued(self, button: gr.Button, answer: Any, inputs: Any, outputs: list[Any]) -> Any:
        """An event that renders: it waits in the one queue for the model."""
        return button.click(
            answer,
            inputs=inputs,
            outputs=outputs,
            show_progress="hidden",
            api_visibility="private",
            **GPU,
        )

    def _wire_drawing(self, values: set[Any], index: int | None, button: gr.Button) -> Any:
        """A button that draws keyframe `index`, or all."""

        def on_draw(values: Updates) -> Iterator[Updates]:
            indices = range(values[self.table.count]) if index is None else range(index, index + 1)
            return self.on_draw(values, indices)

        def answer(values: Updates) -> Iterator[Updates]:
            yield from on_draw(values)

        answer.__name__ = "on_draw"
        return self._queued(button, answer, values, [self.view.status, *self.table.thumbs])

    @property
    def model_fields(self) -> list[Any]:
        """The fields whose defaults only the model knows, and what another model has drawn."""
        return [*self.fields.model_fields, *self.table.thumbs]

    def empty(self) -> Updates:
        """The numbers without a value, and no pictures."""
        return {**self.fields.empty(), **self.table.without_pictures()}

    def defaults(self, model: Model) -> Updates:
        """The numbers, filled in and opened."""
        return self.fields.defaults(model)

    def _spec(self, values: Updates, attempt: Attempt) -> MorphSpec:
        return spec_of(self.table.read(values), self.fields.read(values), attempt.spec)

    # In seconds

    def on_draw(self, values: Updates, indices: range) -> Iterator[Updates]:
        """Draw the small pictures of some keyframes."""
        attempt, rows = self.loading.latest, self.table.read(values)
        with _said_as_error():
            fields = self.fields.read(values)
            asked = sampling_of(fields)
            keyframes = {k: keyframe_of(rows[k], plain=bool(fields["plain"])) for k in indices}
            yield from self._wait(attempt)
            for k, keyframe in keyframes.items():
                for event in draw_keyframe(attempt.model(), keyframe, asked):
                    if isinstance(event, Thumb):
                        yield self.table.with_picture(k, rows[k], event)
                    else:
                        yield self._busy(f"keyframe {k + 1} · {_say_step(event)}")
            yield {self.view.status: markup.progress("drawn in few steps", 1.0, kind="done")}

    def on_preview(self, values: Updates) -> Iterator[Updates]:
        """Draw a few pictures along the path, and say what the whole would take."""
        attempt, watch = self.loading.latest, Stopwatch()
        with _said_as_error():
            spec = self._spec(values, attempt)
            yield {self.view.strip: "", **self._busy("preview")}
            yield from self._wait(attempt)
            model, drawn = attempt.model(), []
            for event in draw_path(model, spec):
                watch.note(event)
                if isinstance(event, Thumb):
                    drawn.append(event)
                    yield {self.view.strip: markup.strip(drawn)}
                else:
                    yield self._busy(f"preview · {_say_step(event)}")
            line = f"a preview in few steps; the morph: {watch.say_cost(model, spec)}"
            yield {self.view.status: markup.progress(line, 1.0, kind="done")}

    def _wait(self, attempt: Attempt) -> Iterator[Updates]:
        while not attempt.wait(0.5):
            yield self._busy(attempt.say())

    def _busy(self, line: str) -> Updates:
        return {self.view.status: markup.progress(line)}

    # Runs

    def on_make(self, values: Updates) -> Updates:
        """Begin to make what the widgets say, or go on where the same was stopped."""
        attempt = self.loading.latest
        with _said_as_error():
            return self._watch(self.jobs.start(attempt, self._spec(values, attempt)))

    def on_resume(self, values: Updates) -> Updates:
        """Go on with the chosen run, else with the one that is shown."""
        attempt = self.loading.latest
        with _said_as_error():
            if not attempt.wait(20):
                raise SpecError(f"the model is not there yet: {attempt.say()}")
            return self._watch(self.jobs.resume(attempt, self._choice(values)))

    def _choice(self, values: Updates) -> str:
        return (values[self.chosen] or values[self.run] or "").strip()

    def _watch(self, job: Job) -> Updates:
        """Show how a job goes on, from now on."""
        shown = self.view.clear(job.say())
        found = {self.run: job.id, self.last: job.id, self.timer: gr.Timer(active=True)}
        return {**shown, **found}

    def on_open(self, values: Updates) -> Updates:
        """Show the chosen run, whether it is made right now or lies on the disk."""
        with _said_as_error():
            id = self._choice({**values, self.run: None})
            self.jobs.runs.folder(id)
            return self._open(id)

    def _open(self, id: str) -> Updates:
        job = self.jobs.find(id)
        if job is not None and job.is_live:
            return self._watch(job)
        found = {self.run: id, self.last: id, self.timer: gr.Timer(active=False)}
        return {**self._show_over(id, job), **found}

    def _show_over(self, id: str, job: Job | None) -> Updates:
        """A run that nobody works on, and how its job ended, where it was one's."""
        line = None if job is None else job.say()
        kind = {"failed": "failed", "done": "done"}.get(job.state if job else "", "idle")
        try:
            return self.view.show_stored(self.jobs.runs.open(id), line, kind)
        except SpecError:
            if line is None:
                raise
            return self.view.clear(line, kind)

    def on_tick(self, values: Updates) -> Updates:
        """Tell what is new of the run that is shown."""
        id, last = values[self.run], values[self.last]
        if id is None:
            return {**self._open_last(last), self.chosen: self._choices()}
        job = self.jobs.find(id)
        if job is None:
            return {self.timer: gr.Timer(active=False)}
        if not job.is_live:
            return {**self._open(id), self.chosen: self._choices()}
        seen, is_held = values[self.view.seen], values[self.view.is_held]
        shown = self.view.show_job(job, self.jobs.count_before(job), seen, is_held)
        if job.newest is not None and not is_held:
            shown |= self.view.show_newest(job, self.jobs.runs.open(id))
        return shown

    def _open_last(self, last: Any) -> Updates:
        """The run that this browser saw last, if it is still there."""
        try:
            return self._open(self._choice({self.chosen: last, self.run: None}))
        except SpecError:
            return {self.run: "", self.timer: gr.Timer(active=False)}

    def _choices(self) -> gr.Dropdown:
        runs = [] if self.is_shared else self.jobs.runs.open_all(LISTED)
        return gr.Dropdown([(_say_run(run), run.id) for run in runs])

    def on_stop(self, id: str | None) -> Updates:
        """Stop the morph that is shown, within a step."""
        job = self.jobs.find(id) if id else None
        if job is None or not job.is_live:
            return markup.progress("stopped: no morph was being made", kind="idle")
        job.stop()
        return markup.progress(job.say())

    def on_scrub(self, values: Updates) -> Updates:
        """Show the frame that the slider is at, and stay there."""
        with _said_as_error():
            stored = self.jobs.runs.open(values[self.run])
            frame = self.view.show_frame(stored, int(values[self.view.slider]))
            return {**frame, self.view.is_held: True}

    def on_take(self, values: Updates) -> Updates:
        """Fill in the page as a run was made."""
        with _said_as_error():
            spec = self.jobs.runs.open(self._choice(values)).plan.spec
            if len(spec.keyframes) > MOST:
                raise SpecError(f"{len(spec.keyframes)} keyframes: the table has {MOST}")
            return {**self.table.show(rows_of(spec)), **self.fields.show(spec)}


@contextmanager
def _said_as_error() -> Iterator[None]:
    """What is wrong on purpose, as one line on the page that stays until it is read."""
    try:
        yield
    except GreatcircleError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from None


def _say_step(progress: Progress) -> str:
    return f"step {progress.index + 1} of {progress.count}"


def _say_run(run: StoredRun) -> str:
    first, last = (run.plan.spec.keyframes[k].prompt[:40] for k in (0, -1))
    state = "" if run.film else " · not finished"
    return f"{run.id} · {first} → {last} · {run.num_frames} frames{state}"
