"""The cost of pixels as one picture: the ladder, its growth, compression, and what was measured.

Knows entries and readings; no network, no clock and no file. Made without pyplot, whose state is
shared by a whole process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from pipeline.cost import SIDES, Entry, fit_exponent
from pipeline.cost_readings import STEPS, Reading, compare, fit_growth
from pipeline.figures import to_image

_WIDTH, _ROW, _HEAD, _DPI = 13.0, 3.5, 1.15, 100  # inches, and pixels to one
_INK, _FAINT = "#222222", "#8c8c8c"
_COLOURS = ("#000000", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00")  # Okabe & Ito
_KINDS = {"convolution": "#0072B2", "attention": "#D55E00", "linear": "#009E73"}
_TERA = 1e12
_BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # a legend that hides nothing

Panel = Callable[[Axes], None]


def draw_cost(entries: Sequence[Entry], readings: Sequence[Reading], subtitle: str) -> Image.Image:
    """The card's figures as an RGB picture, 1300 px wide; the last row only with readings."""
    ladder = [entry for entry in entries if entry.table == "ladder"]
    colours = dict(zip(dict.fromkeys(entry.name for entry in ladder), _COLOURS, strict=True))
    panels: list[Panel] = [
        lambda ax: _draw_ladder(ax, ladder, colours),
        lambda ax: _draw_shares(ax, ladder),
        lambda ax: _draw_growth(ax, ladder, colours),
        lambda ax: _draw_compression(ax, entries),
    ]
    if readings:
        panels.append(lambda ax: _draw_seconds(ax, readings, colours))
        panels.append(lambda ax: _draw_distance(ax, readings, colours))

    rows = len(panels) // 2
    height = _ROW * rows + _HEAD
    figure = Figure((_WIDTH, height), _DPI, facecolor="white", layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - _HEAD / height), wspace=0.06, hspace=0.06)
    _write(figure, "What pixels cost: cost, not quality", 0.12, height, 15, "bold")
    _write(figure, subtitle, 0.45, height, 10, "normal")
    for draw, ax in zip(panels, figure.subplots(rows, 2).flat, strict=True):
        _prepare(ax)
        draw(ax)
    return to_image(figure)


def _draw_ladder(ax: Axes, ladder: Sequence[Entry], colours: Mapping[str, str]) -> None:
    top = [entry for entry in ladder if entry.side == SIDES[-1]]
    base = top[0].cost.flops
    for place, entry in enumerate(top):
        tera, ratio = entry.cost.flops / _TERA, entry.cost.flops / base
        ax.barh(place, tera, color=colours[entry.name], height=0.6)
        ax.text(tera * 1.15, place, f"{_say(tera)} T, {_say(ratio)}×", va="center", fontsize=9)
    ax.invert_yaxis()
    ax.set_xscale("log")
    _plain_numbers(ax)
    ax.set_yticks(range(len(top)), [entry.title for entry in top])
    ax.set_xlim(0.2, top[-1].cost.flops / _TERA * 12)
    _title(ax, f"TFLOP of one forward at {SIDES[-1]} px")


def _draw_shares(ax: Axes, ladder: Sequence[Entry]) -> None:
    top = [entry for entry in ladder if entry.side == SIDES[-1]]
    left = np.zeros(len(top))
    for kind, colour in _KINDS.items():
        shares = np.array([entry.cost.shares[kind] for entry in top])  # type: ignore[index]
        ax.barh(range(len(top)), 100 * shares, left=100 * left, color=colour, label=kind)
        for place, (start, share) in enumerate(zip(left, shares, strict=True)):
            if share > 0.06:
                middle = 100 * (start + share / 2)
                ax.text(
                    *(middle, place, f"{share:.0%}"),
                    ha="center",
                    va="center",
                    color="white",
                    fontsize=9,
                )
        left += shares
    ax.set_yticks(range(len(top)), [entry.name for entry in top])
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    _title(ax, "of which % are")
    _add_legend(ax, **_BESIDE)


def _draw_growth(ax: Axes, ladder: Sequence[Entry], colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        own = [entry for entry in ladder if entry.name == name]
        sides, flops = [e.side for e in own], [e.cost.flops for e in own]
        exponent = fit_exponent(sides, flops)
        label = f"{name}: {exponent.fitted:.2f}, {exponent.steps[-1]:.2f}"
        ax.plot(sides, np.array(flops) / _TERA, "o-", color=colour, label=label, markersize=3)
    _scale_logarithmically(ax, SIDES)
    _title(ax, "TFLOP of one forward by side in px (fitted exponent, last doubling's)")
    _add_legend(ax, **_BESIDE)


def _draw_compression(ax: Axes, entries: Sequence[Entry]) -> None:
    """A picture: the forwards of its guided steps, and its decoding."""
    forwards = 2 * STEPS
    for name, label, times, colour in (
        ("unet", f"the network, {forwards} forwards", forwards, _COLOURS[2]),
        ("decode", "the decoder, once", 1, _COLOURS[5]),
    ):
        own = [e for e in entries if e.table == "compression" and e.name == name]
        factors = [entry.downscale for entry in own]
        tera = [times * entry.cost.flops / _TERA for entry in own]
        ax.plot(factors, tera, "o-", color=colour, label=label, markersize=4)
        for factor, value in zip(factors, tera, strict=True):
            ax.text(factor, value * 1.6, _say(value), fontsize=9, color=_INK)
    _scale_logarithmically(ax, sorted({e.downscale for e in entries if e.table == "compression"}))
    ax.set_ylim(1, 3e5)
    _title(ax, f"TFLOP of a picture of {STEPS} guided steps, by px a cell")
    _add_legend(ax)


def _draw_seconds(ax: Axes, readings: Sequence[Reading], colours: Mapping[str, str]) -> None:
    growths = {growth.rung: growth for growth in fit_growth(readings)}
    for name, colour in colours.items():
        own = [reading for reading in readings if reading.rung == name]
        if not own:
            continue
        growth = growths.get(name)
        label = name
        if growth is not None:
            label += f": {growth.measured.fitted:.2f}, FLOPs {growth.analytic.fitted:.2f}"
        sides, seconds = [r.side for r in own], [1000 * r.step_seconds for r in own]
        flops = np.array([r.cost.flops for r in own])
        ax.plot(sides, seconds, "o-", color=colour, label=label, markersize=4)
        ax.plot(sides, flops / flops[-1] * seconds[-1], ":", color=colour, linewidth=1)
    _scale_logarithmically(ax, sorted({reading.side for reading in readings}))
    _title(ax, "measured: ms of a guided step by side in px (dotted: as FLOPs)")
    _add_legend(ax, **_BESIDE)


def _draw_distance(ax: Axes, readings: Sequence[Reading], colours: Mapping[str, str]) -> None:
    distances = compare(readings)
    ratios = [r for d in distances for r in (d.flop_ratio, d.time_ratio)] or [1.0, 10.0]
    limits = min(0.8, *ratios) / 1.3, max(ratios) * 1.6
    ax.plot(limits, limits, color=_FAINT, linewidth=0.8)
    for name, colour in colours.items():
        own = [distance for distance in distances if distance.rung == name]
        flops, times = [d.flop_ratio for d in own], [d.time_ratio for d in own]
        ax.plot(flops, times, "o-", color=colour, markersize=4, linewidth=1)
        for distance in own[:1] + own[-1:]:
            place = distance.flop_ratio * 1.08, distance.time_ratio / 1.04
            ax.text(*place, str(distance.side), fontsize=8, color=_INK, va="top")
    ax.set_xscale("log")
    ax.set_yscale("log")
    _plain_numbers(ax)
    ax.set_xlim(*limits)
    ax.set_ylim(*limits)
    ax.set_xlabel("by FLOPs", color=_INK)
    ax.set_ylabel("by the clock", color=_INK)
    _title(ax, "measured: times the latent network's step, by side")


def _prepare(ax: Axes) -> None:
    """A quiet ground."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_FAINT)
    ax.tick_params(which="both", colors=_FAINT, labelcolor=_INK, labelsize=9)
    ax.grid(color="#ececec")
    ax.set_axisbelow(True)


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=10, color=_INK, loc="left")


def _scale_logarithmically(ax: Axes, values: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(values)
    ax.set_yscale("log")
    _plain_numbers(ax)


def _say(value: float) -> str:
    """Three digits, and no power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _plain_numbers(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _say(value)))
        axis.set_minor_formatter(NullFormatter())


def _add_legend(ax: Axes, **place: Any) -> None:
    ax.legend(frameon=False, fontsize=8, labelcolor=_INK, **place)


def _write(figure: Figure, text: str, inches: float, height: float, size: int, weight: str) -> None:
    place = 0.012, 1 - inches / height
    figure.text(*place, text, fontsize=size, fontweight=weight, color=_INK, va="top")
