"""What a run keeps in its folder: frames, latents and small values, under the key of what they are.

Knows files; knows no model and no spec, and asks nobody what a key stands for. Several processes
may write at once, and any may be killed at any moment: a file has its name only when it is whole,
carries the hash of its contents, and counts as missing where they differ. The folder may come from
somebody else, so what is read is taken for hostile.

Claims spare work; nothing depends on them for being whole. Two holders of one claim would do the
same work twice, and the later file would replace its equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from pipeline.containers import MAX_TEXT_BYTES, png_text
from pipeline.errors import CheckpointError, OutputError, PictureError, RenderError
from pipeline.files import parse_json, prepare_folder, write_atomically
from pipeline.headers import check_dtype, read_header, shorten
from pipeline.locks import locked
from pipeline.pictures import MAX_PIXELS, TEXT_NAME, open_image, opened, write_png
from pipeline.tensors import Latents

MAX_VALUE_BYTES = 2**25
"""Of a small value: the timeline of 100,000 frames, the most a spec may ask for, takes 22 MB."""

MAX_LATENTS_BYTES = 2**28
"""Of the latents of one frame: pixels of 4096 × 4096 in float32 take 201 MB."""

_PIXELS, _LATENTS = "pixels_sha256", "latents_sha256"

_KEY = re.compile(r"[0-9a-f]{64}")
_FRAME = re.compile(r"[0-9a-f]{64}\.png")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.(part|former)")
_LOCK = re.compile(r"[0-9a-f]{64}\.lock|[0-9a-f]{16}\.writing")


@dataclass(frozen=True)
class Fault:
    """A file that is not as it should be: its `name`, fit to be printed, and the reason."""

    name: str
    reason: str


@final
class Store:
    """The frames, latents and values in `folder`, which is made and tried.

    Keys have 64 hexadecimal digits, else a method raises ValueError. A frame of more than
    `max_pixels` counts as damaged. Raises OutputError where the disk refuses.
    """

    def __init__(self, folder: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.folder, self._max_pixels = folder, max_pixels
        self._frames, self._latents, self._locks = (
            folder / name for name in ("frames", "latents", "locks")
        )
        for place in (self._frames, self._latents, self._locks):
            if place.is_symlink():  # what is written into a run stays in it
                raise OutputError(f"{place.name}: must be a folder of the run, is a link")
            prepare_folder(place)

    def frame_file(self, key: str) -> Path:
        """Where the frame `key` lies, if it is there."""
        return self._frames / f"{_check_key(key)}.png"

    def has_frame(self, key: str) -> bool:
        """Whether the frame is there, decodes to the pixels it was saved with, and has its name."""
        try:
            self.read_frame(key)
        except PictureError:
            return False
        return True

    def read_frame(self, key: str) -> Image.Image:
        """The picture of a frame that `has_frame`. Raises PictureError where it has not."""
        wanted = self._read_text(key)[_PIXELS]
        file = self.frame_file(key)
        image = open_image(file, self._max_pixels)
        if _hash_pixels(image) != wanted:
            raise PictureError(f"{file.name}: its pixels are not those it was saved with")
        return image

    def frame_record(self, key: str) -> dict[str, Any]:
        """What was saved with the frame, whose pixels are not decoded. Raises PictureError."""
        texts = self._read_text(key)
        return {name: value for name, value in texts.items() if name not in {"key", _PIXELS}}

    def save_frame(self, key: str, image: Image.Image, record: Mapping[str, Any] | None) -> Path:
        """Write a frame that is whole or not there, with `record` as JSON inside; its file.

        With None there is only its key and its hash inside. Raises OutputError; PictureError for a
        picture that is not RGB, ValueError for a record that is no JSON.
        """
        file = self.frame_file(key)
        if image.mode != "RGB":
            raise PictureError(f"a picture of mode {image.mode}: must be RGB")
        text = _seal(key, _PIXELS, _hash_pixels(image), record or {})
        if (size := len(text) + len(TEXT_NAME) + 1) > MAX_TEXT_BYTES:
            raise OutputError(
                f"{file.name}: its metadata take {size} bytes, at most {MAX_TEXT_BYTES} are read"
            )
        with self.writing():
            write_png(image, file, {TEXT_NAME: text})
        return file

    def verify(self, frame_keys: Sequence[str]) -> Iterator[Fault]:
        """What is wrong with the frames `frame_keys`, and what lies among frames and is none.

        All pictures must have the size of the first that is whole. Leftovers of writers are no
        fault, nor are frames that are not asked for.
        """
        size: tuple[int, int] | None = None
        for key in dict.fromkeys(frame_keys):
            file = self.frame_file(key)
            try:
                found = self.read_frame(key).size
            except PictureError as error:
                reason = str(error).removeprefix(f"{file.name}: ")
                yield Fault(file.name, reason if os.path.lexists(file) else "is missing")
                continue
            size = size or found
            if found != size:
                sizes = "is {} × {} pixels, the first is {} × {}".format(*found, *size)
                yield Fault(file.name, sizes)
        for name in _list(self._frames):
            if not _FRAME.fullmatch(name) and not _LEFTOVER.fullmatch(name):
                yield Fault(_printable(name), "is no frame")

    def _read_text(self, key: str) -> dict[str, Any]:
        """The JSON inside a frame, with its key and hash."""
        file = self.frame_file(key)
        with opened(file) as stream:
            if file.is_symlink():
                raise PictureError("is a link, not a file")
            text = png_text(stream, TEXT_NAME.encode())
            if text is None:
                raise PictureError("holds no hash of its pixels")
            try:
                return _unseal(text, key, _PIXELS)
            except ValueError as error:
                raise PictureError(str(error)) from None

    def latent_keys(self) -> list[str]:
        """The keys of all latents that are there, whole or not."""
        return [name.removesuffix(".safetensors") for name in _list(self._latents)]

    def load_latents(self, key: str) -> Latents | None:
        """The latents `key` on the CPU as they were saved; None where missing or damaged."""
        file = self._latents_file(key)
        data = _read_plain(file, MAX_LATENTS_BYTES)
        if data is None:
            return None
        try:
            tensors = read_header(file)
            if set(tensors) != {"latents"} or len(tensors["latents"].shape) != 4:
                return None
            check_dtype("latents", tensors["latents"])
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            text = header.get("__metadata__", {}).get(TEXT_NAME, "")
            wanted = _unseal(text.encode(), key, _LATENTS)[_LATENTS]
            latents: Latents = load(data)["latents"]
        except (CheckpointError, SafetensorError, ValueError):
            return None
        is_whole = _hash_tensor(latents) == wanted and bool(latents.isfinite().all())
        return latents if is_whole else None

    def save_latents(self, key: str, latents: Latents) -> None:
        """Write latents, of their own dtype, into a file that is whole or not there.

        Raises OutputError; RenderError where a number is not finite, ValueError for what is not
        shaped like latents.
        """
        file = self._latents_file(key)
        if latents.ndim != 4 or not latents.is_floating_point():
            raise ValueError(f"{latents.dtype} {tuple(latents.shape)}: latents are 4D floats")
        if not latents.isfinite().all():
            raise RenderError("latents hold numbers that are NaN or infinite: they are not kept")
        tensor = latents.detach().cpu().contiguous()
        data = save(
            {"latents": tensor}, {TEXT_NAME: _seal(key, _LATENTS, _hash_tensor(tensor), {})}
        )
        self._write(file, data, MAX_LATENTS_BYTES)

    def _latents_file(self, key: str) -> Path:
        return self._latents / f"{_check_key(key)}.safetensors"

    def remembered(self, name: str) -> Any:
        """The value in NAME.json; None where there is none, or none that is valid JSON."""
        data = _read_plain(self._value_file(name), MAX_VALUE_BYTES)
        try:
            return None if data is None else parse_json(data)
        except ValueError:
            return None

    def remember(self, name: str, value: Any) -> None:
        """Write `value` to NAME.json, whole or not at all. Raises OutputError.

        Raises ValueError for a value that is no JSON, and for a name that is no lower-case word.
        """
        text = json.dumps(value, allow_nan=False, indent=1)
        self._write(self._value_file(name), f"{text}\n".encode(), MAX_VALUE_BYTES)

    def _value_file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: must be a lower-case word")
        return self.folder / f"{name}.json"

    def _write(self, file: Path, data: bytes, limit: int) -> None:
        if len(data) > limit:
            raise OutputError(f"{file.name}: takes {len(data)} bytes, at most {limit} are read")

        def write(stream: BinaryIO) -> None:
            stream.write(data)

        with self.writing():
            write_atomically(file, write)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether `key` is ours to make until the end of the block; nobody is waited for.

        The claim holds against other threads and processes and ends with the process. It may be
        refused in the moment when another one lets go: who is refused has to look again anyway.
        """
        with locked(self._locks / f"{_check_key(key)}.lock", wait=False) as is_ours:
            yield is_ours

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep `sweep` from what is being written into the folder during the block.

        The methods here do so themselves; who writes a video into the folder has to.
        """
        with locked(self._locks / f"{secrets.token_hex(8)}.writing", wait=True):
            yield

    def sweep(self) -> int:
        """Remove what killed writers left behind; how many files and folders that was.

        While anybody writes, unfinished files stay, because nobody knows whose they are.
        """
        # Files before locks: a writer locks before it begins, so where no lock is held after this,
        # all that is seen here was left behind. What begins later is not in the list.
        places = (self.folder, self._frames, self._latents)
        unfinished = [
            place / name for place in places for name in _list(place) if _LEFTOVER.fullmatch(name)
        ]
        swept, is_quiet = 0, True
        for file in [self._locks / name for name in _list(self._locks) if _LOCK.fullmatch(name)]:
            if file.is_symlink() or not file.is_file():
                continue
            with locked(file, wait=False) as is_stale:
                swept += is_stale
                is_quiet &= is_stale or file.suffix != ".writing"
        return swept + sum(map(_remove, unfinished)) if is_quiet else swept


def _list(place: Path) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except OSError as error:
        raise OutputError(f"{place.name}: cannot be listed: {error.strerror or error}") from error


def _remove(file: Path) -> bool:
    """Remove a file or a folder; whether it is gone by us."""
    try:
        is_folder = stat.S_ISDIR(file.lstat().st_mode)
        shutil.rmtree(file) if is_folder else file.unlink()
    except OSError:
        return False  # another one who sweeps was first, or may what we may not
    return True


def _read_plain(file: Path, limit: int) -> bytes | None:
    """What is in `file`; None where there is no such file, no link, of at most `limit` bytes."""
    try:
        found = file.lstat()
        is_plain = stat.S_ISREG(found.st_mode) and found.st_size <= limit
        return file.read_bytes() if is_plain else None
    except OSError:
        return None


def _seal(key: str, name: str, digest: str, record: Mapping[str, Any]) -> str:
    """The JSON that makes a file tell of itself."""
    if {"key", name} & record.keys():
        raise ValueError(f"a record must not have the keys 'key' and {name!r}")
    return json.dumps({"key": key, name: digest, **record}, allow_nan=False)


def _unseal(text: bytes, key: str, name: str) -> dict[str, Any]:
    """What `_seal` wrote into the file of `key`. Raises ValueError with one line."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ValueError(f"its metadata are not valid JSON: {error}") from None
    if not isinstance(values, dict) or not {"key", name} <= values.keys():
        raise ValueError("its metadata lack its key or its hash")
    if values["key"] != key:
        raise ValueError("its key is not its name")
    return values


def _hash_pixels(image: Image.Image) -> str:
    """SHA-256 of the size and the RGB bytes, row by row."""
    return _digest("{}x{}".format(*image.size), image.tobytes())


def _hash_tensor(tensor: Latents) -> str:
    """SHA-256 of the type, the shape and the bytes."""
    raw = tensor.view(torch.uint8).numpy()
    return _digest(f"{tensor.dtype}{tuple(tensor.shape)}", raw.data)


def _digest(label: str, data: bytes | memoryview) -> str:
    digest = hashlib.sha256(label.encode())
    digest.update(data)
    return digest.hexdigest()


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"key {shorten(key)}: must have 64 hexadecimal digits")
    return key


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= 80 else shorten(name)
