"""Locks that one holds at a time, between threads and processes, and that die with their holder."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutputError
from pipeline.locks import locked
from tests.forks import ended_well, forked


def test_a_lock_is_a_file_only_while_it_is_held(tmp_path: Path) -> None:
    with locked(tmp_path / "a", wait=False) as is_ours:
        assert is_ours
        assert [file.stat().st_size for file in tmp_path.iterdir()] == [0]  # no host, no process
    assert list(tmp_path.iterdir()) == []


def test_who_is_refused_takes_nothing_away(tmp_path: Path) -> None:
    with locked(tmp_path / "a", wait=False):
        with locked(tmp_path / "a", wait=False) as is_ours:
            assert not is_ours
        with locked(tmp_path / "a", wait=False) as is_ours:
            assert not is_ours
    with locked(tmp_path / "a", wait=False) as is_ours:
        assert is_ours


def test_a_lock_is_let_go_of_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "a", wait=False):
        raise KeyError
    with locked(tmp_path / "a", wait=False) as is_ours:
        assert is_ours


def test_one_of_many_threads_wins(tmp_path: Path) -> None:
    begin, end = threading.Barrier(8), threading.Barrier(8)
    won: list[bool] = []

    def compete() -> None:
        begin.wait()
        with locked(tmp_path / "a", wait=False) as is_ours:
            won.append(is_ours)
            end.wait()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(won) == [False] * 7 + [True]


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    told, tell = os.pipe()

    def hold() -> None:
        with locked(tmp_path / "a", wait=False) as is_ours:
            os.write(tell, b"1" if is_ours else b"0")
            signal.pause()

    with forked(hold):
        assert os.read(told, 1) == b"1"
        with locked(tmp_path / "a", wait=False) as is_ours:
            assert not is_ours

    assert (tmp_path / "a").exists()
    with locked(tmp_path / "a", wait=False) as is_ours:
        assert is_ours
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_was_forked_meanwhile_keeps_nothing(tmp_path: Path) -> None:
    with locked(tmp_path / "a", wait=False):
        pass
    lock = locked(tmp_path / "a", wait=False)
    assert lock.__enter__()
    with forked(signal.pause):
        lock.__exit__(None, None, None)
        with locked(tmp_path / "a", wait=False) as is_ours:
            assert is_ours


@pytest.mark.parametrize("wait", [True, False])
def test_two_never_hold_at_once_though_the_file_comes_and_goes(tmp_path: Path, wait: bool) -> None:
    def compete() -> None:
        held = 0
        while held < 150:
            with locked(tmp_path / "lock", wait=wait) as is_ours:
                if is_ours:
                    (tmp_path / "inside").open("x").close()  # fails where another is inside
                    (tmp_path / "inside").unlink()
                    held += 1

    with forked(compete) as one, forked(compete) as other:
        assert ended_well(one)
        assert ended_well(other)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(OutputError, match=f"^a: cannot be locked: {os.strerror(code)}$"),
        locked(tmp_path / "a", wait=True),
    ):
        pytest.fail("nothing was locked")


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(OutputError, match=r"^a: cannot be locked: Is a directory$"),
        locked(tmp_path / "a", wait=False),
    ):
        pytest.fail("nothing was locked")
