"""The samples: made here, the same each time, each with what it is there for."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.render import Progress
from ui.samples import SAMPLES, SIDE, draw_grains, draw_rings, draw_sample

DRAWN = SAMPLES[:-2]


@pytest.mark.parametrize("name", DRAWN)
def test_a_sample_is_a_picture_and_the_same_each_time(name: str, embedded: Model) -> None:
    (first,), (second,) = draw_sample(name, embedded), draw_sample(name, embedded)

    assert isinstance(first, PIL.Image.Image)
    assert isinstance(second, PIL.Image.Image)
    assert (first.mode, first.size) == ("RGB", (SIDE, SIDE))
    assert np.asarray(first).std() > 30, "of 255: more than a plain colour"
    assert first.tobytes() == second.tobytes()


def test_the_model_draws_the_last_ones_step_by_step(embedded: Model) -> None:
    *steps, image = draw_sample(SAMPLES[-1], embedded)

    assert all(isinstance(step, Progress) for step in steps)
    assert len(steps) == embedded.defaults["num_inference_steps"]
    assert isinstance(image, PIL.Image.Image)


def test_a_name_that_is_none_is_refused(embedded: Model) -> None:
    with pytest.raises(SpecError, match="sample = None: must be one of rectangles, "):
        next(draw_sample(None, embedded))


def test_rings_become_finer_towards_the_corners() -> None:
    levels = np.asarray(draw_rings().convert("L"), dtype=float)
    middle, half = levels[SIDE // 2], SIDE // 2
    inner, outer = middle[half : half + 40], middle[-40:]

    assert np.abs(np.diff(inner)).mean() < np.abs(np.diff(outer)).mean()


def test_grains_grow_from_quarter_to_quarter() -> None:
    levels, half = np.asarray(draw_grains(), dtype=float), SIDE // 2
    quarters = [levels[y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    edges = [np.abs(np.diff(quarter, axis=0)).mean() for quarter in quarters]

    assert edges == sorted(edges, reverse=True)
