"""Picture files from outside: size before decoding, little passed on, bounded reading."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.containers import (
    MAX_TEXT_BYTES,
    PNG_SIGNATURE,
    essentials,
    picture_size,
    png_text,
)
from pipeline.errors import PictureError

KEY = b"greatcircle"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra: bytes, width: int = 3, height: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(3) for _ in range(2)))
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", rows), chunk(b"IEND")]
    return PNG_SIGNATURE + b"".join(parts)


def text_of(data: bytes) -> bytes | None:
    return png_text(io.BytesIO(data), KEY)


def saved(format: str, size: tuple[int, int] = (5, 3), **options: Any) -> bytes:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, format=format, **options)
    return stream.getvalue()


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0" + bytes(6)}),
]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (300, 7)])
@pytest.mark.parametrize(("format", "options"), KINDS)
def test_sizes_are_read_from_the_header(
    format: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    assert picture_size(io.BytesIO(saved(format, size, **options))) == size


def test_what_passes_has_the_same_pixels_and_nothing_else() -> None:
    secret = b"PLACE" * 20
    for format, options in KINDS:
        options = options | {"icc_profile": secret}
        if format == "PNG":
            info = PngInfo()
            info.add_text("where", secret.decode())
            options["pnginfo"] = info
        else:
            options["exif"] = exif(1) + secret
        data = saved(format, **options)

        name, body, _ = essentials(io.BytesIO(data))

        passed = body.read()
        assert secret in data or format == "PNG"  # a PNG's profile is packed
        assert secret not in passed
        assert b"iCCP" not in passed
        assert name == format
        before, after = (np.array(Image.open(io.BytesIO(d)).convert("RGB")) for d in (data, passed))
        assert np.array_equal(before, after)


def exif(value: int, order: str = "<", tag: int = 0x0112) -> bytes:
    start = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    return b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_orientations_are_read(format: str, order: str) -> None:
    for value in range(1, 9):
        data = saved(format, exif=exif(value, order))
        assert essentials(io.BytesIO(data))[2] == value


@pytest.mark.parametrize(
    "block",
    [
        exif(0),
        exif(9),
        exif(6, tag=0x0113),
        exif(6)[:20],
        b"Exif\0\0II*\0" + b"\xff" * 40,
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(24),
        b"Exif\0\0XX*\0" + bytes(40),
        b"Exif\0\0",
    ],
    ids=range(8),
)
def test_a_broken_orientation_is_none(block: bytes) -> None:
    assert essentials(io.BytesIO(saved("JPEG", exif=block)))[2] == 1


def packed(text: bytes) -> bytes:
    return zlib.compress(text, 9)


@pytest.mark.parametrize(
    "part",
    [
        chunk(b"tEXt", KEY + b"\0{}"),
        chunk(b"zTXt", KEY + b"\0\0" + packed(b"{}")),
        chunk(b"iTXt", KEY + b"\0\0\0en\0Great circle\0{}"),
        chunk(b"iTXt", KEY + b"\0\1\0\0\0" + packed(b"{}")),
    ],
    ids=["tEXt", "zTXt", "iTXt", "iTXt packed"],
)
def test_a_text_is_found_in_every_form(part: bytes) -> None:
    other = chunk(b"tEXt", b"greatcircles\0no") + chunk(b"tEXt", b"great\0no") + chunk(b"tEXt", b"")
    assert text_of(png(other, part)) == b"{}"
    assert text_of(png(other)) is None
    assert text_of(png()[:-12] + part + chunk(b"IEND")) == b"{}"  # behind the pixels


def many(kind: bytes, count: int) -> Iterable[bytes]:
    return (chunk(kind) for _ in range(count))


BROKEN = {
    "empty": (b"", "is not a PNG picture"),
    "a JPEG": (saved("JPEG"), "is not a PNG picture"),
    "signature alone": (PNG_SIGNATURE, "ends too early"),
    "no end": (png()[:-12], "ends too early"),
    "cut in the end": (png()[:-1], "ends too early"),
    "cut in the pixels": (png()[:50], "ends too early"),
    "a length beyond the file": (
        PNG_SIGNATURE + struct.pack(">I4s", 2**32 - 1, b"IDAT"),
        "ends too early",
    ),
    "a text beyond the file": (
        PNG_SIGNATURE + struct.pack(">I4s", 100, b"tEXt") + KEY + b"\0{}",
        "ends too early",
    ),
    "a text damaged": (
        png(chunk(b"tEXt", KEY + b"\0{}").replace(b"{}", b"[]")),
        "is damaged in its b'tEXt' chunk",
    ),
    "two texts": (png(chunk(b"tEXt", KEY + b"\0{}") * 2), "holds 2 texts named greatcircle"),
    "a long text": (png(chunk(b"tEXt", KEY + b"\0" + bytes(MAX_TEXT_BYTES))), "at most 1048576"),
    "a bomb": (
        png(chunk(b"zTXt", KEY + b"\0\0" + packed(bytes(2**28)))),
        "unpacks to more than 1048576 bytes",
    ),
    "an international bomb": (
        png(chunk(b"iTXt", KEY + b"\0\1\0\0\0" + packed(bytes(2**28)))),
        "unpacks to more than 1048576 bytes",
    ),
    "not packed": (png(chunk(b"zTXt", KEY + b"\0\0{}")), "cannot be unpacked"),
    "many parts": (png(*many(b"noSe", 100_001)), "has more than 100000 parts"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_png_is_refused(case: str) -> None:
    data, reason = BROKEN[case]
    with pytest.raises(PictureError, match=reason):
        text_of(data)


def test_texts_of_others_are_passed_over_unread() -> None:
    bombs = chunk(b"zTXt", b"other\0\0" + packed(bytes(2**24))) * 100
    data = png(bombs, chunk(b"tEXt", KEY + b"\0{}"))

    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    stream = Counted(data)
    assert png_text(stream, KEY) == b"{}"
    assert stream.count < 5000 < len(data)


JPEG = saved("JPEG")
WEBP = saved("WEBP", lossless=True)

HEADLESS = {
    "nothing": (b"", "is not a PNG, JPEG or WebP picture"),
    "a GIF": (b"GIF89a" + bytes(40), "is not a PNG, JPEG or WebP picture"),
    "a WAVE": (b"RIFF\0\0\0\0WAVE" + bytes(40), "is not a PNG, JPEG or WebP picture"),
    "PNG without a header": (PNG_SIGNATURE + chunk(b"IDAT") * 3, "header is missing"),
    "PNG cut": (png()[:20], "header is missing"),
    "JPEG cut": (JPEG[:30], "ends too early"),
    "JPEG without a size": (b"\xff\xd8\xff\xda\0\2", "header is missing"),
    "JPEG of no length": (b"\xff\xd8\xff\xe0\0\0" + bytes(100), "damaged in its header"),
    "JPEG of no markers": (b"\xff\xd8\xff\xe0\0\2" + bytes(100), "damaged in its header"),
    "JPEG of fillers": (b"\xff\xd8" + b"\xff" * 1000, "ends too early"),
    "JPEG of segments": (
        b"\xff\xd8" + (b"\xff\xe2\xff\xff" + bytes(65533)) * 257,
        "carries more than 16777216 bytes before its pixels",
    ),
    "WebP cut": (WEBP[:25], "ends too early"),
    "WebP of another kind": (WEBP[:12] + b"VP9 " + WEBP[16:], "header is missing"),
}


@pytest.mark.parametrize("case", HEADLESS)
def test_a_file_without_a_size_is_refused(case: str) -> None:
    data, reason = HEADLESS[case]
    with pytest.raises(PictureError, match=reason):
        picture_size(io.BytesIO(data))


def test_a_damaged_png_is_refused_before_it_is_decoded() -> None:
    data = bytearray(png())
    data[data.index(b"IDAT") + 8] ^= 1
    with pytest.raises(PictureError, match="is damaged in its b'IDAT' chunk"):
        essentials(io.BytesIO(bytes(data)))


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    scan = JPEG[JPEG.index(b"\xff\xda") : -2]
    with pytest.raises(PictureError, match="has more than 64 scans"):
        essentials(io.BytesIO(JPEG[:-2] + scan * 64 + b"\xff\xd9"))


def test_bytes_behind_a_webp_are_left_out() -> None:
    _, body, _ = essentials(io.BytesIO(WEBP + b"PK\3\4" * 10))
    assert body.read() == WEBP
