"""The allow-list: which pipelines a checkpoint may be of, and which classes its parts may have.

Knows names only, and imports none of what they name. Whatever is not here is refused, whichever
library would know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import CheckpointError
from pipeline.headers import shorten

Pair = tuple[str, str]
"""A library and a class in it."""

_SCHEDULERS = (
    "DDIM", "DDPM", "PNDM", "LCM", "TCD", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
    "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DEISMultistep", "UniPCMultistep",
    "DPMSolverMultistep", "DPMSolverSinglestep",
)  # fmt: skip

AUTOENCODERS = ("AsymmetricAutoencoderKL", "AutoencoderKL", "AutoencoderTiny", "VQModel")
"""What may be an autoencoder of its own; a checkpoint brings one of the first two or three."""

_TOKENIZERS = {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}

_PARTS: dict[str, set[Pair]] = {
    "vae": {("diffusers", name) for name in AUTOENCODERS if name != "VQModel"},
    "unet": {("diffusers", "UNet2DConditionModel")},
    "scheduler": {("diffusers", f"{name}Scheduler") for name in _SCHEDULERS},
    "text_encoder": {("transformers", "CLIPTextModel")},
    "tokenizer": _TOKENIZERS,
}
_PARTS_OF_XL = _PARTS | {
    "text_encoder_2": {("transformers", "CLIPTextModelWithProjection")},
    "tokenizer_2": _TOKENIZERS,
}

# Loaded when it is asked for: the checker, and what brings pictures to its size.
SAFETY: dict[str, set[Pair]] = {
    "safety_checker": {("stable_diffusion", "StableDiffusionSafetyChecker")},
    "feature_extractor": {
        ("transformers", "CLIPFeatureExtractor"),
        ("transformers", "CLIPImageProcessor"),
    },
}

# What a checkpoint may name besides, and this program never loads.
_IGNORED: dict[str, set[Pair]] = {
    "image_encoder": {("transformers", "CLIPVisionModelWithProjection")}
}

# Keys of a config that make the libraries import or fetch code: its own, a hub's kernels, other
# libraries that read weights in their own ways.
_CODE = {
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    "auto_map", "compression_config", "custom_pipelines", "kernel_config", "quantization_config",
}  # fmt: skip

# Pipelines that differ in what they do with the same parts are one to us.
PIPELINES: dict[str, dict[str, set[Pair]]] = {
    "StableDiffusionPipeline": _PARTS,
    "StableDiffusionImg2ImgPipeline": _PARTS,
    "LatentConsistencyModelPipeline": _PARTS,
    "StableDiffusionXLPipeline": _PARTS_OF_XL,
    "StableDiffusionXLImg2ImgPipeline": _PARTS_OF_XL,
}


@dataclass(frozen=True)
class Named:
    """What a model index names: the parts to load, and the parts to leave alone."""

    components: dict[str, Pair]
    ignored: tuple[str, ...]


def check_index(index: Mapping[str, object], *, safety_checker: bool = False) -> Named:
    """The parts that `index` names, each of a class it may have. Raises `CheckpointError`."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in PIPELINES:
        allowed = ", ".join(PIPELINES)
        raise CheckpointError(f"is of a {shorten(kind)}: must be of one of {allowed}")
    needed = PIPELINES[kind] | (SAFETY if safety_checker else {})
    spared = {**SAFETY, **_IGNORED}
    named = {
        part: value
        for part, value in index.items()
        if not part.startswith("_") and not isinstance(value, bool)
    }
    present = {
        part: value
        for part, value in named.items()
        if part not in spared or value not in (None, [None, None])
    }
    for part, value in present.items():
        _check_pair(kind, part, value, needed.get(part) or spared.get(part))
    if absent := [part for part in needed if part not in present]:
        raise CheckpointError(f"names no {absent[0]}{_hint(kind, absent[0])}")
    pairs = {part: _pair(present[part]) for part in needed}
    return Named(pairs, tuple(part for part in named if part not in needed))


def check_autoencoder(config: Mapping[str, object]) -> str:
    """The class of an autoencoder by its own config, if it is one that may be loaded."""
    kind = config.get("_class_name")
    if kind not in AUTOENCODERS:
        raise CheckpointError(f"is of a {shorten(kind)}: must be one of {', '.join(AUTOENCODERS)}")
    return str(kind)


def check_config(config: Mapping[str, object]) -> None:
    """Refuse the config of a part that asks for code, anywhere in it. Raises `CheckpointError`."""
    inside: list[object] = [config]
    while inside:
        value = inside.pop()
        if isinstance(value, Mapping):
            if asked := sorted(key for key in _CODE & value.keys() if value[key] is not None):
                raise CheckpointError(f"asks for code of its own ({asked[0]}), which is never run")
            inside += value.values()
        elif isinstance(value, list):
            inside += value


def _check_pair(kind: str, part: str, value: object, allowed: set[Pair] | None) -> None:
    """A part's library and class must be among those it may have."""
    if allowed is None:
        raise CheckpointError(f"{shorten(part)} is no part of a {kind}")
    if value not in [list(pair) for pair in allowed]:
        library = min(library for library, _ in allowed)
        names = ", ".join(sorted(name for _, name in allowed))
        raise CheckpointError(
            f"{part} is {shorten(value)}: must be of {library}, one of {names}{_hint(kind, part)}"
        )


def _hint(kind: str, part: str) -> str:
    if "XL" in kind and part in ("text_encoder", "tokenizer"):
        return "; a refiner, which has none, does not make pictures of its own"
    return ""


def _pair(value: object) -> Pair:
    library, name = value if isinstance(value, list) else ("", "")
    return str(library), str(name)
