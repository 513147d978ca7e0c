"""Latent space against pixels: what the same denoising costs, by theory and on this machine.

Cost, not quality: the pixel networks are untrained. A card on stdout, then one JSON document as
the last line; with --out a plot beside it.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from pipeline.errors import SpecError
from pipeline.spec import DtypeName
from pipeline.values import Spec
from scripts.command import option, output_folder, override, progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.cost import Entry
    from pipeline.cost_measured import LeftOut, Setting
    from pipeline.cost_readings import Reading

NOTE = "cost, not quality: the pixel networks are untrained, and all measured weights are random"
PAPER = {
    "source": "Rombach et al. 2022, pixel network against f = 4, as measured there",
    "training": [2.9, 3.2],
    "sampling_256": 3.7,
    "sampling_512": 4.9,
}
NAME = "latent-vs-pixel"

_SIDES = {"cpu": (32, 64, 128, 256), "other": (64, 128, 256, 512)}
_WIDTHS = {"cpu": 0.125, "other": 1.0}
_LIMITS, _MULTIPLE = (32, 2048), 8  # px; a latent cell is 8

Opt = Annotated
Text = str | None
Texts = list[str] | None


def _check_side(side: int) -> int:
    low, high = _LIMITS
    if not low <= side <= high:
        raise SpecError(f"side = {side}: must be between {low} and {high}")
    if side % _MULTIPLE:
        raise SpecError(f"side = {side}: must be a multiple of {_MULTIPLE}")
    return side


def _check_width(width: float) -> float:
    if width not in (1, 0.5, 0.25, 0.125):
        raise SpecError(f"width = {width:g}: must be one of 1, 0.5, 0.25, 0.125")
    return width


class CostSpec(Spec):
    """What is measured, and how; what is None follows the device.

    `sides` are pixels, `width` the share of Stable Diffusion's widths that the measured networks
    have, `budget` seconds of running.
    """

    sides: tuple[Annotated[int, AfterValidator(_check_side)], ...] | None = None
    width: Annotated[float, AfterValidator(_check_width)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=100)] = 1
    rounds: Annotated[int, Field(ge=1, le=100)] = 5
    budget: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 25.0
    device: str | None = None
    dtype: DtypeName | None = None


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    overrides: list[str]
    out: Path | None
    is_measured: bool


def parse(
    side: Opt[Texts, option("N", "Pixels, to measure at; repeatable. [default: 32 to 256]")] = None,
    width: Opt[
        Text, option("X", "Share of the layers' widths to measure. [default: 0.125, 1 on a GPU]")
    ] = None,
    num_inference_steps: Opt[Text, option("N", "Guided steps of a run. [default: 1]")] = None,
    rounds: Opt[Text, option("N", "Runs, of which the median counts. [default: 5]")] = None,
    budget: Opt[Text, option("S", "Seconds to measure for, at most. [default: 25]")] = None,
    device: Opt[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    dtype: Opt[Text, option("NAME", "[default: what suits the device]")] = None,
    measure: Opt[
        bool, option(None, "Whether to measure, or only reckon.", "--measure/--no-measure")
    ] = True,
    out: Opt[Path | None, option("FOLDER", "Where the plot and the JSON document go.")] = None,
) -> Request:
    """Latent space against pixels: FLOPs and bytes, then seconds and memory on this machine."""
    sides = None if side is None else f"[{', '.join(side)}]"
    numbers = {
        "sides": sides,
        "width": width,
        "num_inference_steps": num_inference_steps,
        "rounds": rounds,
        "budget": budget,
    }
    return Request(override({"device": device, "dtype": dtype}, numbers), out, measure)


def run(request: Request) -> None:
    """Reckon, measure, and print the card; everything bad is refused before that."""
    from pipeline.values import parse_spec

    spec = parse_spec(CostSpec, {}, request.overrides)
    setting = _fill_in(spec)

    from scripts.benchmarks.machine import describe_machine, warn_if_busy

    machine = describe_machine(setting.device)  # before this makes it busy
    if request.is_measured and (warning := warn_if_busy(machine)):
        say(warning)
    with ExitStack() as stack:
        if request.out is not None:
            stack.enter_context(output_folder(request.out))
        entries = _reckon()
        readings, left_out = _measure(setting) if request.is_measured else ([], [])
        document = _document(setting, machine, entries, readings, left_out)

        from scripts.benchmarks.cost_card import print_card

        print_card(document)
        line = json.dumps(document)
        if request.out is not None:
            _save(request.out, line, entries, readings, _subtitle(document))
        print(line)


def _fill_in(spec: CostSpec) -> Setting:
    """The setting for the device that is there."""
    from pipeline.cost_measured import Setting
    from pipeline.model import choose_device, choose_dtype

    device = choose_device(spec.device)
    kind = "cpu" if device.type == "cpu" else "other"
    return Setting(
        sides=tuple(sorted(set(_SIDES[kind] if spec.sides is None else spec.sides))),
        width=_WIDTHS[kind] if spec.width is None else spec.width,
        device=device,
        dtype=choose_dtype(spec.dtype, device),
        num_inference_steps=spec.num_inference_steps,
        rounds=spec.rounds,
        budget=spec.budget,
    )


def _reckon() -> list[Entry]:
    from pipeline.cost import LINES, reckon

    entries = []
    with progress_bar(LINES) as advance:
        for entry in reckon():
            entries.append(entry)
            advance(len(entries), f"reckoning {entry.name}, {entry.side} px")
    return entries


def _measure(setting: Setting) -> tuple[list[Reading], list[LeftOut]]:
    from pipeline.cost_measured import LeftOut, Progress, measure

    readings: list[Reading] = []
    left_out: list[LeftOut] = []
    with progress_bar(round(setting.budget)) as advance:
        for event in measure(setting):
            if isinstance(event, Progress):
                advance(event.done, f"measuring {event.text}")
            elif isinstance(event, LeftOut):
                left_out.append(event)
            else:
                readings.append(event)
    if not readings:
        say("nothing was measured: give more --budget, or smaller sides with --side")
    return readings, left_out


def _document(
    setting: Setting,
    machine: dict[str, Any],
    entries: Sequence[Entry],
    readings: Sequence[Reading],
    left_out: Sequence[LeftOut],
) -> dict[str, Any]:
    """All that is known, as JSON has it: FLOPs, bytes and seconds, rounded to six digits."""
    from pipeline.cost_readings import compare, fit_growth
    from pipeline.record import current_versions
    from scripts.benchmarks.cost_card import describe_analytic, describe_readings
    from scripts.benchmarks.machine import find_commit

    document = {
        "benchmark": NAME,
        "note": NOTE,
        "paper": PAPER,
        "machine": machine,
        "versions": current_versions(),
        "commit": find_commit(),
        "analytic": describe_analytic(entries),
        "measured": None,
    }
    if readings or left_out:
        document["measured"] = {
            "width": setting.width,
            "dtype": str(setting.dtype).removeprefix("torch."),
            "num_inference_steps": setting.num_inference_steps,
            "budget": setting.budget,
            "readings": describe_readings(readings),
            "left_out": [asdict(one) for one in left_out],
            "distance": [asdict(distance) for distance in compare(readings)],
            "growth": [asdict(growth) for growth in fit_growth(readings)],
        }
    return _round(document)


def _round(value: Any) -> Any:
    """`value` with its numbers to six digits."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case dict():
            return {key: _round(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_round(inner) for inner in value]
    return value


def _subtitle(document: dict[str, Any]) -> str:
    """The lines under the plot's title."""
    from scripts.benchmarks.cost_card import say_paper

    machine, measured = document["machine"], document["measured"]
    lines = [
        "Stable Diffusion 1's network in its latent space, and the ways to move it to pixels.",
        say_paper(document["paper"]),
    ]
    if measured is not None:
        lines.append(
            f"Measured: all layers {measured['width']:g} times as wide, {measured['dtype']}, "
            f"random weights, {machine['name']}, {machine['threads']} threads."
        )
    return "\n".join(lines)


def _save(
    folder: Path, line: str, entries: Sequence[Entry], readings: Sequence[Reading], subtitle: str
) -> None:
    from pipeline.cost_figures import draw_cost
    from pipeline.files import write_atomically
    from pipeline.pictures import save_png

    picture = folder / f"{NAME}.png"
    save_png(draw_cost(entries, readings, subtitle), picture, None)
    text = f"{line}{os.linesep}".encode()
    write_atomically(folder / f"{NAME}.json", lambda stream: stream.write(text))
    say(f"the plot: {picture}")
