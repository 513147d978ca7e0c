"""Files taken for hostile: whatever is in them, they are read within bounds or refused."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

from pipeline.boxes import Kind
from pipeline.errors import PictureError
from pipeline.video import Probed, probe, read_metadata, write_video
from tests.clips import plain, save

KINDS: tuple[Kind, ...] = get_args(Kind)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of two frames of each kind, under the kind's name."""
    folder = tmp_path_factory.mktemp("whole")
    files = save(folder, plain(200, 10, 10), plain(10, 10, 200))
    for kind in KINDS:
        write_video(files, folder / kind, fps=24, kind=kind, metadata="text")
    return folder


@every_kind
def test_a_file_cut_short_is_refused_or_has_no_text(whole: Path, kind: Kind) -> None:
    data = (whole / kind).read_bytes()
    cut, found = whole / "cut", set()
    for end in range(0, len(data), max(1, len(data) // 200)):
        cut.write_bytes(data[:end])
        try:
            found.add(read_metadata(cut))
        except PictureError as error:
            assert str(error).startswith("cut: ")
    assert found <= {None, "text"}


@every_kind
@limits(max_examples=60)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1))
def test_a_changed_file_is_read_or_refused(
    whole: Path, kind: Kind, changes: list[tuple[int, int]]
) -> None:
    data = bytearray((whole / kind).read_bytes())
    for place, level in changes:
        data[place % len(data)] = level
    changed = whole / "changed"
    changed.write_bytes(data)

    for read in (read_metadata, probe):
        try:
            read(changed)
        except PictureError as error:
            assert "\n" not in str(error)
            assert str(error).startswith("changed: ")


def box(kind: bytes, *inner: bytes) -> bytes:
    body = b"".join(inner)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def mp4(*inner: bytes) -> bytes:
    return box(b"ftyp", b"isom\0\0\0\0") + b"".join(inner)


def comment(text: bytes) -> bytes:
    data = box(b"data", b"\0\0\0\1\0\0\0\0", text)
    meta = box(b"meta", bytes(4), box(b"ilst", box(b"\xa9cmt", data)))
    return box(b"moov", box(b"udta", meta))


def webp(*chunks: bytes) -> bytes:
    body = b"".join(chunks)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WEBP") + body


GIF = b"GIF89a\1\0\1\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not an mp4, WebP or GIF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is not an mp4, WebP or GIF"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "is not an mp4, WebP or GIF"),
        (mp4(comment(b"x" * (2**20 + 1))), "at most 1048576 are read"),
        (mp4(box(b"free") * 100_001), "more than 100000 parts"),
        (mp4(struct.pack(">I4s", 2**31, b"moov")), "where 8 are left"),
        (mp4(struct.pack(">I4s", 4, b"moov") + bytes(8)), "a box of 4 bytes"),
        (mp4(struct.pack(">I4sQ", 1, b"moov", 2**63)), "where 16 are left"),
        (mp4(comment(b"\xff\xfe")), "its text is not UTF-8"),
        (webp(struct.pack("<4sI", b"XMP ", 2**30)), "has 1073741824 bytes"),
        (webp(struct.pack("<4sI", b"XMP ", 100)), "is not whole"),
        (webp(bytes(8) * 100_001), "more than 100000 parts"),
        (b"RIFF", "is not an mp4, WebP or GIF"),
        (GIF, "is not whole"),
        (GIF + b"\x00", "unknown kind 0"),
        (GIF + b"\x21\xfe" + (b"\xff" + bytes(255)) * 4200, "at most 1048576 are read"),
        (GIF + b"\x21\xff\0" * 100_001, "more than 100000 parts"),
    ],
    ids=range(17),
)
def test_hostile_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(PictureError, match=rf"^a: .*{reason}"):
        read_metadata(tmp_path / "a")
    with pytest.raises(PictureError, match=r"^a: "):
        probe(tmp_path / "a")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "missing", "a\0b"):
        for read in (read_metadata, probe):
            with pytest.raises(PictureError):
                read(tmp_path / name)


def test_another_program_s_description_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(webp(b"XMP ", struct.pack("<I", 12), b"<x:xmpmeta/>"))
    assert read_metadata(tmp_path / "a") is None


def test_a_frame_larger_than_allowed_is_not_decoded(tmp_path: Path) -> None:
    still = b"VP8L" + struct.pack("<IB4s", 26, 0x2F, struct.pack("<I", 0x0FFFFFFF)) + bytes(21)
    frame = b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(16) + still
    (tmp_path / "a").write_bytes(webp(frame))
    with pytest.raises(PictureError, match="16384 × 16384 pixels"):
        probe(tmp_path / "a")


def test_an_mp4_of_something_else_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w", format="mp4") as other:
        stream = other.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 16
        other.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        other.mux(stream.encode(None))
    with pytest.raises(PictureError, match=r"^a\.mp4: holds no video of the kind h264$"):
        probe(tmp_path / "a.mp4")


def test_a_frame_that_ends_too_early_is_seen(tmp_path: Path) -> None:
    """Every box is whole, and the size in the frame's header is right: only decoding tells."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "still.webp")
    body = (tmp_path / "still.webp").read_bytes()[20:]
    for part, is_whole in ((body, True), (body[: len(body) // 6 * 2], False)):
        still = b"VP8 " + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2)
        frame = b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(16) + still
        (tmp_path / "a").write_bytes(webp(frame))
        if is_whole:
            assert probe(tmp_path / "a") == Probed(64, 64, 1, Fraction(0))
        else:
            with pytest.raises(PictureError, match=r"^a: cannot be (decoded|read): "):
                probe(tmp_path / "a")
