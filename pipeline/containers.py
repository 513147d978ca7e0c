"""PNG, JPEG and WebP as files: size, orientation, text, and the part that a decoder needs.

Knows no pixels and decodes none. Everything is read from bounded places of an untrusted file, so
that its size is known before a decoder sees it, and only what decides pixels ever gets there. Every
refusal is a PictureError that leaves the file's name to the caller.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from pipeline.errors import PictureError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_TEXT_BYTES = 2**20
MAX_ASIDE_BYTES = 16 * 2**20  # what a picture may carry beside its pixels
MAX_PARTS = 100_000
MAX_SCANS = 64  # progressive encoders write about ten, and each costs a pass over the whole picture

_PNG_ESSENTIALS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_ORIENTATION = 0x0112


def picture_size(stream: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels, from the header alone."""
    start = stream.read(30)
    stream.seek(0)
    match _format(start):
        case "PNG":
            if start[12:16] != b"IHDR" or len(start) < 24:
                raise PictureError("its header is missing")
            width, height = struct.unpack(">II", start[16:24])
        case "WEBP":
            width, height = _webp_size(start)
        case _:
            width, height = _jpeg_size(stream)
            stream.seek(0)
    return width, height


def essentials(stream: BinaryIO) -> tuple[str, BytesIO, int]:
    """The format, the file less all that decides no pixels, and its EXIF orientation, 1 to 8.

    Call it only for a file whose size on disk has been checked: it is read into memory.
    """
    start = stream.read(30)
    stream.seek(0)
    body = BytesIO()
    match _format(start):
        case "PNG":
            exif = _copy_png(stream, body)
        case "WEBP":
            exif = _copy_webp(stream, body)
        case _:
            exif = _copy_jpeg(stream, body)
    body.seek(0)
    return _format(start), body, _orientation(exif)


def png_text(stream: BinaryIO, keyword: bytes) -> bytes | None:
    """The one text a PNG holds under `keyword`, from its tEXt, zTXt or iTXt chunk, else None.

    The whole file is walked, its other chunks are passed over unread.
    """
    text = None
    for kind, length in _chunks(stream):
        if kind not in {b"tEXt", b"zTXt", b"iTXt"}:
            continue
        if stream.read(len(keyword) + 1) == keyword + b"\0":
            if text is not None:  # before it is unpacked: a file may hold thousands of them
                raise PictureError(f"holds 2 texts named {keyword.decode()}, must be one")
            stream.seek(-len(keyword) - 1, 1)
            text = _decode_text(kind, _read_chunk(stream, kind, length, MAX_TEXT_BYTES))
    return text


def _format(start: bytes) -> str:
    if start.startswith(PNG_SIGNATURE):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    raise PictureError("is not a PNG, JPEG or WebP picture")


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every PNG chunk up to the last, with the stream at the chunk's data."""
    if stream.read(8) != PNG_SIGNATURE:
        raise PictureError("is not a PNG picture")
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack(">I4s", _read(stream, 8))
        place = stream.tell()
        yield kind, length
        if kind == b"IEND":
            stream.seek(place + length)
            _read(stream, 4)
            return
        stream.seek(place + length + 4)
    raise PictureError(f"has more than {MAX_PARTS} parts")


def _read_chunk(stream: BinaryIO, kind: bytes, length: int, limit: int) -> bytes:
    if length > limit:
        raise PictureError(f"its {kind!r} chunk has {length} bytes, at most {limit} are read")
    data = _read(stream, length)
    if struct.unpack(">I", _read(stream, 4))[0] != zlib.crc32(kind + data):
        raise PictureError(f"is damaged in its {kind!r} chunk")
    return data


def _decode_text(kind: bytes, data: bytes) -> bytes:
    """The text alone; PNG 1.2, section 4.2.3."""
    text = data.partition(b"\0")[2]
    is_packed = kind == b"zTXt"
    if is_packed:
        text = text[1:]
    if kind == b"iTXt":
        is_packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    return _inflate(text) if is_packed else text


def _inflate(packed: bytes) -> bytes:
    try:
        text = zlib.decompressobj().decompress(packed, MAX_TEXT_BYTES + 1)
    except zlib.error:
        raise PictureError("its text cannot be unpacked") from None
    if len(text) > MAX_TEXT_BYTES:
        raise PictureError(f"its text unpacks to more than {MAX_TEXT_BYTES} bytes")
    return text


def _copy_png(stream: BinaryIO, body: BytesIO) -> bytes:
    """Copy what decides the pixels of the first frame to `body`; the EXIF block is returned."""
    exif = b""
    body.write(PNG_SIGNATURE)
    for kind, length in _chunks(stream):
        if kind == b"eXIf":
            exif = _read_chunk(stream, kind, length, MAX_TEXT_BYTES)
        if kind in _PNG_ESSENTIALS:
            data = _read_chunk(stream, kind, length, 2**31)
            body.write(struct.pack(">I4s", length, kind))
            body.write(data)
            body.write(struct.pack(">I", zlib.crc32(kind + data)))
    return exif


def _webp_size(start: bytes) -> tuple[int, int]:
    """RFC 9649, sections 2.5 to 2.7."""
    if len(start) < 30:
        raise PictureError("ends too early, it is not whole")
    if start[12:16] == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if start[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", start[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise PictureError("its header is missing")


def _copy_webp(stream: BinaryIO, body: BytesIO) -> bytes:
    """Copy all but profiles and metadata to `body`; the EXIF block is returned."""
    exif = b""
    parts: list[bytes] = []
    size = struct.unpack("<4xI4x", _read(stream, 12))[0]
    while stream.tell() < size + 8:
        head = _read(stream, 8)
        kind, length = struct.unpack("<4sI", head)
        data = _read(stream, length + length % 2)
        if kind == b"EXIF":
            exif = data
        elif kind not in {b"ICCP", b"XMP "}:
            parts.append(head + data)
    body.write(struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, parts)), b"WEBP"))
    body.writelines(parts)
    return exif


def _segments(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Marker and length of every JPEG segment before the first scan, the stream at its data."""
    stream.seek(2)
    while stream.tell() < MAX_ASIDE_BYTES:
        marker = _read(stream, 2)
        if marker == b"\xff\xff":
            stream.seek(-1, 1)
            continue
        if marker[0] != 0xFF or marker[1] < 0xC0:
            raise PictureError("is damaged in its header")
        (length,) = struct.unpack(">H", _read(stream, 2))
        if length < 2:
            raise PictureError("is damaged in its header")
        place = stream.tell()
        yield marker[1], length - 2
        if marker[1] == 0xDA:
            return
        stream.seek(place + length - 2)
    raise PictureError(f"carries more than {MAX_ASIDE_BYTES} bytes before its pixels")


def _jpeg_size(stream: BinaryIO) -> tuple[int, int]:
    for marker, _ in _segments(stream):
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">xHH", _read(stream, 5))
            return width, height
    raise PictureError("its header is missing")


def _copy_jpeg(stream: BinaryIO, body: BytesIO) -> bytes:
    """Copy all but profiles and metadata to `body`; the first EXIF block is returned."""
    exif = b""
    body.write(b"\xff\xd8")
    for marker, length in _segments(stream):
        data = _read(stream, length)
        if marker == 0xE1 and data.startswith(b"Exif\0\0"):
            exif = exif or data
        if not 0xE1 <= marker <= 0xEF or marker == 0xEE:  # APP14 says which colours these are
            body.write(struct.pack(">BBH", 0xFF, marker, length + 2) + data)
    scans = stream.read()
    if 1 + scans.count(b"\xff\xda") > MAX_SCANS:
        raise PictureError(f"has more than {MAX_SCANS} scans")
    body.write(scans)
    return exif


def _orientation(exif: bytes) -> int:
    """The tag of that name in a TIFF block, TIFF 6.0 section 2; 1, upright, where there is none."""
    block = exif.removeprefix(b"Exif\0\0")
    if block[:4] not in {b"II*\0", b"MM\0*"}:
        return 1
    order = "<" if block[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(f"{order}H6xH", block, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a block cut short says nothing about the picture
        return 1
    return 1


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise PictureError("ends too early, it is not whole")
    return data
