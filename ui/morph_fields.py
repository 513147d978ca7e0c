"""The numbers of a morph, beside its keyframes: widgets -> MorphSpec, and back.

Knows widgets and specs; starts nothing. What is wrong with a value, the spec says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import gradio as gr

from pipeline.spec import BlendMode, ModelSpec, MorphSpec, Sampling, VideoKind, VideoSpec
from ui import sampling
from ui.command import leave_open
from ui.keyframes import EASINGS, Values, keyframe_of, read_easing, say_easing, values_of
from ui.sampling import SAMPLING, Updates, given

if TYPE_CHECKING:
    from pipeline.model import Model

MORPH = ("num_frames", "loop", "path", "blend", "easing", "even", "exact", "tolerance_db")
VIDEO = ("fps", "kind", "boomerang")
FIELDS = (*MORPH, *VIDEO, "plain", *SAMPLING)

_USUAL = {name: field.default for name, field in MorphSpec.model_fields.items()}
_USUAL_VIDEO = {name: field.default for name, field in VideoSpec.model_fields.items()}


def spec_of(rows: Sequence[Values], values: Mapping[str, Any], model: ModelSpec) -> MorphSpec:
    """The spec of the table's `rows` and the fields' `values`, by name. Raises SpecError."""
    found = given(values)
    morph = {name: found[name] for name in MORPH if name in found}
    morph["easing"] = read_easing(values["easing"])
    return MorphSpec(
        keyframes=tuple(keyframe_of(row, plain=bool(values["plain"])) for row in rows),
        video=VideoSpec(**{name: found[name] for name in VIDEO if name in found}),
        sampling=sampling_of(values),
        model=model,
        **morph,
    )


def sampling_of(values: Mapping[str, Any]) -> Sampling:
    """The sampling of the fields' `values`. Raises SpecError."""
    return Sampling(**given({name: values[name] for name in SAMPLING}))


class MorphFields:
    """Builds itself in the `Blocks` that is open."""

    def __init__(self) -> None:
        self.is_filled_in = gr.State(False)
        self._build_time()
        self._build_path()
        self._build_sampling()
        self.by_name = {name: getattr(self, name) for name in FIELDS}
        self._sampling = {name: getattr(self, name) for name in SAMPLING}

    def _build_time(self) -> None:
        with gr.Group():
            with gr.Row():
                self.num_frames = gr.Number(
                    _USUAL["num_frames"], label="Frames", min_width=80, elem_id="num-frames"
                )
                self.fps = gr.Number(_USUAL_VIDEO["fps"], label="Frames a second", min_width=80)
                kinds = list(get_args(VideoKind))
                self.kind = gr.Dropdown(kinds, value=kinds[0], label="Film as", min_width=80)
            with gr.Row(elem_classes=["gc-checks"]):
                self.loop = gr.Checkbox(label="loop, back to the first keyframe", min_width=120)
                self.boomerang = gr.Checkbox(label="boomerang, there and back", min_width=120)

    def _build_path(self) -> None:
        with gr.Group():
            with gr.Row(elem_classes=["gc-checks"]):
                self.even = gr.Checkbox(
                    _USUAL["even"], label="even speed of the picture", min_width=120
                )
                self.exact = gr.Checkbox(
                    _USUAL["exact"], label="exact: render every frame", min_width=120
                )
            with gr.Row():
                self.path = gr.Dropdown(
                    ["smooth", "straight"], value=_USUAL["path"], label="Path", min_width=80
                )
                modes = list(get_args(BlendMode))
                self.blend = gr.Dropdown(modes, value=modes[0], label="Blend", min_width=80)
            with gr.Row():
                self.easing = gr.Dropdown(
                    EASINGS[1:],
                    value=_USUAL["easing"],
                    label="Easing",
                    allow_custom_value=True,
                    min_width=80,
                )
                self.tolerance_db = gr.Number(
                    _USUAL["tolerance_db"], label="Tolerance, dB", min_width=80
                )

    def _build_sampling(self) -> None:
        with gr.Group():
            with gr.Row():
                self.num_inference_steps = sampling.open_number("Steps")
                self.guidance_scale = sampling.open_number("Guidance")
            with gr.Row():
                self.width = sampling.open_number("Width")
                self.height = sampling.open_number("Height")
            self.scheduler = sampling.open_scheduler()
            self.plain = gr.Checkbox(label="take brackets in prompts literally")

    @property
    def inputs(self) -> set[Any]:
        """The widgets that make a spec."""
        return {*self.by_name.values(), self.is_filled_in}

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

    def read(self, values: Updates) -> dict[str, Any]:
        """The values by name; what only the model knows is left to it until it is there."""
        found = {name: values[field] for name, field in self.by_name.items()}
        return found if values[self.is_filled_in] else {**found, **dict.fromkeys(SAMPLING)}

    def show(self, spec: MorphSpec) -> Updates:
        """What makes a resolved `spec`, as far as the page has fields for it."""
        found = {
            **{name: getattr(spec, name) for name in MORPH},
            **{name: getattr(spec.video, name) for name in VIDEO},
            **{name: getattr(spec.sampling, name) for name in SAMPLING},
            "easing": say_easing(spec.easing),
            "plain": spec.keyframes[0].plain,
        }
        return {self.by_name[name]: value for name, value in found.items()}


def rows_of(spec: MorphSpec) -> list[Values]:
    """The rows that make the keyframes of `spec`; what the morph says for all stays open."""
    return [values_of(leave_open(keyframe, spec)) for keyframe in spec.keyframes]
