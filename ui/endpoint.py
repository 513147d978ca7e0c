"""The HTTP endpoint /generate: typed values -> StillSpec -> finished PNGs. Knows no page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from pipeline.errors import GreatcircleError
from pipeline.spec import Sampling, StillSpec, Variation
from ui.draw import Picture, draw
from ui.loading import Attempt, Loading

Files = list[dict[str, Any]]


def make_endpoint(loading: Loading, folder: Path) -> Callable[..., Iterator[Files]]:
    """The function that `/generate` runs; `folder` is where its pictures are kept."""

    def generate(
        prompt: str,
        negative_prompt: str | None = None,
        seed: int = 0,
        count: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        width: int | None = None,
        height: int | None = None,
        plain: bool = False,
        variation_seed: int | None = None,
        variation_strength: float = 0.2,
    ) -> Iterator[Files]:
        """Pictures of a prompt, as PNG files. What is None is left to the model's own default."""
        attempt = loading.latest
        try:
            sampling = Sampling(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                scheduler=scheduler,
                width=width,
                height=height,
            )
            spec = StillSpec(
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                count=count,
                plain=plain,
                variation=None
                if variation_seed is None
                else Variation(seed=variation_seed, strength=variation_strength),
                sampling=sampling,
                model=attempt.spec,
            )
            yield from _generate(attempt, spec, folder)
        except GreatcircleError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return generate


def _generate(attempt: Attempt, spec: StillSpec, folder: Path) -> Iterator[Files]:
    """The files so far, after every step, so that who cancels is heard within one."""
    while not attempt.wait(0.5):
        yield []
    model = attempt.model()
    files: Files = []
    for event in draw(model, model.resolve(spec), folder):
        if isinstance(event, Picture):
            files = [*files, _publish(event.file)]
        yield files


def _publish(file: Path) -> dict[str, Any]:
    """A copy in the app's cache, the only folder that is served: byte for byte."""
    copy = save_file_to_cache(file, get_upload_folder())
    return gr.FileData(path=copy, orig_name=file.name, mime_type="image/png").model_dump()
