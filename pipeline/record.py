"""What was rendered, as a frozen value, and as the line of text that other programs read.

Knows no file and no picture: `pictures` puts a record into a PNG and takes it out again. A record
holds the names of things and their hashes, never a path.
"""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import version
from typing import Self

from pydantic import Field, model_validator

from pipeline.errors import SpecError
from pipeline.sources import anonymous_source, is_name
from pipeline.spec import ModelSpec, MorphSpec, StillSpec
from pipeline.values import Spec

VERSION = "0.1.0"

SAMPLERS: dict[str, tuple[str, str | None]] = {
    "ddim": ("DDIM", None),
    "pndm": ("PLMS", None),
    "euler": ("Euler", None),
    "euler-ancestral": ("Euler a", None),
    "heun": ("Heun", None),
    "dpm++2m": ("DPM++ 2M", None),
    "dpm++2m-karras": ("DPM++ 2M", "Karras"),
    "dpm++2m-sde": ("DPM++ 2M SDE", None),
    "unipc": ("UniPC", None),
    "lcm": ("LCM", None),
    "tcd": ("TCD", None),
}
"""Our schedulers by the names of AUTOMATIC1111's web UI: sampler, and schedule type."""

_FIELD_NAME = re.compile(r"\b(negative prompt|steps):", re.IGNORECASE)


class ImageRecord(Spec):
    """The picture that was started from, and where it lies in the result or what of it is used.

    `box` is (left, top, right, bottom) in pixels: of the picture under "crop", of the result under
    "pad".
    """

    name: str
    hash: str
    width: int
    height: int
    box: tuple[float, float, float, float]


class Record(Spec):
    """One picture: its spec, every default filled in, and what it was made with and on.

    `hashes` are the contents of what was added to the checkpoint, by name.
    """

    spec: StillSpec
    model_name: str
    model_hash: str
    hashes: dict[str, str] = Field(default_factory=dict)
    image: ImageRecord | None = None
    device: str
    dtype: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.spec.count != 1:
            raise SpecError(f"spec.count = {self.spec.count}: a record is of 1 picture")
        for key in ("num_inference_steps", "guidance_scale", "height", "width", "scheduler"):
            if getattr(self.spec.sampling, key) is None:
                raise SpecError(f"spec.sampling.{key}: must be filled in before it is recorded")
        image = self.spec.image
        _check_names(self.model_name, self.spec.model, *([image.source] if image else []))
        if "greatcircle" not in self.versions:
            raise SpecError("versions: must hold the version of greatcircle")
        return self


class Plan(Spec):
    """A morph: its spec, every default filled in, and what it is made with and on."""

    spec: MorphSpec
    model_name: str
    model_hash: str
    hashes: dict[str, str] = Field(default_factory=dict)
    device: str
    dtype: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names(self.model_name, self.spec.model)
        return self


def anonymise(spec: StillSpec) -> StillSpec:
    """`spec` with the names of models and pictures in place of where they lie."""
    image = spec.image
    if image is not None:
        image = image.replace(source=anonymous_source(image.source))
    return spec.replace(model=anonymise_model(spec.model), image=image)


def anonymise_model(model: ModelSpec) -> ModelSpec:
    """`model` with the names of files and folders in place of where they lie."""
    return model.replace(
        source=anonymous_source(model.source),
        config=None if model.config is None else anonymous_source(model.config),
        vae=None if model.vae is None else anonymous_source(model.vae),
        loras=tuple(a.replace(source=anonymous_source(a.source)) for a in model.loras),
        embeddings=tuple(e.replace(source=anonymous_source(e.source)) for e in model.embeddings),
    )


def _check_names(model_name: str, model: ModelSpec, *more: str) -> None:
    """Raise unless all that is named is a name."""
    added = [a.source for a in model.loras] + [e.source for e in model.embeddings]
    single = [place for place in (model.config, model.vae) if place is not None]
    for name in (model_name, model.source, *added, *single, *more):
        if not is_name(name):
            raise SpecError(f"model {name!r}: a record holds a name, never a path")


def current_versions() -> dict[str, str]:
    """The versions of this program and of what decides a picture, without importing any of it."""
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"greatcircle": VERSION, "python": platform.python_version(), **packages}


def parameters_text(record: Record) -> str:
    """The record as the web UI's `parameters`: prompt, negative prompt, then one line of fields.

    The format cannot quote a prompt. So prompts are brought to one line, and a field's name in them
    loses its meaning by a space before the colon; CLIP reads the same tokens either way.
    """
    spec, sampling = record.spec, record.spec.sampling
    assert sampling.scheduler is not None  # a record's sampling is filled in
    sampler, schedule = SAMPLERS[sampling.scheduler]
    fields = {
        "Steps": sampling.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{sampling.guidance_scale!r}".removesuffix(".0"),
        "Seed": spec.seed,
        "Size": f"{sampling.width}x{sampling.height}",
        "Model hash": record.model_hash[:10],
        "Model": record.model_name,
        "Version": f"greatcircle {record.versions['greatcircle']}",
    }

    lines = [_on_one_line(spec.prompt)]
    if spec.negative_prompt:
        lines.append(f"Negative prompt: {_on_one_line(spec.negative_prompt)}")
    lines.append(", ".join(f"{k}: {_quote(str(v))}" for k, v in fields.items() if v is not None))
    return "\n".join(lines).strip()


def _on_one_line(prompt: str) -> str:
    line = " ".join(prompt.splitlines()).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return _FIELD_NAME.sub(r"\1 :", line).strip()


def _quote(value: str) -> str:
    """A field's value, as JSON where its characters would end the field."""
    line = " ".join(value.splitlines())
    return json.dumps(line, ensure_ascii=False) if re.search('[,:"]', line) else line
