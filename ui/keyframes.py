"""The table of keyframes: one row each, which can be added, taken away, and moved.

Knows the widgets of keyframes and nothing of morphs; what is wrong with a value, the spec says. All
rows there may be are built at once, and those that are not needed stay hidden: moving a keyframe
moves its values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from pipeline.spec import Keyframe
from ui import markup
from ui.sampling import QUIET, Updates, given, whole
from ui.thumbs import Thumb

MOST, FEWEST = 12, 2
FIELDS = (
    "prompt",
    "negative_prompt",
    "seed",
    "guidance_scale",
    "hold",
    "duration",
    "easing",
)
SEEN = ("prompt", "negative_prompt", "seed", "guidance_scale")
"""What a keyframe's picture shows."""

FORGET = """(...row) => {
  const thumb = row.pop();
  const picture = new DOMParser().parseFromString(thumb, "text/html").querySelector("img");
  return !picture || picture.dataset.of === JSON.stringify(row) ? thumb : EMPTY;
}""".replace("EMPTY", repr(markup.thumb(None)))
"""A picture of other values goes; the page itself sees to it, whoever changed them."""

EASINGS = [
    ("as below", ""),
    ("linear", "linear"),
    ("smoothstep", "smoothstep"),
    ("ease in", "0.42, 0, 1, 1"),
    ("ease out", "0, 0, 0.58, 1"),
    ("ease in and out", "0.42, 0, 0.58, 1"),
]
"""Labels and values; any four numbers of a CSS cubic-bezier can be typed."""

Values = dict[str, Any]
"""A row's values by field, and its `thumb`."""

BLANK: Values = {
    "prompt": "",
    "negative_prompt": "",
    "seed": 0,
    "guidance_scale": "",
    "hold": 0,
    "duration": 1,
    "easing": "",
    "thumb": markup.thumb(None),
}


def keyframe_of(values: Values, *, plain: bool) -> Keyframe:
    """The keyframe of a row's values. Raises SpecError."""
    found = given({name: values[name] for name in FIELDS})
    easing = read_easing(found.pop("easing", None))
    return Keyframe(
        **{**found, "prompt": values["prompt"], "seed": whole(values["seed"])},
        plain=plain,
        easing=easing,
    )


def values_of(keyframe: Keyframe) -> Values:
    """A row's values, of which `keyframe_of` makes the keyframe again."""
    scale = keyframe.guidance_scale
    return {
        **BLANK,
        "prompt": keyframe.prompt,
        "negative_prompt": keyframe.negative_prompt or "",
        "seed": keyframe.seed,
        "guidance_scale": "" if scale is None else f"{scale:.12g}",
        "hold": keyframe.hold,
        "duration": keyframe.duration,
        "easing": say_easing(keyframe.easing),
    }


def read_easing(text: Any) -> Any:
    """Four numbers where there are some, else the text, which the spec knows or refuses."""
    try:
        return tuple(float(part) for part in text.split(",")) if "," in text else text
    except (AttributeError, TypeError, ValueError):
        return text


def say_easing(easing: Any) -> str:
    """An easing as it is typed; nothing where there is none."""
    return ", ".join(f"{x:.12g}" for x in easing) if isinstance(easing, tuple) else easing or ""


class Row:
    """The widgets of one keyframe."""

    def __init__(self, index: int, values: Values, *, visible: bool) -> None:
        self.index = index
        with gr.Row(
            visible=visible, elem_classes=["gc-keyframe"], elem_id=f"keyframe-{index + 1}"
        ) as self.box:
            self.thumb = gr.HTML(values["thumb"], elem_classes=["gc-thumb-box"])
            self._build_fields(values)
            with gr.Row(elem_classes=["gc-tools"]):
                self.draw = self._tool("Draw", "gc-draw")
                self.up = self._tool("↑", "gc-up")
                self.down = self._tool("↓", "gc-down")
                self.remove = self._tool("✕", "gc-remove")

    def _build_fields(self, values: Values) -> None:
        self.prompt = gr.Textbox(
            values["prompt"], label="Prompt", max_lines=4, elem_classes=["gc-prompt"]
        )
        self.negative_prompt = gr.Textbox(
            values["negative_prompt"],
            label="Negative prompt",
            max_lines=4,
            elem_classes=["gc-negative"],
        )
        self.seed = gr.Number(values["seed"], label="Seed", min_width=60)
        self.guidance_scale = gr.Textbox(
            values["guidance_scale"], label="Guidance", placeholder="as below", min_width=60
        )
        self.hold = gr.Number(values["hold"], label="Hold, s", step=0.25, min_width=60)
        self.duration = gr.Number(values["duration"], label="Duration", step=0.25, min_width=60)
        self.easing = gr.Dropdown(
            EASINGS,
            value=values["easing"],
            label="Easing",
            allow_custom_value=True,
            min_width=80,
            elem_classes=["gc-easing"],
        )

    def _tool(self, text: str, kind: str) -> gr.Button:
        return gr.Button(text, size="sm", min_width=30, elem_classes=["gc-tool", kind])

    @property
    def fields(self) -> dict[str, Any]:
        """The widgets whose values make the keyframe, and its picture."""
        return {**{name: getattr(self, name) for name in FIELDS}, "thumb": self.thumb}


class KeyframeTable:
    """Builds itself in the `Blocks` that is open, filled in with `example`."""

    def __init__(self, example: Sequence[Keyframe]) -> None:
        shown = [values_of(keyframe) for keyframe in example]
        rows = [*shown, *[BLANK] * (MOST - len(shown))]
        self.count = gr.State(len(shown))
        with gr.Column(elem_id="keyframes"):
            self.rows = [Row(k, values, visible=k < len(shown)) for k, values in enumerate(rows)]
        self._wire()

    def _wire(self) -> None:
        for row in self.rows:
            index = row.index
            self._on(row.up, lambda rows, k=index: _moved(rows, k, k - 1))
            self._on(row.down, lambda rows, k=index: _moved(rows, k, k + 1))
            self._on(row.remove, lambda rows, k=index: _without(rows, k))
            seen = [*(row.fields[name] for name in SEEN), row.thumb]
            gr.on([part.change for part in seen], None, seen, row.thumb, js=FORGET, **QUIET)

    def _on(self, button: gr.Button, change: Callable[[list[Values]], list[Values]]) -> None:
        def answer(values: Updates) -> Updates:
            return self.show(change(self.read(values)))

        button.click(answer, inputs=self.inputs, outputs=self.outputs, **QUIET)

    def on_add(self, values: Updates) -> Updates:
        """One more row: the last one again, to be changed."""
        rows = self.read(values)
        if len(rows) == MOST:
            raise gr.Error(f"{MOST} keyframes: a longer morph is made from a file, by the command")
        return self.show([*rows, {**rows[-1], "thumb": BLANK["thumb"]}])

    @property
    def inputs(self) -> set[Any]:
        """The widgets that make keyframes."""
        return {self.count, *(field for row in self.rows for field in row.fields.values())}

    @property
    def outputs(self) -> list[Any]:
        """All that a change of rows changes."""
        fields = [field for row in self.rows for field in row.fields.values()]
        return [self.count, *(row.box for row in self.rows), *fields]

    @property
    def thumbs(self) -> list[Any]:
        """The places of the pictures."""
        return [row.thumb for row in self.rows]

    def read(self, values: Updates) -> list[Values]:
        """The values of the rows that are shown."""
        shown = self.rows[: values[self.count]]
        return [{name: values[field] for name, field in row.fields.items()} for row in shown]

    def show(self, rows: Sequence[Values]) -> Updates:
        """These rows and no others."""
        updates: Updates = {self.count: len(rows)}
        for row in self.rows:
            updates[row.box] = gr.Row(visible=row.index < len(rows))
            if row.index < len(rows):
                new = rows[row.index]
                updates |= {field: new[name] for name, field in row.fields.items()}
        return updates

    def without_pictures(self) -> Updates:
        """No pictures: they were another model's."""
        return dict.fromkeys(self.thumbs, BLANK["thumb"])

    def with_picture(self, index: int, values: Values, thumb: Thumb) -> Updates:
        """The picture of row `index`, which was drawn from `values`."""
        shown = json.dumps(
            [whole(values[name]) for name in SEEN], ensure_ascii=False, separators=(",", ":")
        )
        return {self.rows[index].thumb: markup.thumb(thumb, of=shown)}


def _moved(rows: list[Values], index: int, target: int) -> list[Values]:
    """Rows `index` and `target` in each other's place, if both are there."""
    if 0 <= target < len(rows):
        rows[index], rows[target] = rows[target], rows[index]
    return rows


def _without(rows: list[Values], index: int) -> list[Values]:
    """The rows but `index`; two stay, because a morph has at least as many."""
    return rows if len(rows) <= FEWEST else rows[:index] + rows[index + 1 :]
