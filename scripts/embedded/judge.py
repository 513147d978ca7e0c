"""Is a picture what its prompt asked for? The nearest of all renders says so.

Knows pictures only. Nearness is the squared distance of 32 × 32 pixel RGB, the least over the
picture at several zooms, since training moves and zooms what it draws.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.tensors import Pixels

ZOOMS = (0.8, 0.9, 1.0, 1.12, 1.25)
SMALL = 32


def measure_distances(pictures: Pixels, candidates: Pixels) -> Tensor:
    """Squared distances, (pictures, candidates), each the least over the zooms of a picture."""
    shrunk = _shrink(candidates).flatten(1)
    distances = [
        torch.cdist(_shrink(_zoom(pictures, zoom)).flatten(1), shrunk).square() for zoom in ZOOMS
    ]
    return torch.stack(distances).amin(0)


def rank(pictures: Pixels, candidates: Pixels, own: Tensor) -> Tensor:
    """How many candidates are nearer to each picture than candidate `own` is: 0 is a hit.

    A candidate that looks the same as a picture's own counts as its own.
    """
    distances = measure_distances(pictures, candidates)
    nearest = distances.gather(1, own[:, None])
    return (distances < nearest).sum(1)


def _zoom(pictures: Pixels, zoom: float) -> Pixels:
    theta = torch.tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]]).expand(len(pictures), 2, 3)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _shrink(pictures: Pixels) -> Pixels:
    return F.interpolate(pictures, (SMALL, SMALL), mode="area")
