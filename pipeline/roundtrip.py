"""Image to latents to image, and what was lost on the way.

Works through any codec; knows no file, and not where an autoencoder's weights come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.autoencoder import Autoencoder
from pipeline.codec import Codec, Posterior
from pipeline.disturb import mix_latents, mix_pixels
from pipeline.errors import PictureError, RenderError, SpecError
from pipeline.fitting import Size, choose_size, fit_image
from pipeline.loss import (
    Compression,
    Fidelity,
    LatentReport,
    measure_compression,
    measure_fidelity,
    measure_latents,
)
from pipeline.pictures import to_pixels
from pipeline.quality import Distance, Value, measure_psnr, measure_ssim
from pipeline.record import current_versions
from pipeline.soundness import CodecReport
from pipeline.tensors import Latents, Pixels

MAX_AREA = 2**20
"""Pixels of the largest picture that makes its trip in its own size, unless told: 1024 × 1024."""

_SMALLEST = 6  # pixels along a side: SSIM reflects 5 at the borders


class Drift(Value):
    """After `trip` trips: what is left of the first picture, and what the last trip changed."""

    trip: int
    psnr: float
    ssim: float
    step_psnr: float


class Precision(Fidelity):
    """The same trip in float32; `agreement` is the PSNR between both of its results."""

    agreement: float


class TripReport(Fidelity):
    """All that is found of one picture's trip. `sampled` is that of a draw from the posterior."""

    width: int
    height: int
    compression: Compression
    latents: LatentReport
    sampled: Fidelity | None = None
    float32: Precision | None = None
    drift: tuple[Drift, ...]


class PictureReport(TripReport):
    """The trip of the picture called `image`, and what was written of it, by what it shows."""

    image: str
    files: dict[str, str]


class TripsReport(Value):
    """The trips of several pictures through one autoencoder: means, and each by itself."""

    psnr: float
    ssim: float
    lpips: float | None
    images: tuple[PictureReport, ...]
    model: str
    hash: str
    device: str
    dtype: str
    codec: CodecReport
    versions: dict[str, str]


@dataclass(frozen=True)
class RoundTrip:
    """A picture, (1, 3, height, width), the latents made of it, and the picture made of them.

    `pixels` and `back` are float32 on the CPU, `back` within [-1, 1]; `latents` are the posterior's
    mean, or a draw from it.
    """

    pixels: Pixels
    posterior: Posterior
    latents: Latents
    back: Pixels


def choose_trip_size(codec: Codec, size: Size, side: int | None = None) -> Size:
    """Width and height that a picture of `size` has on its trip: a square of `side`, or its own.

    Its own is cut to multiples of `downscale`, and made smaller where it has more than `MAX_AREA`
    pixels. Raises `SpecError` for a `side` that is no multiple or holds less than two cells, and
    `PictureError` for a picture that does.
    """
    multiple = codec.downscale
    least = max(2 * multiple, _SMALLEST)
    if side is not None:
        if side % multiple or side < least:
            raise SpecError(f"size = {side}: must be a multiple of {multiple}, {least} or more")
        return side, side
    width, height = size
    if width * height > MAX_AREA:
        return choose_size(size, MAX_AREA, multiple)
    if min(size) < least:
        raise PictureError(
            f"a picture of {width} × {height} pixels: sides must be {least} or more, or say a size"
        )
    return width // multiple * multiple, height // multiple * multiple


def fit_trip(codec: Codec, image: Image.Image, side: int | None = None) -> Pixels:
    """An RGB image as pixels of the size that `choose_trip_size` gives, (1, 3, height, width).

    Where only less than a cell has to go, it is cut off around, and no pixel is changed.
    """
    size = choose_trip_size(codec, image.size, side)
    if side is None and image.width * image.height <= MAX_AREA:
        left, top = ((old - new) // 2 for old, new in zip(image.size, size, strict=True))
        return to_pixels(image.crop((left, top, left + size[0], top + size[1])))
    return to_pixels(fit_image(image, size, "crop").image)


def round_trip(codec: Codec, pixels: Pixels, *, seed: int | None = None) -> RoundTrip:
    """One picture through `codec` and back, by the mode, or by a draw from `seed`.

    Raises `PictureError` for sides that are no multiples of `downscale` or hold less than two
    cells, and `RenderError` where a number is not finite, or memory runs out.
    """
    posterior = encode(codec, pixels)
    latents = posterior.mean if seed is None else posterior.sample(seed)
    return RoundTrip(pixels, posterior, latents, decode(codec, latents))


def encode(codec: Codec, pixels: Pixels) -> Posterior:
    """What `codec` makes of one picture. Raises what `round_trip` raises."""
    _check_size(codec, pixels)
    try:
        return codec.posterior(pixels if codec.device is None else pixels.to(codec.device))
    except torch.OutOfMemoryError:
        raise _say_memory(pixels) from None


def decode(codec: Codec, latents: Latents) -> Pixels:
    """What `latents` look like, float32 on the CPU, within [-1, 1].

    Raises `RenderError` where a number is not finite, or memory runs out.
    """
    try:
        pixels = codec.decode(latents).float().cpu()
    except torch.OutOfMemoryError:
        raise _say_memory(latents) from None
    for name, tensor in (("latents", latents), ("decoded pixels", pixels)):
        if bad := tensor.numel() - int(tensor.isfinite().sum()):
            raise RenderError(f"{name}: {bad} of {tensor.numel()} numbers are not finite")
    return pixels.clamp(-1, 1)


def repeat_trips(codec: Codec, pixels: Pixels, count: int) -> Iterator[RoundTrip]:
    """`count` trips, one after the other: each starts from what the last one brought back.

    In between nothing is rounded to 8 bits.
    """
    for _ in range(count):
        trip = round_trip(codec, pixels)
        yield trip
        pixels = trip.back


def mix_pictures(codec: Codec, start: Pixels, end: Pixels, weight: float) -> tuple[Pixels, Pixels]:
    """Two pictures of one size mixed in latent space, by slerp, and the same mix in pixels.

    Raises `SpecError` for a weight that is not in [0, 1], and what `round_trip` raises.
    """
    if start.shape != end.shape:
        raise PictureError("two pictures to be mixed: must have the same size")
    faded = mix_pixels(start, end, weight)
    ends = [encode(codec, pixels).mean for pixels in (start, end)]
    return decode(codec, mix_latents(ends[0], ends[1], weight)), faded


def measure_trip(
    codec: Codec,
    pixels: Pixels,
    *,
    repeat: int = 1,
    seed: int | None = None,
    exact: Codec | None = None,
    lpips: Distance | None = None,
) -> tuple[RoundTrip, TripReport]:
    """One picture's first trip, and all that is to be said of it and of those that follow.

    With a `seed` a draw from the posterior is made beside its mode. Where `exact` is the same codec
    in float32, the first trip is made through it, too. Raises what `round_trip` raises.
    """
    trips = repeat_trips(codec, pixels, repeat)
    first = next(trips)
    fidelity = measure_fidelity(pixels, first.back, lpips)
    drift = [_measure_drift(pixels, 1, first)]
    drift += [_measure_drift(pixels, i, trip) for i, trip in enumerate(trips, 2)]
    sampled = None
    if seed is not None and first.posterior.variance is not None:
        drawn = decode(codec, first.posterior.sample(seed))
        sampled = measure_fidelity(pixels, drawn, lpips)
    height, width = pixels.shape[2:]
    return first, TripReport(
        **dict(fidelity),
        width=width,
        height=height,
        compression=measure_compression(codec, pixels, first.posterior),
        latents=measure_latents(first.latents, first.posterior),
        sampled=sampled,
        float32=None if exact is None else _measure_precision(exact, first, lpips),
        drift=tuple(drift),
    )


def summarise(
    autoencoder: Autoencoder, codec: CodecReport, reports: Sequence[PictureReport]
) -> TripsReport:
    """One or more trips through `autoencoder`, and their means."""
    vae: Any = autoencoder.codec.vae
    distances = [report.lpips for report in reports if report.lpips is not None]
    return TripsReport(
        psnr=fmean(report.psnr for report in reports),
        ssim=fmean(report.ssim for report in reports),
        lpips=fmean(distances) if distances else None,
        images=tuple(reports),
        model=autoencoder.name,
        hash=autoencoder.hash,
        device=str(autoencoder.codec.device),
        dtype=str(vae.dtype).removeprefix("torch."),
        codec=codec,
        versions=current_versions(),
    )


def _measure_drift(pixels: Pixels, index: int, trip: RoundTrip) -> Drift:
    return Drift(
        trip=index,
        psnr=measure_psnr(pixels, trip.back).item(),
        ssim=measure_ssim(pixels, trip.back).item(),
        step_psnr=measure_psnr(trip.pixels, trip.back).item(),
    )


def _measure_precision(exact: Codec, trip: RoundTrip, lpips: Distance | None) -> Precision:
    back = round_trip(exact, trip.pixels).back
    return Precision(
        **dict(measure_fidelity(trip.pixels, back, lpips)),
        agreement=measure_psnr(back, trip.back).item(),
    )


def _check_size(codec: Codec, pixels: Pixels) -> None:
    height, width = pixels.shape[2:]
    least = max(2 * codec.downscale, _SMALLEST)
    if height % codec.downscale or width % codec.downscale or min(height, width) < least:
        raise PictureError(
            f"a picture of {width} × {height} pixels: sides must be multiples of "
            f"{codec.downscale}, {least} or more"
        )


def _say_memory(tensor: Tensor) -> RenderError:
    size = " × ".join(str(side) for side in reversed(tensor.shape[2:]))
    return RenderError(f"out of memory on {tensor.device} at {size}: choose a smaller size")
