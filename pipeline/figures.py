"""Drawings of what was measured.

Knows reports and pictures; no model and no file. Figures are made without pyplot, whose state is
shared by a whole process, so two may be drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipeline.quality import HEALTHY
from pipeline.report import MorphReport

_WIDTH, _DPI = 11.0, 100  # inches, and pixels to one
_PANEL = 2.0  # inches
_LINE = 0.21  # inches a line of the verdict
_CHARACTERS = 135  # in a line
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito: for all eyes
_INK, _FAINT = "#222222", "#8c8c8c"
_DOTTED = 60  # frames, up to which each has a dot
_COLUMNS = 9
_CAPTION = 0.16  # of a thumbnail's width
_SIDE = 256  # pixels of a thumbnail at most


def draw_report(
    report: MorphReport, thumbnails: Mapping[int, Image.Image], title: str = "Morph report"
) -> Image.Image:
    """The report as an RGB picture, 1100 px wide.

    It shows the speed along the morph, the likeness of each frame to a cross-fade, how far each
    noise is from a Gaussian's where the report has noises, and a contact sheet of `thumbnails`:
    some of the frames by their index, all of one size, perhaps none.
    """
    panels = [_draw_speed, _draw_crossfade] + [_draw_health] * bool(report.health)
    lines = wrap(report.verdict, _CHARACTERS)
    heights = [_head_height(lines), _PANEL * len(panels) + 0.3]
    if thumbnails:
        heights.append(_sheet_height(thumbnails))

    figure = Figure((_WIDTH, sum(heights)), _DPI, facecolor="white", layout="constrained")
    rows = GridSpec(len(heights), 1, figure, height_ratios=heights)
    head, middle, *foot = (figure.add_subfigure(rows[i]) for i in range(len(heights)))
    _write_head(head, title, lines)
    axes = middle.subplots(len(panels), 1, sharex=True)
    for draw, ax in zip(panels, axes, strict=True):
        _prepare(ax, report)
        draw(ax, report)
    axes[-1].set_xlabel("frame", color=_INK)
    for part in foot:
        _draw_sheet(part.subplots(), thumbnails)
    return to_image(figure)


def _write_head(part: SubFigure, title: str, lines: Sequence[str]) -> None:
    height = _head_height(lines)
    for text, inches, size, weight in (
        (title, 0.12, 15, "bold"),
        ("\n".join(lines), 0.45, 10, "normal"),
    ):
        part.text(
            *(0.012, 1 - inches / height, text),
            fontsize=size,
            fontweight=weight,
            color=_INK,
            va="top",
            parse_math=False,
        )


def _head_height(lines: Sequence[str]) -> float:
    return 0.5 + _LINE * len(lines)


def _prepare(ax: Axes, report: MorphReport) -> None:
    """A quiet ground, with a line at each keyframe."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_FAINT)
    ax.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=9)
    ax.grid(axis="y", color="#ececec")
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for index in sorted({i for s in report.segments for i in (s.first, s.last)}):
        ax.axvline(index, color=_FAINT, linewidth=0.8, linestyle=(0, (1, 2)))


def _draw_speed(ax: Axes, report: MorphReport) -> None:
    """Each gap over the mean of all, half way between its frames; dashed is what was meant."""
    ax.axhline(1, color=_FAINT, linewidth=0.8)
    for colour, (name, total) in zip(cycle(_COLOURS), report.totals.items(), strict=False):
        gaps = [gap for segment in report.segments for gap in segment.speeds[name].gaps]
        mean = sum(gaps) / len(gaps) or math.inf
        label = (
            f"{name}\nCV {_say(total.cv)}, max/mean {_say(total.peak)}\n"
            f"directness {_say(total.directness)}"
        )
        for segment in report.segments:
            shares = [gap / mean for gap in segment.speeds[name].gaps]
            middles = [segment.first + k + 0.5 for k in range(len(shares))]
            ax.plot(middles, shares, color=colour, label=label, **_line(report))
            label = "_"
    label = "meant"
    for segment in report.segments:
        if segment.pace:
            meant = [part * len(segment.pace) for part in segment.pace]
            middles = [segment.first + k + 0.5 for k in range(len(meant))]
            ax.plot(middles, meant, color=_INK, linewidth=0.9, linestyle="--", label=label)
            label = "_"
    ax.set_ylim(bottom=0)
    ax.set_ylabel("change per frame\n(× mean)", color=_INK)
    _add_legend(ax)


def _draw_crossfade(ax: Axes, report: MorphReport) -> None:
    label = f"each frame; mean {_say(report.crossfade_mean, 3)}"
    for segment in report.segments:
        inner = range(segment.first + 1, segment.last)
        ax.plot(inner, segment.crossfade, color=_COLOURS[0], label=label, **_line(report))
        label = "_"
    ax.axhline(1, color=_COLOURS[1], linewidth=1, zorder=1.5, label="a cross-fade or a cut")
    ax.set_ylim(0, 1.06)
    ax.set_ylabel("cross-fade R²", color=_INK)
    _add_legend(ax)


def _draw_health(ax: Axes, report: MorphReport) -> None:
    worst = [health.worst for health in report.health]
    ax.plot(
        range(len(worst)),
        worst,
        color=_COLOURS[2],
        label="its farthest number",
        **_line(report),
    )
    ax.axhline(HEALTHY, color=_COLOURS[1], linewidth=1, zorder=1.5, label="healthy below this")
    ax.set_ylim(0, 1.25 * max(HEALTHY, *worst))
    ax.set_ylabel("noise: distance from\na Gaussian's (σ)", color=_INK)
    _add_legend(ax)


def _draw_sheet(ax: Axes, thumbnails: Mapping[int, Image.Image]) -> None:
    ratio = _ratio(thumbnails)
    rows = math.ceil(len(thumbnails) / _COLUMNS)
    for place, (index, image) in enumerate(sorted(thumbnails.items())):
        row, column = divmod(place, _COLUMNS)
        top = row * (ratio + _CAPTION)
        small = image.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        extent = (column + 0.02, column + 0.98, top + ratio * 0.98, top + ratio * 0.02)
        ax.imshow(np.asarray(small), extent=extent, interpolation="antialiased")
        ax.text(
            column + 0.5,
            top + ratio + 0.01,
            str(index),
            ha="center",
            va="top",
            fontsize=9,
            color=_INK,
        )
    ax.set_xlim(0, _COLUMNS)
    ax.set_ylim(rows * (ratio + _CAPTION), 0)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _sheet_height(thumbnails: Mapping[int, Image.Image]) -> float:
    rows = math.ceil(len(thumbnails) / _COLUMNS)
    return rows * (_ratio(thumbnails) + _CAPTION) * _WIDTH / _COLUMNS


def _ratio(thumbnails: Mapping[int, Image.Image]) -> float:
    width, height = next(iter(thumbnails.values())).size
    return height / width


def _line(report: MorphReport) -> dict[str, Any]:
    dotted = report.num_frames <= _DOTTED
    return {"linewidth": 1.4, "marker": "o" if dotted else "", "markersize": 3}


def _add_legend(ax: Axes) -> None:
    """Beside the panel, where it hides nothing."""
    legend = ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _say(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def to_image(figure: Figure) -> Image.Image:
    """A figure as an RGB picture, drawn without the state that pyplot shares."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels).convert("RGB")
