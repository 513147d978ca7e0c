"""The few pieces of HTML the pages show. Every word that comes from elsewhere is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.sources import anonymous_source
from pipeline.spec import MorphSpec, StillSpec
from pipeline.weighting import literal, parse_weights, show_weights
from ui.thumbs import Thumb

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


def line(text: str) -> str:
    """One line that says what is above it."""
    return f'<div class="gc-caption">{escape(text)}</div>'


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
    return facts(
        {
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
    )


def facts(rows: Mapping[str, object]) -> str:
    """Values under their names; None is left out."""
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in rows.items()
        if value is not None
    )
    return f'<dl class="gc-settings">{items}</dl>'


def morph(spec: MorphSpec, more: Mapping[str, object]) -> str:
    """What a morph is made of, and what `more` there is to say of it."""
    sampling, model = spec.sampling, spec.model
    seconds = spec.num_frames / spec.video.fps
    return facts(
        {
            "keyframes": _way([keyframe.prompt for keyframe in spec.keyframes], spec.loop),
            "film": f"{spec.num_frames} frames, {seconds:.1f} s at {spec.video.fps:g} a second",
            **more,
            "steps": sampling.num_inference_steps,
            "guidance": sampling.guidance_scale,
            "scheduler": sampling.scheduler,
            "size": f"{sampling.width} × {sampling.height}" if sampling.width else None,
            "model": f"{anonymous_source(model.source)} on {model.device} in {model.dtype}",
        }
    )


def _way(prompts: Sequence[str], loop: bool) -> str:
    """The way through all prompts, short."""
    short = [prompt if len(prompt) <= 60 else f"{prompt[:57]}…" for prompt in prompts]
    return " → ".join([*short, short[0]] if loop else short)


def _weights(spec: StillSpec) -> str | None:
    """How the prompt is read, where that is not simply as it stands."""
    spans = literal(spec.prompt) if spec.plain else parse_weights(spec.prompt)
    return None if spans == literal(spec.prompt) else show_weights(spans)


def _variation(spec: StillSpec) -> str | None:
    if spec.variation is None:
        return None
    return f"{spec.variation.strength:g} of the way to seed {spec.variation.seed}"


def thumb(picture: Thumb | None, of: str = "") -> str:
    """A small picture and what it was made `of`, or the place for one."""
    if picture is None:
        return '<div class="gc-thumb gc-empty"></div>'
    told = f'alt="{escape(picture.caption)}" data-of="{escape(of)}"'
    return f'<img class="gc-thumb" src="{escape(picture.uri)}" {told}>'


def strip(pictures: Sequence[Thumb]) -> str:
    """Small pictures side by side, with what they are below them."""
    items = "".join(
        f"<figure>{thumb(picture)}<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="gc-strip">{items}</div>'


def title(text: str) -> str:
    """What a part of a page is called."""
    return f'<h2 class="gc-title">{escape(text)}</h2>'


def more(summary: str, lines: Sequence[str]) -> str:
    """Lines that are only read when they are asked for; nothing where there are none."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in lines)
    return (
        f'<details class="gc-more"><summary>{escape(summary)}</summary><ul>{items}</ul></details>'
    )


def tiles(pictures: Sequence[Thumb], kind: str = "pictures") -> str:
    """Pictures large enough to compare, with words below; of the kind "cells" pixels stay sharp."""
    items = "".join(
        f'<figure><img src="{escape(picture.uri)}" alt="{escape(picture.caption)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="gc-tiles gc-{kind}">{items}</div>'
