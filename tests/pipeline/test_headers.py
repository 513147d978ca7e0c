"""Safetensors headers: the sound pass, the others are refused by name, fast, in little memory."""

from __future__ import annotations

import json
import pickle
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import CheckpointError
from pipeline.headers import MAX_HEADER_BYTES, MAX_TENSORS, TensorInfo, read_header


def entry(start: int = 0, end: int = 4, dtype: Any = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def write(file: Path, header: dict[str, Any] | bytes, data: bytes = b"\0" * 4) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_file_of_the_library_is_read(file: Path) -> None:
    tensors = {
        "a.weight": torch.zeros(2, 3),
        "half": torch.zeros(5, dtype=torch.float16),
        "brain": torch.zeros(1, 1, 7, dtype=torch.bfloat16),
        "position_ids": torch.arange(3),
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 4),
        'odd "name" \\ {with}, ünï: ': torch.zeros(2),
    }
    save_file(tensors, file, metadata={"format": "pt", "notes": '{"a": "}"}, \\"'})

    read = read_header(file)

    assert {name: info.shape for name, info in read.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert {name: info.end - info.start for name, info in read.items()} == {
        name: tensor.nbytes for name, tensor in tensors.items()
    }
    assert read["brain"].dtype == "BF16"
    assert read["position_ids"].dtype == "I64"


def test_tensors_may_stand_in_any_order_and_spacing(file: Path) -> None:
    header = b"""{ "b" : {"shape": [1], "data_offsets": [4, 8],\n "dtype": "F32"} ,
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}    """

    assert read_header(write(file, header, b"\0" * 8)) == {
        "b": TensorInfo("F32", (1,), 4, 8),
        "a": TensorInfo("F32", (), 0, 4),
    }


A = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

REFUSED: dict[str, tuple[dict[str, Any] | bytes, bytes, str]] = {
    "no tensors": (b"{}", b"", "broken at byte 1, or empty"),
    "not an object": (b"[1]", b"", "is not safetensors"),
    "unfinished": (b"{" + A, b"\0" * 4, "broken at byte"),
    "goes on": (b"{" + A + b"}{}", b"\0" * 4, "goes on after its end"),
    "no comma": (b"{" + A + A + b"}", b"\0" * 4, "broken at byte"),
    "trailing comma": (b"{" + A + b",}", b"\0" * 4, "broken at byte"),
    "bare word": (b'{"a":true}', b"", "broken at byte"),
    "name not quoted": (b"{" + A.replace(b'"a"', b"a") + b"}", b"", "broken at byte"),
    "name not UTF-8": (b"{" + A.replace(b"a", b"\xff", 1) + b"}", b"\0" * 4, "is not valid JSON"),
    "bad escape": (b"{" + A.replace(b"a", b"\\x", 1) + b"}", b"\0" * 4, "is not valid JSON"),
    "nested": (b'{"a":{"dtype":{"b":1}}}', b"", "broken at byte"),
    "name twice": (b"{" + A + b"," + A + b"}", b"\0" * 4, "has the tensor 'a' twice"),
    "name twice, escaped": (
        b"{" + A + b"," + A.replace(b'"a"', b'"\\u0061"') + b"}", b"\0" * 4, "'a' twice",
    ),
    "key twice": (
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
        "tensor 'a': is not valid JSON: the key 'dtype' stands there twice",
    ),
    "extra key": ({"a": entry() | {"device": "cpu"}}, b"\0" * 4, "tensor 'a': must have dtype"),
    "missing key": ({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4, "must have dtype"),
    "unknown dtype": ({"a": entry(dtype="F31")}, b"\0" * 4, "tensor 'a': has dtype 'F31'"),
    "dtype a list": ({"a": entry(dtype=["F32"])}, b"\0" * 4, "tensor 'a': has dtype"),
    "negative shape": ({"a": entry(shape=(-1, -1))}, b"\0" * 4, "not counts"),
    "fractional shape": ({"a": entry(shape=(1.0,))}, b"\0" * 4, "not counts"),
    "shape of truths": ({"a": entry(shape=(True,))}, b"\0" * 4, "not counts"),
    "shape a text": ({"a": entry() | {"shape": "1"}}, b"\0" * 4, "not counts"),
    "negative offset": ({"a": entry(-4, 0)}, b"\0" * 4, "not counts"),
    "three offsets": ({"a": entry() | {"data_offsets": [0, 4, 8]}}, b"\0" * 4, "not counts"),
    "NaN": (b"{" + A.replace(b"[1]", b"[NaN]") + b"}", b"\0" * 4, "NaN is not allowed"),
    "shape of many digits": (
        b"{" + A.replace(b"[1]", b"[" + b"9" * 3000 + b"]") + b"}", b"\0" * 4, "3000 digits",
    ),
    "end before start": ({"a": entry(4, 0)}, b"\0" * 4, "tensor 'a': has -4 bytes"),
    "bytes against shape": ({"a": entry(0, 8)}, b"\0" * 8, "has 8 bytes, its .* need 4"),
    "overflowing shape": (
        {"a": entry(0, 0, shape=(2**63, 2))}, b"", r"has 0 bytes, its shape and dtype need \d+",
    ),
    "overlap": (
        {"a": entry(0, 8, shape=(2,)), "b": entry(4, 8)}, b"\0" * 8, "'b' at byte 4 overlaps",
    ),
    "same bytes": ({"a": entry(), "b": entry()}, b"\0" * 4, "'b' at byte 0 overlaps another"),
    "gap": ({"a": entry(), "b": entry(8, 12)}, b"\0" * 12, "'b' at byte 8 leaves a gap"),
    "gap at the start": ({"a": entry(4, 8)}, b"\0" * 8, "'a' at byte 4 leaves a gap"),
    "bytes at the end": ({"a": entry()}, b"\0" * 5, "holds 5 bytes of tensors, its header says 4"),
    "truncated": ({"a": entry()}, b"\0" * 3, "holds 3 bytes of tensors, its header says 4"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": entry()}, b"\0" * 4, "not text"),
    "metadata twice": (
        b'{"__metadata__":{},"__metadata__":{},' + A + b"}", b"\0" * 4, "'__metadata__' twice",
    ),
    "long name": ({"n" * 5000: entry()}, b"\0" * 4, "names a tensor with 5002 bytes"),
    "long shape": ({"a": entry(shape=(1,) * 3000)}, b"\0" * 4, "tensor 'a': takes 9"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_sound_is_refused(file: Path, case: str) -> None:
    header, data, reason = REFUSED[case]
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_header(write(file, header, data))

    assert str(caught.value).startswith("model.safetensors: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_label_takes_the_name(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^unet/model\.safetensors: "):
        read_header(write(file, b"{}"), "unet/model.safetensors")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 40])
def test_a_file_cut_short_is_refused(file: Path, size: int) -> None:
    whole = write(file, {"a": entry()}).read_bytes()
    file.write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match=r"not safetensors|ends within its header"):
        read_header(file)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, MAX_HEADER_BYTES + 1])
def test_an_enormous_header_is_not_read(file: Path, length: int) -> None:
    file.write_bytes(length.to_bytes(8, "little") + b"{")
    with pytest.raises(CheckpointError, match=f"has a header of {length} bytes, at most 16000000"):
        read_header(file)


def test_a_missing_file_is_said(file: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_header(file)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("trapped").touch, ()


@pytest.mark.parametrize("form", ["torch", "torch old", "pickle", "text pickle", "zip"])
def test_a_pickle_under_another_name_is_never_opened(
    file: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    match form:
        case "torch" | "torch old":
            torch.save({"a": Trap()}, file, _use_new_zipfile_serialization=form == "torch")
        case "pickle":
            file.write_bytes(pickle.dumps(Trap()))
        case "text pickle":
            file.write_bytes(pickle.dumps(Trap(), protocol=0))
        case "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("data.pkl", pickle.dumps(Trap()))

    reason = "is not safetensors" if form == "text pickle" else "is a pickle under another name"
    with pytest.raises(CheckpointError, match=reason):
        read_header(file)
    assert not Path("trapped").exists()


def many_tensors(count: int) -> bytes:
    empty = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(b'"%d":%b' % (index, empty) for index in range(count)) + b"}"


def test_as_many_tensors_as_allowed(file: Path) -> None:
    assert len(read_header(write(file, many_tensors(MAX_TENSORS), b""))) == MAX_TENSORS


FULL = MAX_HEADER_BYTES - 100

HEAVY: dict[str, tuple[bytes, str]] = {
    "300 000 tensors": (many_tensors(280_000), "more than 20000 tensors"),
    "metadata of 5 MB": (
        b'{"__metadata__":{"a":"' + b"x" * 5_000_000 + b'"},' + A + b"}",
        "of metadata, at most 1000000",
    ),
    "metadata of escapes": (
        b'{"__metadata__":{"a":"' + b"\\\\" * (FULL // 2) + b'"},' + A + b"}", "of metadata",
    ),
    "metadata unfinished": (b'{"__metadata__":{"a":"' + b"\\\\" * (FULL // 2), "broken at byte 1"),
    "metadata of commas": (b'{"__metadata__":{"a":"' + b'","' * (FULL // 3) + b'"}}', "metadata"),
    "a long name": (b'{"' + b"n" * FULL + b'":{}}', "names a tensor with"),
    "a long shape": (
        b'{"a":{"dtype":"F32","shape":[' + b"1," * (FULL // 2) + b'1],"data_offsets":[0,4]}}',
        "tensor 'a': takes",
    ),
    "deep": (b'{"a":' + b"{" * FULL, "broken at byte"),
    "blank": (b"{" + b" " * FULL, "broken at byte"),
    "emoji": (b'{"' + "🍎".encode() * (FULL // 4) + b'":{}}', "names a tensor with"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEAVY)
def test_a_heavy_header_is_refused_fast_and_in_little_memory(file: Path, case: str) -> None:
    header, reason = HEAVY[case]
    write(file, header)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=reason):
        read_header(file)
    assert time.process_time() - start < 1

    tracemalloc.start()
    with pytest.raises(CheckpointError, match=reason):
        read_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
