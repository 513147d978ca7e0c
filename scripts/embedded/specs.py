"""What may be asked of the judges of the embedded model. Knows no tensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec import ModelSpec, Sampling
from pipeline.values import Spec

PartName = Literal["sheet", "prompts", "judge", "codec", "arithmetic"]


class EvaluationSpec(Spec):
    """Which figures of which model: of all parts, or of `only` some.

    `prompts` are those that training has seen; of those that it has not, all are asked for.
    """

    prompts: Annotated[int, Field(ge=1, le=10_000)] = 500
    only: tuple[PartName, ...] = ()
    sampling: Sampling = Sampling()
    model: ModelSpec = ModelSpec()


class TuningSpec(Spec):
    """How which model is measured; `prompts` are those of the last stage, things and people."""

    prompts: Annotated[int, Field(ge=2, le=10_000)] = 160
    model: ModelSpec = ModelSpec()
