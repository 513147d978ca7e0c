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

from pydantic import model_validator

from pipeline.errors import SpecError
from pipeline.sources import is_name
from pipeline.spec import Spec, StillSpec

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


class Record(Spec):
    """One picture: its spec, every default filled in, and what it was made with and on."""

    spec: StillSpec
    model_name: str
    model_hash: str
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
        for name in (self.model_name, self.spec.model.source):
            if not is_name(name):
                raise SpecError(f"model {name!r}: a record holds a name, never a path")
        if "greatcircle" not in self.versions:
            raise SpecError("versions: must hold the version of greatcircle")
        return self


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
