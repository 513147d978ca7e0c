"""Frames on disk -> mp4, WebP, GIF or a folder of PNGs, with a text inside; and what is in a video.

Knows no model and no spec: the text is the caller's. Frames are read one by one, so that memory
does not grow with their number, and no file has its name before it was decoded and counted.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import BinaryIO

from av.error import FFmpegError
from PIL import Image

from pipeline.boxes import Kind, append_text, video_kind, video_text
from pipeline.containers import MAX_TEXT_BYTES, PNG_SIGNATURE
from pipeline.encoders import decode, encode, video_size
from pipeline.errors import OutputError, PictureError, SpecError
from pipeline.files import sync_folder, write_atomically
from pipeline.pictures import open_image, opened
from pipeline.spec import MAX_FPS

MIN_FPS = Fraction(1, 60)
_TICK = {"mp4": Fraction(1, 1000), "webp": Fraction(1, 1000), "gif": Fraction(1, 100)}  # seconds

_SEQUENCE_NAME = re.compile(r"\d{6}\.png")


@dataclass(frozen=True)
class Probed:
    """What a video holds: `width` and `height` in pixels, `frames`, `duration` in seconds."""

    width: int
    height: int
    frames: int
    duration: Fraction


def write_video(
    frames: Iterable[Path],
    file: Path,
    *,
    fps: Fraction | float,
    kind: Kind,
    loop: bool = True,
    metadata: str | None = None,
) -> None:
    """Write the pictures in `frames`, in their order, as a video that is whole or not there.

    `frames` is gone through once and may be a generator; all pictures have one size, and there are
    at least 2. `fps` is taken as the nearest fraction with a denominator of at most 1001. `loop`
    says whether a GIF or a WebP begins again at its end; in an mp4 it says nothing. `metadata` is
    read back by `read_metadata`.

    An mp4 is H.264 yuv420p with its index in front; an odd width or height grows by one pixel, a
    copy of the last column or row, so that nothing is cut off.

    Raises SpecError for fewer frames, another `fps` or a text that does not fit, PictureError for a
    frame that cannot be read or has another size, OutputError where the disk refuses or the written
    file does not hold what was put in. What `frames` raises passes through, but for an OSError,
    which is taken for the disk's.
    """
    rate = _parse_rate(fps, kind)
    _check_text(metadata)

    def write(stream: BinaryIO) -> None:
        part = Path(stream.name)
        try:
            put_in = _encode(frames, part, kind, rate, loop, metadata)
            _verify(part, kind, put_in, metadata)
        except OSError:
            raise  # FFmpeg's too, which write_atomically explains
        except FFmpegError as error:
            raise OutputError(f"{file.name}: cannot be encoded: {error.strerror}") from error
        except _DiffersError as error:
            raise OutputError(f"{file.name}: is not kept: {error}") from error

    write_atomically(file, write)


def write_sequence(frames: Iterable[Path], folder: Path) -> None:
    """Give `folder` the PNGs in `frames` as 000000.png, 000001.png, …, all of them or none.

    They are hard links, which take no space, and copies where the disk has no links. A folder that
    is there is replaced if it holds such a sequence and nothing else. Raises SpecError where there
    is no frame, PictureError for one that is no PNG, OutputError where the disk refuses.
    """
    part = folder.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.mkdir()
        count = 0
        for count, frame in enumerate(frames, start=1):
            _place(frame, part / f"{count - 1:06d}.png")
        if not count:
            raise SpecError("0 frames: a sequence has at least 1")
        sync_folder(part)
        _exchange(part, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{folder.name}: cannot be written: {reason}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def boomerang(frames: Sequence[Path]) -> Iterator[Path]:
    """`frames` there and back, neither end twice: of 4 the order is 0 1 2 3 2 1."""
    return chain(frames, (frames[index] for index in range(len(frames) - 2, 0, -1)))


def read_metadata(file: Path) -> str | None:
    """The text inside an mp4, WebP or GIF, or None; no frame of it is decoded.

    A text of more than 1 MiB is refused unread. Raises PictureError.
    """
    with opened(file) as stream:
        return video_text(stream)


def probe(file: Path) -> Probed:
    """What the mp4, WebP or GIF in `file` holds, all of it decoded. Raises PictureError."""
    with opened(file) as stream:
        kind = video_kind(stream)
        size: tuple[int, int] | None = None
        count, end = 0, Fraction(0)
        try:
            for found, moment in decode(stream, file, kind):
                if size not in {None, found}:
                    raise PictureError(f"changes its size from {size} to {found}")
                size, count, end = found, count + 1, moment
        except (FFmpegError, SyntaxError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise PictureError(f"cannot be decoded: {reason}") from error
        if size is None:
            raise PictureError("holds no frames")
    return Probed(*size, count, end)


class _DiffersError(Exception):
    """What was read back is not what was put in."""


def _parse_rate(fps: Fraction | float, kind: Kind) -> Fraction:
    limit = MAX_FPS[kind]
    if not (isfinite(fps) and MIN_FPS <= fps <= limit):
        raise SpecError(f"fps = {fps}: must be between {MIN_FPS} and {limit} in a video as {kind}")
    return Fraction(fps).limit_denominator(1001)


def _check_text(text: str | None) -> None:
    if text is None:
        return
    if not text or "\0" in text:
        raise SpecError(
            "metadata: must be None, or a text that is not empty, without null characters"
        )
    if (size := len(text.encode())) > MAX_TEXT_BYTES // 2:
        limit = MAX_TEXT_BYTES // 2  # what is escaped must fit too
        raise SpecError(f"metadata: has {size} bytes, at most {limit} are kept in a video")


def _encode(
    frames: Iterable[Path], part: Path, kind: Kind, rate: Fraction, loop: bool, text: str | None
) -> Probed:
    """Fill `part`, and say what was put into it."""
    images = _open_all(frames)
    head = list(islice(images, 2))
    if len(head) < 2:
        raise SpecError(f"{len(head)} frames: a video has at least 2")
    size = head[0].size
    comment = text if kind == "mp4" else None
    count = encode(
        chain(head, images), size, part, kind=kind, rate=rate, loop=loop, comment=comment
    )
    if text is not None and kind != "mp4":
        with part.open("r+b") as stream:
            append_text(stream, text)
    return Probed(*video_size(size, kind), count, count / rate)


def _open_all(frames: Iterable[Path]) -> Iterator[Image.Image]:
    size: tuple[int, int] | None = None
    for frame in frames:
        image = open_image(frame)
        size = size or image.size
        if image.size != size:
            (width, height), (wanted_width, wanted_height) = image.size, size
            raise PictureError(
                f"{frame.name}: has {width} × {height} pixels, "
                f"the first frame has {wanted_width} × {wanted_height}"
            )
        yield image


def _verify(part: Path, kind: Kind, put_in: Probed, text: str | None) -> None:
    """Raise _DiffersError unless all of `part` can be read, and is what was put in."""
    try:
        found, found_text = probe(part), read_metadata(part)
    except PictureError as error:
        reason = str(error).removeprefix(f"{part.name}: ")
        raise _DiffersError(f"read back, it {reason}") from error
    wanted = replace(put_in, duration=found.duration)
    if found != wanted or abs(found.duration - put_in.duration) > _TICK[kind]:
        raise _DiffersError(f"read back, it is {found}, not {put_in}")
    if found_text != text:
        raise _DiffersError("read back, its metadata differ")


def _place(frame: Path, target: Path) -> None:
    with opened(frame) as stream:
        if stream.read(8) != PNG_SIGNATURE:
            raise PictureError("is not a PNG picture")
    source = os.path.realpath(frame)
    try:
        os.link(source, target)
    except OSError:  # another disk, one without links, or too many of them
        with open(source, "rb") as original, target.open("xb") as copy:
            shutil.copyfileobj(original, copy)
            copy.flush()
            os.fsync(copy.fileno())


def _exchange(part: Path, folder: Path) -> None:
    """Give `part` the name `folder`; a sequence that has it goes when the new one is in place."""
    former = part.with_suffix(".former")
    if folder.exists():
        if not (folder.is_dir() and all(map(_SEQUENCE_NAME.fullmatch, os.listdir(folder)))):
            raise OutputError(f"{folder.name}: is there, and is not a sequence of this program")
        os.rename(folder, former)
    try:
        os.rename(part, folder)
    except OSError:
        if former.exists():
            os.rename(former, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(former, ignore_errors=True)
