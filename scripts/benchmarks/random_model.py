"""Stable Diffusion 1.5 of random weights: its exact networks, for speed and nothing else.

Knows the published configs, which come with the program. Nothing is downloaded and no file of
weights is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.checkpoint import Checkpoint
from pipeline.codec import VaeCodec
from pipeline.defaults import find_defaults
from pipeline.families import LAYOUTS
from pipeline.ladder import (
    create_unet,
    create_vae,
    downscale_of,
    read_layout,
    read_scheduler,
    scale_unet,
    scale_vae,
)
from pipeline.loaders import read_json
from pipeline.model import Model
from pipeline.prompts import TextEncoder, TextEncoders

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

RANDOM = "random-sd15"
"""What `--model` calls it; a name of the benchmark's alone."""

NOTE = "random weights: speed only"

_LAYOUT = LAYOUTS / "sd1"


def create_random_model(device: torch.device, dtype: torch.dtype, width: float = 1.0) -> Model:
    """The model on `device`, frozen; the same numbers each time, rounded to `dtype`.

    `width` is the share of the widths that layers have: 1 is Stable Diffusion 1.5 itself.
    """
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(0)
        unet, vae, encoder = create_parts(device, dtype, width)
    tokenizer, scheduler = _create_tokenizer(), read_scheduler()
    rows = unet.config.sample_size
    defaults = find_defaults(
        scheduler,
        is_xl=False,
        embeds_guidance=False,
        side=rows * downscale_of(vae.config),
    )
    text = TextEncoder(tokenizer=tokenizer, encoder=encoder, device=device)
    return Model(
        checkpoint=Checkpoint(_LAYOUT, RANDOM, {}, tuple(_configs())),
        device=device,
        dtype=dtype,
        unet=unet,
        codec=VaeCodec(vae, device),
        text=TextEncoders(encoders=(text,)),
        scheduler_config=scheduler,
        defaults=defaults,
        notes=(NOTE,),
    )


def create_parts(
    device: torch.device, dtype: torch.dtype, width: float = 1.0
) -> tuple[Any, Any, CLIPTextModel]:
    """UNet, autoencoder and text encoder of random numbers, or of none on the meta device."""
    unet = create_unet(scale_unet(read_layout("sd1", "unet"), width), device, dtype)
    vae = create_vae(scale_vae(read_layout("sd1", "vae"), width), device, dtype)
    return unet, vae, _create_encoder(device, dtype, width)


def _create_encoder(device: torch.device, dtype: torch.dtype, width: float) -> CLIPTextModel:
    from transformers import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    config = read_layout("sd1", "text_encoder")
    for key in ("hidden_size", "intermediate_size", "projection_dim", "num_attention_heads"):
        config[key] = round(config[key] * width)
    with device:
        encoder = CLIPTextModel(CLIPTextConfig(**config))
    return encoder.to(dtype).eval().requires_grad_(False)


def _create_tokenizer() -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    settings = read_json(_LAYOUT / "tokenizer" / "tokenizer_config.json")
    return CLIPTokenizer.from_pretrained(LAYOUTS / "words", local_files_only=True, **settings)


def _configs() -> list[Path]:
    """What decides it, as a checkpoint's files do: there are no weights to name it by."""
    return sorted(_LAYOUT.rglob("*.json"))
