"""A checkpoint's own configs tell what it is best sampled with."""

from __future__ import annotations

import pytest

from pipeline.defaults import find_defaults
from tests.tiny import SCHEDULER_CONFIG, TURBO, XL_SCHEDULER_CONFIG

KINDS = {
    "sd1": (SCHEDULER_CONFIG, {}, (25, 7.5, "pndm")),
    "sd2": (
        SCHEDULER_CONFIG | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        {},
        (25, 7.5, "ddim"),
    ),
    "xl": (XL_SCHEDULER_CONFIG, {"is_xl": True}, (25, 5.0, "euler")),
    "xl-turbo": (XL_SCHEDULER_CONFIG | TURBO, {"is_xl": True}, (4, 0.0, "euler-ancestral")),
    "sd-turbo": (
        SCHEDULER_CONFIG
        | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
        {},
        (4, 0.0, "euler"),
    ),
    "lcm": (
        SCHEDULER_CONFIG | {"_class_name": "LCMScheduler"},
        {"embeds_guidance": True},
        (4, 8.5, "lcm"),
    ),
    "lcm-lora": (SCHEDULER_CONFIG | {"_class_name": "LCMScheduler"}, {}, (4, 1.0, "lcm")),
    "tcd": (SCHEDULER_CONFIG | {"_class_name": "TCDScheduler"}, {}, (4, 1.0, "tcd")),
    "zero-snr": (
        XL_SCHEDULER_CONFIG
        | {
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
        {"is_xl": True},
        (25, 5.0, "euler"),
    ),
    "unknown": ({"_class_name": "LMSDiscreteScheduler"}, {}, (25, 7.5, "dpm++2m")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gets_its_own(kind):
    config, changes, (steps, guidance, scheduler) = KINDS[kind]

    defaults = find_defaults(
        config, **{"is_xl": False, "embeds_guidance": False, "side": 768} | changes
    )

    assert defaults == {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "height": 768,
        "width": 768,
    }
