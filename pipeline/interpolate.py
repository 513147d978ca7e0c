"""Between tensors: slerp, mixtures, blends of prompts, and the weights of a smooth path.

Pure functions. Knows no model, path or prompt, and no scale but the one it is given: noise is
travelled as unit Gaussian, and `init_noise_sigma` comes after.

Angles and norms are float64 throughout: in float16 the squares of one 1024 px noise overflow, and
in float32 an arc cosine no longer tells angles below 1e-3 apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.errors import RenderError, SpecError
from pipeline.spec import BlendMode
from pipeline.tensors import Embeds
from pipeline.timing import listed, unit

Antipodal = Literal["raise", "detour"]

NEAR = 1e-4  # radians from 0 or from π: below it the quotient of sines loses its digits
CANCELLED = 1e-8  # what is less than this share of its parts has cancelled out
DOUBLE = torch.float64
TINY = torch.finfo(DOUBLE).tiny  # leaves a zero vector, which has no direction, what it is


def slerp(
    start: Tensor,
    end: Tensor,
    weight: float | Tensor,
    *,
    antipodal: Antipodal = "raise",
    seed: int = 0,
) -> Tensor:
    """The great circle from `start` to `end`, each (batch, …), one sphere per sample.

    `weight` in [0, 1] is one number or one per sample, (batch,). The radius goes linearly, the ends
    come back bit for bit, and a zero vector, which has no direction, is met by lerp. Opposite ends
    raise `SpecError` at every weight, for no great circle is defined between them, unless
    `antipodal` is "detour": then half a circle through a direction drawn from `seed`. A number that
    is not finite raises `RenderError`.

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    _check_alike([start, end])
    w = _weights(weight, start)
    aside = _aside(start, seed) if antipodal == "detour" else None

    # One sample at a time: sums over a batch may be split differently, and then differ in a bit.
    rows = zip(_exact(start).flatten(1), _exact(end).flatten(1), w.flatten(), strict=True)
    arcs = [_arc(*row, aside, f"sample {i}") for i, row in enumerate(rows)]
    return _between(start, end, w, torch.stack(arcs))


def mix(noises: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The mixture of several noises, each (batch, …), on the shell they came from.

    z = (Σwᵢ|xᵢ| / Σwᵢ) · y/|y| with y = Σwᵢxᵢ, per sample: the radius is given back, not foretold,
    so norms are right at every correlation. Bodin et al. ("Linear combinations of latents in
    generative models", ICLR 2025) divide y by √Σwᵢ², which is right for independent noises only.
    A lone weight returns its noise as it is. Weights may be negative (`catmull_rom`). Raises
    `SpecError` where they do not sum to more than 0 or where the noises cancel.
    """
    _check_alike(noises)
    if len(noises) != len(weights):
        raise ValueError(f"{len(noises)} noises, {len(weights)} weights: must be as many")
    total = sum(weights)
    if not CANCELLED * sum(map(abs, weights)) < total < math.inf:
        raise SpecError(f"weights {listed(weights)} sum to {total:g}: must be finite and above 0")

    used = [(noise, weight) for noise, weight in zip(noises, weights, strict=True) if weight != 0]
    if len(used) == 1:
        return used[0][0].clone()

    samples = torch.stack([_exact(noise).flatten(1) for noise, _ in used], dim=1)
    shares = samples.new_tensor([[weight / total] for _, weight in used])
    mixed = [_mix(sample, shares, f"sample {i}") for i, sample in enumerate(samples)]
    return _as_given(torch.stack(mixed), noises[0])


def blend_embeds(
    start: Embeds,
    end: Embeds,
    weight: float | Tensor,
    mode: BlendMode = "nlerp",
    widths: Sequence[int] = (),
) -> Embeds:
    """Between two prompts, token by token: (batch, tokens, width), `weight` as in `slerp`.

    "nlerp" is the straight line with the length of each token given back, "slerp" the great circle,
    "lerp" the straight line. `widths` are those of several text encoders' blocks, each blended by
    itself; none means one block. The ends come back bit for bit. Raises `SpecError` where slerp
    meets opposite tokens. Prompts of unequal length are the caller's to pad.
    """
    _check_alike([start, end])
    sizes = list(widths) or [start.shape[-1]]
    if sum(sizes) != start.shape[-1]:
        raise ValueError(f"widths {listed(sizes)}: must sum to {start.shape[-1]}")
    if mode not in get_args(BlendMode):
        raise SpecError(f"blend = {mode!r}: must be one of {', '.join(get_args(BlendMode))}")

    w = _weights(weight, start)
    p, q = _exact(start), _exact(end)
    blocks = zip(torch.split(p, sizes, -1), torch.split(q, sizes, -1), strict=True)
    return _between(start, end, w, torch.cat([_blend(*block, w, mode) for block in blocks], dim=-1))


def mix_embeds(
    prompts: Sequence[Embeds],
    weights: Sequence[float],
    mode: BlendMode = "nlerp",
    widths: Sequence[int] = (),
) -> Embeds:
    """Several prompts, each (batch, tokens, width), token by token; as `blend_embeds`, but for any.

    There is no great circle through more than two: "slerp" is a `SpecError`. Weights sum to 1 and
    may be negative, and a lone weight of 1 returns its prompt bit for bit.
    """
    _check_alike(prompts)
    if mode == "slerp":
        raise SpecError("blend = 'slerp': is between two prompts, so it needs path = 'straight'")
    if 1 in weights and sum(map(abs, weights)) == 1:
        return prompts[list(weights).index(1)]
    stacked = torch.stack([_exact(prompt) for prompt in prompts])
    shares = stacked.new_tensor(weights).view(-1, 1, 1, 1)
    blocks = torch.split(stacked, list(widths) or [stacked.shape[-1]], -1)
    mixed = [_mix_tokens(block, shares, mode) for block in blocks]
    return _as_given(torch.cat(mixed, dim=-1), prompts[0])


def catmull_rom(weight: float) -> tuple[float, float, float, float]:
    """What four neighbours weigh at `weight` in [0, 1] between the second and the third.

    They sum to 1, and are (0, 1, 0, 0) and (0, 0, 1, 0) at the ends. Catmull & Rom, "A class of
    local interpolating splines", 1974, with tension ½.
    """
    w = unit(weight, "weight")
    return (
        (-w + 2 * w**2 - w**3) / 2,
        (2 - 5 * w**2 + 3 * w**3) / 2,
        (w + 4 * w**2 - 3 * w**3) / 2,
        (-(w**2) + w**3) / 2,
    )


def catmull_rom_slopes(weight: float) -> tuple[float, float, float, float]:
    """How fast the weights of `catmull_rom` change at `weight`; they sum to 0."""
    w = unit(weight, "weight")
    return (
        (-1 + 4 * w - 3 * w**2) / 2,
        (-10 * w + 9 * w**2) / 2,
        (1 + 8 * w - 9 * w**2) / 2,
        (-2 * w + 3 * w**2) / 2,
    )


def neighbours(index: int, count: int, loop: bool) -> tuple[int, int, int, int]:
    """The four of `count` keyframes that shape segment `index`, which joins the second and third.

    A loop has `count` segments and goes round; an open path has one less and repeats its ends.
    """
    segments = count if loop else count - 1
    if not 0 <= index < segments:
        raise ValueError(f"segment {index} of {count} keyframes: there are {max(segments, 0)}")
    if loop:
        return (index - 1) % count, index, (index + 1) % count, (index + 2) % count
    return max(index - 1, 0), index, index + 1, min(index + 2, count - 1)


def _arc(a: Tensor, b: Tensor, w: Tensor, aside: Tensor | None, name: str) -> Tensor:
    """Slerp along the last axis in float64; where no arc is defined, by way of `aside`."""
    u, v = _normalised(a), _normalised(b)
    theta = _angle(u, v)
    direction = _sine_share(1 - w, theta) * u + _sine_share(w, theta) * v

    opposite = math.pi - theta < NEAR
    if opposite.any():
        if aside is None:
            found, most = math.degrees(theta.max().item()), math.degrees(math.pi - NEAR)
            raise SpecError(f"{name}: ends are opposite, {found:.4f}° apart: at most {most:.4f}°")
        direction = torch.where(opposite, _detour(u, v, w, aside), direction)

    # Beside a zero vector only the other's direction is left, and with this radius that is lerp.
    return ((1 - w) * _norm(a) + w * _norm(b)) * _normalised(direction)


def _angle(u: Tensor, v: Tensor) -> Tensor:
    """The angle between unit vectors, true to the last digits at 0 and at π.

    Kahan, "How futile are mindless assessments of roundoff in floating-point computation?", 2006.
    """
    return 2 * torch.atan2(_norm(u - v), _norm(u + v))


def _sine_share(w: Tensor, theta: Tensor) -> Tensor:
    """sin(wθ)/sin θ, by its series where θ is small."""
    series = w * (1 + theta**2 / 6 * (1 - w**2))
    return torch.where(theta < NEAR, series, torch.sin(w * theta) / torch.sin(theta))


def _detour(u: Tensor, v: Tensor, w: Tensor, aside: Tensor) -> Tensor:
    """Half a great circle from u to v = -u, on the side of `aside`.

    The axis is that of u - v and not u: both ways are one curve also where v is only nearly -u.
    """
    axis = _normalised(u - v)
    side = _normalised(aside - (aside * axis).sum(-1, keepdim=True) * axis)
    return torch.cos(math.pi * w) * axis + torch.sin(math.pi * w) * side


def _aside(start: Tensor, seed: int) -> Tensor:
    """A direction for the detour, the same for every sample of a batch.

    It is the second draw of its generator: the first is the noise of a keyframe with this seed,
    and that may be the very noise to be avoided.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(2, start[0].numel(), generator=generator)
    return _exact(draws[1].to(start.device))


def _mix(noises: Tensor, weights: Tensor, name: str) -> Tensor:
    """One sample's mixture: (count, numbers) and weights (count, 1) that sum to 1."""
    radii = _norm(noises)
    mixture = (weights * noises).sum(0)
    length, radius = _norm(mixture), (weights * radii).sum(0)

    expected = (weights * radii).square().sum(0)
    if length.square() < CANCELLED * expected or radius < 0:
        lengths = listed((weights * radii).flatten().tolist())
        raise SpecError(f"{name}: parts {lengths} long cancel to {length.item():.3g}: must not")
    return radius * _normalised(mixture)


def _blend(p: Tensor, q: Tensor, w: Tensor, mode: BlendMode) -> Tensor:
    """One text encoder's block, along the last axis, in float64."""
    if mode == "slerp":
        return _arc(p, q, w, None, "a token")
    line = (1 - w) * p + w * q
    if mode == "lerp":
        return line
    return ((1 - w) * _norm(p) + w * _norm(q)) * _normalised(line)


def _mix_tokens(prompts: Tensor, weights: Tensor, mode: BlendMode) -> Tensor:
    """One text encoder's block of several prompts, (count, batch, tokens, width), in float64."""
    line = (weights * prompts).sum(0)
    if mode == "lerp":
        return line
    # Negative weights could ask for a length below 0, which no vector has.
    return (weights * _norm(prompts)).sum(0).clamp_min(0) * _normalised(line)


def _check_alike(tensors: Sequence[Tensor]) -> None:
    """Raise unless all are finite, floating, and of one shape (batch, …), dtype and device."""
    if not tensors:
        raise ValueError("no tensors: there must be at least one")
    first = tensors[0]
    for other in tensors[1:]:
        if other.shape != first.shape:
            raise ValueError(
                f"shapes {listed(first.shape)} and {listed(other.shape)}: must be equal"
            )
        if (other.dtype, other.device) != (first.dtype, first.device):
            kinds = f"{first.dtype} on {first.device} and {other.dtype} on {other.device}"
            raise ValueError(f"tensors are {kinds}: must be equal")
    if first.ndim < 2 or first.numel() == 0 or not first.is_floating_point():
        kind = f"{first.dtype} of shape {listed(first.shape)}"
        raise ValueError(f"tensor is {kind}: must be floating, (batch, …) and not empty")
    for index, tensor in enumerate(tensors):
        bad = tensor.numel() - int(tensor.isfinite().sum())
        if bad:
            raise RenderError(f"tensor {index}: {bad} of {tensor.numel()} numbers are not finite")


def _weights(weight: float | Tensor, start: Tensor) -> Tensor:
    """One float64 weight per sample, (batch, 1, …), where the work is done."""
    given = _exact(torch.as_tensor(weight, dtype=None if isinstance(weight, Tensor) else DOUBLE))
    batch = len(start)
    if given.shape not in {(), (batch,)}:
        raise ValueError(f"weight has shape {listed(given.shape)}: must be one number, or {batch}")
    for number in given.flatten().tolist():
        unit(number, "weight")
    return given.expand(batch).to(_home(start)).view(-1, *[1] * (start.ndim - 1))


def _between(start: Tensor, end: Tensor, w: Tensor, result: Tensor) -> Tensor:
    """`result` as the ends are, which come back bit for bit at weights 0 and 1."""
    at_start, at_end = (w == 0).to(start.device), (w == 1).to(start.device)
    return torch.where(at_start, start, torch.where(at_end, end, _as_given(result, start)))


def _home(tensor: Tensor) -> torch.device:
    """Where float64 is to be had: the tensor's own device, but for MPS, which has none."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(_home(tensor)).double()  # in this order: MPS cannot even cast to float64


def _as_given(result: Tensor, given: Tensor) -> Tensor:
    return result.reshape(given.shape).to(given.dtype).to(given.device)


def _norm(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True)
    return norm


def _normalised(tensor: Tensor) -> Tensor:
    return tensor / _norm(tensor).clamp_min(TINY)
