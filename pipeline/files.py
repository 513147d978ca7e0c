"""Files written whole or not at all, folders tried before the work, and JSON read strictly.

Knows no picture, no model and no spec.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import OutputError

_REASONS = {
    errno.EEXIST: "a file is in its place",
    errno.ENOTDIR: "a part of its path is a file",
    errno.ENOENT: "its folder does not exist",
    errno.EISDIR: "a folder is in its place",
}


def write_atomically(file: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file that appears under its name only when it is whole and on the disk.

    Whatever fails, nothing of it stays behind, and a former `file` stays as it was. Raises
    OutputError where the disk refuses; other errors of `write` pass through.
    """
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        _write_to_disk(part, write)
        os.replace(part, file)
        sync_folder(file.parent)
    except OSError as error:
        raise OutputError(f"{file.name}: cannot be written: {_explain(error)}") from error
    finally:
        with suppress(OSError):  # it is gone already, or the first error is the one to tell
            part.unlink()


def prepare_folder(folder: Path, needed_bytes: int = 0) -> None:
    """Make `folder` and try it, before any work begins: it can be written to, and has the space.

    Raises OutputError otherwise; a folder without the space is not even made.
    """
    try:
        free = shutil.disk_usage(_nearest(folder)).free
        if free < needed_bytes:
            needed, left = (math.ceil(count / 10**6) for count in (needed_bytes, free))
            raise OutputError(f"{folder}: {needed} MB are needed there, {left} MB are free")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"\0")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to: {_explain(error)}") from error


def new_run_id() -> str:
    """What a run that begins now is called: it sorts by time, and no two are alike."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def parse_json(data: bytes, *, infinities: bool = False) -> Any:
    """The value in UTF-8 `data`, held to the standard: no NaN, no infinity, no key twice.

    `infinities` lets `Infinity` and `-Infinity` pass, which diffusers writes into scheduler
    configs. Raises ValueError with one line. The caller bounds the size.
    """
    decoder = _JSON_OF_SCHEDULERS if infinities else _JSON
    try:
        return decoder.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _write_to_disk(part: Path, write: Callable[[BinaryIO], None]) -> None:
    with part.open("xb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the new name itself to the disk, where a folder can be opened (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nearest(folder: Path) -> Path:
    """`folder`, or the nearest above it that exists."""
    absolute = folder.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def _explain(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key[:60]!r} stands there twice")
        values[key] = value
    return values


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:60]} is too large")
    return number


def _parse_int(digits: str) -> int:
    if len(digits) > 20:  # as many as 64 bits take
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not allowed")


def _parse_infinity(constant: str) -> float:
    return _refuse(constant) if constant == "NaN" else float(constant)


_HOOKS: Any = {
    "object_pairs_hook": _unique,
    "parse_float": _parse_float,
    "parse_int": _parse_int,
}
_JSON = json.JSONDecoder(parse_constant=_refuse, **_HOOKS)
_JSON_OF_SCHEDULERS = json.JSONDecoder(parse_constant=_parse_infinity, **_HOOKS)
