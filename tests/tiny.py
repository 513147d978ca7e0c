"""A Stable Diffusion of a few thousand random weights, in the exact classes of the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

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


XL_SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.42.1",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
"""Stable Diffusion XL's own scheduler config."""

TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
"""What SDXL-Turbo's scheduler config says otherwise."""

WIDTH = 16
"""Of the hidden states of one tiny text encoder."""


def write_tiny_checkpoint(
    folder: Path, unet: Mapping[str, Any] | None = None, **scheduler_settings: Any
) -> Path:
    """Write a tiny checkpoint to `folder`, its scheduler config changed by `scheduler_settings`.

    `unet` holds settings of its UNet that differ: `time_cond_proj_dim` makes it an LCM.
    """
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    tokenizer = create_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=create_vae(),
        text_encoder=create_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=create_unet(cross_attention_dim=WIDTH, **(unet or {})),
        scheduler=PNDMScheduler.from_config(SCHEDULER_CONFIG),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    config = {**SCHEDULER_CONFIG, **scheduler_settings}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def write_tiny_xl(folder: Path, **scheduler_settings: Any) -> Path:
    """Write a tiny XL to `folder`: two text encoders, a pooled vector, sizes as time ids."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokenizer, tokenizer_2 = create_tokenizer(), create_tokenizer()
    tokenizer_2.pad_token = "!"
    unet = create_unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    pipe = StableDiffusionXLPipeline(
        vae=create_vae(scaling_factor=0.13025),
        text_encoder=create_text_encoder(tokenizer, layers=3),
        text_encoder_2=create_text_encoder(tokenizer_2, layers=3, has_projection=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config(XL_SCHEDULER_CONFIG),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    config = {**XL_SCHEDULER_CONFIG, **scheduler_settings}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def create_tokenizer() -> CLIPTokenizer:
    """A tokenizer of a few hundred tokens, with a window of 16."""
    from scripts.embedded.recipe import TextRecipe
    from scripts.embedded.text import train_tokenizer

    text = TextRecipe(vocabulary=600, length=16, width=WIDTH, layers=2, heads=2)
    return train_tokenizer(["a red apple", "a green pear, on a table!"], text)


def create_text_encoder(
    tokenizer: CLIPTokenizer, layers: int = 2, *, has_projection: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text model of random weights for `tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if has_projection else CLIPTextModel)(config)


def create_vae(**settings: Any) -> AutoencoderKL:
    """An autoencoder of random weights that halves each side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        **settings,
    )


def create_unet(**settings: Any) -> UNet2DConditionModel:
    """A UNet of random weights with attention on its lower level."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    )


def load_reference(folder: Path, kind: str = "StableDiffusionPipeline") -> Any:
    """diffusers' own pipeline over `folder`, the oracle of parity."""
    import diffusers

    extras = {} if "XL" in kind else {"safety_checker": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, kind).from_pretrained(folder, dtype=torch.float32, **extras)
    pipe.set_progress_bar_config(disable=True)
    return pipe
