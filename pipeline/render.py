"""Points to frames: the one place where model, noise, prompts, loop and codec meet.

Knows no files and no user interface. Everything is a generator: who stops asking has cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipeline.denoise import (
    Predict,
    Scheduler,
    Step,
    create_scheduler,
    denoise,
    estimate_latents,
    noise_latents,
    skip_steps,
    start_latents,
)
from pipeline.errors import RenderError, SpecError
from pipeline.fitting import fit_image
from pipeline.guidance import condition, guide, limit
from pipeline.model import Model
from pipeline.network import embeds_guidance
from pipeline.noise import NoiseMix
from pipeline.path import Point
from pipeline.pictures import open_image, to_images, to_pixels
from pipeline.prompts import pad_embeds
from pipeline.spec import DEFAULT_STRENGTH, ImageSpec, Sampling, StillSpec
from pipeline.tensors import Latents, Pixels, PromptEmbeds


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the loop made of a point: latents, (1, channels, rows, columns), not yet decoded."""

    index: int
    point: Point
    latents: Latents


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A finished picture: where it came from, its latents and its pixels, (1, 3, height, width).

    `flagged` is what the safety checker says of it, where there is one.
    """

    index: int
    point: Point
    latents: Latents
    pixels: Pixels
    flagged: bool | None = None

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits."""
        return to_images(self.pixels)[0]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Step `index` of `count` is done for the frames `indices`."""

    indices: range
    index: int
    count: int
    _step: Step = field(repr=False)
    _scheduler: Scheduler = field(repr=False)
    _model: Model = field(repr=False)

    def preview(self) -> list[Image.Image]:
        """What the frames would be if it ended here, at little cost and often small."""
        latents = estimate_latents(self._scheduler, self._step)[: len(self.indices)]
        pixels = self._model.codec.preview(latents)
        return to_images(pixels.nan_to_num(0))


def points(model: Model, spec: StillSpec) -> Iterator[Point]:
    """The points of a still: one prompt, a new noise for each seed or each step of a variation."""
    sampling = model.resolve(spec).sampling
    assert sampling.guidance_scale is not None
    positive = model.text.encode(spec.prompt, plain=spec.plain)
    negative = model.text.encode_negative(spec.negative_prompt, positive, plain=spec.plain)
    start = None if spec.image is None else encode_image(model, spec.image, sampling)
    shape = model.noise_shape(sampling)
    for index in range(spec.count):
        noise = choose_noise(spec.single(index))
        yield Point(
            noise=noise.draw(shape),
            step_noise=noise,
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            guidance_scale=sampling.guidance_scale,
            start=start,
        )


def choose_noise(spec: StillSpec) -> NoiseMix:
    """The seeds of a single still: its own, or on the way from it to the variation's."""
    if spec.variation is None:
        return NoiseMix.single(spec.seed)
    return NoiseMix.between(spec.seed, spec.variation.seed, spec.variation.strength)


def encode_image(model: Model, image: ImageSpec, sampling: Sampling) -> Latents:
    """The latents of a start image, brought to the size of `sampling`."""
    assert sampling.height is not None and sampling.width is not None
    fitted = fit_image(open_image(Path(image.source)), (sampling.width, sampling.height), image.fit)
    return model.codec.encode(to_pixels(fitted.image).to(model.device))


def decode(model: Model, sample: Sample) -> Frame:
    """The frame of one sample by itself, so that its pixels depend on nothing beside it.

    Raises `RenderError` where a number is not finite.
    """
    size = " × ".join(str(n * model.codec.downscale) for n in reversed(sample.latents.shape[2:]))
    with _enough_memory(model, f"decoding {size}"):
        pixels = model.codec.decode(sample.latents)
    check_finite(model, f"frame {sample.index}", sample.latents, pixels)
    pixels = pixels.float().cpu()
    flagged = None if model.safety is None else model.safety.flags(to_images(pixels)[0])
    return Frame(
        index=sample.index,
        point=sample.point,
        latents=sample.latents,
        pixels=pixels,
        flagged=flagged,
    )


def render(model: Model, sampling: Sampling, points: Iterable[Point]) -> Iterator[Frame]:
    """A frame for every point, in order."""
    events = render_steps(model, sampling, points)
    return (event for event in events if isinstance(event, Frame))


def render_steps(
    model: Model, sampling: Sampling, points: Iterable[Point]
) -> Iterator[Progress | Frame]:
    """Like `render`, and the steps between: a `Progress` after each."""
    for event in sample_steps(model, sampling, points):
        yield decode(model, event) if isinstance(event, Sample) else event


def sample_steps(
    model: Model, sampling: Sampling, points: Iterable[Point]
) -> Iterator[Progress | Sample]:
    """Like `render_steps`, but nothing is decoded.

    Batches have a fixed size, aligned from the first point; the last one is padded, since a batch's
    size (not its neighbours) is part of a frame's identity. Raises `RenderError`.
    """
    sampling = model.complete(sampling)
    assert sampling.batch_size is not None
    remaining, first = iter(points), 0
    while batch := list(islice(remaining, sampling.batch_size)):
        padded = batch + batch[-1:] * (sampling.batch_size - len(batch))
        size = f"{sampling.width} × {sampling.height}"
        with _enough_memory(model, f"batch_size = {sampling.batch_size}, {size}"):
            yield from _sample_batch(model, sampling, padded, range(first, first + len(batch)))
        first += len(batch)


def _sample_batch(
    model: Model, sampling: Sampling, points: list[Point], indices: range
) -> Iterator[Progress | Sample]:
    """The samples `indices` of the first of `points`; what is beyond them is padding."""
    assert sampling.scheduler is not None and sampling.num_inference_steps is not None
    scheduler = create_scheduler(
        sampling.scheduler, model.scheduler_config, sampling.num_inference_steps, model.device
    )
    latents, timesteps = _start(model, scheduler, sampling, points)
    generators = [p.step_noise.continue_noise(tuple(p.noise.shape[1:])) for p in points]
    predict = _make_predict(model, sampling, points, len(timesteps))

    for step in denoise(predict, scheduler, latents, timesteps, generators):
        latents = step.latents
        yield Progress(
            indices=indices,
            index=step.index,
            count=len(timesteps),
            _step=step,
            _scheduler=scheduler,
            _model=model,
        )

    for row, index in enumerate(indices):
        yield Sample(index=index, point=points[row], latents=latents[row : row + 1])


def check_finite(model: Model, what: str, latents: Latents, pixels: Pixels | None = None) -> None:
    """Raise `RenderError` unless all numbers of `what` are finite: else it would be black."""
    for name, tensor in (("latents", latents), ("pixels", pixels)):
        if tensor is not None and not tensor.isfinite().all():
            raise RenderError(
                f"{what}: its {name} are not finite numbers (in {model.dtype}); "
                "nothing is written of it"
            )


@contextmanager
def _enough_memory(model: Model, doing: str) -> Iterator[None]:
    """Say of a device that runs out of memory what it was doing."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RenderError(
            f"out of memory on {model.device} at {doing}: make one of them smaller"
        ) from None


def _start(
    model: Model, scheduler: Scheduler, sampling: Sampling, points: list[Point]
) -> tuple[Latents, Tensor]:
    """Where the loop starts, and the timesteps it goes through: all, or what an image is due."""
    noise = torch.cat([p.noise for p in points]).to(model.device, model.dtype)
    starts = [p.start for p in points if p.start is not None]
    if not starts:
        return start_latents(scheduler, noise), scheduler.timesteps
    if len(starts) < len(points):
        raise SpecError("some points of one batch start from an image, and others do not")
    strength = DEFAULT_STRENGTH if sampling.strength is None else sampling.strength
    assert sampling.num_inference_steps is not None
    timesteps = skip_steps(scheduler, sampling.num_inference_steps, strength)
    start = torch.cat(starts).to(model.device, model.dtype)
    return noise_latents(scheduler, start, noise, timesteps), timesteps


def _make_predict(model: Model, sampling: Sampling, points: list[Point], count: int) -> Predict:
    """Guided where a point asks for it, plain otherwise; positive and negative in one call."""
    scale = torch.tensor([p.guidance_scale for p in points])
    network = model.network(sampling, scale)
    positive = [p.prompt_embeds for p in points]
    negative = [p.negative_prompt_embeds for p in points]
    tokens = max(prompt.embeds.shape[1] for prompt in positive + negative)
    prompt, negative_prompt = (
        PromptEmbeds.join([pad_embeds(p, model.empty_embeds, tokens) for p in prompts])
        for prompts in (positive, negative)
    )

    plain = condition(network, prompt)
    if embeds_guidance(model.unet) or not (scale > 1).any():
        return plain
    guided = guide(network, prompt, negative_prompt, scale.to(model.device, model.dtype))
    return limit(guided, plain, sampling.guidance_interval, count)
