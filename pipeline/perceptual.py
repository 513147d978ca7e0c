"""LPIPS, a distance between pictures by what a network sees in them, where its weights are there.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018, with
AlexNet, version 0.1. Downloads nothing and reads no pickle: the weights, which are published as
one, come as a safetensors file with the names that the published class has for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.checkpoint import check_finite
from pipeline.errors import CheckpointError, SpecError
from pipeline.headers import check_dtype, naming, read_header
from pipeline.quality import Distance
from pipeline.sources import anonymous_source, find_adapter
from pipeline.tensors import Pixels

SMALLEST = 31
"""Pixels along a side, below which AlexNet has nothing left to look at."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class _Layer:
    """A convolution of AlexNet's, after which pictures are compared."""

    name: str
    shape: tuple[int, int, int, int]
    stride: int
    padding: int
    pooled: bool


_LAYERS = (
    _Layer("slice1.0", (64, 3, 11, 11), 4, 2, pooled=False),
    _Layer("slice2.3", (192, 64, 5, 5), 1, 2, pooled=True),
    _Layer("slice3.6", (384, 192, 3, 3), 1, 1, pooled=True),
    _Layer("slice4.8", (256, 384, 3, 3), 1, 1, pooled=False),
    _Layer("slice5.10", (256, 256, 3, 3), 1, 1, pooled=False),
)


def load_lpips(source: str) -> Distance:
    """LPIPS with the weights in the safetensors file `source`.

    The distance is 0 where pictures are equal. Raises `CheckpointError` where a weight is missing,
    misshapen or not finite; the distance raises `SpecError` for sides below `SMALLEST` pixels.
    """
    weights = _read_weights(source)

    def distance(a: Pixels, b: Pixels) -> Tensor:
        if min(a.shape[2:]) < SMALLEST:
            height, width = a.shape[2:]
            raise SpecError(f"LPIPS of {width} × {height} pixels: sides must be {SMALLEST} or more")
        total = torch.zeros(len(a))
        for i, (first, second) in enumerate(zip(_look(a, weights), _look(b, weights), strict=True)):
            shares = weights[f"lin{i}.model.1.weight"]
            total += F.conv2d((first - second).square(), shares).mean((1, 2, 3))
        return total.double()

    return distance


def _look(pixels: Pixels, weights: dict[str, Tensor]) -> list[Tensor]:
    """What AlexNet sees of `pixels` on each of its layers, each place a vector of length 1."""
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
    seen, x = [], (pixels.detach().cpu().float().clamp(-1, 1) - shift) / scale
    for layer in _LAYERS:
        if layer.pooled:
            x = F.max_pool2d(x, 3, 2)
        name = f"net.{layer.name}"
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        x = F.conv2d(x, weight, bias, layer.stride, layer.padding).relu()
        seen.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
    return seen


def _read_weights(source: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    file, label = find_adapter(source), anonymous_source(source)
    header = read_header(file, label)
    with naming(label):
        for name, shape in _shapes().items():
            if name not in header:
                raise CheckpointError(f"tensor {name} is missing: is it LPIPS of AlexNet?")
            if header[name].shape != shape:
                raise CheckpointError(
                    f"tensor {name} has shape {header[name].shape}: must be {shape}"
                )
            check_dtype(name, header[name])
    with safe_open(file, framework="pt") as opened:
        weights: dict[str, Tensor] = {name: opened.get_tensor(name).float() for name in _shapes()}
    check_finite(label, weights)
    return weights


def _shapes() -> dict[str, tuple[int, ...]]:
    """Every weight that is needed, by its name in the published class."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, layer in enumerate(_LAYERS):
        shapes[f"net.{layer.name}.weight"] = layer.shape
        shapes[f"net.{layer.name}.bias"] = layer.shape[:1]
        shapes[f"lin{i}.model.1.weight"] = (1, layer.shape[0], 1, 1)
    return shapes
