"""Points to frames: the one place where model, noise, prompts, loop and codec meet.

Knows no files and no user interface. Everything is a generator: who stops asking has cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from PIL import Image

from pipeline.denoise import (
    Predict,
    Scheduler,
    Step,
    create_scheduler,
    denoise,
    estimate_latents,
    start_latents,
)
from pipeline.errors import RenderError
from pipeline.guidance import condition, guide, limit
from pipeline.model import Model
from pipeline.path import Point, continue_noise, draw_noise
from pipeline.pictures import to_images
from pipeline.prompts import pad_embeds
from pipeline.spec import Sampling, StillSpec
from pipeline.tensors import Embeds, Latents, Pixels


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A finished picture: where it came from, its latents and its pixels, (1, 3, height, width)."""

    index: int
    point: Point
    latents: Latents
    pixels: Pixels

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
    """The points of a still: one prompt, a new noise for each seed."""
    sampling = model.complete(spec.sampling)
    assert sampling.guidance_scale is not None
    positive = model.text.encode(spec.prompt)
    negative = model.text.encode(spec.negative_prompt or "")
    for seed in range(spec.seed, spec.seed + spec.count):
        yield Point(
            noise=draw_noise(seed, model.noise_shape(sampling)),
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            guidance_scale=sampling.guidance_scale,
            step_seed=seed,
        )


def render(model: Model, sampling: Sampling, points: Iterable[Point]) -> Iterator[Frame]:
    """A frame for every point, in order."""
    events = render_steps(model, sampling, points)
    return (event for event in events if isinstance(event, Frame))


def render_steps(
    model: Model, sampling: Sampling, points: Iterable[Point]
) -> Iterator[Progress | Frame]:
    """Like `render`, and the steps between: a `Progress` after each.

    Batches have a fixed size, aligned from the first point; the last one is padded, since a batch's
    size (not its neighbours) is part of a frame's identity. Raises `RenderError`.
    """
    sampling = model.complete(sampling)
    remaining, first = iter(points), 0
    while batch := list(islice(remaining, sampling.batch_size)):
        try:
            yield from _render_batch(model, sampling, batch, first)
        except torch.OutOfMemoryError:
            raise RenderError(
                f"out of memory on {model.device} at batch_size = {sampling.batch_size}, "
                f"{sampling.width} × {sampling.height}: make one of them smaller"
            ) from None
        first += len(batch)


def _render_batch(
    model: Model, sampling: Sampling, batch: list[Point], first: int
) -> Iterator[Progress | Frame]:
    assert sampling.scheduler is not None and sampling.num_inference_steps is not None
    scheduler = create_scheduler(
        sampling.scheduler, model.scheduler_config, sampling.num_inference_steps, model.device
    )
    timesteps = scheduler.timesteps
    padded = batch + batch[-1:] * (sampling.batch_size - len(batch))
    noise = torch.cat([p.noise for p in padded]).to(model.device, model.dtype)
    generators = [continue_noise(p.step_seed, tuple(p.noise.shape[1:])) for p in padded]
    predict = _make_predict(model, padded, sampling.guidance_interval, len(timesteps))

    latents = start_latents(scheduler, noise)
    for step in denoise(predict, scheduler, latents, timesteps, generators):
        latents = step.latents
        yield Progress(
            indices=range(first, first + len(batch)),
            index=step.index,
            count=len(timesteps),
            _step=step,
            _scheduler=scheduler,
            _model=model,
        )

    for index, point in enumerate(batch):
        yield _decode(model, point, latents[index : index + 1], first + index)


def _decode(model: Model, point: Point, latents: Latents, index: int) -> Frame:
    """The frame of `latents`, one at a time, so that its pixels depend on nothing beside it."""
    pixels = model.codec.decode(latents)
    for name, tensor in (("latents", latents), ("pixels", pixels)):
        if not tensor.isfinite().all():
            raise RenderError(
                f"frame {index}: its {name} are not finite numbers (in {model.dtype}); "
                "nothing is written of it"
            )
    return Frame(index=index, point=point, latents=latents, pixels=pixels.float().cpu())


def _make_predict(
    model: Model, points: list[Point], interval: tuple[float, float], count: int
) -> Predict:
    """Guided where a point asks for it, plain otherwise; positive and negative in one call."""
    positive = [p.prompt_embeds for p in points]
    negative = [p.negative_prompt_embeds for p in points]
    embeds = _stack(positive + negative, model.empty_embeds)
    prompt_embeds, negative_prompt_embeds = embeds.chunk(2)

    plain = condition(model.network, prompt_embeds)
    scale = torch.tensor([p.guidance_scale for p in points])
    if not (scale > 1).any():
        return plain
    guided = guide(
        model.network, prompt_embeds, negative_prompt_embeds, scale.to(model.device, model.dtype)
    )
    return limit(guided, plain, interval, count)


def _stack(embeds: list[Embeds], empty: Embeds) -> Embeds:
    tokens = max(e.shape[1] for e in embeds)
    return torch.cat([pad_embeds(e, empty, tokens) for e in embeds])
