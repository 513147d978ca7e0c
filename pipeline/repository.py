"""What of a model's repository is needed, told from the names of its files.

Safetensors in one precision of each part, the configs, the words of the tokenizers; no pickle, no
ONNX, no flax. Knows no network, no disk and no class. Every refusal is a CheckpointError.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from pipeline.errors import CheckpointError

INDEX = "model_index.json"
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})

_DEFAULTS = "greatcircle.json"
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "safety_checker": "model",
}
"""What the weights of a part are called, without their suffix."""

_WORDS = (
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_PLAIN = {
    "scheduler": ("scheduler_config.json",),
    "tokenizer": _WORDS,
    "tokenizer_2": _WORDS,
    "feature_extractor": ("preprocessor_config.json",),
}
PARTS = (*_PLAIN, *STEMS)
"""The parts of a checkpoint that are ever asked for."""

SAFETY_PARTS = frozenset({"feature_extractor", "safety_checker"})
"""Those of them that only come when asked for."""

_ALWAYS = {"scheduler", "unet", "vae"}


def choose_files(
    names: Collection[str],
    *,
    prefer_half: bool = False,
    safety_checker: bool = False,
    parts: Collection[str] = (),
) -> list[str]:
    """Those of a repository's files that a model is loaded from, `model_index.json` the last.

    A checkpoint in diffusers' layout gives its parts, `parts` among them in any case; a repository
    of one component its config and weights; one of a single safetensors file that file. Of each
    part one precision is taken: the full one where there is one, or the half with `prefer_half`.
    The safety checker only comes where it is asked for.
    """
    if INDEX not in names:
        return _choose_component(names, prefer_half)
    wanted = _ALWAYS | set(parts) | {name.split("/")[0] for name in names if "/" in name}
    if safety_checker and "safety_checker" not in wanted:
        raise CheckpointError("has no safety_checker")
    wanted = wanted | SAFETY_PARTS if safety_checker else wanted - SAFETY_PARTS
    if not wanted & {"text_encoder", "text_encoder_2"}:
        raise CheckpointError("has no text_encoder")

    chosen = []
    for part in (part for part in PARTS if part in wanted):
        if part in _PLAIN:
            chosen += _choose_plain(names, part)
        else:
            chosen += _choose_weighted(names, part, prefer_half)
    return [*chosen, *({_DEFAULTS} & set(names)), INDEX]


def refuse_pickle(name: str) -> CheckpointError:
    """What to say of a pickle, and what to do instead."""
    return CheckpointError(
        f"{name}: is a pickle, which can run code and is never opened: convert it elsewhere to"
        " safetensors, with the hub's space safetensors/convert or in a machine you can throw away"
    )


def _choose_plain(names: Collection[str], part: str) -> list[str]:
    """The files of a part without weights."""
    files = [f"{part}/{name}" for name in _PLAIN[part] if f"{part}/{name}" in names]
    words = {f"{part}/merges.txt", f"{part}/vocab.json"}
    if part.startswith("tokenizer") and f"{part}/tokenizer.json" not in files:
        if not words <= set(files):
            raise CheckpointError(f"{part}: has no tokenizer.json, nor vocab.json and merges.txt")
    elif not files:
        raise CheckpointError(f"{part}: has no {_PLAIN[part][0]}")
    return files


def _choose_weighted(names: Collection[str], part: str, prefer_half: bool) -> list[str]:
    """The config and the weights of a part."""
    if not any(name.startswith(f"{part}/") for name in names):
        raise CheckpointError(f"has no {part}")
    if (config := f"{part}/config.json") not in names:
        raise CheckpointError(f"{part}: has no config.json")
    weights = _find_weights(names, f"{part}/{STEMS[part]}", prefer_half)
    if not weights:
        raise _say_no_weights(names, part)
    return [config, *weights]


def _choose_component(names: Collection[str], prefer_half: bool) -> list[str]:
    """One component that lies at the top (an autoencoder), or the one safetensors file there."""
    top = sorted(name for name in names if "/" not in name)
    if "config.json" in top:
        for stem in sorted(set(STEMS.values())):
            if weights := _find_weights(top, stem, prefer_half):
                return ["config.json", *weights]
    files = [name for name in top if name.endswith(".safetensors")]
    if len(files) > 1:
        raise CheckpointError(
            f"has no {INDEX} but {len(files)} safetensors files, {files[0]} the first: download"
            " the one you want and give its path"
        )
    if not files:
        raise _say_no_weights(top, "")
    return files


def _find_weights(names: Collection[str], stem: str, prefer_half: bool) -> list[str]:
    """The file of a part's weights, or its index and all shards; nothing where none is whole."""
    for dotted in (".fp16", "") if prefer_half else ("", ".fp16"):
        if (single := f"{stem}{dotted}.safetensors") in names:
            return [single]
        shape = re.compile(rf"{re.escape(stem + dotted)}-\d{{5}}-of-(\d{{5}})\.safetensors")
        shards = {name: int(found[1]) for name in names if (found := shape.fullmatch(name))}
        index = f"{stem}.safetensors.index{dotted}.json"
        if index in names and shards and set(shards.values()) == {len(shards)}:
            return [index, *sorted(shards)]
    return []


def _say_no_weights(names: Collection[str], part: str) -> CheckpointError:
    """That there are none, or only a pickle of them."""
    inside = sorted(name for name in names if not part or name.startswith(f"{part}/"))
    pickles = [name for name in inside if PurePosixPath(name).suffix.lower() in PICKLES]
    if pickles:
        return refuse_pickle(pickles[0])
    return CheckpointError(f"{part}: has no safetensors weights" if part else "holds no model")
