"""The headers of safetensors files, read by hand and held to the format before a loader sees them.

Knows nothing of models, and reads no tensor. What it lets pass has bounds in size and number, no
name twice, and bytes that are where and as many as the header says. Every refusal is a
CheckpointError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from pipeline.errors import CheckpointError
from pipeline.files import parse_json

MAX_HEADER_BYTES = 16 * 10**6
MAX_METADATA_BYTES = 10**6
MAX_ENTRY_BYTES = 4096
MAX_TENSORS = 20_000

FLOATS = ("F16", "BF16", "F32", "F64")
"""The types that weights may be of."""

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

# One entry of a header: a string, a colon, a flat object, and what ends it. Taken one by one, so
# that no header, however it is made, unfolds into more than its own size; the quantifiers are
# possessive, so that the match takes neither time nor memory beyond its length.
_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_ENTRY = re.compile(
    rb"%b(%b)%b:%b(\{(?:[^{}\"]++|%b)*+\})%b([,}])"
    % (_SPACE, _STRING, _SPACE, _SPACE, _STRING, _SPACE),
    re.DOTALL,
)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file: where its bytes begin and end, counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @classmethod
    def parse(cls, entry: bytes) -> Self:
        """The tensor that a header's `entry` describes, if its parts agree."""
        if len(entry) > MAX_ENTRY_BYTES:
            raise CheckpointError(f"takes {len(entry)} bytes, at most {MAX_ENTRY_BYTES} are read")
        fields = parse_json(entry)
        if set(fields) != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError("must have dtype, shape and data_offsets, and nothing else")
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            allowed = ", ".join(_ITEM_BYTES)
            raise CheckpointError(f"has dtype {shorten(dtype)}: must be one of {allowed}")
        if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
            raise CheckpointError("has a shape or offsets that are not counts")

        start, end = offsets
        needed = prod(shape) * _ITEM_BYTES[dtype]
        if end - start != needed:
            raise CheckpointError(f"has {end - start} bytes, its shape and dtype need {needed}")
        return cls(dtype, tuple(shape), start, end)


def read_header(file: Path, label: str | None = None) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, none of them read; errors call it `label`."""
    with naming(label or file.name):
        header, data_bytes = _read_bytes(file)
        tensors = _parse(header)
        _check_layout(tensors, data_bytes)
    return tensors


def check_dtype(name: str, info: TensorInfo, dtypes: Sequence[str] = FLOATS) -> None:
    """Refuse a tensor, by its name, whose type is none of these: of those that weights are of."""
    if info.dtype not in dtypes:
        allowed = ", ".join(dtypes)
        raise CheckpointError(f"tensor {shorten(name)} is {info.dtype}: must be one of {allowed}")


@contextmanager
def naming(subject: str) -> Iterator[None]:
    """Say of `subject` what is found wrong inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{subject}: {error}") from error.__cause__
    except OSError as error:
        raise CheckpointError(f"{subject}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{subject}: is not valid JSON: {error}") from error


def shorten(value: object) -> str:
    """`value` as one line that fits into an error."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _read_bytes(file: Path) -> tuple[bytes, int]:
    """The header, and how many bytes follow it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(9)
        if start[8:] != b"{":
            is_known = start.startswith((b"PK", b"\x80"))
            if is_known:
                raise CheckpointError(
                    "is a pickle under another name, never opened: convert it elsewhere to"
                    " safetensors"
                )
            raise CheckpointError("is not safetensors")
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            limit = MAX_HEADER_BYTES
            raise CheckpointError(f"has a header of {length} bytes, at most {limit} are read")
        if length > size - 8:
            raise CheckpointError(f"ends within its header, at byte {size} of {length + 8}")
        return b"{" + stream.read(length - 1), size - 8 - length


def _parse(header: bytes) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    place, end, has_metadata = 1, b",", False
    while end == b",":
        entry = _ENTRY.match(header, place)
        if entry is None:
            raise CheckpointError(f"has a header that is broken at byte {place}, or empty")
        key, value, end = entry.groups()
        place = entry.end()
        name = _parse_name(key)
        if name in tensors or (name == "__metadata__" and has_metadata):
            raise CheckpointError(f"has the tensor {shorten(name)} twice")
        if len(tensors) == MAX_TENSORS:
            raise CheckpointError(f"has more than {MAX_TENSORS} tensors")
        if name == "__metadata__":
            has_metadata = True
            _check_metadata(value)
            continue
        with naming(f"tensor {shorten(name)}"):
            tensors[name] = TensorInfo.parse(value)
    if header[place:].strip():
        raise CheckpointError(f"has a header that goes on after its end, at byte {place}")
    return tensors


def _parse_name(key: bytes) -> str:
    if len(key) > MAX_ENTRY_BYTES:
        raise CheckpointError(f"names a tensor with {len(key)} bytes, at most {MAX_ENTRY_BYTES}")
    return str(parse_json(key))


def _check_metadata(value: bytes) -> None:
    if len(value) > MAX_METADATA_BYTES:
        raise CheckpointError(f"has {len(value)} bytes of metadata, at most {MAX_METADATA_BYTES}")
    if not all(isinstance(text, str) for text in parse_json(value).values()):
        raise CheckpointError("has metadata that is not text")


def _check_layout(tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    """The tensors must follow each other from the header's end to the file's."""
    place = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != place:
            fault = "overlaps another" if info.start < place else "leaves a gap before it"
            raise CheckpointError(f"tensor {shorten(name)} at byte {info.start} {fault}")
        place = info.end
    if place != data_bytes:
        raise CheckpointError(f"holds {data_bytes} bytes of tensors, its header says {place}")


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
