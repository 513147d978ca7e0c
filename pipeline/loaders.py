"""A checked checkpoint's files to its parts: modules with every weight they need, frozen.

Knows no devices and no prompts. With `single_file` and `adapters` the only importer of diffusers'
and transformers' model classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from pipeline.checkpoint import ALONE, Checkpoint, check_finite
from pipeline.errors import CheckpointError
from pipeline.files import parse_json
from pipeline.headers import shorten

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

DEFAULTS_FILE = "greatcircle.json"
"""Measured defaults that a checkpoint may bring along: steps, guidance, scheduler."""

# What the libraries raise at values that they cannot use.
UNFIT = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError,
    RuntimeError, StrictDataclassError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint is made of. XL has two tokenizers and text encoders, the others one.

    `settings` are those of the pipeline, `defaults` what the checkpoint is best sampled with.
    """

    unet: Any
    vae: Any
    tokenizers: tuple[CLIPTokenizer, ...]
    text_encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    scheduler_config: Mapping[str, Any]
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def is_xl(self) -> bool:
        """Whether the network takes pooled vectors and sizes beside hidden states."""
        return len(self.text_encoders) > 1


def load_folder(checkpoint: Checkpoint, dtype: torch.dtype) -> Parts:
    """The parts in a diffusers folder, on the CPU. Raises `CheckpointError`."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    folder = checkpoint.folder
    encoders: list[Any] = [load_part(CLIPTextModel, checkpoint, "text_encoder", dtype)]
    tokenizers = [load_tokenizer(folder / "tokenizer", checkpoint.name, encoders[0])]
    if "text_encoder_2" in checkpoint.components:
        encoders.append(load_part(CLIPTextModelWithProjection, checkpoint, "text_encoder_2", dtype))
        tokenizers.append(load_tokenizer(folder / "tokenizer_2", checkpoint.name, encoders[1]))
    brought = folder / DEFAULTS_FILE
    return Parts(
        unet=load_part(UNet2DConditionModel, checkpoint, "unet", dtype),
        vae=load_autoencoder(checkpoint, dtype, part="vae"),
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(encoders),
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        settings=read_json(folder / "model_index.json"),
        defaults=read_json(brought) if brought.exists() else {},
    )


def load_autoencoder(checkpoint: Checkpoint, dtype: torch.dtype, part: str = ALONE) -> Any:
    """The autoencoder of a checkpoint, or one that is a checkpoint of its own."""
    import diffusers

    _, kind = checkpoint.components[part]
    return load_part(getattr(diffusers, kind), checkpoint, part, dtype)


def load_part(kind: Any, checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> Any:
    """One component, with every weight it needs and nothing that is not a number; frozen."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # the library draws none, and neither do its loaders
    label = ": ".join(filter(None, [checkpoint.name, part]))
    with fitting(label):
        module, report = kind.from_pretrained(
            checkpoint.folder / part,
            dtype=dtype,
            use_safetensors=True,
            variant=checkpoint.variants.get(part),
            ignore_mismatched_sizes=True,  # so that they are reported, and refused below
            output_loading_info=True,
        )
    if mismatched := report["mismatched_keys"]:
        name, found, wanted = min(mismatched)
        raise CheckpointError(
            f"{label}: tensor {name} has shape {tuple(found)}: must be {tuple(wanted)}"
        )
    if missing := report["missing_keys"]:
        raise CheckpointError(f"{label}: tensor {min(missing)} is missing")
    if part == "unet" and (left := report["unexpected_keys"]):
        name = shorten(min(left))
        raise CheckpointError(
            f"{label}: tensor {name} is for a layer that its config does not have"
        )
    return freeze(label, module)


def load_tokenizer(folder: Path, name: str, encoder: Any) -> CLIPTokenizer:
    """The tokenizer in `folder` of a text encoder, whose places its windows must fit into."""
    from transformers import CLIPTokenizer

    label = f"{name}: {folder.name}"
    with fitting(label):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    length, most = tokenizer.model_max_length, encoder.config.max_position_embeddings
    if type(length) is not int or not 3 <= length <= most:
        raise CheckpointError(
            f"{label}: model_max_length = {shorten(length)}: must be between 3 and {most}"
        )
    return tokenizer


@contextmanager
def fitting(label: str) -> Iterator[None]:
    """Say of `label` that the values in its config are none that a library can use."""
    try:
        yield
    except UNFIT as error:
        reason = shorten(" ".join(str(error).split()))
        raise CheckpointError(f"{label}: nothing can be made of its config: {reason}") from error


def freeze(label: str, module: nn.Module) -> nn.Module:
    """`module`, found to hold finite numbers only, and not to be changed any more."""
    check_finite(label, module.state_dict())
    return module.eval().requires_grad_(False)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a config file. Raises `CheckpointError`."""
    try:
        values = parse_json(file.read_bytes(), infinities=True)
        if not isinstance(values, dict):
            raise CheckpointError(f"{file.name}: is not a JSON object")
    except ValueError as error:
        raise CheckpointError(f"{file.name}: is not valid JSON: {error}") from None
    return values
