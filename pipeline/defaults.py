"""What a checkpoint is best sampled with, as far as its own configs tell.

Knows configs only. The guesses are those of the checkpoints' authors for each kind; a checkpoint
that brings a `greatcircle.json` is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.denoise import name_scheduler

USUAL_STEPS = 25
FEW_STEPS = 4


def find_defaults(
    scheduler_config: Mapping[str, Any], *, is_xl: bool, embeds_guidance: bool, side: int
) -> dict[str, Any]:
    """Steps, guidance, scheduler and size for a checkpoint with that scheduler config."""
    steps, guidance = USUAL_STEPS, 5.0 if is_xl else 7.5
    kind = str(scheduler_config.get("_class_name"))
    if embeds_guidance:
        steps, guidance = FEW_STEPS, 8.5
    elif kind in ("LCMScheduler", "TCDScheduler"):
        steps, guidance = FEW_STEPS, 1.0
    elif _is_turbo(kind, scheduler_config):
        steps, guidance = FEW_STEPS, 0.0
    return {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "scheduler": name_scheduler(scheduler_config) or "dpm++2m",
        "height": side,
        "width": side,
    }


def _is_turbo(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether this is the schedule of Turbo and Lightning: Euler's, spaced from the last step.

    Those that were made to reach zero signal share the spacing, but want many steps.
    """
    return (
        kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
        and config.get("timestep_spacing") == "trailing"
        and config.get("prediction_type", "epsilon") == "epsilon"
        and not config.get("rescale_betas_zero_snr", False)
    )
