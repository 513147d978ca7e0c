"""What a round trip is asked for, as plain frozen values.

Knows no tensors and no model.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.errors import SpecError
from pipeline.spec import ModelSpec, Seed, Side, Source
from pipeline.values import Spec

MAX_TRIPS = 100


class TripSpec(Spec):
    """Pictures to send through an autoencoder and back, `repeat` times one after the other.

    `size` is the side of the square that is cut out of each; None keeps a picture's own size. With
    a `seed` a draw from the posterior is held against its mode. `lpips` is a file with the weights
    of that distance. Of `model` only its autoencoder is used; in 16 bits the trip is held against
    the same in float32.
    """

    images: tuple[Source, ...] = ()
    size: Side | None = None
    repeat: Annotated[int, Field(ge=1, le=MAX_TRIPS)] = 1
    seed: Seed | None = None
    lpips: Source | None = None
    model: ModelSpec = ModelSpec()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.images:
            raise SpecError("images: must be one or more, pictures or folders of them")
        return self
