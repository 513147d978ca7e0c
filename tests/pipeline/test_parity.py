"""Our latents are those of diffusers' own pipeline, bit for bit, on a CPU in float32 at batch 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from pipeline.model import Model
from pipeline.render import points, render
from pipeline.spec import Sampling, StillSpec
from tests.tiny import load_reference

PROMPT = "a red apple"
SEED = 1234
STEPS = 5
# What a person would write to get these schedulers from diffusers itself.
REFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


@pytest.fixture(scope="session")
def references(tiny_folder: Path, tiny_velocity_folder: Path, embedded: Model) -> dict[str, Any]:
    return {
        "tiny": load_reference(tiny_folder),
        "tiny_velocity": load_reference(tiny_velocity_folder),
        "embedded": load_reference(embedded.checkpoint.folder),
    }


def _render_reference(pipe: Any, scheduler: str, output: str, **settings: Any) -> Any:
    kind, changes = REFERENCES[scheduler]
    own = pipe.scheduler
    pipe.scheduler = getattr(diffusers, kind).from_config(own.config, **changes)
    try:
        generator = torch.Generator().manual_seed(SEED)
        if scheduler == "tcd":
            settings["eta"] = 0.3  # the scheduler's own default, which the pipeline would set to 0
        return pipe(PROMPT, generator=generator, output_type=output, **settings).images
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", REFERENCES)
@pytest.mark.parametrize("name", ["tiny", "tiny_velocity", "embedded"])
def test_latents_equal_diffusers(
    name: str,
    scheduler: str,
    guidance_scale: float,
    references: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    model: Model = request.getfixturevalue(name)
    sampling = Sampling(
        num_inference_steps=STEPS, guidance_scale=guidance_scale, scheduler=scheduler
    )
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling)

    (frame,) = render(model, sampling, points(model, spec))
    expected = _render_reference(
        references[name],
        scheduler,
        "latent",
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
    )

    assert torch.equal(frame.latents, expected)


def test_a_negative_prompt_and_another_size_equal_diffusers(
    tiny: Model, references: dict[str, Any]
) -> None:
    sampling = Sampling(
        num_inference_steps=STEPS, guidance_scale=4.0, scheduler="dpm++2m", height=24, width=40
    )
    spec = StillSpec(prompt=PROMPT, negative_prompt="a pear", seed=SEED, sampling=sampling)

    (frame,) = render(tiny, sampling, points(tiny, spec))
    settings = dict(num_inference_steps=STEPS, guidance_scale=4.0, height=24, width=40)
    expected = _render_reference(
        references["tiny"], "dpm++2m", "latent", negative_prompt="a pear", **settings
    )

    assert torch.equal(frame.latents, expected)


def test_the_picture_equals_diffusers_picture(embedded: Model, references: dict[str, Any]) -> None:
    sampling = Sampling(num_inference_steps=STEPS, guidance_scale=4.0, scheduler="dpm++2m")
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling)

    (frame,) = render(embedded, sampling, points(embedded, spec))
    settings = dict(num_inference_steps=STEPS, guidance_scale=4.0)
    (expected,) = _render_reference(references["embedded"], "dpm++2m", "pil", **settings)

    assert frame.image.tobytes() == expected.tobytes()
