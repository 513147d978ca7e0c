"""Pixels to latents and back. The only file that knows a scaling factor.

Latent space and pixel space are two codecs behind one interface; the loop cannot tell which it has.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.noise import draw_noise
from pipeline.tensors import Latents, Pixels

if TYPE_CHECKING:
    from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, AutoencoderTiny, VQModel

    Autoencoder: TypeAlias = AsymmetricAutoencoderKL | AutoencoderKL | AutoencoderTiny | VQModel

LIGHT = 5_000_000
"""Weights of a decoder that is quick enough for previews; Stable Diffusion's has 49 million."""


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of pictures: a Gaussian over latents, or latents and nothing else.

    `mean` and `variance` are of the scale that the UNet sees. `kl`, (batch,), is the divergence
    from the unit Gaussian in nats, before latents are scaled, as in training. Without a posterior
    (AutoencoderTiny, VQModel, pixels) `variance` and `kl` are None.
    """

    mean: Latents
    variance: Latents | None = None
    kl: Tensor | None = None

    def sample(self, seed: int) -> Latents:
        """A draw, the first picture's from `seed`, the next from `seed` + 1, …; or the mean."""
        if self.variance is None:
            return self.mean
        shape = tuple(self.mean.shape[1:])
        noise = torch.cat([draw_noise(seed + i, shape) for i in range(len(self.mean))])
        drawn: Latents = self.mean + self.variance.sqrt() * noise.to(self.mean)
        return drawn


class Codec(ABC):
    """A space to denoise in, and the way there from pixels and back."""

    channels: int
    downscale: int
    """Pixels per latent cell along a side."""
    device: torch.device | None = None
    """Where it computes; None: wherever its input lies."""
    codebook: int | None = None
    """Entries of the book that decoding rounds each cell to, where there is one."""

    @abstractmethod
    def encode(self, pixels: Pixels) -> Latents:
        """Latents of `pixels`, each side shorter by `downscale`."""

    @abstractmethod
    def decode(self, latents: Latents) -> Pixels:
        """Pixels of `latents`, each side longer by `downscale`."""

    @abstractmethod
    def preview(self, latents: Latents) -> Pixels:
        """A cheap view of `latents`, often small: one pixel per cell."""

    def posterior(self, pixels: Pixels) -> Posterior:
        """What the encoder says of `pixels`; `encode` gives its mean, which is its mode."""
        return Posterior(self.encode(pixels))

    def colours(self, latents: Latents) -> Pixels:
        """Each cell of `latents` as one pixel: the best linear map to colours, within [-1, 1]."""
        return self.preview(latents)


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


@final
class VaeCodec(Codec):
    """Any autoencoder of diffusers; encoding takes the posterior's mode, so it draws nothing."""

    def __init__(self, vae: Autoencoder, device: torch.device | None = None) -> None:
        _check_scale(vae.config)
        self.vae = vae
        self.device = vae.device if device is None else device  # where it runs, if it moves there
        self.downscale = _find_downscale(vae.config)
        self.codebook = getattr(vae.config, "num_vq_embeddings", None)
        embedded = getattr(vae.config, "vq_embed_dim", None)  # what VQModel rounds, if not latents
        self.channels = vae.config.latent_channels if embedded is None else embedded

    def encode(self, pixels: Pixels) -> Latents:
        """Latents of `pixels`: the posterior's mode, centred and scaled as the UNet sees them."""
        return self.posterior(pixels).mean

    def posterior(self, pixels: Pixels) -> Posterior:
        """The posterior of `pixels`, centred and scaled as the UNet sees latents.

        Kingma & Welling, "Auto-encoding variational Bayes", 2014; the divergence is appendix B's.
        """
        encoded = self.vae.encode(pixels.to(self.vae.dtype))
        if not hasattr(encoded, "latent_dist"):  # AutoencoderTiny and VQModel have no posterior
            return Posterior(self._scale(encoded.latents))
        gaussian = encoded.latent_dist
        # Sums of this many numbers overflow in float16.
        mean, variance, log = (x.float() for x in (gaussian.mean, gaussian.var, gaussian.logvar))
        kl = 0.5 * (mean.square() + variance - 1 - log).flatten(1).sum(1)
        return Posterior(self._scale(gaussian.mode()), self._scale_variance(gaussian.var), kl)

    def decode(self, latents: Latents) -> Pixels:
        """Pixels of `latents`; where 16 bits overflow, once more in float32."""
        pixels: Pixels = self.vae.decode(self._unscale(latents), return_dict=False)[0]
        if self.vae.dtype != torch.float32 and not pixels.isfinite().all():
            return self.in_dtype(torch.float32).decode(latents.float())
        return pixels

    def in_dtype(self, dtype: torch.dtype) -> VaeCodec:
        """The same autoencoder in another precision: a copy, kept for the next time."""
        if dtype == self.vae.dtype:
            return self
        if dtype not in self._copies:
            # Not by diffusers' own `to`, which warns of parts that stay: there are none here.
            self._copies[dtype] = VaeCodec(
                nn.Module.to(copy.deepcopy(self.vae), dtype), self.device
            )
        return self._copies[dtype]

    @cached_property
    def _copies(self) -> dict[torch.dtype, VaeCodec]:
        return {}

    def _scale(self, raw: Tensor) -> Latents:
        if self._statistics is None:
            latents: Latents = raw * self.vae.config.scaling_factor
        else:
            mean, std = self._statistics
            latents = (raw - mean.to(raw)) * self.vae.config.scaling_factor / std.to(raw)
        return latents

    def _scale_variance(self, raw: Tensor) -> Tensor:
        scaled: Tensor = raw * self.vae.config.scaling_factor**2
        return scaled if self._statistics is None else scaled / self._statistics[1].to(raw).square()

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
        """Mean and deviation of each channel, where the checkpoint states them.

        Some of XL state both; later families one number, `shift_factor`, as the mean of all.
        """
        config = self.vae.config
        mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
        shift = getattr(config, "shift_factor", None)
        if mean is None or std is None:
            if shift is None or shift == 0:
                return None
            mean, std = [shift], [1.0]
        return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)

    def preview(self, latents: Latents) -> Pixels:
        """The decoded picture if the decoder is small, else the best linear map to colours."""
        if self._is_light:
            return self.decode(latents).clamp(-1, 1)
        return self.colours(latents)

    def colours(self, latents: Latents) -> Pixels:
        """One pixel a cell, by the best linear map from this autoencoder's latents to colours."""
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


def _check_scale(config: Any) -> None:
    """The numbers that latents are moved and scaled with must be numbers."""
    scale, shift = config.scaling_factor, getattr(config, "shift_factor", None)
    if type(scale) not in (int, float) or not 0 < scale < math.inf:
        raise CheckpointError(f"vae: scaling_factor = {scale!r}: must be a number above 0")
    if shift is not None and (type(shift) not in (int, float) or not math.isfinite(shift)):
        raise CheckpointError(f"vae: shift_factor = {shift!r}: must be a number")


def _find_downscale(config: Any) -> int:
    """Pixels per cell along a side, the same on the way in and on the way out.

    Asymmetric and tiny autoencoders state their levels side by side, the others once.
    """
    out = len(config.block_out_channels)
    asymmetric = getattr(config, "down_block_out_channels", config.block_out_channels)
    into = len(getattr(config, "encoder_block_out_channels", asymmetric))
    down: int = 2 ** (into - 1)
    up: int = getattr(config, "upsampling_scaling_factor", 2) ** (out - 1)
    if down != up:
        raise CheckpointError(f"vae: makes sides {down} times shorter and {up} times longer again")
    return down
