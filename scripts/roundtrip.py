"""Pictures through an autoencoder and back: what was lost, in numbers and in pictures.

A table, then one JSON document as the last line. Knows nothing of how it is measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import PictureError, SpecError
from pipeline.trip import TripSpec
from pipeline.values import parse_spec
from scripts.command import (
    Stopped,
    create_app,
    download_missing,
    option,
    output_folder,
    override,
    progress_bar,
    run_command,
    say,
)

if TYPE_CHECKING:
    from pipeline.autoencoder import Autoencoder
    from pipeline.quality import Distance
    from pipeline.roundtrip import PictureReport, RoundTrip
    from pipeline.spec import ModelSpec

app = create_app()

# Numbers arrive as text: what is wrong with them is said by the spec, as everywhere.
Text = str | None
Opt = Annotated

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}
"""What counts as a picture in a folder."""

_ROW = "{:>5}  {:28} {:>11} {:>8} {:>7} {:>7} {:>7} {:>8} {:>6}"
_HEAD = ("index", "picture", "size", "PSNR dB", "SSIM", "LPIPS", "worst", "numbers", "std")


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    images: list[str]
    overrides: list[str]
    out: Path


@app.command()
def parse(
    images: Opt[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures, or folders of them.")
    ] = None,
    model: Opt[Text, option("SOURCE", "A folder, a file or a hub id. [default: embedded]")] = None,
    vae: Opt[Text, option("SOURCE", "Another autoencoder than the model's.")] = None,
    size: Opt[Text, option("N", "Cut each to a square of N pixels. [default: its own]")] = None,
    repeat: Opt[Text, option("N", "Trips one after the other. [default: 1]")] = None,
    sample: Opt[bool, option(None, "A draw from the posterior, too.", "--sample")] = False,
    seed: Opt[Text, option("N", "The seed of that draw. [default: 0]")] = None,
    device: Opt[Text, option("NAME", "cpu, cuda, cuda:N, mps. [default: the best]")] = None,
    dtype: Opt[Text, option("NAME", "float16 and bfloat16 are held against float32, too.")] = None,
    lpips: Opt[Text, option("FILE", "LPIPS with these weights (.safetensors), too.")] = None,
    out: Opt[Path, option("FOLDER", "Where the pictures go.")] = Path("outputs/roundtrip"),
) -> Request:
    """What is lost when pictures become latents and pictures again; the last line is JSON."""
    if seed is not None and not sample:
        raise SpecError(f"seed = {seed}: is for --sample")
    texts = {
        "model.source": model,
        "model.vae": vae,
        "model.device": device,
        "model.dtype": dtype,
        "lpips": lpips,
    }
    numbers = {"size": size, "repeat": repeat, "seed": "0" if sample and seed is None else seed}
    return Request(images or [], override(texts, numbers), out)


def run(request: Request) -> None:
    """Send every picture on its trip; bad ones are refused before a model is loaded."""
    spec = parse_spec(TripSpec, {"images": request.images}, request.overrides)
    files = list(_find_pictures(spec.images))

    from pipeline.perceptual import load_lpips
    from pipeline.pictures import read_size

    sizes = [read_size(file) for file in files]
    lpips = None if spec.lpips is None else load_lpips(spec.lpips)
    with output_folder(request.out):
        autoencoder = _fetch(spec.model)
        say(autoencoder.summary)
        _check_sizes(autoencoder, spec, files, sizes)
        _travel(autoencoder, spec, files, request.out, lpips)


def _find_pictures(sources: Sequence[str]) -> Iterator[Path]:
    """The files that `sources` name, a folder by what lies in it, sorted by name."""
    for source in sources:
        if not os.path.isdir(source):  # unlike Path's, for every name
            yield Path(source)
            continue
        found = [f for f in Path(source).iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()]
        if not found:
            allowed = ", ".join(sorted(SUFFIXES))
            raise PictureError(f"{source}: holds no picture, which ends in {allowed}")
        yield from sorted(found)


def _fetch(spec: ModelSpec) -> Autoencoder:
    """The autoencoder; what the hub has and this machine has not is downloaded first."""
    from pipeline.autoencoder import load_codec

    download_missing(spec.replace(dtype=None))
    return load_codec(spec)


def _check_sizes(
    autoencoder: Autoencoder,
    spec: TripSpec,
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Refuse what cannot travel before anything does, and say what is made smaller."""
    from pipeline.roundtrip import MAX_AREA, choose_trip_size

    for file, size in zip(files, sizes, strict=True):
        try:
            width, height = choose_trip_size(autoencoder.codec, size, spec.size)
        except PictureError as error:
            raise PictureError(f"{file.name}: {error}") from None
        if spec.size is None and size[0] * size[1] > MAX_AREA:
            say(f"{_shorten(file.name)}: {size[0]} × {size[1]} made {width} × {height} pixels")


def _travel(
    autoencoder: Autoencoder,
    spec: TripSpec,
    files: Sequence[Path],
    out: Path,
    lpips: Distance | None,
) -> None:
    """Measure, draw and hand over each picture as its trips end; then all of them as JSON."""
    from pipeline.files import write_atomically
    from pipeline.pictures import open_image
    from pipeline.roundtrip import PictureReport, fit_trip, measure_trip, summarise
    from pipeline.soundness import check_codec

    codec = autoencoder.codec
    checked = check_codec(codec)
    for fault in checked.faults:
        say(f"warning: {fault}")
    print(_ROW.format(*_HEAD), flush=True)
    reports: list[PictureReport] = []
    try:
        with progress_bar(len(files)) as advance:
            for index, file in enumerate(files):
                pixels = fit_trip(codec, open_image(file), spec.size)
                trip, report = measure_trip(
                    codec,
                    pixels,
                    repeat=spec.repeat,
                    seed=spec.seed,
                    exact=autoencoder.exact,
                    lpips=lpips,
                )
                saved = _save(autoencoder, trip, out, index)
                name = file.name.encode(errors="replace").decode()
                reports.append(PictureReport(**dict(report), image=name, files=saved))
                print(_describe(index, reports[-1]), flush=True)
                advance(index + 1, f"picture {index + 1} of {len(files)}")
    except (KeyboardInterrupt, Stopped):
        raise Stopped(f"{len(reports)} of {len(files)} pictures kept in {out}") from None
    document = summarise(autoencoder, checked, reports).model_dump_json()
    write_atomically(out / "roundtrip.json", lambda stream: stream.write(document.encode()))
    print(document)


def _save(autoencoder: Autoencoder, trip: RoundTrip, out: Path, index: int) -> dict[str, str]:
    """Write what there is to see of a trip; the names of the files, by what they show."""
    from pipeline.pictures import save_png, to_images
    from pipeline.views import draw_channels, draw_colours, draw_error, join_strip

    codec = autoencoder.codec
    colours = draw_colours(codec.colours(trip.latents), codec.downscale)
    pictures = {
        "original": to_images(trip.pixels)[0],
        "reconstruction": to_images(trip.back)[0],
        "error": draw_error(trip.pixels, trip.back),
        "latents": join_strip([*draw_channels(trip.latents, codec.downscale), colours]),
    }
    names = {shows: f"{index:04d}-{shows}.png" for shows in pictures}
    for shows, picture in pictures.items():
        save_png(picture, out / names[shows], None)
    return names


def _describe(index: int, report: PictureReport) -> str:
    """One row of the table."""
    return _ROW.format(
        index,
        _shorten(report.image),
        f"{report.width} × {report.height}",
        f"{report.psnr:.2f}",
        f"{report.ssim:.4f}",
        "–" if report.lpips is None else f"{report.lpips:.4f}",
        f"{report.worst_error:.0f}",
        f"{report.compression.ratio:.4g} : 1",
        f"{report.latents.std:.2f}",
    )


def _shorten(name: str) -> str:
    """`name` as it may stand in a table."""
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return plain if len(plain) <= 28 else f"{plain[:27]}…"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run_command("roundtrip", app, run, argv)


if __name__ == "__main__":
    sys.exit(main())
