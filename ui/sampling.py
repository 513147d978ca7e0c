"""The fields of how pictures are sampled, as every page has them: the model knows their defaults.

Knows widgets and a model's defaults; knows no page. The numbers open once the model is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipeline.spec import SCHEDULERS, Sampling

if TYPE_CHECKING:
    from pipeline.model import Model

Updates = dict[Any, Any]
"""New values by component."""

GPU: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}
"""One model, one run at a time: every event that renders waits in the same queue."""

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""What answers at once, also while others wait for the model."""

QUICK: dict[str, Any] = {
    "concurrency_limit": None,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""What answers soon and may refuse: of what is not queued the page shows no errors."""

SAMPLING = ("num_inference_steps", "guidance_scale", "scheduler", "width", "height")


def open_number(label: str) -> gr.Number:
    """A number the model has a default for; it opens once the model is there."""
    return gr.Number(label=label, value=None, placeholder="…", interactive=False, min_width=80)


def open_scheduler() -> gr.Dropdown:
    """The choice of a scheduler, which may be the model's own."""
    choices = [("default", ""), *((name, name) for name in SCHEDULERS)]
    return gr.Dropdown(choices, value="", label="Scheduler", min_width=80)


def empty(fields: Mapping[str, Any]) -> Updates:
    """The numbers without a value, which shows as a 0 unless it is said."""
    return {fields[name]: None for name in SAMPLING if name != "scheduler"}


def defaults(fields: Mapping[str, Any], model: Model) -> Updates:
    """The fields by name, filled in and opened."""
    sampling = model.complete(Sampling())
    numbers = {
        fields[name]: gr.Number(value=getattr(sampling, name), interactive=True)
        for name in SAMPLING
        if name != "scheduler"
    }
    choices = [(f"default: {sampling.scheduler}", ""), *((n, n) for n in SCHEDULERS)]
    return {**numbers, fields["scheduler"]: gr.Dropdown(choices, value="")}


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are not left empty."""
    return {name: whole(value) for name, value in values.items() if value not in (None, "")}


def whole(value: Any) -> Any:
    """A number field may write 7 as 7.0; what is not whole stays as it is, to be refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
