"""The model field: which model the app draws with, and a yes before anything is downloaded.

Thin: sources, sizes and refusals are the library's words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from pipeline.catalogue import WELL_KNOWN, list_models
from pipeline.download import say_bytes
from pipeline.errors import GreatcircleError, SpecError
from pipeline.sources import EMBEDDED, is_hub_id
from pipeline.spec import LoraSpec, ModelSpec
from ui import markup
from ui.loading import Loading

Updates = dict[Any, Any]
"""New values by component."""


def list_choices(folder: Path) -> list[tuple[str, str]]:
    """Labels and sources: the shipped model, those in `folder`, and some that are well known."""
    here = [(f"{m.name} · {say_bytes(m.bytes)}", str(m.path)) for m in list_models(folder)]
    hub = [
        (f"{m.source} · about {say_bytes(m.half_bytes or m.full_bytes)} · {m.licence}", m.source)
        for m in WELL_KNOWN
    ]
    return [("embedded · ships with the program", EMBEDDED), *here, *hub]


def check_places(spec: ModelSpec, folder: Path) -> None:
    """Refuse what lies outside of `folder`, where others than its owner use the app."""
    added = [a.source for a in spec.loras] + [e.source for e in spec.embeddings]
    places = [spec.source, *added, *filter(None, (spec.vae, spec.config))]
    for place in places:
        inside = Path(place).resolve().is_relative_to(folder.resolve())
        if place != EMBEDDED and not is_hub_id(place) and not inside:
            raise SpecError(f"model {place!r}: only models in the models folder can be loaded here")


class ModelField:
    """Builds itself in the `Blocks` that is open.

    `folder` is the models folder; `is_shared`: whether others than the machine's owner use the app.
    """

    def __init__(self, loading: Loading, folder: Path, *, is_shared: bool) -> None:
        self.loading, self.folder, self.is_shared = loading, folder, is_shared
        self.plans = gr.State([])
        with gr.Accordion("Model", open=False, elem_id="model-field"):
            self._build_choice()
            self._build_additions()
            with gr.Row(visible=False, elem_id="download") as self.question:
                self.asked = gr.HTML()
                self.yes = gr.Button("Download and load", variant="primary", min_width=160)
                self.no = gr.Button("No", min_width=80)

    def _build_choice(self) -> None:
        with gr.Row():
            self.source = gr.Dropdown(
                list_choices(self.folder),
                value=self.loading.spec.source,
                allow_custom_value=True,
                label="Model: choose one, or type a folder, a .safetensors file or a hub id",
                scale=5,
                elem_id="model",
            )
            self.revision = gr.Textbox(label="Revision", placeholder="of a hub id", min_width=100)
            self.load = gr.Button("Load", min_width=80, elem_id="load")

    def _build_additions(self) -> None:
        with gr.Row():
            self.vae = gr.Textbox(label="Autoencoder", placeholder="the model's own")
            self.loras = gr.Textbox(
                label="LoRAs, one a line", placeholder="file.safetensors=0.8", lines=1, max_lines=6
            )
            self.clip_skip = gr.Number(label="Clip skip", value=0, precision=0, min_width=80)

    @property
    def inputs(self) -> set[Any]:
        """The widgets that make a spec."""
        return {self.source, self.revision, self.vae, self.loras, self.clip_skip}

    @property
    def outputs(self) -> list[Any]:
        """What a choice changes in the field itself."""
        return [self.plans, self.question, self.asked]

    def spec_of(self, values: Updates) -> ModelSpec:
        """The spec of the widgets, on the device of the model before. Raises SpecError."""
        lines = (values[self.loras] or "").splitlines()
        spec = ModelSpec(
            source=(values[self.source] or EMBEDDED).strip(),
            revision=(values[self.revision] or "").strip() or None,
            vae=(values[self.vae] or "").strip() or None,
            loras=tuple(LoraSpec.parse(line.strip()) for line in lines if line.strip()),
            clip_skip=None if values[self.clip_skip] == 0 else values[self.clip_skip],
            device=self.loading.spec.device,
            dtype=self.loading.spec.dtype,
        )
        if self.is_shared:
            check_places(spec, self.folder)
        return spec

    def on_load(self, values: Updates) -> Updates:
        """Load what was chosen, or ask first where that means a download."""
        from pipeline.model import plan_missing  # torch: seconds, spent behind an open page

        try:
            spec = self.spec_of(values)
            plans = plan_missing(spec)
            if not plans:
                self.loading.change(spec)
        except GreatcircleError as error:
            raise gr.Error(str(error), print_exception=False) from None
        asked = markup.question([plan.summary for plan in plans])
        return {self.plans: plans, self.asked: asked, self.question: gr.Row(visible=bool(plans))}

    def on_yes(self, values: Updates) -> Updates:
        """Download and load what was asked about."""
        try:
            self.loading.change(self.spec_of(values), values[self.plans])
        except GreatcircleError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return self.close()

    def close(self) -> Updates:
        """Take the question away."""
        return {self.plans: [], self.question: gr.Row(visible=False)}
