"""Names for the tensors that cross borders: the scale they are in, and their shape.

Conversions live elsewhere, each in one home: `codec` between pixels and latents, `denoise` from
noise to what a scheduler starts with, `pictures` between pixels and uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "batch 3 height width"]
"""RGB in [-1, 1]."""

Latents = Float[Tensor, "batch channels rows columns"]
"""What the UNet sees: the autoencoder's latents times its `scaling_factor`."""

Noise = Float[Tensor, "batch channels rows columns"]
"""A draw of the unit Gaussian, shaped like latents; what a seed gives and slerp travels."""

Embeds = Float[Tensor, "batch tokens width"]
"""A text encoder's hidden states, one vector a token."""

Pooled = Float[Tensor, "batch width"]
"""One vector for a whole prompt (XL)."""


@dataclass(frozen=True)
class PromptEmbeds:
    """What the network is told of a prompt: hidden states, and in XL one pooled vector."""

    embeds: Embeds
    pooled: Pooled | None = None

    @classmethod
    def join(cls, prompts: Sequence[PromptEmbeds]) -> Self:
        """Several prompts of as many tokens each, one after the other along the batch."""
        pooled = [p.pooled for p in prompts if p.pooled is not None]
        return cls(torch.cat([p.embeds for p in prompts]), torch.cat(pooled) if pooled else None)

    def zeros(self) -> PromptEmbeds:
        """Zeros of the same shapes."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return PromptEmbeds(torch.zeros_like(self.embeds), pooled)
