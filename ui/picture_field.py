"""A picture, uploaded or picked from samples: the last choice counts.

Knows widgets and samples. An upload is decoded by the library's own guard and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ui.samples import SAMPLES, draw_sample
from ui.sampling import QUIET, Updates

if TYPE_CHECKING:
    from gradio.data_classes import ImageData
    from PIL.Image import Image

    from pipeline.model import Model
    from pipeline.render import Progress


def open_upload(label: str, id: str) -> gr.Image:
    """A place for a picture, which comes as the path of a file that nobody has opened yet.

    The framework's own way would try every decoder there is on it, and say nothing where none fits.
    """
    image = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload"],
        height=170,
        buttons=[],
        elem_id=id,
    )
    image.preprocess = _find_path  # type: ignore[method-assign]
    return image


def _find_path(payload: ImageData | None) -> str | None:
    """Where an upload lies; the framework has seen to it that it lies in the cache."""
    return None if payload is None else payload.path


class PictureField:
    """Builds itself in the `Blocks` that is open; `id` begins the ids of its elements."""

    def __init__(self, id: str, sample: str, label: str = "Picture") -> None:
        self.image = open_upload(label, id=f"{id}-image")
        self.sample = gr.Radio(
            list(SAMPLES), value=sample, label="or a sample", elem_id=f"{id}-sample"
        )
        upload = self.image.upload(lambda: None, outputs=self.sample, **QUIET)
        self.image.clear(lambda: sample, outputs=self.sample, **QUIET)
        pick = self.sample.input(lambda: None, outputs=self.image, **QUIET)
        self.chosen = (upload.then, pick.then)
        """What happens once a picture is chosen."""

    @property
    def inputs(self) -> set[Any]:
        """The widgets that say which picture it is."""
        return {self.image, self.sample}

    def name(self, values: Updates) -> str:
        """The file that was uploaded, or the sample's name; nothing where there is neither."""
        return values[self.image] or values[self.sample] or ""

    def look(self, values: Updates, model: Model) -> Iterator[Progress | Image]:
        """The picture, after the steps that it takes where the model draws it.

        Raises PictureError for a file that is no picture.
        """
        if values[self.image] is None:
            yield from draw_sample(values[self.sample], model)
        else:
            from pipeline.pictures import open_image

            yield open_image(Path(values[self.image]))
