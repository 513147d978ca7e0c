"""A spec as the command that makes the same picture. Knows the flags of `scripts.generate`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.sources import anonymous_source
from pipeline.spec import ModelSpec, Sampling, StillSpec
from pipeline.values import Spec

_FLAGS = ("num_inference_steps", "guidance_scale", "strength", "height", "width", "scheduler")
"""What of a sampling has a flag; the rest goes through --set."""


def as_command(spec: StillSpec) -> str:
    """A line for the shell that makes the pictures of `spec` again, the same as it was resolved.

    A start image goes by its name: where it lay before it came here is not known.
    """
    words = [] if spec.prompt.startswith("-") else [spec.prompt]
    if spec.negative_prompt is not None:
        words += _flag("negative_prompt", spec.negative_prompt)
    words += ["--plain"] if spec.plain else []
    words += _flag("seed", spec.seed)
    if spec.count != 1:
        words += _flag("count", spec.count)
    if spec.variation is not None:
        words += _flag("variation_seed", spec.variation.seed)
        words += _flag("variation_strength", spec.variation.strength)
    if spec.image is not None:
        words += _flag("image", anonymous_source(spec.image.source))
        words += ["--set", f"image.fit={spec.image.fit}"]
    words += _sampling(spec.sampling)
    words += _model(spec.model)
    if spec.prompt.startswith("-"):
        words += ["--", spec.prompt]
    return shlex.join(["python", "-m", "scripts.generate", *words])


def _sampling(sampling: Sampling) -> list[str]:
    words: list[str] = []
    for name in _FLAGS:
        if (value := getattr(sampling, name)) is not None:
            words += _flag(name, value)
    return words + _set("sampling", sampling, without=_FLAGS)


def _model(model: ModelSpec) -> list[str]:
    words = _flag("model", model.source)
    for name in ("vae", "device", "dtype"):
        if getattr(model, name) is not None:
            words += _flag(name, getattr(model, name))
    for lora in model.loras:
        words += _flag("lora", f"{lora.source}={lora.weight:g}")
    return words + _set("model", model, without=("source", "vae", "device", "dtype", "loras"))


def _set(table: str, spec: Spec, without: tuple[str, ...]) -> list[str]:
    """What differs from the usual and has no flag, key by key."""
    usual = type(spec)()
    words: list[str] = []
    for name, value in spec:
        if name not in without and value != getattr(usual, name):
            words += ["--set", f"{table}.{name}={_toml(value)}"]
    return words


def _toml(value: Any) -> str:
    if isinstance(value, Spec):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}={_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def _flag(name: str, value: object) -> list[str]:
    """A value that begins with a dash would be taken for a flag of its own."""
    flag, text = f"--{name.replace('_', '-')}", str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
