"""Points: everything that decides a frame.

Knows noise and embeds; knows no scheduler, no autoencoder and no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.tensors import Embeds, Noise


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in the space that a frame is rendered from; each tensor has batch size 1.

    `step_seed` feeds the schedulers that draw noise at each step: see `continue_noise`.
    """

    noise: Noise
    prompt_embeds: Embeds
    negative_prompt_embeds: Embeds
    guidance_scale: float
    step_seed: int


def draw_noise(seed: int, shape: tuple[int, ...]) -> Noise:
    """The unit Gaussian of `seed`, (1, *shape): from the CPU, in float32, the same everywhere."""
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def continue_noise(seed: int, shape: tuple[int, ...]) -> torch.Generator:
    """The generator of `seed` after its start noise is drawn: what it gives next is step noise."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn((1, *shape), generator=generator)
    return generator
