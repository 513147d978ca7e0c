"""Files whole or not there, folders tried before the work, strict JSON."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest

from pipeline.errors import OutputError
from pipeline.files import parse_json, prepare_folder, write_atomically


def fill(stream: BinaryIO) -> None:
    stream.write(b"new")


def fail(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.png", fill)

    assert (tmp_path / "a.png").read_bytes() == b"new"
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", fill)
    (tmp_path / "b").write_bytes(b"")

    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1


def test_a_former_file_is_replaced_in_one_go(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"old")

    def look(stream: BinaryIO) -> None:
        fill(stream)
        stream.flush()
        assert file.read_bytes() == b"old"

    write_atomically(file, look)
    assert file.read_bytes() == b"new"


def test_content_and_name_reach_the_disk_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if is_folder else "file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "a", fill)

    assert done == ["file", "replace", "folder"]


def write_to_full_disk(stream: BinaryIO) -> None:
    stream.write(b"half")
    fail()


def write_and_break(stream: BinaryIO) -> None:
    stream.write(b"half")
    raise RuntimeError("broken")


def write_and_stop(stream: BinaryIO) -> None:
    stream.write(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (write_to_full_disk, OutputError),
        (write_and_break, RuntimeError),
        (write_and_stop, KeyboardInterrupt),
    ],
)
def test_a_failure_leaves_nothing_and_keeps_the_former(
    tmp_path: Path, write: Callable[[BinaryIO], None], kind: type[BaseException]
) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    with pytest.raises(kind):
        write_atomically(tmp_path / "a.png", write)

    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "pathlib.Path.open"])
def test_every_step_may_find_the_disk_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(place, fail)
    with pytest.raises(OutputError, match=r"^a\.png: cannot be written: No space left on device$"):
        write_atomically(tmp_path / "a.png", fill)
    monkeypatch.undo()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_device_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def open_full(self: Path, mode: str) -> Any:
        self.touch()
        return real("/dev/full", "wb")

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(tmp_path / "a.png", fill)
    monkeypatch.undo()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing/a.png", "its folder does not exist"),
        ("file/a.png", "a part of its path is a file"),
        ("folder", "a folder is in its place"),
        ("n" * 300, "File name too long"),
    ],
)
def test_the_reason_is_said(tmp_path: Path, file: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / file, fill)

    name = Path(file).name
    assert str(caught.value) == f"{name}: cannot be written: {reason}"
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b", needed_bytes=1000)
    prepare_folder(tmp_path / "a" / "b")

    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("file", "a file is in its place"), ("file/below", "a part of its path is a file")],
)
def test_a_file_in_the_way_is_said(tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"{folder}: cannot be written to: {reason}$"):
        prepare_folder(tmp_path / folder)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("folder", ["/proc/pictures", "/proc"])
def test_a_place_nobody_can_write_to(folder: str) -> None:
    with pytest.raises(OutputError, match=f"^{folder}: cannot be written to: "):
        prepare_folder(Path(folder))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_an_unwritable_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match=os.strerror(code)):
        prepare_folder(tmp_path)


def test_short_space_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=2_000_000))
    prepare_folder(tmp_path / "small", needed_bytes=2_000_000)
    with pytest.raises(OutputError, match=r"large: 3 MB are needed there, 2 MB are free$"):
        prepare_folder(tmp_path / "large", needed_bytes=2_000_001)

    assert [f.name for f in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": NaN}', "NaN is not allowed"),
        (b"-Infinity", "-Infinity is not allowed"),
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' stands there twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' stands there twice"),
        (b"1" * 5000, "an integer has 5000 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff", "utf-8"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b"\xef\xbb\xbf{}", "Expecting value"),
    ],
    ids=range(13),
)
def test_json_is_strict(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(data)
    assert "\n" not in str(caught.value)


def test_json_of_schedulers_may_be_infinite() -> None:
    assert parse_json(b"[-Infinity, Infinity]", infinities=True) == [-float("inf"), float("inf")]
    with pytest.raises(ValueError, match="NaN is not allowed"):
        parse_json(b"NaN", infinities=True)


def test_a_key_repeated_late_is_found_at_once() -> None:
    keys = ", ".join(f'"{index}": 0' for index in range(100_000))
    start = time.process_time()

    with pytest.raises(ValueError, match="'99999' stands there twice"):
        parse_json(f'{{{keys}, "99999": 1}}'.encode())

    # linear time takes about 0.05 s, quadratic time minutes
    assert time.process_time() - start < 2
