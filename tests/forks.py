"""Children of the test's own process, which start at once: everything is imported in them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A child process that does `work`; it is killed at the end, if it still runs."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)  # it keeps its number, dead or alive, until it is waited for
        os.waitpid(pid, 0)


def ended_well(pid: int) -> bool:
    """Whether the child comes to the end of its work; it is waited for."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return found is not None and found.si_code == os.CLD_EXITED and found.si_status == 0
