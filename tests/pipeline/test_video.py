"""Videos: whole or not there, the frames' colours and times, the text inside, constant memory."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

import pipeline.video
from pipeline.boxes import Kind
from pipeline.errors import OutputError, PictureError, SpecError
from pipeline.video import (
    Probed,
    boomerang,
    probe,
    read_metadata,
    write_sequence,
    write_video,
)
from tests.clips import plain, psnr, save, shown

KINDS: tuple[Kind, ...] = get_args(Kind)
TEXT = json.dumps({"prompt": 'a <b> & "c" ]]>\r\n', "umlaut": "ü", "long": "x" * 600})

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    """Five plain frames of 16 × 16 pixels."""
    folder = tmp_path / "frames"
    folder.mkdir()
    return save(folder, *(plain(40 * index, 200 - 30 * index, 90) for index in range(5)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


# --- what is in it


@every_kind
@pytest.mark.parametrize("fps", [24, 23.976, Fraction(24000, 1001), Fraction(1, 2), 50])
def test_frames_and_seconds_are_those_asked_for(
    frames: list[Path], out: Path, kind: Kind, fps: Fraction | float
) -> None:
    write_video(iter(frames), out / f"a.{kind}", fps=fps, kind=kind)

    found = probe(out / f"a.{kind}")
    assert (found.width, found.height, found.frames) == (16, 16, 5)
    # a GIF counts in hundredths of a second, a WebP in thousandths
    assert float(found.duration) == pytest.approx(5 / fps, abs={"gif": 0.01}.get(kind, 0.001))
    assert [f.name for f in out.iterdir()] == [f"a.{kind}"]


@every_kind
@limits(max_examples=12)
@given(count=st.integers(2, 40), fps=st.fractions(Fraction(1, 60), 50, max_denominator=1001))
def test_rounded_times_do_not_add_up(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, count: int, fps: Fraction
) -> None:
    """The end is where it should be, however many frames came before it."""
    folder = tmp_path_factory.mktemp("times")
    files = save(folder, plain(255, 0, 0, 2), plain(0, 0, 255, 2))
    write_video((files[index % 2] for index in range(count)), folder / "a", fps=fps, kind=kind)

    off = abs(probe(folder / "a").duration - count / fps)
    assert off <= {"gif": Fraction(1, 100)}.get(kind, Fraction(1, 1000))


@every_kind
def test_a_picture_that_is_held_is_held(frames: list[Path], out: Path, kind: Kind) -> None:
    """Encoders that leave out what does not change must not leave out its time."""
    order = [frames[0]] * 9 + [frames[4]] * 9
    write_video(order, out / f"a.{kind}", fps=10, kind=kind)

    assert probe(out / f"a.{kind}") == Probed(16, 16, 18, Fraction(18, 10))
    first, last = (np.array(Image.open(file)) for file in (frames[0], frames[4]))
    pictures = shown(out / f"a.{kind}")
    assert all(psnr(picture, first) > psnr(picture, last) for picture in pictures[:9])
    assert all(psnr(picture, last) > psnr(picture, first) for picture in pictures[9:])


@every_kind
def test_pillow_reads_the_same_times(frames: list[Path], out: Path, kind: Kind) -> None:
    if kind == "mp4":
        return
    write_video(frames, out / f"a.{kind}", fps=24, kind=kind)

    with Image.open(out / f"a.{kind}") as image:
        durations = []
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(5000 / 24, abs=5)  # half a GIF's tick
    assert max(durations) - min(durations) <= 10


# --- the text inside


@every_kind
@pytest.mark.parametrize(
    "text",
    [TEXT, " ", "ü €\n\r\t", "&#13; &amp;lt;", "x" * 255, "y" * 510, "z" * 2**19],
    ids=range(7),
)
def test_the_text_comes_back(frames: list[Path], out: Path, kind: Kind, text: str) -> None:
    write_video(frames, out / "a", fps=24, kind=kind, metadata=text)
    assert read_metadata(out / "a") == text
    assert probe(out / "a").frames == 5


@every_kind
def test_no_text_unless_it_is_given(frames: list[Path], out: Path, kind: Kind) -> None:
    write_video(frames, out / "a", fps=24, kind=kind)
    assert read_metadata(out / "a") is None


def test_other_programs_find_the_text(frames: list[Path], out: Path) -> None:
    for kind in KINDS:
        write_video(frames, out / kind, fps=24, kind=kind, metadata=TEXT)
    with av.open(str(out / "mp4")) as box:
        assert box.metadata["comment"] == TEXT
    with Image.open(out / "webp") as image:
        packet = ElementTree.fromstring(image.info["xmp"])
    assert "".join(packet.itertext()) == TEXT
    assert TEXT[:255].encode() in (out / "gif").read_bytes()


@every_kind
def test_nothing_of_the_machine_is_inside(frames: list[Path], out: Path, kind: Kind) -> None:
    write_video(frames, out / "a", fps=24, kind=kind, metadata=TEXT)
    data = (out / "a").read_bytes()
    for secret in (
        str(out),
        out.parent.name,
        frames[0].name,
        str(Path.home()),
        socket.gethostname(),
    ):
        assert len(secret) < 4 or secret.encode() not in data


# --- refusals


@pytest.mark.parametrize(
    ("fps", "kind"),
    [
        (0, "mp4"),
        (-24, "mp4"),
        (float("nan"), "mp4"),
        (float("inf"), "mp4"),
        (241, "mp4"),
        (Fraction(1, 61), "mp4"),
        (91, "webp"),
        (50.1, "gif"),
    ],
)
def test_impossible_speeds(frames: list[Path], out: Path, fps: float, kind: Kind) -> None:
    with pytest.raises(SpecError, match=r"^fps = .*: must be between 1/60 and \d+ .* as \w+$"):
        write_video(frames, out / "a", fps=fps, kind=kind)
    assert list(out.iterdir()) == []


@every_kind
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_frames(frames: list[Path], out: Path, kind: Kind, count: int) -> None:
    with pytest.raises(SpecError, match=rf"^{count} frames: a video has at least 2$"):
        write_video(frames[:count], out / "a", fps=24, kind=kind)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("text", ["", "a\0b", "x" * (2**19 + 1), "ü" * 2**19])
def test_texts_that_do_not_fit(frames: list[Path], out: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"^metadata: "):
        write_video(frames, out / "a", fps=24, kind="mp4", metadata=text)
    assert list(out.iterdir()) == []


@every_kind
def test_a_text_that_grows_too_long_in_the_file_is_not_kept(
    frames: list[Path], out: Path, kind: Kind
) -> None:
    """Escaped in XML an ampersand takes five bytes."""
    text = "&" * 2**19
    if kind == "webp":
        with pytest.raises(OutputError, match=r"^a: is not kept: .* at most 1048576 are read$"):
            write_video(frames, out / "a", fps=24, kind=kind, metadata=text)
        assert list(out.iterdir()) == []
    else:
        write_video(frames, out / "a", fps=24, kind=kind, metadata=text)
        assert read_metadata(out / "a") == text


@every_kind
def test_frames_of_two_sizes(frames: list[Path], out: Path, kind: Kind) -> None:
    Image.new("RGB", (16, 18)).save(frames[3])
    name = frames[3].name
    with pytest.raises(
        PictureError, match=rf"^{name}: has 16 × 18 pixels, the first frame has 16 × 16$"
    ):
        write_video(frames, out / "a", fps=24, kind=kind)
    assert list(out.iterdir()) == []


@every_kind
@pytest.mark.parametrize("index", [0, 4])
def test_a_torn_or_missing_frame(frames: list[Path], out: Path, kind: Kind, index: int) -> None:
    data = frames[index].read_bytes()
    frames[index].write_bytes(data[: len(data) // 2])
    with pytest.raises(PictureError, match=rf"^{frames[index].name}: "):
        write_video(frames, out / "a", fps=24, kind=kind)
    frames[index].unlink()
    with pytest.raises(PictureError, match=rf"^{frames[index].name}: "):
        write_video(frames, out / "a", fps=24, kind=kind)
    assert list(out.iterdir()) == []


# --- whole or not there


@every_kind
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError,
        KeyboardInterrupt,
        GeneratorExit,
    ],
)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_frames_that_fail_leave_nothing_and_keep_the_former(
    frames: list[Path], out: Path, kind: Kind, error: type[BaseException], after: int
) -> None:
    (out / "a").write_bytes(b"former")

    def fail() -> Iterator[Path]:
        yield from frames[:after]
        raise error("here")

    with pytest.raises(error, match="here"):
        write_video(fail(), out / "a", fps=24, kind=kind)

    assert [f.name for f in out.iterdir()] == ["a"]
    assert (out / "a").read_bytes() == b"former"


@every_kind
def test_a_full_disk_leaves_nothing(frames: list[Path], out: Path, kind: Kind) -> None:
    """At twelve places in the file, from its first byte to its last."""
    write_video(frames, out / "a", fps=24, kind=kind, metadata=TEXT)
    former = (out / "a").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    for place in np.linspace(0, len(former) - 1, 12).astype(int):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(place), hard))
        try:
            with pytest.raises(OutputError) as caught:
                write_video(frames, out / "a", fps=24, kind=kind, metadata=TEXT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(caught.value) == f"a: cannot be written: {os.strerror(errno.EFBIG)}"
        assert [f.name for f in out.iterdir()] == ["a"]
        assert (out / "a").read_bytes() == former

    write_video(frames, out / "a", fps=24, kind=kind, metadata=TEXT)
    assert (out / "a").read_bytes() == former


@every_kind
def test_no_folder_no_video(frames: list[Path], tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(OutputError, match=r"^a: cannot be written: its folder does not exist$"):
        write_video(frames, tmp_path / "nowhere" / "a", fps=24, kind=kind)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 2 // 3)


def forget_the_text(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data.replace(b"word", b"sord"))


@every_kind
@pytest.mark.parametrize("spoil", [cut, forget_the_text])
def test_what_cannot_be_read_back_is_not_kept(
    frames: list[Path],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    spoil: Callable[[Path], None],
) -> None:
    verify = pipeline.video._verify

    def spoiled(part: Path, *others: Any) -> None:
        spoil(part)
        verify(part, *others)

    monkeypatch.setattr("pipeline.video._verify", spoiled)
    with pytest.raises(OutputError, match=r"^a: is not kept: read back, "):
        write_video(frames, out / "a", fps=24, kind=kind, metadata="word")
    assert list(out.iterdir()) == []


@every_kind
def test_a_frame_too_few_is_seen(
    frames: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    encode = pipeline.video.encode
    monkeypatch.setattr("pipeline.video.encode", lambda *a, **k: encode(*a, **k) + 1)
    with pytest.raises(OutputError, match=r"^a: is not kept: .*frames=5.* not .*frames=6"):
        write_video(frames, out / "a", fps=24, kind=kind)
    assert list(out.iterdir()) == []


# --- memory


LIBC = ctypes.CDLL(None)


def peak_megabytes(work: Callable[[], None]) -> float:
    """The largest resident size while `work` is done, proc(5)."""
    LIBC.malloc_trim(0)  # what was freed before would hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")
    work()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.skipif(
    not (hasattr(LIBC, "malloc_trim") and os.access("/proc/self/clear_refs", os.W_OK)),
    reason="the peak of memory can be told on Linux with glibc only",
)
@every_kind
def test_memory_does_not_grow_with_the_frames(tmp_path: Path, kind: Kind) -> None:
    """900 frames more would be 12 MB as yuv420p, the smallest form that any stage holds them in."""
    side, allowed_megabytes = 96, 6

    def draw(count: int) -> Iterator[Path]:
        for index in range(count):
            picture = np.full((side, side, 3), 255, np.uint8)
            left = index % (side - 32)
            picture[32:64, left : left + 32] = (index % 256, 80, 160)
            file = tmp_path / f"{index % 3}.png"
            Image.fromarray(picture).save(file, compress_level=1)
            yield file

    def write(count: int) -> None:
        write_video(draw(count), tmp_path / "a", fps=24, kind=kind)

    write(100)  # the libraries take what they keep
    peaks = [peak_megabytes(partial(write, count)) for count in (100, 1000)]

    assert probe(tmp_path / "a").frames == 1000
    assert peaks[1] - peaks[0] < allowed_megabytes


# --- there and back


@given(count=st.integers(0, 30))
def test_there_and_back(count: int) -> None:
    there = [Path(f"{index}") for index in range(count)]
    order = list(boomerang(there))

    assert order[:count] == there
    assert len(order) == max(count, 2 * count - 2)
    if count > 2:
        assert order[0] != order[-1]  # where it begins again
        assert order[1:] == order[1:][::-1]


def test_there_and_back_of_four() -> None:
    assert [f.name for f in boomerang([Path(name) for name in "0123"])] == list("012321")


# --- PNGs in a row


def test_a_sequence_sorts_in_time_and_takes_no_space(frames: list[Path], out: Path) -> None:
    write_sequence(boomerang(frames), out / "pngs")

    names = sorted(f.name for f in (out / "pngs").iterdir())
    assert names == [f"{index:06d}.png" for index in range(8)]
    wanted = [*frames, frames[3], frames[2], frames[1]]
    for name, frame in zip(names, wanted, strict=True):
        assert (out / "pngs" / name).samefile(frame)
    assert [f.name for f in out.iterdir()] == ["pngs"]


def test_a_sequence_is_copied_where_there_are_no_links(
    frames: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    write_sequence(frames, out / "pngs")

    for index, frame in enumerate(frames):
        copy = out / "pngs" / f"{index:06d}.png"
        assert copy.read_bytes() == frame.read_bytes()
        assert not copy.samefile(frame)


def test_a_sequence_replaces_a_sequence(frames: list[Path], out: Path) -> None:
    write_sequence(frames, out / "pngs")
    write_sequence(frames[:2], out / "pngs")
    assert sorted(f.name for f in (out / "pngs").iterdir()) == ["000000.png", "000001.png"]
    assert [f.name for f in out.iterdir()] == ["pngs"]


@pytest.mark.parametrize("name", ["notes.txt", "1.png", "000000.png.bak"])
def test_a_sequence_replaces_nothing_else(frames: list[Path], out: Path, name: str) -> None:
    (out / "pngs").mkdir()
    (out / "pngs" / name).write_text("mine")
    with pytest.raises(OutputError, match=r"^pngs: is there, and is not a sequence"):
        write_sequence(frames, out / "pngs")
    assert (out / "pngs" / name).read_text() == "mine"
    assert [f.name for f in out.iterdir()] == ["pngs"]


@pytest.mark.parametrize("step", ["os.rename", "os.fsync", "pathlib.Path.mkdir"])
def test_a_sequence_that_fails_leaves_the_former(
    frames: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_sequence(frames, out / "pngs")

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(OutputError, match=r"^pngs: cannot be written: No space left"):
            write_sequence(frames[:2], out / "pngs")
    assert len(list((out / "pngs").iterdir())) == 5
    assert [f.name for f in out.iterdir()] == ["pngs"]


def test_a_sequence_of_no_pngs(frames: list[Path], out: Path) -> None:
    with pytest.raises(SpecError, match=r"^0 frames"):
        write_sequence([], out / "pngs")
    frames[1].write_bytes(b"\xff\xd8\xff")
    with pytest.raises(PictureError, match=rf"^{frames[1].name}: is not a PNG picture$"):
        write_sequence(frames, out / "pngs")
    frames[1].unlink()
    with pytest.raises(PictureError, match=rf"^{frames[1].name}: "):
        write_sequence(frames, out / "pngs")
    assert list(out.iterdir()) == []
