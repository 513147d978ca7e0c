"""Work shared through a folder: each piece done once, nobody waits for the dead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier, Thread

import pytest

from pipeline import sharing
from pipeline.sharing import Waiting, share
from pipeline.store import Store

KEYS = [f"{k:064x}" for k in range(12)]
CHUNKS = [KEYS[k : k + 3] for k in range(0, 12, 3)]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.001)


class Worker:
    """Does what is asked of it, and writes down what that was."""

    def __init__(self, folder: Path, done: set[str]) -> None:
        self.store, self.done = Store(folder), done
        self.asked: list[list[str]] = []

    def work(self, keys: Sequence[str]) -> Iterator[str]:
        self.asked.append(list(keys))
        for key in keys:
            yield key
            self.done.add(key)

    def run(self) -> Iterator[str | Waiting]:
        return share(self.store, CHUNKS, self.done.__contains__, self.work)


def test_everything_is_done_once_chunk_by_chunk(tmp_path: Path) -> None:
    worker = Worker(tmp_path, set())
    assert list(worker.run()) == KEYS
    assert worker.asked == CHUNKS


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    worker = Worker(tmp_path, {KEYS[0], *KEYS[3:6], KEYS[8]})
    assert list(worker.run()) == [KEYS[1], KEYS[2], KEYS[6], KEYS[7], *KEYS[9:]]
    assert worker.asked == [KEYS[1:3], KEYS[6:8], KEYS[9:]]


def test_two_workers_do_each_piece_once(tmp_path: Path) -> None:
    done: set[str] = set()
    workers = [Worker(tmp_path, done) for _ in range(2)]
    barrier = Barrier(2)

    def run(worker: Worker) -> None:
        barrier.wait()
        for _ in worker.run():
            pass

    threads = [Thread(target=run, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = [key for worker in workers for keys in worker.asked for key in keys]
    assert sorted(asked) == KEYS


def test_what_another_is_doing_is_waited_for_and_taken_over_if_he_stops(tmp_path: Path) -> None:
    done: set[str] = set()
    first, second = Worker(tmp_path, done), Worker(tmp_path, done)
    slow = first.run()
    assert next(slow) == KEYS[0]  # and holds the first chunk

    quick = second.run()
    assert [next(quick) for _ in KEYS[3:]] == KEYS[3:]
    assert next(quick) == Waiting() == next(quick)

    slow.close()  # as if it were killed
    assert [event for event in quick if event != Waiting()] == KEYS[:3]
    assert sorted(done) == KEYS


def test_what_came_before_the_claim_is_not_done_again(tmp_path: Path) -> None:
    worker = Worker(tmp_path, set())
    looks: list[str] = []

    def is_there(key: str) -> bool:
        looks.append(key)
        return len(looks) > 1 and key in KEYS[:3]  # missing at the first look only

    list(share(worker.store, CHUNKS[:1], is_there, worker.work))
    assert worker.asked == [[]]
