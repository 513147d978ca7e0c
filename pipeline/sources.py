"""Where a model's name leads: the shipped model, a folder, a file, or what the hub's cache holds.

Knows nothing of what is inside; `checkpoint` checks that. Asks no network: `download` does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from pipeline.errors import CheckpointError, SpecError
from pipeline.hub import find_snapshot, is_commit, say_absent
from pipeline.repository import PICKLES, refuse_pickle

EMBEDDED = "embedded"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_ALLOWED = f"{EMBEDDED!r}, a folder, a .safetensors file, or a hub id OWNER/NAME"


def find_source(source: str, revision: str | None = None) -> Path:
    """The folder or .safetensors file that `source` names, a hub id by what is in the hub's cache.

    A pickle is refused by its name, unopened. Raises CheckpointError, and SpecError where a
    `revision` is given to what has none.
    """
    if is_hub_id(source):
        return _find_downloaded(source, revision)
    if revision is not None:
        raise SpecError(f"revision = {revision[:60]!r}: is for a hub id, which {source!r} is not")
    if source == EMBEDDED:
        return Path(__file__).parent / EMBEDDED
    path, suffix = _expand(source), _suffix(source)
    if source and os.path.isdir(path):  # unlike Path's, for every name
        return path
    if suffix in PICKLES:
        raise refuse_pickle(f"model {source!r}")
    if not os.path.isfile(path):
        raise CheckpointError(f"model {source!r}: no such folder or file; allowed are {_ALLOWED}")
    if suffix != ".safetensors":
        kind = f"a {suffix} file" if suffix else "a file without a suffix"
        raise CheckpointError(f"model {source!r}: is {kind}; allowed are {_ALLOWED}")
    return path


def find_adapter(source: str) -> Path:
    """The .safetensors file of a LoRA or a textual inversion. Raises `CheckpointError`.

    A hub id leads to it where the repository holds one such file and nothing else.
    """
    if is_hub_id(source):
        found = find_source(source)
        if found.is_dir():
            raise CheckpointError(f"{source!r}: is a whole model, not one .safetensors file")
        return found
    path, suffix = _expand(source), _suffix(source)
    if suffix in PICKLES:
        raise refuse_pickle(repr(source))
    if suffix != ".safetensors" or not os.path.isfile(path):
        raise CheckpointError(f"{source!r}: no such .safetensors file")
    return path


def is_hub_id(source: str) -> bool:
    """Whether `source` is OWNER/NAME on the hub, and the name of nothing that lies here."""
    is_id = _HUB_ID.fullmatch(source) is not None and not os.path.lexists(source)
    return is_id and _suffix(source) not in PICKLES | {".safetensors"}


def pinned_revision(source: str, place: Path) -> str | None:
    """The commit of what a hub id led to, which a record names; None for what has no revisions."""
    commits = [name for name in place.parts[-2:] if is_commit(name)]
    return commits[-1] if commits and is_hub_id(source) else None


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


def _find_downloaded(source: str, revision: str | None) -> Path:
    found = find_snapshot(source, revision)
    if found is None:
        raise say_absent(source)
    return found


def _expand(source: str) -> Path:
    """`source` with its `~` resolved, where that names a home."""
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~NAME of nobody: there is no such folder, as there is no such home
        return Path(source)


def _suffix(source: str) -> str:
    return PurePath(source).suffix.lower()
