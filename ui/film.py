"""What is shown of a run: while it is made, and of what lies on the disk of it.

Knows widgets, jobs and stored runs; starts and stops nothing. Only files of a run that was found by
its id are shown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import gradio as gr

from pipeline.spec import MorphSpec
from pipeline.timeline import Timeline
from ui import markup
from ui.command import as_morph_command
from ui.jobs import Job
from ui.quick import say_cost
from ui.runs import StoredRun
from ui.sampling import Updates

Seen = dict[str, Any]
"""What a page has been told of a run, so that it is not told again."""


class RunView:
    """Builds itself in the `Blocks` that is open."""

    def __init__(self, hint: str) -> None:
        self.seen = gr.State({})
        self.is_held = gr.State(False)  # whether a frame was chosen, which then stays
        self.status = gr.HTML(markup.progress(hint, kind="idle"), elem_id="morph-status")
        self.strip = gr.HTML("", elem_id="strip")
        with gr.Row(elem_id="screen"):
            with gr.Column(min_width=240, visible=False) as self.left:
                self.video = gr.Video(
                    show_label=False,
                    interactive=False,
                    autoplay=True,
                    loop=True,
                    buttons=["download"],
                    elem_id="film",
                )
                self.loop = gr.Image(
                    show_label=False, interactive=False, buttons=["download"], elem_id="moving"
                )
            with gr.Column(min_width=240):
                self.picture = gr.Image(
                    format="jpeg",
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="frame",
                )
                self.slider = gr.Slider(
                    0, 1, 0, step=1, label="Frame", visible=False, buttons=[], elem_id="scrub"
                )
                self.caption = gr.HTML("", elem_id="caption")
        self._build_findings()

    def _build_findings(self) -> None:
        self.details = gr.HTML("", elem_id="morph-details")
        self.figure = gr.Image(
            show_label=False,
            interactive=False,
            visible=False,
            buttons=["download", "fullscreen"],
            elem_id="report",
        )
        self.command = gr.Textbox(
            label="The same morph as a command",
            interactive=False,
            lines=2,
            buttons=["copy"],
            visible=False,
            elem_id="morph-command",
        )

    @property
    def outputs(self) -> list[Any]:
        """All that showing a run changes."""
        return [
            *(self.seen, self.is_held, self.status, self.strip, self.left, self.video, self.loop),
            *(self.picture, self.slider, self.caption, self.details, self.figure, self.command),
        ]

    def clear(self, line: str, kind: str = "busy") -> Updates:
        """Nothing but a line."""
        return {
            self.seen: {},
            self.is_held: False,
            self.status: markup.progress(line, 1.0 if kind == "done" else None, kind),
            self.strip: "",
            self.left: gr.Column(visible=False),
            self.video: None,
            self.loop: None,
            self.picture: None,
            self.slider: gr.Slider(visible=False, value=0),
            self.caption: "",
            self.details: "",
            self.figure: gr.update(value=None, visible=False),
            self.command: gr.Textbox(visible=False),
        }

    def show_job(self, job: Job, before: int, seen: Seen, is_held: bool) -> Updates:
        """What is new since `seen` of a morph that is being made; `before`: that many are first."""
        line = f"{before} before it · {job.say()}" if before else job.say()
        updates: Updates = {self.status: markup.progress(line, job.share)}
        now = {"id": job.id, "traced": len(job.traced), "is_timed": job.timeline is not None}
        if now["traced"] != seen.get("traced", 0):
            traced = dict(job.traced)  # its thread goes on writing
            updates[self.strip] = markup.strip([traced[k] for k in sorted(traced)])
        if job.meter is not None and "id" not in seen:
            updates |= self._describe(job.spec, {"run": job.id, "takes": _cost(job)})
        if job.timeline is not None and not seen.get("is_timed"):
            updates[self.slider] = _slider(job.timeline)
        if not is_held and (preview := job.look()) is not None and job.newest is None:
            updates[self.picture] = preview
        return {**updates, self.seen: now if job.meter is not None else {}}

    def show_newest(self, job: Job, stored: StoredRun) -> Updates:
        """The frame that came last, where none was chosen."""
        if job.newest is None:
            return {}
        shown = self.show_frame(stored, job.newest)
        return {**shown, self.slider: gr.Slider(value=job.newest)}

    def show_frame(self, stored: StoredRun, index: int) -> Updates:
        """Frame `index` itself, not an encoding of it, or that it is not there yet."""
        file = stored.frame(index)
        if file is None or stored.timeline is None:
            return {self.caption: markup.line(f"frame {index} is not there yet")}
        place = stored.timeline.frames[index]
        made = "rendered"
        if not place.is_rendered:
            known = f", {place.measured_db:.1f} dB" if place.measured_db is not None else ""
            made = f"solved{known}"
        where = f"frame {index} · position {place.position:.4f}"
        return {self.picture: str(file), self.caption: markup.line(f"{where} · {made}")}

    def show_stored(self, stored: StoredRun, line: str | None, kind: str) -> Updates:
        """What lies on the disk of a run that nobody works on."""
        updates = self.clear(line or _say_stored(stored), kind)
        updates |= self._describe(stored.plan.spec, _facts(stored))
        if stored.timeline is not None and stored.timeline.frames:
            updates[self.slider] = _slider(stored.timeline)
            updates |= self.show_frame(stored, 0)
        if stored.report is not None:
            updates[self.figure] = gr.update(value=str(stored.report), visible=True)
        return updates | self._show_film(stored)

    def _show_film(self, stored: StoredRun) -> Updates:
        film, kind = stored.film, stored.plan.spec.video.kind
        if film is None or kind == "png":
            return {}
        shown, hidden = {"value": str(film), "visible": True}, {"value": None, "visible": False}
        return {
            self.left: gr.Column(visible=True),
            self.video: gr.update(**(shown if kind == "mp4" else hidden)),
            self.loop: gr.update(**(hidden if kind == "mp4" else shown)),
        }

    def _describe(self, spec: MorphSpec, more: dict[str, Any]) -> Updates:
        """What it is made of, and how it would be made again."""
        command = gr.Textbox(value=as_morph_command(spec), visible=True)
        return {self.details: markup.morph(spec, more), self.command: command}


def _slider(timeline: Timeline) -> gr.Slider:
    return gr.Slider(maximum=len(timeline.frames) - 1, value=0, visible=True)


def _cost(job: Job) -> str:
    assert job.meter is not None
    cost = job.meter.cost
    return say_cost(cost.num_frames, cost.least, cost.most, cost.unet_calls)


def _say_stored(stored: StoredRun) -> str:
    if stored.film is None:
        kept = f"{stored.count_frames()} of {stored.num_frames} frames"
        return f"not finished: {kept} and {stored.count_renders()} renders are there"
    return stored.verdict or "finished"


def _facts(stored: StoredRun) -> dict[str, Any]:
    """What can be told of a run in a few numbers."""
    facts: dict[str, Any] = {"run": stored.id, "renders kept": stored.count_renders()}
    if stored.timeline is not None and stored.timeline.frames:
        frames = stored.timeline.frames
        kinds = Counter(place.is_rendered for place in frames)
        facts["frames"] = f"{kinds[True]} rendered, {kinds[False]} solved"
        worst = [p.measured_db for p in frames if p.measured_db is not None]
        facts["worst solved"] = f"{min(worst):.1f} dB" if worst else None
        facts["jumps"] = len(stored.timeline.jumps) or None
    return {**facts, "measured": stored.verdict}
