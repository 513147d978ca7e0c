"""What a round trip may be asked for."""

from __future__ import annotations

import pytest

from pipeline.errors import SpecError
from pipeline.trip import TripSpec


def test_a_trip_needs_a_picture_and_nothing_else():
    spec = TripSpec(images=("a.png",))

    assert (spec.size, spec.repeat, spec.seed, spec.lpips) == (None, 1, None, None)
    assert spec.model.source == "embedded"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "images: must be one or more, pictures or folders of them"),
        ({"images": ["a"], "repeat": 0}, "repeat = 0: must be between 1 and 100"),
        ({"images": ["a"], "size": 8}, "size = 8: must be between 16 and 8192"),
        ({"images": ["a"], "seed": -1}, "seed = -1: must be between 0 and 4294967295"),
        ({"images": ["a"], "sizes": 8}, "unknown key 'sizes': did you mean 'size'?"),
        (
            {"images": ["a"], "model": {"dtype": "half"}},
            "dtype = 'half': must be one of float32, float16 or bfloat16",
        ),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], line: str):
    with pytest.raises(SpecError) as caught:
        TripSpec(**values)

    assert str(caught.value) == line
