"""Numbers for pictures and noises: how alike two pictures are, and how Gaussian a noise is.

Knows no model and no file. Where pictures are compared in an encoder, the encoder is a callable.

All is computed in float64 on the CPU. Of pixels, what is shown is measured: values beyond [-1, 1]
are clipped, as they are in a picture of 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import final

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pipeline.errors import RenderError
from pipeline.tensors import Latents, Noise, Pixels

Distance = Callable[[Pixels, Pixels], Tensor]
"""How far apart the pictures of two batches are, pair by pair, (batch,): 0 where equal."""

HEALTHY = 5.0
"""Standard deviations from a Gaussian's mean that are allowed, for each number of a `Health`.

Chosen for few false alarms: of 400,000 draws each, 8 in 100,000 of (4, 16, 16) failed and 5 in
10,000 of (4, 8, 8), nearly all by the kurtosis, whose distribution is skewed. Half way of a lerp
the variance is ½, which is √d / 2√2 away: 11 for (4, 16, 16), 45 for (4, 64, 64).
"""

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2

# IEC 61966-2-1, for D65. The rows sum to the white point, so that greys have no colour.
_XYZ = torch.tensor(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    dtype=torch.float64,
)


class Value(BaseModel):
    """A frozen value; `model_dump_json` writes an infinity as "Infinity", which is read again."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Health(Value):
    """How far a noise of d numbers is from a draw of the unit Gaussian.

    `zs` is (|x|² − d) / √(2d). `kurtosis` is the excess about 0, expected within √(24/d).
    `channel_means` are expected within 1/√(rows · columns). `lag1` are the correlations of
    neighbours in a row and in a column, expected within 1/√pairs. `worst` is the largest of these
    in standard deviations, and `faults` has a line for each that is beyond `HEALTHY` of them.
    """

    zs: float
    kurtosis: float
    channel_means: tuple[float, ...]
    lag1: tuple[float, float]
    worst: float
    faults: tuple[str, ...]


def measure_psnr(a: Pixels, b: Pixels) -> Tensor:
    """The peak signal-to-noise ratio of each pair, (batch,), in decibels; infinite where equal."""
    a, b = _shown(a, b)
    error = (a - b).square().flatten(1).mean(1)
    return 10 * torch.log10(2**2 / error)


def measure_ssim(a: Pixels, b: Pixels) -> Tensor:
    """The structural similarity of each pair, (batch,): 1 where equal. Sides from 6 px up.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window of 11 × 11 with σ = 1.5, K₁ = 0.01, K₂ = 0.03, range 2, reflected borders, mean
    over channels and pixels.
    """
    a, b = _shown(a, b)
    mean_a, mean_b = _blur(a), _blur(b)
    product, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    # These differences need float64. In float32 two equal pictures in one plain colour are left
    # with 1 − SSIM = 1e-4, a hundredth in its root, which is what frames of a slow morph differ by.
    covariance = _blur(a * b) - product
    variances = _blur(a.square()) + _blur(b.square()) - squares
    luminance = (2 * product + _C1) / (squares + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    similarity: Tensor = (luminance * structure).flatten(1).mean(1)
    return similarity


def distance_ssim(a: Pixels, b: Pixels) -> Tensor:
    """√(1 − SSIM) of each pair, (batch,)."""
    return (1 - measure_ssim(a, b)).clamp_min(0).sqrt()


def distance_colour(a: Pixels, b: Pixels) -> Tensor:
    """The mean over pixels of the colour difference ΔE of CIE 1976, (batch,).

    From black to white it is 100; 2.3 is just noticeable.
    """
    a, b = _shown(a, b)
    difference: Tensor = torch.linalg.vector_norm(_to_lab(a) - _to_lab(b), dim=1)
    return difference.flatten(1).mean(1)


def distance_rms(a: Tensor, b: Tensor) -> Tensor:
    """The root mean square difference of each pair, (batch,), of pixels or of latents."""
    return (a.cpu().double() - b.cpu().double()).square().flatten(1).mean(1).sqrt()


def distance_in(encode: Callable[[Pixels], Latents]) -> Distance:
    """The root mean square difference between what `encode` makes of two pictures, (batch,).

    The last pair's encodings are kept: in a morph, each frame is met twice in a row.
    """
    kept: list[tuple[Pixels, Tensor]] = []

    def look(pixels: Pixels) -> Tensor:
        for known, latents in kept:
            if known is pixels:
                return latents
        return encode(pixels).detach().cpu().double()

    def distance(a: Pixels, b: Pixels) -> Tensor:
        first, second = look(a), look(b)
        kept[:] = [(a, first), (b, second)]
        return distance_rms(first, second)

    return distance


DISTANCES: Mapping[str, Distance] = MappingProxyType(
    {"ssim": distance_ssim, "colour": distance_colour}
)
"""The distances that need no model, by their names in a report."""


@final
class CrossFade:
    """All cross-fades of two pictures, (1, 3, height, width): mixtures of both and a constant."""

    def __init__(self, start: Pixels, end: Pixels) -> None:
        first, second = (pixels.flatten() for pixels in _shown(start, end))
        self._difference = float((second - first).norm())
        corners = torch.stack([torch.ones_like(first), first, second], 1)
        directions, lengths, _ = torch.linalg.svd(corners, full_matrices=False)
        # Equal ends, and plain ones, span less. One grey level in one of a million pixels is 1e-5.
        self._basis = directions[:, lengths > 1e-7 * lengths[0]]

    def fit(self, frame: Pixels) -> tuple[float, float]:
        """R² of the regression of `frame` on both ends, and its novelty.

        Novelty is what the regression leaves over, as a share of the difference of the ends (both
        root mean squares): 0 for a cross-fade, however little the ends differ. It is 0 too, and
        tells nothing, where they are equal.
        """
        x = _shown(frame, frame)[0].flatten()
        left = float((x - self._basis @ (self._basis.T @ x)).norm())
        variety = float((x - x.mean()).norm())
        plain = variety < 1e-6 * math.sqrt(len(x))  # one colour, which the constant explains
        return 1.0 if plain else 1 - (left / variety) ** 2, left / (self._difference or math.inf)


def measure_health(noise: Noise) -> Health:
    """The health of one noise, (1, channels, rows, columns), at least 2 × 2 cells a channel.

    Moments are taken about 0, where the mean of a Gaussian is known to lie; of zeros alone the
    kurtosis is -3. Raises `RenderError` where a number is not finite.
    """
    if noise.ndim != 4 or len(noise) != 1 or min(noise.shape[2:]) < 2:
        raise ValueError(
            f"noise of shape {tuple(noise.shape)}: must be one, of 2 × 2 cells or more"
        )
    _check_finite(noise, "noise")
    x = noise.detach().cpu().double()[0]
    power = float(x.square().mean())
    scale = max(power, torch.finfo(x.dtype).tiny)

    zs = (power - 1) * math.sqrt(x.numel() / 2)
    kurtosis = float(x.pow(4).mean() / scale / scale) - 3
    means = tuple(x.mean((1, 2)).tolist())
    across, down = x[:, :, 1:] * x[:, :, :-1], x[:, 1:] * x[:, :-1]
    lag1 = float(across.mean()) / scale, float(down.mean()) / scale

    scores = {
        f"standard deviation {math.sqrt(power):.3g}": zs,
        f"excess kurtosis {kurtosis:.3g}": kurtosis * math.sqrt(x.numel() / 24),
        f"correlation {lag1[0]:.3g} in rows": lag1[0] * math.sqrt(across.numel()),
        f"correlation {lag1[1]:.3g} in columns": lag1[1] * math.sqrt(down.numel()),
    } | {f"mean {m:.3g} of channel {i}": m * math.sqrt(x[i].numel()) for i, m in enumerate(means)}
    return Health(
        zs=zs,
        kurtosis=kurtosis,
        channel_means=means,
        lag1=lag1,
        worst=max(map(abs, scores.values())),
        faults=tuple(
            f"{what}: {score:+.1f} σ from a Gaussian's, within {HEALTHY:g} is healthy"
            for what, score in scores.items()
            if abs(score) > HEALTHY
        ),
    )


def _shown(a: Pixels, b: Pixels) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"pixels of shapes {shapes}: must be equal, (batch, 3, height, width)")
    for pixels in (a, b):
        _check_finite(pixels, "pixels")
    return a.detach().cpu().double().clamp(-1, 1), b.detach().cpu().double().clamp(-1, 1)


def _check_finite(tensor: Tensor, name: str) -> None:
    bad = tensor.numel() - int(tensor.isfinite().sum())
    if bad:
        raise RenderError(f"{name}: {bad} of {tensor.numel()} numbers are not finite")


def _blur(x: Tensor) -> Tensor:
    """`x` seen through the window, first along columns and then along rows.

    Shifted sums take a third of the time that torch's convolution takes in float64 at 512 px.
    """
    reach, (height, width) = _WINDOW // 2, x.shape[2:]
    weights = [math.exp(-((i / _SIGMA) ** 2) / 2) for i in range(-reach, reach + 1)]
    window = [weight / sum(weights) for weight in weights]
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    rows = torch.zeros_like(padded[:, :, :height])
    for i, share in enumerate(window):
        rows += share * padded[:, :, i : i + height]
    blurred = torch.zeros_like(x)
    for i, share in enumerate(window):
        blurred += share * rows[..., i : i + width]
    return blurred


def _to_lab(pixels: Tensor) -> Tensor:
    """L* in [0, 100], a* and b*, of sRGB with the white point D65."""
    share = (pixels + 1) / 2
    # Of both branches the one not taken must stay finite.
    linear = torch.where(
        share <= 0.04045, share / 12.92, ((share.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    )
    xyz = torch.einsum("rc,nchw->nrhw", _XYZ / _XYZ.sum(1, keepdim=True), linear)
    cube, slope = (6 / 29) ** 3, (29 / 6) ** 2 / 3
    f = torch.where(xyz > cube, xyz.clamp_min(cube) ** (1 / 3), slope * xyz + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
