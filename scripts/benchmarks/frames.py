"""Few renders, many frames: what is rendered for a morph as it grows longer, and how exact it is.

Each film is made twice: as usual, and with every frame rendered at the same positions. A card on
stdout, then one JSON document as the last line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from scripts.benchmarks.card import print_document
from scripts.command import fetch_model, option, override, say

NAME = "frames"
Opt = Annotated


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    files: list[Path]
    overrides: list[str]
    counts: list[int]


def parse(
    files: Opt[list[Path], typer.Argument(metavar="TOML…", help="Morphs to make.")],
    frames: Opt[
        list[int] | None, option("N", "Frames of each film; repeatable. [default: the file's]")
    ] = None,
    model: Opt[str | None, option("SOURCE", "[default: each file's]")] = None,
    set_: Opt[
        list[str] | None, option("KEY=VALUE", "Any key of the spec; repeatable.", "--set")
    ] = None,
) -> Request:
    """Renders against frames, and how far solved frames are from rendered ones."""
    overrides = [*(set_ or []), *override({"model.source": model}, {})]
    return Request(files, overrides, list(frames or []))


def run(request: Request) -> None:
    """Make all films both ways, and print how they differ."""
    from pipeline.spec import MorphSpec
    from pipeline.values import load_spec

    specs = []
    for file in request.files:
        for count in request.counts or [None]:
            more = [] if count is None else [f"num_frames={count}"]
            specs.append((file.stem, load_spec(MorphSpec, file, [*request.overrides, *more])))
    lines: list[dict[str, Any]] = []
    fetch = cache(fetch_model)
    for name, spec in specs:
        model = fetch(spec.model)
        lines.append({"morph": name, **_measure(model, spec)})
        say(f"{name}: {lines[-1]['renders']} renders for {lines[-1]['frames']} frames")
    title = "Renders for frames, and how exact the solved ones are"
    print_document(NAME, title, _COLUMNS, lines, model.device)


_COLUMNS = {
    "morph": "morph",
    "frames": "frames",
    "renders": "renders",
    "solved": "solved frames",
    "worst_psnr": "worst dB",
    "mean_psnr": "mean dB",
    "seconds": "seconds",
    "exact_renders": "renders, exact",
    "exact_seconds": "seconds, exact",
}


def _measure(model: Any, spec: Any) -> dict[str, Any]:
    """One morph solved, and the same with all frames rendered, each from nothing."""
    from scripts.benchmarks.films import compare_solved, ours

    with TemporaryDirectory(prefix="greatcircle-") as folder:
        solved = ours(model, spec)(Path(folder) / "solved")
        exact = ours(model, spec.replace(exact=True, even=spec.even))(Path(folder) / "exact")
        count, found = compare_solved(solved, exact)
        return {
            "frames": spec.num_frames,
            "renders": solved.renders,
            "solved": count,
            "worst_psnr": found.get("worst_psnr"),
            "mean_psnr": found.get("mean_psnr"),
            "seconds": solved.seconds,
            "exact_renders": exact.renders,
            "exact_seconds": exact.seconds,
        }
