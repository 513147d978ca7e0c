"""Points: everything that decides a frame.

Knows noise and embeds; knows no scheduler, no autoencoder and no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.noise import NoiseMix
from pipeline.tensors import Latents, Noise, PromptEmbeds


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in the space that a frame is rendered from; each tensor has batch size 1.

    `step_noise` feeds the schedulers that draw noise at each step. `start` are the latents of an
    image to start from instead of noise alone.
    """

    noise: Noise
    step_noise: NoiseMix
    prompt_embeds: PromptEmbeds
    negative_prompt_embeds: PromptEmbeds
    guidance_scale: float
    start: Latents | None = None
