"""What a LoRA's file holds: which matrices, for which layers, scaled by what.

Knows names, shapes and metadata, and reads no tensor; knows no model, so no layer that a name leads
to. Every refusal is a CheckpointError.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.files import parse_json
from pipeline.headers import FLOATS, TensorInfo, check_dtype, naming, read_header, shorten
from pipeline.repository import PICKLES, refuse_pickle

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""What a LoRA can be for, as diffusers names it."""

KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
"""How the names begin that kohya's trainer gives."""

_KNOWN = (*KOHYA, *(f"{part}." for part in PARTS))

# A matrix, as kohya and three generations of diffusers name it: X.lora_down.weight,
# X_lora.down.weight, X.lora_linear_layer.down.weight (or X.lora.down.weight), X.lora_A.weight.
_MATRIX = re.compile(
    r"(?P<layer>.+?)(?:[._]lora|\.lora_linear_layer)[._](?P<side>down|up|A|B)\.weight"
)
_SIDES = {"A": "down", "B": "up", "down": "down", "up": "up"}

_OTHER_FAMILIES = {
    r"double_blocks|single_blocks|single_transformer_blocks": "Flux",
    r"joint_blocks|^text_encoder_3\.|^lora_te3_": "Stable Diffusion 3",
    r"^transformer\.|^diffusion_model\.|^lora_transformer_": "a diffusion transformer",
}
_OTHER_KINDS = {
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.dora_scale$|\.lora_magnitude_vector": "DoRA",
    r"\.oft_": "OFT",
    r"\.lora_mid\.": "LoCon of three matrices",
    r"\.on_input$": "IA3",
    r"\.(a1|b1)\.weight$": "GLoRA",
    r"\.diff(_b)?$|\.[wb]_norm$": "full differences",
    r"^lora_controlnet$": "Control-LoRA",
}
_NO_LORAS = {
    r"^(model\.diffusion_model|down_blocks)\.": "a checkpoint: name it as the model",
    r"^(decoder|encoder|first_stage_model)\.": "a VAE: name it as the vae",
    r"^(emb_params|clip_[lg])$": "a textual inversion: name it among the embeddings",
}

_METADATA = "lora_adapter_metadata"
# What peft could be asked for that no plain sum of matrices is.
_NOT_PLAIN = ("use_dora", "fan_in_fan_out", "layer_replication")


@dataclass(frozen=True)
class Pair:
    """The two matrices for one layer and what scales them, by their names in the file."""

    down: str
    up: str
    alpha: str | None


@dataclass(frozen=True)
class Lora:
    """A LoRA's file that has been looked through: its tensors, and its pairs by layer.

    `config` is what diffusers wrote beside the tensors of how peft is to scale them.
    """

    tensors: Mapping[str, TensorInfo]
    pairs: Mapping[str, Pair]
    config: Mapping[str, Any]

    def find_alpha(self, layer: str, rank: int) -> tuple[float, bool]:
        """What a layer's matrices are multiplied with, and if the root of the rank divides it.

        Without one it is the rank, which leaves them as they are.
        """
        part, _, path = layer.partition(".")
        alpha = self.config.get(f"{part}.lora_alpha", rank)
        patterns = self.config.get(f"{part}.alpha_pattern") or {}
        names = path.split(".")
        ends = [f"^{path}", *(".".join(names[i:]) for i in range(len(names)))]
        if fitting := [end for end in ends if end in patterns]:
            first = min(fitting, key=list(patterns).index)  # which counts for peft too
            alpha = patterns[first]
        return float(alpha), self.config.get(f"{part}.use_rslora") is True


def check_lora(file: Path, label: str) -> Lora:
    """The LoRA in `file`, diffusers' or kohya's, seen from its header alone.

    Raises CheckpointError, which calls the file `label`, for a pickle, for what is no LoRA, for
    kinds and families that cannot be applied, and for tensors that nothing would use.
    """
    header = read_safe_header(file, label)
    with naming(label):
        _check_kind(header)
        return Lora(header, _pair(header), _read_config(file))


def read_safe_header(file: Path, label: str) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name; what is not called one is not even opened."""
    if file.suffix.lower() in PICKLES:
        raise refuse_pickle(label)
    if file.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{label}: is not a .safetensors file")
    return read_header(file, label)


def _check_kind(names: Iterable[str]) -> None:
    """These must be the names of a LoRA for Stable Diffusion."""
    if found := _search(_OTHER_FAMILIES, names):
        name, family = found
        raise CheckpointError(
            f"is for {family} (tensor {shorten(name)}): bring one for Stable Diffusion"
        )
    if found := _search(_OTHER_KINDS, names):
        name, kind = found
        raise CheckpointError(
            f"is no plain LoRA but {kind} (tensor {shorten(name)}), which cannot be applied: "
            "bring a plain one, or a checkpoint that it was merged into elsewhere"
        )
    if not any(_MATRIX.fullmatch(name) for name in names):
        found = _search(_NO_LORAS, names)
        raise CheckpointError("is not a LoRA" + (f" but {found[1]}" if found else ""))


def _search(patterns: Mapping[str, str], names: Iterable[str]) -> tuple[str, str] | None:
    """The first name that fits a pattern, and what the pattern stands for."""
    for pattern, what in patterns.items():
        for name in names:
            if re.search(pattern, name):
                return name, what
    return None


def _pair(header: Mapping[str, TensorInfo]) -> dict[str, Pair]:
    """The matrices by the layer they are for, as the file names it; every tensor is in a pair."""
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for name, info in header.items():
        layer, side = _parse(name)
        check_dtype(name, info, (*FLOATS, "I32", "I64") if side == "alpha" else FLOATS)
        if twin := sides[layer].get(side):
            raise CheckpointError(f"tensors {shorten(twin)} and {shorten(name)} say the same")
        sides[layer][side] = name
    for found in sides.values():
        if missing := {"down", "up"} - set(found):
            name = next(iter(found.values()))
            raise CheckpointError(f"tensor {shorten(name)} has no {min(missing)} matrix beside it")
        _check_shapes(header, **found)
    return {
        layer: Pair(found["down"], found["up"], found.get("alpha"))
        for layer, found in sides.items()
    }


def _parse(name: str) -> tuple[str, str]:
    """The layer that a tensor is for, and what it is there: down, up or alpha."""
    if name.startswith(_KNOWN):
        if name.endswith(".alpha"):
            return name.removesuffix(".alpha"), "alpha"
        if matrix := _MATRIX.fullmatch(name):
            return matrix["layer"], _SIDES[matrix["side"]]
    raise CheckpointError(f"tensor {shorten(name)} is not of a LoRA as diffusers or kohya name it")


def _check_shapes(
    header: Mapping[str, TensorInfo], down: str, up: str, alpha: str | None = None
) -> None:
    """Both matrices must meet in one rank, and the alpha be a number."""
    shapes = header[down].shape, header[up].shape
    are_matrices = all(len(shape) in (2, 4) and all(shape) for shape in shapes)
    if not are_matrices or shapes[0][0] != shapes[1][1]:
        raise CheckpointError(
            f"tensors {shorten(down)} of shape {shapes[0]} and {shorten(up)} of shape {shapes[1]} "
            "have no rank in common"
        )
    if alpha is not None and math.prod(header[alpha].shape) != 1:
        raise CheckpointError(
            f"tensor {shorten(alpha)} has shape {header[alpha].shape}: must be one number"
        )


def _read_config(file: Path) -> dict[str, Any]:
    """What of peft's config bears on the sum; the rest could make peft import and change more."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
    with naming(_METADATA):
        config = parse_json(metadata.get(_METADATA, "{}").encode())
        if not isinstance(config, dict):
            raise CheckpointError("is not a JSON object")
        for part in PARTS:
            for key in _NOT_PLAIN:
                if config.get(f"{part}.{key}"):
                    raise CheckpointError(f"asks for {key}, which cannot be applied")
            patterns = config.get(f"{part}.alpha_pattern") or {}
            if not isinstance(patterns, dict):
                raise CheckpointError(f"{part}.alpha_pattern is not a table")
            for alpha in (config.get(f"{part}.lora_alpha", 1), *patterns.values()):
                if type(alpha) not in (int, float):
                    raise CheckpointError(f"{part}.lora_alpha = {shorten(alpha)}: must be a number")
    return config
