"""The few pieces of HTML the pages show. Every word that comes from elsewhere is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.sources import anonymous_source
from pipeline.spec import StillSpec
from pipeline.weighting import literal, parse_weights, show_weights

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


def question(plans: Sequence[str]) -> str:
    """What downloads would bring, to say yes or no to."""
    items = "<br>".join(map(escape, plans))
    return (
        f'<p class="gc-question">Download?<br>{items}<br>'
        "The licence stands on the model's page on the hub.</p>"
    )


def settings(spec: StillSpec) -> str:
    """What a picture was made from, as a list of names and values."""
    sampling, model = spec.sampling, spec.model
    rows = {
        "prompt": spec.prompt,
        "read as": _weights(spec),
        "negative prompt": spec.negative_prompt,
        "seed": spec.seed,
        "variation": _variation(spec),
        "start image": None if spec.image is None else anonymous_source(spec.image.source),
        "strength": sampling.strength,
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


def _weights(spec: StillSpec) -> str | None:
    """How the prompt is read, where that is not simply as it stands."""
    spans = literal(spec.prompt) if spec.plain else parse_weights(spec.prompt)
    return None if spans == literal(spec.prompt) else show_weights(spans)


def _variation(spec: StillSpec) -> str | None:
    if spec.variation is None:
        return None
    return f"{spec.variation.strength:g} of the way to seed {spec.variation.seed}"
