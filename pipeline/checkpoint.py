"""Is this folder safe and whole: looked through before any library opens a file in it.

Knows no model classes and loads no weights: classes are held against an allow-list by name, and of
weights only the headers are read. Every refusal is a CheckpointError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.allowed import check_autoencoder, check_config, check_index
from pipeline.errors import CheckpointError
from pipeline.files import parse_json
from pipeline.headers import TensorInfo, check_dtype, naming, read_header, shorten
from pipeline.repository import PICKLES, STEMS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Checkpoint",
    "TensorInfo",
    "check_finite",
    "check_folder",
    "checkpoint_hash",
    "read_header",
]

MAX_CONFIG_BYTES = 10**6

ALONE = ""
"""The part of a checkpoint that is an autoencoder and nothing else."""

_SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
_STEMS = {**STEMS, ALONE: "diffusion_pytorch_model"}
_CONFIGS = {
    "scheduler": _SCHEDULER_CONFIG,
    "feature_extractor": "feature_extractor/preprocessor_config.json",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that has been looked through.

    `components` holds library and class of each part that may be loaded, `files` all that decides
    a picture, sorted; `variants` the variant ("fp16") of the parts whose weights exist in no other,
    and `ignored` the parts that are named and never loaded.
    """

    folder: Path
    name: str
    components: dict[str, tuple[str, str]] = field(hash=False)
    files: tuple[Path, ...]
    variants: dict[str, str] = field(default_factory=dict, hash=False)
    ignored: tuple[str, ...] = ()


def check_folder(folder: Path, name: str, *, safety_checker: bool = False) -> Checkpoint:
    """The checkpoint in `folder`, Stable Diffusion in diffusers' layout; errors call it `name`.

    Its safety checker is looked through, and named among the components, only if asked for.
    """
    with naming(name):
        tree = _Tree(folder)
        index = tree.read_object("model_index.json")
        with naming("model_index.json"):
            named = check_index(index, safety_checker=safety_checker)
        files, variants = ["model_index.json"], dict[str, str]()
        for part in named.components:
            files += _check_config(tree, part)
            if part in _STEMS:
                variant, weights = _find_weights(tree, part)
                files += weights
                variants |= {part: variant} if variant else {}
    paths = tuple(folder / file for file in sorted(files))
    return Checkpoint(folder, name, named.components, paths, variants, named.ignored)


def check_autoencoder_folder(folder: Path, name: str) -> Checkpoint:
    """The autoencoder in `folder`, alone or as the part `vae` of a whole checkpoint."""
    with naming(name):
        tree = _Tree(folder)
        if tree.has("vae/config.json"):
            folder, tree = folder / "vae", _Tree(folder / "vae")
        config = tree.read_object("config.json")
        with naming("config.json"):
            kind = check_autoencoder(config)
        files = _check_config(tree, ALONE)
        variant, weights = _find_weights(tree, ALONE)
    paths = tuple(folder / file for file in sorted([*files, *weights]))
    variants = {ALONE: variant} if variant else {}
    return Checkpoint(folder, name, {ALONE: ("diffusers", kind)}, paths, variants)


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and contents of its files, in hexadecimal; the same wherever it lies.

    It is that of the listing which `sha256sum` prints in the folder for the sorted `files`; a
    checkpoint of a single file has that file's own.
    """
    if len(checkpoint.files) == 1:
        return hash_file(checkpoint.files[0])
    listing = ""
    for file in checkpoint.files:
        name = file.relative_to(checkpoint.folder).as_posix()
        with naming(f"{checkpoint.name}: {name}"):
            listing += f"{hash_file(file)}  {name}\n"
    return hashlib.sha256(listing.encode()).hexdigest()


def hash_file(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    stat = file.stat()
    return _hash_file(file, stat.st_size, stat.st_mtime_ns)


def check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not all numbers, by the tensor's name; `name` says whose they are."""
    for key, tensor in tensors.items():
        if not (finite := tensor.isfinite()).all():
            bad = int((~finite).sum())
            raise CheckpointError(
                f"{name}: tensor {shorten(key)} is NaN or infinite in {bad} of its "
                f"{tensor.numel()} places"
            )


class _Tree:
    """A model folder whose files are reached only within it, or within its own hub cache."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError("there is no such folder")
        self.folder = folder
        real = folder.resolve()
        self._roots = [real]
        if real.parent.name == "snapshots":  # the hub's cache keeps contents apart from their names
            store = real.parent.parent  # and contents that models share, beside all of them
            self._roots += [store / "blobs", store.parent / "blobs"]

    def has(self, relative: str) -> bool:
        """Whether that file is there; a link that leads out of the folder is refused."""
        file = self.folder / relative
        if not file.is_file():
            return False
        if not any(file.resolve().is_relative_to(root) for root in self._roots):
            raise CheckpointError(f"{relative}: is a link that leads out of the folder")
        return True

    def read_object(self, relative: str) -> dict[str, Any]:
        """The JSON object in that file, which must be there; a scheduler's may hold infinities."""
        if not self.has(relative):
            raise CheckpointError(f"{relative}: is missing{self.find_pickle('')}")
        with naming(relative):
            with (self.folder / relative).open("rb") as stream:
                data = stream.read(MAX_CONFIG_BYTES + 1)
            if len(data) > MAX_CONFIG_BYTES:
                raise CheckpointError(f"is larger than {MAX_CONFIG_BYTES} bytes")
            values = parse_json(data, infinities=relative == _SCHEDULER_CONFIG)
            if not isinstance(values, dict):
                raise CheckpointError("is not a JSON object")
        return values

    def find_pickle(self, part: str) -> str:
        """What to say of a pickle that lies in place of what is missing; nothing if none does."""
        found = sorted(f for f in (self.folder / part).glob("*") if f.suffix.lower() in PICKLES)
        if not found:
            return ""
        return (
            f"; {found[0].relative_to(self.folder).as_posix()} is a pickle, which can run code "
            "and is never opened: convert it elsewhere to safetensors"
        )


def _check_config(tree: _Tree, part: str) -> list[str]:
    """The files that decide, beside its weights, what `part` does; each of them is there."""
    config = _CONFIGS.get(part, _join(part, "config.json"))
    files = [config]
    if part.startswith("tokenizer"):
        config = f"{part}/tokenizer_config.json"
        words = [f"{part}/{name}" for name in ("merges.txt", "tokenizer.json", "vocab.json")]
        files = [file for file in [config, *words] if tree.has(file)]
        if words[1] not in files and not {words[0], words[2]} <= set(files):
            raise CheckpointError(f"{part}: has no tokenizer.json, nor vocab.json and merges.txt")
    if config in files:
        values = tree.read_object(config)
        with naming(config):
            check_config(values)
    if tree.has(adapter := _join(part, "adapter_config.json")):
        raise CheckpointError(
            f"{adapter}: an adapter beside the weights would change them unseen: take it away, and "
            "name it among the loras"
        )
    return files


def _find_weights(tree: _Tree, part: str) -> tuple[str, list[str]]:
    """The variant of a part's weights, and the files a loader may take, all of them looked into."""
    stem = _join(part, _STEMS[part])
    for variant, dotted in (("", ""), ("fp16", ".fp16")):
        single, index = f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"
        files = []
        if tree.has(single):
            _check_weights(tree, single)
            files = [single]
        if tree.has(index):
            files += [index, *_check_shards(tree, part, index)]
        if files:
            return variant, files
    label = f"{part}: " if part else ""
    raise CheckpointError(f"{label}has no safetensors weights{tree.find_pickle(part)}")


def _check_shards(tree: _Tree, part: str, index: str) -> list[str]:
    """The files that a sharded part's index names, each with the tensors it should hold."""
    places = tree.read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: has no weight_map of tensors to files")
    held: dict[str, set[str]] = {}
    for tensor, shard in places.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise CheckpointError(f"{index}: {shorten(shard)} is not a safetensors file beside it")
        if shard not in held:
            if not tree.has(_join(part, shard)):
                raise CheckpointError(f"{index}: names {shorten(shard)}, which is missing")
            held[shard] = set(_check_weights(tree, _join(part, shard)))
        if tensor not in held[shard]:
            raise CheckpointError(f"{index}: tensor {shorten(tensor)} is not in {shard}")
    return [_join(part, shard) for shard in held]


def _check_weights(tree: _Tree, file: str) -> dict[str, TensorInfo]:
    tensors = read_header(tree.folder / file, file)
    with naming(file):
        for name, info in tensors.items():
            if not name.endswith("position_ids"):
                check_dtype(name, info)
    return tensors


def _join(part: str, name: str) -> str:
    return f"{part}/{name}" if part else name


def _is_plain(name: str) -> bool:
    """Whether `name` is that of a safetensors file in the same folder."""
    return name.endswith(".safetensors") and not {"/", "\\", "\0"} & set(name)


@lru_cache(maxsize=256)
def _hash_file(file: Path, size: int, changed: int) -> str:
    """Read once, for as long as its size and the time of its last change stay."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
