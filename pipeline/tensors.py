"""Names for the tensors that cross borders: the scale they are in, and their shape.

Conversions live elsewhere, each in one home: `codec` between pixels and latents, `denoise` from
noise to what a scheduler starts with, `pictures` between pixels and uint8.
"""

from __future__ import annotations

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
