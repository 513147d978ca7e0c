"""The whole card of what networks cost, counted once for all tests: it takes seconds."""

from __future__ import annotations

from functools import cache

from pipeline.cost import Entry, reckon


@cache
def whole_card() -> tuple[Entry, ...]:
    """Every line that `reckon` yields."""
    return tuple(reckon())
