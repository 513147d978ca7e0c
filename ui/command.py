"""A spec as the command that makes the same picture. Knows the flags of `scripts.generate`."""

from __future__ import annotations

import shlex

from pipeline.spec import ModelSpec, Sampling, StillSpec

_FLAGS = ("num_inference_steps", "guidance_scale", "scheduler", "width", "height")
"""What of a sampling has a flag; the rest goes through --set."""


def as_command(spec: StillSpec) -> str:
    """A line for the shell that makes the pictures of `spec` again, the same as it was resolved."""
    words = [] if spec.prompt.startswith("-") else [spec.prompt]
    if spec.negative_prompt is not None:
        words += _flag("negative_prompt", spec.negative_prompt)
    words += _flag("seed", spec.seed)
    if spec.count != 1:
        words += _flag("count", spec.count)
    words += _sampling(spec.sampling)
    words += _model(spec.model)
    if spec.prompt.startswith("-"):
        words += ["--", spec.prompt]
    return shlex.join(["python", "-m", "scripts.generate", *words])


def _sampling(sampling: Sampling) -> list[str]:
    words: list[str] = []
    usual = Sampling()
    for name, value in sampling:
        if value is None:
            continue
        if name in _FLAGS:
            words += _flag(name, value)
        elif value != getattr(usual, name):
            text = list(value) if isinstance(value, tuple) else value
            words += ["--set", f"sampling.{name}={text}"]
    return words


def _model(model: ModelSpec) -> list[str]:
    words = _flag("model", model.source)
    if model.revision is not None:
        words += ["--set", f"model.revision={model.revision}"]
    for name in ("device", "dtype"):
        if getattr(model, name) is not None:
            words += _flag(name, getattr(model, name))
    return words


def _flag(name: str, value: object) -> list[str]:
    """A value that begins with a dash would be taken for a flag of its own."""
    flag, text = f"--{name.replace('_', '-')}", str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
