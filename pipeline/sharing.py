"""Work that several processes share over one folder, without talking to each other.

Knows keys and claims; knows nothing of what the work is. A claim ends with the process that holds
it, so whoever dies leaves its chunk to the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.store import Store

T = TypeVar("T")

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Waiting:
    """All that is left to do, others are doing."""


def share(
    store: Store,
    chunks: Sequence[Sequence[str]],
    is_there: Callable[[str], bool],
    work: Callable[[list[str]], Iterator[T]],
) -> Iterator[T | Waiting]:
    """Do `work` on what is missing of each chunk, beside any number of others who do the same.

    At the end all keys are there, or were worked on. A chunk is claimed while it is worked on. What
    others have claimed is waited for.
    """
    left = list(chunks)
    while left:
        taken: list[Sequence[str]] = []
        for chunk in left:
            if all(map(is_there, chunk)):
                continue
            with store.claim(chunk[0]) as is_ours:
                if is_ours:
                    # Again: it may have come between the first look and the claim.
                    yield from work([key for key in chunk if not is_there(key)])
                else:
                    taken.append(chunk)
        if len(taken) == len(left):
            yield Waiting()
            time.sleep(POLL_SECONDS)
        left = taken
