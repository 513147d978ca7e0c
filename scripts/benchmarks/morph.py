"""Morphs side by side: ours against the algorithm of stable-diffusion-videos, in one run.

The same model, steps and guidance; films from prompts to the closed file, in turn. A card on
stdout, then one JSON document as the last line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import SpecError
from scripts.benchmarks.card import print_document
from scripts.command import fetch_model, option, override, say

if TYPE_CHECKING:
    from scripts.benchmarks.films import Film, Maker

NAME = "morph"
Opt = Annotated


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    files: list[Path]
    overrides: list[str]
    rounds: int


def parse(
    files: Opt[list[Path], typer.Argument(metavar="TOML…", help="Morphs to make.")],
    rounds: Opt[int, option("N", "Films of each kind, of which the median counts.")] = 1,
    model: Opt[str | None, option("SOURCE", "[default: each file's]")] = None,
    set_: Opt[
        list[str] | None, option("KEY=VALUE", "Any key of the spec; repeatable.", "--set")
    ] = None,
) -> Request:
    """Morphs against the algorithm of stable-diffusion-videos: seconds, evenness, cross-fade."""
    overrides = [*(set_ or []), *override({"model.source": model}, {})]
    if rounds < 1:
        raise SpecError(f"rounds = {rounds}: must be at least 1")
    return Request(files, overrides, rounds)


def run(request: Request) -> None:
    """Make all films, in turn, and print what was measured of them."""
    from pipeline.spec import MorphSpec
    from pipeline.values import load_spec

    specs = {file: load_spec(MorphSpec, file, request.overrides) for file in request.files}
    lines: list[dict[str, Any]] = []
    fetch = cache(fetch_model)
    for file, spec in specs.items():
        model = fetch(spec.model)
        lines += _compare(model, spec, file.stem, request.rounds)
    print_document(NAME, "Morphs, from prompts to a closed film", _COLUMNS, lines, model.device)


_COLUMNS = {
    "morph": "morph",
    "kind": "kind",
    "seconds": "seconds",
    "frames": "frames",
    "renders": "renders",
    "midpoint_std": "noise std",
    "ssim_cv": "CV ssim",
    "encoder_cv": "CV encoder",
    "peak": "max/mean",
    "crossfade": "R²",
    "novelty": "novelty",
}


def _compare(model: Any, spec: Any, name: str, rounds: int) -> list[dict[str, Any]]:
    from scripts.benchmarks.films import interleave, midpoint_std, ours, report, theirs

    spec = model.resolve(spec)
    batch = spec.sampling.batch_size
    makers: dict[str, Maker] = {
        "ours": ours(model, spec),
        "ours, every frame rendered": ours(model, spec.replace(exact=True)),
        "theirs": theirs(model, spec, 1),
        f"theirs, batches of {batch}": theirs(model, spec, batch),
    }
    films: dict[str, list[Film]] = {kind: [] for kind in makers}
    measured: dict[str, dict[str, Any]] = {}
    for kind, film, _ in interleave(makers, rounds):
        say(f"{name}: {kind}: {film.seconds:.1f} s")
        films[kind].append(film)
        if kind not in measured:
            measured[kind] = _figures(report(model, spec, film))
    stds = midpoint_std(model, spec)
    return [
        {
            "morph": name,
            "kind": kind,
            "seconds": median(film.seconds for film in made),
            "frames": len(made[0].files),
            "renders": made[0].renders,
            "midpoint_std": stds["theirs" if kind.startswith("theirs") else "ours"],
            **measured[kind],
        }
        for kind, made in films.items()
    ]


def _figures(report: Any) -> dict[str, Any]:
    """What stands in the table, of a whole morph."""
    novelties = [part.novelty for part in report.segments if part.novelty is not None]
    return {
        "ssim_cv": report.means["ssim"].cv,
        "colour_cv": report.means["colour"].cv,
        "encoder_cv": report.means["encoder"].cv,
        "peak": report.means["ssim"].peak,
        "directness": report.means["encoder"].directness,
        "crossfade": report.crossfade_mean,
        "novelty": sum(novelties) / len(novelties) if novelties else None,
    }
