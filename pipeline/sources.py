"""Where a model's name leads: the shipped model, a folder, or a snapshot from the hub.

Knows nothing of what is inside; `checkpoint` checks that.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import CheckpointError

EMBEDDED = "embedded"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# One precision of each part, safetensors only: nothing else is ever asked for.
_WANTED = ["model_index.json", "*/*.json", "tokenizer/*", "*/*.safetensors"]
_UNWANTED = ["*.fp16.*", "*non_ema*", "safety_checker/*", "feature_extractor/*"]


def find_folder(source: str, revision: str | None = None) -> Path:
    """The folder that `source` names; a hub id is downloaded unless the hub's cache has it."""
    if source == EMBEDDED:
        return Path(__file__).parent / EMBEDDED
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(
            f"model {source!r}: is a single file; a folder in the diffusers layout is needed"
        )
    if _HUB_ID.fullmatch(source):
        return _download(source, revision)
    raise CheckpointError(
        f"model {source!r}: no such folder; allowed are {EMBEDDED!r}, a folder, or a hub id"
        " OWNER/NAME"
    )


def anonymous_source(source: str) -> str:
    """A model's source without its place: hub ids stay, of a path only the last part stays."""
    if _HUB_ID.fullmatch(source) and not Path(source).exists():
        return source
    name = re.split(r"[\\/]", source.rstrip("\\/"))[-1]
    return name if is_name(name) else "model"


def is_name(text: str) -> bool:
    """Whether `text` is a plain name or a hub id, and cannot be a path to somewhere."""
    parts = text.split("/")
    is_rooted = text.startswith("~") or "\\" in text or re.match(r"[A-Za-z]:", text) is not None
    return not is_rooted and len(parts) <= 2 and not {"", ".", ".."} & set(parts)


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    except Exception as error:  # noqa: BLE001 - the hub's client raises from several libraries
        reason = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"model {repository!r}: no such folder here, and not to be had from the hub: {reason}"
        ) from None
    return Path(folder)
