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
CORNER = 0.1  # of a side: what is drawn is round enough to leave that much of its ground


def measure_distances(pictures: Pixels, candidates: Pixels) -> Tensor:
    """Squared distances, (pictures, candidates), each the least over the zooms of a picture.

    Candidates that look the same are exactly as far away: in float64, and each look taken once.
    """
    looks, which = torch.unique(_flatten(shrink(candidates)), dim=0, return_inverse=True)
    distances = [_square(_flatten(shrink(_zoom(pictures, zoom))), looks) for zoom in ZOOMS]
    return torch.stack(distances).amin(0)[:, which]


def rank(pictures: Pixels, candidates: Pixels, own: Tensor) -> Tensor:
    """How many candidates are nearer to each picture than candidate `own` is: 0 is a hit.

    A candidate that looks the same as a picture's own counts as its own.
    """
    distances = measure_distances(pictures, candidates)
    return (distances < distances.gather(1, own[:, None])).sum(1)


def shrink(pictures: Tensor) -> Tensor:
    """`pictures`, or whatever is pixels in any number of channels, as the judge sees them."""
    return F.interpolate(pictures, (SMALL, SMALL), mode="area")


def measure_grounds(pictures: Pixels) -> Tensor:
    """The colour behind what is drawn, (pictures, 3): the median over all four corners."""
    side = max(1, round(CORNER * pictures.shape[-1]))
    rows = torch.cat([pictures[:, :, :side], pictures[:, :, -side:]], 2)
    corners = torch.cat([rows[..., :side], rows[..., -side:]], 3)
    return corners.flatten(2).median(2).values


def _flatten(pictures: Pixels) -> Tensor:
    return pictures.flatten(1).double()


def _square(pictures: Tensor, looks: Tensor) -> Tensor:
    lengths = pictures.square().sum(1)[:, None] + looks.square().sum(1)
    return (lengths - 2 * pictures @ looks.T).clamp_min(0)


def _zoom(pictures: Pixels, zoom: float) -> Pixels:
    theta = torch.tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]]).expand(len(pictures), 2, 3)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
