"""What does latent space keep? Edges, text, colours, noise, people at growing compression.

An autoencoder has one ratio; compression grows in two ways: the same scene is made smaller before
its trip, or its latents are rounded to fewer bits. What comes back is held against what went in at
that size, so the loss of being made smaller is not counted. A table, a figure, then one JSON
document as the last line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scripts.command import create_app, option, output_folder, override, run_command, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

    from pipeline.codec import Codec
    from pipeline.tensors import Pixels
    from scripts.study_cards import Card

app = create_app()

Text = str | None
Opt = Annotated

SIDES = (256, 128, 64, 32)
"""Pixels along the side that a scene has on its trip."""

BITS = (8, 6, 5, 4, 3, 2, 1)
"""Bits for each number of the latents, at the first of `SIDES`."""

FIGURE = "latent-space.png"

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito
_PANEL = 1.3  # inches of a picture


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    overrides: list[str]
    out: Path


@dataclass(frozen=True)
class Look:
    """What became of one content: shares kept, decibels, and the first scene in and back."""

    card: Card
    kept: dict[int, float]
    psnr: dict[int, float]
    kept_in_bits: dict[int, float]
    shown: list[tuple[Pixels, Pixels]]


@app.command()
def parse(
    model: Opt[Text, option("SOURCE", "A folder, a file or a hub id. [default: embedded]")] = None,
    vae: Opt[Text, option("SOURCE", "Another autoencoder than the model's.")] = None,
    device: Opt[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    out: Opt[Path, option("FOLDER", "Where the figure goes.")] = Path("outputs/study"),
) -> Request:
    """What latent space keeps at growing compression; the last line is JSON."""
    return Request(override({"source": model, "vae": vae, "device": device}, {}), out)


def run(request: Request) -> None:
    """Look at every content, print what is kept of it, draw the figure, then all as JSON."""
    from pipeline.spec import ModelSpec
    from pipeline.values import parse_spec

    spec = parse_spec(ModelSpec, {}, request.overrides)
    with output_folder(request.out):
        from pipeline.autoencoder import load_codec
        from pipeline.pictures import save_png
        from scripts.study_cards import SIDE, draw_cards

        autoencoder = load_codec(spec)
        codec = autoencoder.codec
        say(autoencoder.summary)
        # numbers of a scene over numbers of its latents
        ratios = {
            side: 3 * SIDE**2 / (codec.channels * (side // codec.downscale) ** 2) for side in SIDES
        }
        heads = [*(f"{ratio:.0f} : 1" for ratio in ratios.values()), *(f"{b} bits" for b in BITS)]
        print(f"{'kept':12}" + "".join(f"{head:>10}" for head in heads), flush=True)
        looks = []
        for card in draw_cards():
            looks.append(look := examine(codec, card))
            values = [*look.kept.values(), *look.kept_in_bits.values()]
            print(f"{card.name:12}" + "".join(f"{v:10.1%}" for v in values), flush=True)
        for name in {"people", "photographs"} - {look.card.name for look in looks}:
            say(f"{name} are left out: they need the extra train, and people a font")
        save_png(draw_figure(looks, ratios), request.out / FIGURE, None)
    print(json.dumps(describe(autoencoder.name, autoencoder.hash, looks, ratios)))


def examine(codec: Codec, card: Card) -> Look:
    """`card` at every size, and at the first of them in every number of bits."""
    import torch

    from pipeline.disturb import round_to_bits
    from pipeline.quality import measure_psnr
    from pipeline.roundtrip import decode, round_trip
    from scripts.study_cards import shrink

    kept, psnr, bits, shown = {}, {}, {}, []
    for side in SIDES:
        small = shrink(card.scenes, side)
        trips = [round_trip(codec, scene) for scene in small.split(1)]
        back = torch.cat([trip.back for trip in trips])
        kept[side] = card.judge(small, back)
        psnr[side] = measure_psnr(small, back).mean().item()
        shown.append((small[:1], back[:1]))
        if side == SIDES[0]:
            for count in BITS:
                rough = [decode(codec, round_to_bits(trip.latents, count)) for trip in trips]
                bits[count] = card.judge(small, torch.cat(rough))
    return Look(card, kept, psnr, bits, shown)


def describe(
    name: str, hash: str, looks: Sequence[Look], ratios: dict[int, float]
) -> dict[str, Any]:
    """All figures as JSON takes them."""
    return {
        "model": name,
        "hash": hash,
        "compression": {str(side): round(ratio, 4) for side, ratio in ratios.items()},
        "contents": {
            look.card.name: {
                "measure": look.card.measure,
                "scenes": len(look.card.scenes),
                "kept": {str(side): round(value, 4) for side, value in look.kept.items()},
                "psnr": {str(side): round(value, 2) for side, value in look.psnr.items()},
                "kept_in_bits": {str(b): round(v, 4) for b, v in look.kept_in_bits.items()},
            }
            for look in looks
        },
    }


def draw_figure(looks: Sequence[Look], ratios: dict[int, float]) -> Image.Image:
    """A row of pictures for each content, and below them what is kept of all."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    heights = [_PANEL * len(looks) + 0.3, 3.2]
    figure = Figure((2 * _PANEL * len(SIDES) + 0.6, sum(heights)), 100, facecolor="white")
    figure.set_layout_engine("constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights)
    for row, look in zip(top.subplots(len(looks), len(SIDES), squeeze=False), looks, strict=True):
        _draw_row(row, look, ratios, is_first=look is looks[0])
    by_size, by_bits = bottom.subplots(1, 2, sharey=True)
    _draw_curves(by_size, looks, ratios)
    _draw_bits(by_bits, looks)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE)


def _draw_row(row: Sequence[Axes], look: Look, ratios: dict[int, float], *, is_first: bool) -> None:
    """The scene at each size, and what came back of it."""
    from PIL import Image

    from pipeline.pictures import to_images
    from pipeline.views import join_strip

    for ax, pair, (side, ratio) in zip(row, look.shown, ratios.items(), strict=True):
        alike = [
            to_images(pixels)[0].resize((256, 256), Image.Resampling.NEAREST) for pixels in pair
        ]
        ax.imshow(join_strip(alike))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_xlabel(f"{look.kept[side]:.0%} {look.card.measure}", fontsize=8, labelpad=2)
        if is_first:
            ax.set_title(f"{ratio:.0f} : 1, {side} px: in, and back", fontsize=9)
    row[0].set_ylabel(look.card.name, fontsize=10)


def _draw_curves(ax: Axes, looks: Sequence[Look], ratios: dict[int, float]) -> None:
    for colour, look in zip(_COLOURS, looks, strict=False):
        ax.plot([*ratios.values()], [*look.kept.values()], "o-", color=colour)
    ax.set_xscale("log")
    ax.set_xticks([*ratios.values()], [f"{ratio:.0f}" for ratio in ratios.values()])
    ax.minorticks_off()
    ax.set_xlabel("numbers in over numbers out: the scene made smaller")
    ax.set_ylabel("kept")
    ax.set_ylim(-0.03, 1.05)
    ax.grid(color="#ececec")


def _draw_bits(ax: Axes, looks: Sequence[Look]) -> None:
    for colour, look in zip(_COLOURS, looks, strict=False):
        bits, kept = zip(*look.kept_in_bits.items(), strict=True)
        ax.plot(bits, kept, "o-", color=colour, label=look.card.name)
    ax.invert_xaxis()
    ax.set_xlabel(f"bits a number, at {SIDES[0]} px")
    ax.grid(color="#ececec")
    ax.legend(loc="lower left", frameon=False, fontsize=8, ncols=2)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("study_latents", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
