"""The algorithm of stable-diffusion-videos, on today's diffusers and with a model of ours.

Written from its description, to compare with: each pair of keyframes is walked by itself, evenly in
the weight, both ends included; noise by slerp in numpy, prompts by the straight line; each batch is
a call of the stock pipeline, which encodes the negative prompt again; every picture is saved and
read again for the film. So each inner keyframe is rendered twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.model import Model
from pipeline.noise import draw_noise
from pipeline.spec import MorphSpec

DOT_THRESHOLD = 0.9995


def walk(model: Model, spec: MorphSpec, batch_size: int, folder: Path) -> list[Path]:
    """The pictures of a resolved `spec` in `folder`; easing, holds and smooth paths it has not."""
    pipe, sampling = create_stock_pipeline(model, spec), spec.sampling
    keyframes = [*spec.keyframes, *spec.keyframes[:1]] if spec.loop else list(spec.keyframes)
    steps = round(spec.num_frames / (len(keyframes) - 1))
    files: list[Path] = []
    for start, end in itertools.pairwise(keyframes):
        shape = model.noise_shape(sampling)
        noises = [draw_noise(keyframe.seed, shape) for keyframe in (start, end)]
        embeds = [model.text.encode(keyframe.prompt).embeds for keyframe in (start, end)]
        for weights in _batches(np.linspace(0.0, 1.0, steps), batch_size):
            images = pipe(
                prompt_embeds=torch.cat([torch.lerp(*embeds, weight) for weight in weights]),
                negative_prompt=[start.negative_prompt or ""] * len(weights),
                latents=torch.cat([slerp(weight, *noises) for weight in weights]).to(model.dtype),
                height=sampling.height,
                width=sampling.width,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=start.guidance_scale,
            ).images
            for image in images:
                files.append(folder / f"{len(files):06d}.png")
                image.save(files[-1])
    return files


def slerp(weight: float, start: Tensor, end: Tensor) -> Tensor:
    """Theirs: an arc cosine, lerp above `DOT_THRESHOLD`, and no regard to the radius."""
    a, b = start.numpy(), end.numpy()
    dot = float(np.sum(a * b / (np.linalg.norm(a) * np.linalg.norm(b))))
    if abs(dot) > DOT_THRESHOLD:
        return torch.from_numpy((1 - weight) * a + weight * b).float()
    theta = np.arccos(dot)
    mixed = (np.sin((1 - weight) * theta) * a + np.sin(weight * theta) * b) / np.sin(theta)
    return torch.from_numpy(mixed).float()


def create_stock_pipeline(model: Model, spec: MorphSpec) -> Any:
    """diffusers' own pipeline around the very weights of `model`, for a resolved `spec`."""
    with _quiet_transformers():
        from diffusers import StableDiffusionPipeline

    from pipeline.denoise import create_scheduler

    sampling, text = spec.sampling, model.text.encoders[0]
    assert sampling.scheduler is not None and sampling.num_inference_steps is not None
    scheduler = create_scheduler(
        sampling.scheduler, model.scheduler_config, sampling.num_inference_steps, model.device
    )
    pipe = StableDiffusionPipeline(
        vae=model.codec.vae,  # type: ignore[attr-defined]
        text_encoder=text.encoder,
        tokenizer=text.tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _batches(weights: Sequence[float], size: int) -> Iterator[list[float]]:
    for start in range(0, len(weights), size):
        yield [float(weight) for weight in weights[start : start + size]]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No words on how pictures are prepared for networks that are not in here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
