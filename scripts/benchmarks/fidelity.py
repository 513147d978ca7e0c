"""How far films are from what they should be: solved frames from renders, all from float32.

Knows films on the disk and a reference; knows no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import torch

from pipeline.model import Model
from pipeline.morph import find_path
from pipeline.spec import MorphSpec
from pipeline.timeline import find_times
from scripts.benchmarks.arms import render_stock
from scripts.benchmarks.films import Film, compare, compare_solved, ours

SAMPLED = 5
"""Frames of a film, evenly spread, that are held against a reference."""


@final
class Reference:
    """Some frames of the film of `spec`, from the stock pipeline in float32, one at a time.

    `model` computes in float32. On CUDA no product and no convolution is rounded to TF32.
    """

    def __init__(self, model: Model, spec: MorphSpec) -> None:
        path = find_path(model, spec)
        times = find_times(spec, path.bounds)
        last = len(times) - 1
        self._indices = sorted({round(last * k / (SAMPLED - 1)) for k in range(SAMPLED)})
        with _whole_float32():
            points = [path(times[index]) for index in self._indices]
            self._images = list(render_stock(model, spec, points, 1))

    def measure(self, files: Sequence[Path]) -> float:
        """The PSNR of a film with the very same frames, in dB over all that are compared."""
        with TemporaryDirectory(prefix="greatcircle-") as folder:
            wanted = [Path(folder) / f"{index}.png" for index in self._indices]
            for file, image in zip(wanted, self._images, strict=True):
                image.save(file)
            return compare([files[index] for index in self._indices], wanted)["mean_psnr"]


def measure_loss(
    model: Model, spec: MorphSpec, film: Film, folder: Path
) -> tuple[int, dict[str, float]]:
    """How many frames of `film` are solved; their worst and mean PSNR to renders in their places.

    `film` lies in `folder`, and is of `spec`. What is rendered there already is not rendered again.
    """
    return compare_solved(film, ours(model, spec.replace(exact=True))(folder))


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Convolutions of float32 with all their digits, which cuDNN leaves out unless told."""
    former = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = former
