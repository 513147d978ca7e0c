"""The autoencoder of a model without the rest of it, which is most of the weights.

Knows where an autoencoder can stand: in a folder of its own, in a model's folder or file, or named
beside one. Knows no pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint import check_autoencoder_folder, checkpoint_hash, hash_file
from pipeline.codec import VaeCodec
from pipeline.loaders import load_autoencoder
from pipeline.model import choose_device, choose_dtype
from pipeline.single_file import check_file, load_file_vae, load_single_vae
from pipeline.sources import anonymous_source, find_source
from pipeline.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """An autoencoder, ready and frozen; `hash` is that of the files it was read from.

    `exact` is the same in float32, by the weights as they were before they were rounded to 16 bits;
    None where `codec` is in float32 itself.
    """

    name: str
    hash: str
    codec: VaeCodec
    exact: VaeCodec | None = None

    @property
    def summary(self) -> str:
        """One line that says what runs where, in what precision."""
        vae: Any = self.codec.vae
        dtype = str(vae.dtype).removeprefix("torch.")
        return f"{type(vae).__name__} of {self.name} on {self.codec.device} in {dtype}"


def load_codec(spec: ModelSpec = ModelSpec()) -> Autoencoder:
    """The autoencoder that `spec.vae` names, else that of `spec.source`, checked and loaded alone.

    The source may also be an autoencoder's own folder. In the dtype asked for on every device: one
    autoencoder in 16 bits on a CPU is slow, and yet small enough to measure. Raises `SpecError`
    for a device that is not there, and `CheckpointError`.
    """
    device = choose_device(spec.device)
    wanted = choose_dtype(None, device) if spec.dtype is None else getattr(torch, spec.dtype)
    place, revision = (spec.source, spec.revision) if spec.vae is None else (spec.vae, None)
    source, name = find_source(place, revision), anonymous_source(place)
    if source.is_dir():
        checkpoint = check_autoencoder_folder(source, name)
        vae, content = load_autoencoder(checkpoint, torch.float32), checkpoint_hash(checkpoint)
    else:
        vae, content = _load_file(spec, source, name), hash_file(source)
    exact = VaeCodec(vae.to(device), device)
    codec = exact.in_dtype(wanted)
    return Autoencoder(
        name=name, hash=content, codec=codec, exact=None if codec is exact else exact
    )


def _load_file(spec: ModelSpec, file: Path, name: str) -> Any:
    """The autoencoder in a file: of a whole checkpoint, or to take the place of the model's own."""
    if spec.vae is None:
        config = None if spec.config is None else find_source(spec.config)
        return load_file_vae(check_file(file, name), torch.float32, config=config)
    own = load_codec(spec.replace(vae=None, dtype=None)).codec.vae
    return load_single_vae(file, name, torch.float32, like=own)
