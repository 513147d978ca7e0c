"""What was found of a round trip, in words and small pictures.

Pictures travel inside the page itself, so that nothing is published for them. Knows no widgets, and
measures nothing.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

from ui.thumbs import Thumb

if TYPE_CHECKING:
    from pipeline.codec import Codec
    from pipeline.loss import Fidelity, LatentReport
    from pipeline.roundtrip import TripReport
    from pipeline.tensors import Latents

TILE = 240  # pixels of the longer side of a trip's picture, at most
QUALITY = 90


def make_tile(image: Image.Image, caption: str) -> Thumb:
    """A picture as it came back from a trip: large enough to see what was lost."""
    small = image.copy()
    small.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return _as_uri(small, caption, format="JPEG", quality=QUALITY)


def make_cells(codec: Codec, latents: Latents) -> Iterator[Thumb]:
    """Each channel of one picture's latents, and all as colours: a pixel for a cell, lossless."""
    from pipeline.views import draw_channels, draw_colours

    x = latents.float()[0]
    for i, image in enumerate(draw_channels(latents, 1)):
        words = f"channel {i} · mean {x[i].mean():.2f}, std {x[i].std(correction=0):.2f}"
        yield _as_uri(image, words, format="PNG")
    colours = draw_colours(codec.colours(latents), 1)
    yield _as_uri(colours, "as colours, by the best linear map", format="PNG")


def _as_uri(image: Image.Image, caption: str, **how: Any) -> Thumb:
    stream = BytesIO()
    image.save(stream, **how)
    code = base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumb(f"data:image/{how['format'].lower()};base64,{code}", caption)


def say_decibels(psnr: float) -> str:
    """A PSNR; of equal pictures it is infinite."""
    return f"{psnr:.2f} dB" if math.isfinite(psnr) else "∞ dB"


def say_fidelity(found: Fidelity) -> str:
    """How like its original a picture is, in one line."""
    return f"{say_decibels(found.psnr)}, SSIM {found.ssim:.4f}"


def trip_facts(report: TripReport) -> dict[str, str | None]:
    """What was lost and what was saved."""
    saved = report.compression
    bits = saved.posterior_bits
    red, green, blue = report.channel_errors
    return {
        "PSNR": say_decibels(report.psnr),
        "SSIM": f"{report.ssim:.4f}",
        "by a draw from the posterior": None
        if report.sampled is None
        else say_fidelity(report.sampled),
        "error in red, green, blue": f"{red:.1f}, {green:.1f}, {blue:.1f} of 255",
        "worst error": f"{report.worst_error:.0f} of 255",
        "size": f"{report.width} × {report.height}",
        "numbers": f"{saved.numbers_in:,} → {saved.numbers_out:,}, {saved.ratio:.4g} : 1",
        "bits": f"{saved.bits_in:,} → {saved.bits_out:,.0f}, {saved.bits_ratio:.4g} : 1",
        "KL divergence of the posterior": None
        if bits is None
        else f"{bits:,.0f} bits, {bits / report.width / report.height:.2f} a pixel",
    }


def latent_facts(report: LatentReport) -> dict[str, str | None]:
    """What the latents are like, beside a draw of the unit Gaussian."""
    health = report.health
    across, down = health.lag1
    posterior = report.posterior_std
    return {
        "deviation (a Gaussian's: 1)": f"{report.std:.3f}",
        "largest number": f"{report.largest:.2f}",
        "deviation of the posterior": None if posterior is None else f"{posterior:.4f}",
        "likeness of neighbours (0)": f"{across:.2f} in rows, {down:.2f} in columns",
        "excess kurtosis (0)": f"{health.kurtosis:+.2f}",
        "farthest from a Gaussian": f"{health.worst:.1f} σ",
    }
