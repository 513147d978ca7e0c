"""The card of latent space against pixels: tables for people, and the same as plain values.

Knows what was reckoned and measured; reckons and measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.cost import Cost, Entry
    from pipeline.cost_readings import Reading

_TERA, _GIGA, _MEBI, _GIBI = 1e12, 1e9, 2**20, 2**30
_BYTES = ["weights", "activations", "n² matrix", "traffic"]
_COLUMNS = 118  # where stdout is no terminal


def describe_analytic(entries: Sequence[Entry]) -> dict[str, Any]:
    """What was reckoned: each table's lines, and how each rung grows with the side."""
    from pipeline.cost import SIDES, fit_exponent

    by_table: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        line = {
            "name": entry.name,
            "title": entry.title,
            "side": entry.side,
            "downscale": entry.downscale,
            **_describe_cost(entry.cost),
        }
        by_table.setdefault(entry.table, []).append(line)
    ladder = by_table["ladder"]
    base = next(line["flops"] for line in ladder if line["side"] == SIDES[-1])
    for line in ladder:
        line["ratio"] = line["flops"] / base
    names = dict.fromkeys(line["name"] for line in ladder)
    flops = {n: [line["flops"] for line in ladder if line["name"] == n] for n in names}
    exponents = {name: asdict(fit_exponent(SIDES, flops[name])) for name in names}
    return {"dtype": "float16", "sides": list(SIDES), **by_table, "exponents": exponents}


def describe_readings(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """What was measured, each with what it should cost."""
    lines = []
    for reading in readings:
        line = asdict(reading)
        line["cost"] = _describe_cost(reading.cost)
        decode = reading.decode_cost
        line["decode_cost"] = None if decode is None else _describe_cost(decode)
        line["flops_per_second"] = reading.flops_per_second
        lines.append(line)
    return lines


def _describe_cost(cost: Cost) -> dict[str, Any]:
    return {"flops": cost.flops, "shares": cost.shares, **asdict(cost)}


def print_card(document: dict[str, Any]) -> None:
    """The tables, on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_COLUMNS)
    console.print(f"Latent space against pixels ({document['note']})", markup=False)
    analytic, measured = document["analytic"], document["measured"]
    tables = [_tabulate_ladder(analytic), _tabulate_growth(analytic), _tabulate_rest(analytic)]
    if measured is not None and measured["readings"]:
        tables += [_tabulate_readings(measured), _tabulate_distance(measured)]
        tables += [_tabulate_measured_growth(measured)]
    for table in tables:
        console.print()
        console.print(table)
    for line in analytic["ladder"]:
        if line["side"] == analytic["sides"][-1]:
            console.print(f"{line['name']}: {line['title']}", markup=False)
    for line in _say_left_out(measured["left_out"] if measured else []):
        console.print(line, markup=False)
    console.print(f"\n{say_paper(document['paper'])}\n{_say_machine(document)}", markup=False)


def _tabulate_ladder(analytic: dict[str, Any]) -> Table:
    side = analytic["sides"][-1]
    table = _create_table(
        f"One forward at {side} px, {analytic['dtype']}: FLOPs, and bytes beside them",
        ["rung", "TFLOP", "×", "conv", "attn", "linear", "M weights"],
        _BYTES,
    )
    for line in analytic["ladder"]:
        if line["side"] == side:
            table.add_row(
                line["name"],
                f"{line['flops'] / _TERA:.4g}",
                f"{line['ratio']:.3g}",
                *(f"{share:.0%}" for share in line["shares"].values()),
                f"{line['parameters'] / 1e6:.0f}",
                *map(_say_bytes, _bytes_of(line)),
            )
    return table


def _tabulate_growth(analytic: dict[str, Any]) -> Table:
    sides = analytic["sides"]
    steps = [f"{small}→{large}" for small, large in pairwise(sides)]
    table = _create_table(
        "How FLOPs grow with the side: TFLOP, and the exponents",
        ["rung", *(f"{side} px" for side in sides), "fitted"],
        steps,
    )
    for name, exponent in analytic["exponents"].items():
        own = [line["flops"] for line in analytic["ladder"] if line["name"] == name]
        powers = [exponent["fitted"], *exponent["steps"]]
        table.add_row(
            name, *(f"{flops / _TERA:.3g}" for flops in own), *(f"{power:.2f}" for power in powers)
        )
    return table


def _tabulate_rest(analytic: dict[str, Any]) -> Table:
    table = _create_table(
        "The same network and its decoder behind other compressions, and parts of Stable Diffusion",
        ["part", "px", "px/cell", "TFLOP", "conv", "attn", "linear"],
        _BYTES,
    )
    for line in [*analytic["compression"], *analytic["parts"]]:
        table.add_row(
            line["name"],
            str(line["side"]),
            str(line["downscale"]),
            f"{line['flops'] / _TERA:.4g}",
            *(f"{share:.0%}" for share in line["shares"].values()),
            *map(_say_bytes, _bytes_of(line)),
        )
    return table


def _tabulate_readings(measured: dict[str, Any]) -> Table:
    table = _create_table(
        f"Measured, layers {measured['width']:g} times as wide, {measured['dtype']}: one guided "
        "step (two forwards in one call), and decoding",
        ["rung", "px", "step, ms", "fastest", "IQR", "GFLOP", "GFLOP/s"],
        ["peak", "in theory", "decode, ms", "its peak"],
    )
    for line in measured["readings"]:
        seconds = line["step_seconds"], line["fastest_step_seconds"], line["step_seconds_iqr"]
        is_pixel = line["decode_cost"] is None
        table.add_row(
            line["rung"],
            str(line["side"]),
            *(f"{1000 * value:.1f}" for value in seconds),
            f"{line['cost']['flops'] / _GIGA:.3g}",
            f"{line['flops_per_second'] / _GIGA:.3g}",
            _say_bytes(line["step_peak_bytes"]),
            _say_bytes(line["cost"]["activation_bytes"]),
            "–" if is_pixel else f"{1000 * line['decode_seconds']:.1f}",
            "–" if is_pixel else _say_bytes(line["decode_peak_bytes"]),
        )
    return table


def _tabulate_distance(measured: dict[str, Any]) -> Table:
    table = _create_table(
        "In times the latent network's: a step, and a picture of 50 steps with its decoding",
        ["rung", "px", "FLOPs", "traffic", "time", "time for FLOPs"],
        ["picture: FLOPs", "time"],
    )
    for line in measured["distance"]:
        ratios = line["flop_ratio"], line["traffic_ratio"], line["time_ratio"]
        off = line["time_ratio"] / line["flop_ratio"]
        picture = line["picture_flop_ratio"], line["picture_time_ratio"]
        numbers = [f"{number:.3g}" for number in (*ratios, off, *picture)]
        table.add_row(line["rung"], str(line["side"]), *numbers)
    return table


def _tabulate_measured_growth(measured: dict[str, Any]) -> Table:
    table = _create_table(
        "Exponents in the side, same networks and sides",
        ["rung", "px", "by FLOPs", "by time"],
        ["by FLOPs, step by step", "by time, step by step"],
    )
    for line in measured["growth"]:
        kinds = [line["analytic"], line["measured"]]
        steps = [" ".join(f"{power:.2f}" for power in kind["steps"]) for kind in kinds]
        fitted = [f"{kind['fitted']:.2f}" for kind in kinds]
        sides = " ".join(map(str, line["sides"]))
        table.add_row(line["rung"], sides, *fitted, *steps)
    return table


def _create_table(title: str, columns: Sequence[str], more: Sequence[str]) -> Table:
    """A table whose first column is words and the others numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for place, name in enumerate([*columns, *more]):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table


def _bytes_of(line: dict[str, Any]) -> list[int]:
    kinds = "weight", "activation", "score", "traffic"
    return [line[f"{kind}_bytes"] for kind in kinds]


def _say_bytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / _GIBI:.4g} GiB" if size >= _GIBI else f"{size / _MEBI:.3g} MiB"


def _say_left_out(left_out: Sequence[dict[str, Any]]) -> list[str]:
    """For each rung the smallest pictures that were left out, and why; larger ones follow."""
    first: dict[str, dict[str, Any]] = {}
    for one in left_out:
        first.setdefault(one["rung"], one)
    return [f"left out: {o['rung']} from {o['side']} px on: {o['reason']}" for o in first.values()]


def say_paper(paper: dict[str, Any]) -> str:
    """What the latent diffusion paper measured, in one line."""
    low, high = paper["training"]
    return (
        f"{paper['source']}: training {low}–{high}×, sampling {paper['sampling_256']}× at 256 px, "
        f"{paper['sampling_512']}× at 512 px."
    )


def _say_machine(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    return (
        f"{machine['device']}: {machine['name']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, load {machine['load']}, {machine['system']}; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; "
        f"commit {document['commit'] or 'unknown'}"
    )
