"""Our latents are those of diffusers' own pipeline, bit for bit, on a CPU in float32 at batch 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from pipeline.model import Model, load_model
from pipeline.noise import draw_noise
from pipeline.pictures import open_image, to_pixels
from pipeline.render import points, render
from pipeline.spec import ModelSpec, Sampling, StillSpec
from tests.tiny import load_reference, write_tiny_checkpoint

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


FAMILIES = {
    "tiny": "StableDiffusionPipeline",
    "tiny_velocity": "StableDiffusionPipeline",
    "tiny_lcm": "StableDiffusionPipeline",
    "tiny_xl": "StableDiffusionXLPipeline",
    "tiny_turbo": "StableDiffusionXLPipeline",
    "embedded": "StableDiffusionPipeline",
}
"""Models by the pipeline that is their oracle."""


@pytest.fixture(scope="session")
def references(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """diffusers' own pipeline of a model, loaded once."""

    @cache
    def load(name: str) -> Any:
        model: Model = request.getfixturevalue(name)
        return load_reference(model.checkpoint.folder, FAMILIES[name])

    return load


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
@pytest.mark.parametrize("name", FAMILIES)
def test_latents_equal_diffusers(
    name: str,
    scheduler: str,
    guidance_scale: float,
    references: Callable[[str], Any],
    request: pytest.FixtureRequest,
) -> None:
    model: Model = request.getfixturevalue(name)
    sampling = Sampling(
        num_inference_steps=STEPS, guidance_scale=guidance_scale, scheduler=scheduler
    )
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling)

    (frame,) = render(model, sampling, points(model, spec))
    expected = _render_reference(
        references(name),
        scheduler,
        "latent",
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
    )

    assert torch.equal(frame.latents, expected)


def test_a_negative_prompt_and_another_size_equal_diffusers(
    tiny: Model, references: Callable[[str], Any]
) -> None:
    sampling = Sampling(
        num_inference_steps=STEPS, guidance_scale=4.0, scheduler="dpm++2m", height=24, width=40
    )
    spec = StillSpec(prompt=PROMPT, negative_prompt="a pear", seed=SEED, sampling=sampling)

    (frame,) = render(tiny, sampling, points(tiny, spec))
    settings = dict(num_inference_steps=STEPS, guidance_scale=4.0, height=24, width=40)
    expected = _render_reference(
        references("tiny"), "dpm++2m", "latent", negative_prompt="a pear", **settings
    )

    assert torch.equal(frame.latents, expected)


@pytest.mark.parametrize("negative_prompt", [None, "", "a pear"])
def test_no_negative_prompt_is_not_an_empty_one(
    negative_prompt: str | None, tiny_xl: Model, references: Callable[[str], Any]
) -> None:
    """XL takes zeros where none is given, and the embeds of no words where it is empty."""
    sampling = Sampling(num_inference_steps=STEPS, guidance_scale=5.0, scheduler="euler")
    spec = StillSpec(prompt=PROMPT, negative_prompt=negative_prompt, seed=SEED, sampling=sampling)

    (frame,) = render(tiny_xl, sampling, points(tiny_xl, spec))
    settings = dict(num_inference_steps=STEPS, guidance_scale=5.0, negative_prompt=negative_prompt)
    expected = _render_reference(references("tiny_xl"), "euler", "latent", **settings)

    assert torch.equal(frame.latents, expected)


def test_xl_is_told_another_size(tiny_xl: Model, references: Callable[[str], Any]) -> None:
    size = dict(height=24, width=40)
    sampling = Sampling(num_inference_steps=STEPS, guidance_scale=5.0, scheduler="euler", **size)
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling)

    (frame,) = render(tiny_xl, sampling, points(tiny_xl, spec))
    settings = dict(num_inference_steps=STEPS, guidance_scale=5.0, **size)
    expected = _render_reference(references("tiny_xl"), "euler", "latent", **settings)

    assert torch.equal(frame.latents, expected)


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("name", ["tiny_xl"])
def test_layers_are_skipped_as_in_diffusers(
    name: str, skip: int, request: pytest.FixtureRequest, references: Callable[[str], Any]
) -> None:
    """In SD itself diffusers' own clip_skip fails under transformers 5: see test_prompts."""
    folder = request.getfixturevalue(name).checkpoint.folder
    model = load_model(ModelSpec(source=str(folder), device="cpu", clip_skip=skip))

    ours = model.text.encode(PROMPT)
    embeds, _, pooled, _ = references(name).encode_prompt(
        PROMPT, clip_skip=skip, do_classifier_free_guidance=False
    )

    assert torch.equal(ours.embeds, embeds)
    assert ours.pooled is not None
    assert torch.equal(ours.pooled, pooled)


@pytest.mark.parametrize("steps", [4, 20])
def test_pndm_starts_with_runge_kutta_where_the_config_does_not_skip_it(
    steps: int, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny-prk", skip_prk_steps=False)
    model = load_model(ModelSpec(source=str(folder), device="cpu"))
    sampling = Sampling(num_inference_steps=steps, guidance_scale=5.0)
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling)

    (frame,) = render(model, sampling, points(model, spec))
    settings = dict(num_inference_steps=steps, guidance_scale=5.0)
    expected = _render_reference(load_reference(folder), "pndm", "latent", **settings)

    assert torch.equal(frame.latents, expected)


IMAGE_TO_IMAGE = {
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
}


@pytest.mark.parametrize("strength", [0.4, 0.75, 1.0])
@pytest.mark.parametrize("scheduler", REFERENCES)
@pytest.mark.parametrize("name", ["tiny", "tiny_velocity", "tiny_xl"])
def test_image_to_image_equals_diffusers(
    name: str,
    scheduler: str,
    strength: float,
    request: pytest.FixtureRequest,
    references: Callable[[str], Any],
) -> None:
    """From latents: diffusers draws the posterior with the noise's generator, we take its mode."""
    model: Model = request.getfixturevalue(name)
    start = draw_noise(99, (4, 16, 16)) * 0.5
    sampling = Sampling(
        num_inference_steps=STEPS, guidance_scale=5.0, scheduler=scheduler, strength=strength
    )
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling.replace(strength=None))
    (point,) = points(model, spec)

    (frame,) = render(model, sampling, [replace(point, start=start)])
    pipe = getattr(diffusers, IMAGE_TO_IMAGE[FAMILIES[name]]).from_pipe(references(name))
    pipe.set_progress_bar_config(disable=True)
    settings = dict(num_inference_steps=STEPS, guidance_scale=5.0, image=start, strength=strength)
    expected = _render_reference(pipe, scheduler, "latent", **settings)

    assert torch.equal(frame.latents, expected)


def test_a_start_image_is_encoded_as_in_diffusers(
    tiny: Model, references: Callable[[str], Any], root: Path
) -> None:
    image = open_image(root / "tests" / "data" / "references" / "pizza.png")
    vae = references("tiny").vae

    pixels = references("tiny").image_processor.preprocess(image)
    # As laid out in memory here: convolutions sum channels-last pixels in another order.
    expected = vae.encode(pixels.contiguous()).latent_dist.mode() * vae.config.scaling_factor

    assert torch.equal(to_pixels(image), pixels)
    assert torch.equal(tiny.codec.encode(to_pixels(image)), expected)


def test_the_picture_equals_diffusers_picture(
    embedded: Model, references: Callable[[str], Any]
) -> None:
    sampling = Sampling(num_inference_steps=STEPS, guidance_scale=4.0, scheduler="dpm++2m")
    spec = StillSpec(prompt=PROMPT, seed=SEED, sampling=sampling)

    (frame,) = render(embedded, sampling, points(embedded, spec))
    settings = dict(num_inference_steps=STEPS, guidance_scale=4.0)
    (expected,) = _render_reference(references("embedded"), "dpm++2m", "pil", **settings)

    assert frame.image.tobytes() == expected.tobytes()
