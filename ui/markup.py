"""The few pieces of HTML the pages show. Every word that comes from elsewhere is escaped here."""

from __future__ import annotations

from html import escape

from pipeline.sources import anonymous_source
from pipeline.spec import StillSpec

TITLE = "Greatcircle"
LINE = "pictures from latent space, as they form"


def header(status: str, state: str) -> str:
    """The name, one line, and what runs where; `state` is loading, ready or failed."""
    return (
        f'<div class="gc-header"><h1>{TITLE}</h1><span class="gc-line">{LINE}</span>'
        f'<span class="gc-model gc-{state}" role="status">{escape(status)}</span></div>'
    )


def progress(text: str, share: float | None = None, kind: str = "busy") -> str:
    """A line about the run over a bar that is `share` full; no share: no telling how far it is."""
    width = "" if share is None else f' style="width: {100 * share:.1f}%"'
    moving = " gc-waiting" if share is None and kind == "busy" else ""
    return (
        f'<div class="gc-status gc-{kind}" role="status" aria-live="polite">'
        f'<div class="gc-bar{moving}"><div{width}></div></div><span>{escape(text)}</span></div>'
    )


def settings(spec: StillSpec) -> str:
    """What a picture was made from, as a list of names and values."""
    sampling, model = spec.sampling, spec.model
    rows = {
        "prompt": spec.prompt,
        "negative prompt": spec.negative_prompt,
        "seed": spec.seed,
        "steps": sampling.num_inference_steps,
        "guidance": sampling.guidance_scale,
        "scheduler": sampling.scheduler,
        "size": f"{sampling.width} × {sampling.height}",
        "model": f"{anonymous_source(model.source)} on {model.device} in {model.dtype}",
    }
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in rows.items()
        if value is not None
    )
    return f'<dl class="gc-settings">{items}</dl>'
