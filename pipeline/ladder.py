"""The networks whose cost is compared: Stable Diffusion's own, and the same plan moved to pixels.

Knows architectures and their configs, which come with the program. Knows no weights: a network is
made on the meta device, where it is shapes alone, or of random numbers. What it costs is not known
here either; that is `cost`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from pipeline.codec import PixelCodec
from pipeline.families import LAYOUTS
from pipeline.loaders import read_json

Config = dict[str, Any]
LayoutName = Literal["sd1", "xl"]

FACTORS = (1, 2, 4, 8, 16)
"""Pixels per latent cell along a side, of which 1 is no compression."""

LEVELS = {
    "levels-64": (64, 128, 256),
    "levels-128": (128, 128, 256),
    "levels-320": (320, 320, 320),
}
"""Widths of the three convolutional levels between 512 px and 64 × 64, by the rung's name."""

META = torch.device("meta")
"""Where tensors are shapes alone."""

_CONVOLUTIONAL = ("DownBlock2D", "UpBlock2D")
_LARGEST_GROUPS = 32  # of a group norm, in all of Stable Diffusion
_WHOLE = 8  # a width is a multiple of this, so that heads and groups divide it


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A denoiser of the ladder: the config of its UNet, and the space in which it works.

    `downscale` is how many pixels a cell of that space has along a side.
    """

    name: str
    title: str
    config: Mapping[str, Any]
    downscale: int

    def scaled(self, width: float) -> Rung:
        """The same plan with each layer `width` times as wide."""
        return Rung(
            name=self.name,
            title=self.title,
            config=scale_unet(self.config, width),
            downscale=self.downscale,
        )


def build_ladder() -> tuple[Rung, ...]:
    """All rungs for 512 px, from Stable Diffusion's own network to the same one on pixels.

    `levels-…` have three convolutional levels more, put before the network on its way down and
    after it on its way up, with as many resnets a level as the network itself. So the former first
    level sees 64 × 64 cells again, and attention stays there and below.
    `levels-128` has as many weights as the latent network.
    `no-attention` and `plain` have the network's own four levels, the first of them at 512 × 512:
    one without the attention above 64 × 64 (that is, with the middle's alone), the other as it is.
    """
    sd1 = read_layout("sd1", "unet")
    pixels = {**sd1, "in_channels": PixelCodec.channels, "out_channels": PixelCodec.channels}
    down, up = _CONVOLUTIONAL
    levels = len(sd1["block_out_channels"])
    bare = {**pixels, "down_block_types": (down,) * levels, "up_block_types": (up,) * levels}
    rungs = [("latent", "latent, 4 × 64 × 64", sd1, downscale_of(read_layout("sd1", "vae")))]
    for name, widths in LEVELS.items():
        title = f"pixels, levels {', '.join(map(str, widths))} before it"
        rungs.append((name, title, _put_before(pixels, widths), 1))
    rungs.append(("no-attention", "pixels, no attention above 64 × 64", bare, 1))
    rungs.append(("plain", "pixels, the same network", pixels, 1))
    return tuple(
        Rung(name=name, title=title, config=config, downscale=downscale)
        for name, title, config, downscale in rungs
    )


def compress(factor: int) -> tuple[Rung, Config | None]:
    """Stable Diffusion's network behind `factor` pixels a cell, and its autoencoder's config.

    The autoencoder has as many of Stable Diffusion's levels as the factor asks for, and at 16 its
    widest once more. Without compression there is none, and the network sees three channels.
    """
    sd1 = read_layout("sd1", "unet")
    title = f"the same network, {factor} px a cell"
    if factor == 1:
        channels = PixelCodec.channels
        sd1 = {**sd1, "in_channels": channels, "out_channels": channels}
        return Rung(name="f1", title=title, config=sd1, downscale=1), None
    vae = read_layout("sd1", "vae")
    levels = int(math.log2(factor)) + 1
    widths = [*vae["block_out_channels"], *vae["block_out_channels"][-1:] * levels][:levels]
    vae |= {
        "block_out_channels": widths,
        "down_block_types": vae["down_block_types"][:1] * levels,
        "up_block_types": vae["up_block_types"][:1] * levels,
    }
    return Rung(name=f"f{factor}", title=title, config=sd1, downscale=factor), vae


def downscale_of(vae: Mapping[str, Any]) -> int:
    """Pixels per latent cell along a side, from an autoencoder's config."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def count_tokens() -> int:
    """Tokens of a prompt, padded as the network sees it."""
    return int(read_layout("sd1", "text_encoder")["max_position_embeddings"])


def scale_unet(config: Mapping[str, Any], width: float) -> Config:
    """`config` with each layer `width` times as wide: fewer heads of attention, each as before.

    Raises `ValueError` for a width that leaves a layer with no multiple of 8 channels.
    """
    scaled = _scale(config, width)
    if width != 1:
        scaled["attention_head_dim"] = round(config["attention_head_dim"] * width)  # their number
        scaled["cross_attention_dim"] = _scale_width(config["cross_attention_dim"], width)
    return scaled


def scale_vae(config: Mapping[str, Any], width: float) -> Config:
    """`config` with each layer `width` times as wide; the latents keep their channels."""
    return _scale(config, width)


def create_unet(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A UNet of random numbers, or of none on the meta device; frozen."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _create(UNet2DConditionModel, config, device, dtype)


def create_vae(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """An autoencoder of random numbers, or of none on the meta device; frozen."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _create(AutoencoderKL, config, device, dtype)


def create_tiny_vae(device: torch.device, dtype: torch.dtype) -> Any:
    """The tiny autoencoder for previews (TAESD), as `create_vae` makes the other; frozen."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    return _create(AutoencoderTiny, {}, device, dtype)


def read_layout(family: LayoutName, part: str) -> Config:
    """The config of a part of Stable Diffusion as it was published, without its remarks."""
    config = read_json(LAYOUTS / family / part / "config.json")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_scheduler() -> Config:
    """The scheduler config of Stable Diffusion 1."""
    return read_json(LAYOUTS / "sd1" / "scheduler" / "scheduler_config.json")


def _put_before(config: Mapping[str, Any], widths: tuple[int, ...]) -> Config:
    down, up = ((kind,) * len(widths) for kind in _CONVOLUTIONAL)
    return {
        **config,
        "block_out_channels": (*widths, *config["block_out_channels"]),
        "down_block_types": (*down, *config["down_block_types"]),
        "up_block_types": (*config["up_block_types"], *up),
    }


def _scale(config: Mapping[str, Any], width: float) -> Config:
    if width == 1:
        return dict(config)
    widths = [_scale_width(channels, width) for channels in config["block_out_channels"]]
    groups = math.gcd(_LARGEST_GROUPS, *widths)
    return {**config, "block_out_channels": widths, "norm_num_groups": groups}


def _scale_width(channels: int, width: float) -> int:
    scaled = channels * width
    if scaled % _WHOLE:
        raise ValueError(f"{channels} × {width:g}: must be a multiple of {_WHOLE}")
    return int(scaled)


def _create(
    kind: type[nn.Module], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    with device:
        module = kind(**config)
    # nn.Module's own: that of diffusers warns of layers to keep in float32, and names none.
    return nn.Module.to(module, dtype).eval().requires_grad_(False)
