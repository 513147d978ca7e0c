"""The UNet as a plain callable, with what it wants beside latents, time and prompt.

Knows a UNet's config and call; knows no guidance loop, no scheduler and no text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.guidance import Network
from pipeline.tensors import Latents, PromptEmbeds


def is_xl(unet: Any) -> bool:
    """Whether `unet` is told a pooled vector and the picture's size, as in XL."""
    return bool(unet.config.addition_embed_type == "text_time")


def embeds_guidance(unet: Any) -> bool:
    """Whether guidance is an input of `unet`, as in distilled LCM, instead of a second call."""
    return unet.config.time_cond_proj_dim is not None


def bind(
    unet: Any, size: tuple[int, int], guidance_scale: Tensor, dtype: torch.dtype = torch.float32
) -> Network:
    """`unet` for pictures of `size`, (height, width), called in `dtype`.

    `guidance_scale` has one number a sample, on the device where the network is called.

    XL is told that the picture was never larger and not cropped (Podell et al. 2023, section 2.2).
    """
    extras: dict[str, Tensor] = {}
    if embeds_guidance(unet):
        width = unet.config.time_cond_proj_dim
        embedded = embed_guidance(guidance_scale.float() - 1, width)
        extras["timestep_cond"] = embedded.to(dtype)
    time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=dtype, device=guidance_scale.device)

    def network(latents: Latents, timestep: Tensor, prompt: PromptEmbeds) -> Tensor:
        added: dict[str, Any] = {}
        if prompt.pooled is not None:
            ids = time_ids.expand(len(latents), -1)
            added["added_cond_kwargs"] = {"text_embeds": prompt.pooled, "time_ids": ids}
        prediction: Tensor = unet(
            latents,
            timestep,
            encoder_hidden_states=prompt.embeds,
            return_dict=False,
            **extras,
            **added,
        )[0]
        return prediction

    return network


def embed_guidance(scale: Tensor, width: int) -> Tensor:
    """Sines and cosines of `scale`, (batch,), as (batch, width); `scale` is w = guidance_scale − 1.

    Source: Luo et al. 2023, "Latent Consistency Models", section 4.2.
    """
    half = width // 2
    step = torch.log(torch.tensor(10_000.0)) / (half - 1)
    rates = torch.exp(torch.arange(half, dtype=scale.dtype) * -step).to(scale.device)
    angles = (1000 * scale)[:, None] * rates[None, :]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(waves, (0, width % 2))
