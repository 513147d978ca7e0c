"""Benchmarks by name: what something costs, as a card to read and one JSON line at the end.

Knows only where each benchmark is: a file of scripts/benchmarks with a `Request`, a `parse` that
makes one of the command line, and a `run` that does what was asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from scripts.benchmarks import frames, latent_vs_pixel, morph, speed
from scripts.command import create_app, run_command

BENCHMARKS = {"latent-vs-pixel": latent_vs_pixel, "speed": speed, "morph": morph, "frames": frames}

app = create_app()


@app.callback()
def describe() -> None:
    """Measure what something costs. A card to read, then one JSON line."""


for _name, _benchmark in BENCHMARKS.items():
    app.command(_name)(_benchmark.parse)


def run(request: Any) -> None:
    """Hand the request to the benchmark that it came from."""
    runs = {benchmark.Request: benchmark.run for benchmark in BENCHMARKS.values()}
    runs[type(request)](request)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("benchmark", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
