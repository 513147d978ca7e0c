"""A spec as the command that makes the same. Knows the flags of `scripts.generate` and `.morph`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.sources import anonymous_source
from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling, StillSpec
from pipeline.values import Spec

_FLAGS = ("num_inference_steps", "guidance_scale", "strength", "height", "width", "scheduler")
"""What of a sampling has a flag; the rest goes through --set."""

_SAID_OF_A_MORPH = (
    "keyframes",
    "num_frames",
    "loop",
    "even",
    "exact",
    "video",
    "sampling",
    "model",
)
"""What of a morph is said by flags of its own."""


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
    words += _sampling(spec.sampling, _FLAGS)
    words += _model(spec.model)
    if spec.prompt.startswith("-"):
        words += ["--", spec.prompt]
    return shlex.join(["python", "-m", "scripts.generate", *words])


def as_morph_command(spec: MorphSpec) -> str:
    """A line for the shell that makes the morph of `spec` again, the same as it was resolved."""
    words = _keyframes([_said(leave_open(keyframe, spec)) for keyframe in spec.keyframes])
    words += [*_flag("frames", spec.num_frames), *_flag("fps", f"{spec.video.fps:.12g}")]
    if spec.video.kind != "mp4":
        words += _flag("kind", spec.video.kind)
    for name in ("loop", "even", "exact"):
        words += _switch(name, getattr(spec, name), usual=_usual(MorphSpec)[name])
    words += _switch("boomerang", spec.video.boomerang, usual=False)
    words += _set("", spec, without=_SAID_OF_A_MORPH)
    words += _sampling(spec.sampling, (*_FLAGS, "batch_size"))
    words += _model(spec.model)
    return shlex.join(["python", "-m", "scripts.morph", *words])


def leave_open(keyframe: Keyframe, spec: MorphSpec) -> Keyframe:
    """`keyframe` without what `spec` says for all keyframes, as before it was resolved."""
    same = {"guidance_scale": spec.sampling.guidance_scale, "easing": spec.easing}
    return keyframe.replace(
        **{name: None for name, value in same.items() if getattr(keyframe, name) == value}
    )


def _said(keyframe: Keyframe) -> dict[str, Any]:
    """What a keyframe says beyond the usual."""
    usual = {**_usual(Keyframe), "prompt": None}
    return {name: value for name, value in keyframe if value != usual[name]}


def _usual(kind: type[Spec]) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items()}


def _keyframes(keyframes: list[dict[str, Any]]) -> list[str]:
    """From prompt to prompt, each with its seed; whole, where keyframes have more than that."""
    first, *others = keyframes
    words = _flag("from", first["prompt"])
    for other in others:
        words += _flag("to", other["prompt"])
    if any(keyframe.keys() - {"prompt", "seed"} for keyframe in keyframes):
        return [*words, "--set", f"keyframes={_toml(tuple(keyframes))}"]
    seeds = [keyframe.get("seed", 0) for keyframe in keyframes]
    words += _flag("seed", seeds[0])
    for seed in seeds[1:] if len(set(seeds)) > 1 else []:
        words += _flag("to_seed", seed)
    return words


def _switch(name: str, value: bool, *, usual: bool) -> list[str]:
    return [] if value == usual else [f"--{name}" if value else f"--no-{name}"]


def _sampling(sampling: Sampling, flags: tuple[str, ...]) -> list[str]:
    words: list[str] = []
    for name in flags:
        if (value := getattr(sampling, name)) is not None:
            words += _flag(name, value)
    return words + _set("sampling.", sampling, without=flags)


def _model(model: ModelSpec) -> list[str]:
    words = _flag("model", model.source)
    for name in ("vae", "device", "dtype"):
        if getattr(model, name) is not None:
            words += _flag(name, getattr(model, name))
    for lora in model.loras:
        words += _flag("lora", f"{lora.source}={lora.weight:g}")
    return words + _set("model.", model, without=("source", "vae", "device", "dtype", "loras"))


def _set(prefix: str, spec: Spec, without: tuple[str, ...]) -> list[str]:
    """What differs from the usual and has no flag, key by key."""
    usual = _usual(type(spec))
    words: list[str] = []
    for name, value in spec:
        if name not in without and value != usual[name]:
            words += ["--set", f"{prefix}{name}={_toml(value)}"]
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
