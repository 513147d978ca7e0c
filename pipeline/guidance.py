"""Classifier-free guidance: a network and two prompts become the callable that `denoise` takes.

Knows embeds and a UNet's call; knows no schedulers and no text.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.denoise import Predict
from pipeline.tensors import Latents, PromptEmbeds

Network = Callable[[Latents, Tensor, PromptEmbeds], Tensor]
"""`network(latents, timestep, prompt)`: one forward of a UNet."""


def condition(network: Network, prompt: PromptEmbeds) -> Predict:
    """The plain prediction under a prompt."""

    def predict(latents: Latents, timestep: Tensor, index: int) -> Tensor:
        return network(latents, timestep, prompt)

    return predict


def guide(
    network: Network, prompt: PromptEmbeds, negative_prompt: PromptEmbeds, guidance_scale: Tensor
) -> Predict:
    """Predictions pushed away from the negative prompt, both in one call of the network.

    `guidance_scale` has one number a sample; at 1 or less a sample is not guided, as in diffusers.
    Source: Ho and Salimans 2022, eq. 6 with guidance_scale = 1 + w.
    """
    both = PromptEmbeds.join([negative_prompt, prompt])
    scale = guidance_scale.clamp(min=1).view(-1, 1, 1, 1)

    def predict(latents: Latents, timestep: Tensor, index: int) -> Tensor:
        negative, positive = network(torch.cat([latents, latents]), timestep, both).chunk(2)
        return negative + scale * (positive - negative)

    return predict


def limit(guided: Predict, plain: Predict, interval: tuple[float, float], count: int) -> Predict:
    """Guidance in those of the `count` steps only whose middle lies in `interval` of [0, 1].

    Source: Kynkäänniemi et al. 2024, in shares of the steps instead of noise levels.
    """
    first, last = interval

    def predict(latents: Latents, timestep: Tensor, index: int) -> Tensor:
        inside = first <= (index + 0.5) / count <= last
        return (guided if inside else plain)(latents, timestep, index)

    return predict
