"""mp4, WebP and GIF as files: which it is, the text inside, and the frames of a WebP one by one.

Knows no pixels and decodes none. Everything is read from bounded places of an untrusted file.
Every refusal is a PictureError that leaves the file's name to the caller.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal
from xml.sax.saxutils import escape, unescape

from pipeline.containers import MAX_PARTS, MAX_TEXT_BYTES
from pipeline.errors import PictureError

Kind = Literal["mp4", "webp", "gif"]

MAX_FRAME_BYTES = 2**28  # one frame of a WebP; the largest that its 14 bits a side allow take less

_MP4_TEXT = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")  # one in another
_MP4_ASIDE = {b"meta": 4, b"data": 8}  # version and flags; type and locale

_HAS_XMP = 0x04  # a flag of VP8X, RFC 9649 section 2.7.1
# XMP part 1 (ISO 16684-1): a description is a list of alternatives by language
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    'syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">',
    "</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>",
)
_XMP_ESCAPES = {"\r": "&#13;"}  # which XML readers would take for a line's end

_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B
_GIF_COMMENT = 0xFE
_GIF_BLOCK_BYTES = 255


def video_kind(stream: BinaryIO) -> Kind:
    """What kind of video `stream` begins like; it is left at its start."""
    start = stream.read(12)
    stream.seek(0)
    if start[4:8] == b"ftyp":
        return "mp4"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    if start[:6] in {b"GIF87a", b"GIF89a"}:
        return "gif"
    raise PictureError("is not an mp4, WebP or GIF")


def video_text(stream: BinaryIO) -> str | None:
    """The comment of an mp4 or a GIF, the XMP description of a WebP as `append_text` writes it."""
    match video_kind(stream):
        case "mp4":
            data = _mp4_text(stream)
        case "webp":
            data = _webp_text(stream)
        case _:
            data = _gif_text(stream)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise PictureError("its text is not UTF-8") from None


def append_text(stream: BinaryIO, text: str) -> None:
    """Put `text` at the end of a whole WebP or GIF that holds none; `stream` reads and writes."""
    if video_kind(stream) == "gif":
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([_GIF_EXTENSION, _GIF_COMMENT]))
        data = text.encode()
        for start in range(0, len(data), _GIF_BLOCK_BYTES):
            block = data[start : start + _GIF_BLOCK_BYTES]
            stream.write(bytes([len(block)]) + block)
        stream.write(bytes([0, _GIF_END]))
        return

    packet = escape(text, _XMP_ESCAPES).join(_XMP).encode()
    stream.seek(0, os.SEEK_END)
    stream.write(struct.pack("<4sI", b"XMP ", len(packet)) + packet + b"\0" * (len(packet) % 2))
    size = stream.tell() - 8
    stream.seek(4)
    stream.write(struct.pack("<I", size))
    stream.seek(20)
    flags = _read(stream, 1)[0]
    stream.seek(20)
    stream.write(bytes([flags | _HAS_XMP]))


def webp_frames(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Milliseconds, and a WebP of its own, for each frame of an animated one.

    The frames are taken for whole pictures, as this program writes them.
    """
    for kind, length in _webp_chunks(stream):
        if kind == b"ANMF":
            if not 16 < length <= MAX_FRAME_BYTES:
                raise PictureError(f"has a frame of {length} bytes")
            head = _read(stream, 16)  # RFC 9649, section 2.7.1.1
            body = _read(stream, length - 16)
            milliseconds = int.from_bytes(head[12:15], "little")
            yield milliseconds, struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WEBP") + body


def _mp4_text(stream: BinaryIO) -> bytes | None:
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    for kind in _MP4_TEXT:
        found = _find_box(stream, kind, end)
        if found is None:
            return None
        end = found
        stream.seek(_MP4_ASIDE.get(kind, 0), os.SEEK_CUR)
    return _read_text(stream, end - stream.tell())


def _find_box(stream: BinaryIO, wanted: bytes, end: int) -> int | None:
    """Where the next box named so ends, with the stream at its content; ISO 14496-12, 4.2."""
    for _ in range(MAX_PARTS):
        start = stream.tell()
        if start + 8 > end:
            return None
        size, kind = struct.unpack(">I4s", _read(stream, 8))
        if size == 1:
            (size,) = struct.unpack(">Q", _read(stream, 8))
        stop = start + size if size else end
        if not stream.tell() <= stop <= end:
            raise PictureError(f"has a box of {size} bytes where {end - start} are left")
        if kind == wanted:
            return stop
        stream.seek(stop)
    raise PictureError(f"has more than {MAX_PARTS} parts")


def _webp_text(stream: BinaryIO) -> bytes | None:
    for kind, length in _webp_chunks(stream):
        if kind == b"XMP ":
            packet = _read_text(stream, length)
            start, end = (part.encode() for part in _XMP)
            if not (packet.startswith(start) and packet.endswith(end)):
                return None
            inner = packet[len(start) : -len(end)].decode(errors="surrogateescape")
            text = unescape(inner, {mark: sign for sign, mark in _XMP_ESCAPES.items()})
            return text.encode(errors="surrogateescape")
    return None


def _webp_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every chunk, with the stream at the chunk's data; RFC 9649, 2.3."""
    (size,) = struct.unpack("<4xI4x", _read(stream, 12))
    for _ in range(MAX_PARTS):
        if stream.tell() >= size + 8:
            return
        kind, length = struct.unpack("<4sI", _read(stream, 8))
        place = stream.tell()
        yield kind, length
        stream.seek(place + length + length % 2)
    raise PictureError(f"has more than {MAX_PARTS} parts")


def _gif_text(stream: BinaryIO) -> bytes | None:
    """The first comment; GIF89a, sections 18 to 27."""
    head = _read(stream, 13)
    stream.seek(_palette_bytes(head[10]), os.SEEK_CUR)
    for _ in range(MAX_PARTS):
        match _read(stream, 1)[0]:
            case 0x2C:
                stream.seek(_palette_bytes(_read(stream, 9)[8]) + 1, os.SEEK_CUR)
                _skip_blocks(stream)
            case 0x21:
                if _read(stream, 1)[0] == _GIF_COMMENT:
                    return _join_blocks(stream)
                _skip_blocks(stream)
            case 0x3B:
                return None
            case mark:
                raise PictureError(f"has a part of the unknown kind {mark}")
    raise PictureError(f"has more than {MAX_PARTS} parts")


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(stream: BinaryIO) -> None:
    while length := _read(stream, 1)[0]:
        stream.seek(length, os.SEEK_CUR)


def _join_blocks(stream: BinaryIO) -> bytes:
    data = bytearray()
    while length := _read(stream, 1)[0]:
        data += _read(stream, length)
        _check_length(len(data))
    return bytes(data)


def _read_text(stream: BinaryIO, length: int) -> bytes:
    _check_length(length)
    return _read(stream, length)


def _check_length(length: int) -> None:
    if not 0 <= length <= MAX_TEXT_BYTES:
        raise PictureError(f"its text has {length} bytes, at most {MAX_TEXT_BYTES} are read")


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise PictureError("ends too early, it is not whole")
    return data
