"""Pixels to latents and back. The only file that knows a scaling factor.

Latent space and pixel space are two codecs behind one interface; the loop cannot tell which it has.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.tensors import Latents, Pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

LIGHT = 5_000_000
"""Weights of a decoder that is quick enough for previews; Stable Diffusion's has 49 million."""


class Codec(ABC):
    """A space to denoise in, and the way there from pixels and back."""

    channels: int
    downscale: int
    """Pixels per latent cell along a side."""

    @abstractmethod
    def encode(self, pixels: Pixels) -> Latents:
        """Latents of `pixels`, each side shorter by `downscale`."""

    @abstractmethod
    def decode(self, latents: Latents) -> Pixels:
        """Pixels of `latents`, each side longer by `downscale`."""

    @abstractmethod
    def preview(self, latents: Latents) -> Pixels:
        """A cheap view of `latents`, often small: one pixel per cell."""


@final
class PixelCodec(Codec):
    """Pixels are the latents: what denoising costs without compression."""

    channels = 3
    downscale = 1

    def encode(self, pixels: Pixels) -> Latents:
        """The pixels themselves."""
        return pixels

    def decode(self, latents: Latents) -> Pixels:
        """The latents themselves."""
        return latents

    def preview(self, latents: Latents) -> Pixels:
        """The latents themselves."""
        return latents


def _check_scale(config: Any) -> None:
    """The number that latents are scaled with must be one."""
    scale = config.scaling_factor
    if type(scale) not in (int, float) or not 0 < scale < math.inf:
        raise CheckpointError(f"vae: scaling_factor = {scale!r}: must be a number above 0")


@final
class VaeCodec(Codec):
    """Any autoencoder of diffusers; encoding takes the posterior's mode, so it draws nothing."""

    def __init__(
        self, vae: AutoencoderKL | AutoencoderTiny, device: torch.device | None = None
    ) -> None:
        _check_scale(vae.config)
        self.vae = vae
        self.device = vae.device if device is None else device  # where it runs, if it moves there
        self.channels = vae.config.latent_channels
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, pixels: Pixels) -> Latents:
        """Latents of `pixels`: the posterior's mode, centred and scaled as the UNet sees them."""
        encoded = self.vae.encode(pixels.to(self.vae.dtype))
        # AutoencoderTiny and VQModel have no posterior
        mode: Tensor = (
            encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        )
        if self._statistics is None:
            latents: Latents = mode * self.vae.config.scaling_factor
        else:
            mean, std = self._statistics
            latents = (mode - mean.to(mode)) * self.vae.config.scaling_factor / std.to(mode)
        return latents

    def decode(self, latents: Latents) -> Pixels:
        """Pixels of `latents`; where 16 bits overflow, once more in float32."""
        pixels: Pixels = self.vae.decode(self._unscale(latents), return_dict=False)[0]
        if self.vae.dtype != torch.float32 and not pixels.isfinite().all():
            return self._in_float32.decode(latents.float())
        return pixels

    def _unscale(self, latents: Latents) -> Tensor:
        latents = latents.to(self.vae.dtype)
        if self._statistics is None:
            unscaled: Tensor = latents / self.vae.config.scaling_factor
        else:
            mean, std = self._statistics
            unscaled = latents * std.to(latents) / self.vae.config.scaling_factor + mean.to(latents)
        return unscaled

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of each channel, where the checkpoint states them (some of XL do)."""
        mean, std = (getattr(self.vae.config, f"latents_{name}", None) for name in ("mean", "std"))
        if mean is None or std is None:
            return None
        return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)

    def preview(self, latents: Latents) -> Pixels:
        """The decoded picture if the decoder is small, else the best linear map to colours."""
        if self._is_light:
            return self.decode(latents).clamp(-1, 1)
        weights = self._linear_view.to(latents)
        view = torch.einsum("nchw,cr->nrhw", latents, weights[:-1]) + weights[-1].view(-1, 1, 1)
        clamped: Tensor = view.clamp(-1, 1)
        return clamped

    @cached_property
    def _is_light(self) -> bool:
        """Whether decoding costs less than a step of any UNet worth watching."""
        weights: int = sum(p.numel() for p in self.vae.decoder.parameters())
        return weights < LIGHT

    @cached_property
    def _in_float32(self) -> VaeCodec:
        return VaeCodec(copy.deepcopy(self.vae).float(), self.device)

    @cached_property
    def _linear_view(self) -> Tensor:
        """Weights (channels + 1, 3), fitted to what the encoder makes of plain colours."""
        levels = torch.linspace(-1, 1, 4)
        colours = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 8, 8)
        cells = 3  # wide enough that the middle cell of a patch sees its own colour alone
        board = colours.repeat_interleave(cells, 1).repeat_interleave(cells, 2)
        pixels = board.repeat_interleave(self.downscale, 1).repeat_interleave(self.downscale, 2)
        latents = self.encode(pixels[None].to(self.device)).float().cpu()[0]
        middles = latents[:, 1::cells, 1::cells].flatten(1).T
        design = torch.cat([middles, torch.ones(len(middles), 1)], 1)
        solution: Tensor = torch.linalg.lstsq(design, colours.flatten(1).T).solution
        return solution
