"""Locks between threads and processes, on files that are there only while they are held.

Knows nothing of what is locked. The kernel takes a lock from whoever dies; the file then stays, and
the next holder takes it over and removes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import OutputError

_POLL_SECONDS = 0.01


@contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[bool]:
    """Whether `file` is locked by us during the block; always, where we `wait` for it.

    Nobody else holds it then, neither a thread nor a process. Raises OutputError where the disk
    refuses, or has no locks that end with their holder.
    """
    lock = FileLock(file, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_SECONDS)
    except Timeout:
        is_ours = False
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{file.name}: cannot be locked: {reason}") from error
    else:
        is_ours = True
    try:
        yield is_ours
    finally:
        if is_ours:
            # Removed before it is unlocked. Whoever opened it in between gets a lock on a file
            # that has no name any more; filelock sees that, and does not count it.
            with suppress(OSError):  # Windows keeps what is open, so there the file stays
                file.unlink()
            lock.release()
