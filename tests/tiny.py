"""A Stable Diffusion of a few thousand random weights, in the exact classes of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.42.1",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""Stable Diffusion 1.5's own scheduler config."""


def write_tiny_checkpoint(folder: Path, **scheduler_settings: Any) -> Path:
    """Write a tiny checkpoint to `folder`, its scheduler config changed by `scheduler_settings`."""
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    from scripts.embedded.recipe import TextRecipe
    from scripts.embedded.text import create_text_encoder, train_tokenizer

    torch.manual_seed(0)
    text = TextRecipe(vocabulary=600, length=16, width=16, layers=2, heads=2)
    tokenizer = train_tokenizer(["a red apple", "a green pear on a table"], text)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
        ),
        text_encoder=create_text_encoder(tokenizer, text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        scheduler=PNDMScheduler.from_config(SCHEDULER_CONFIG),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    config = {**SCHEDULER_CONFIG, **scheduler_settings}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def load_reference(folder: Path) -> Any:
    """diffusers' own pipeline over `folder`, the oracle of parity."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
