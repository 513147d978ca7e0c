"""The numbers of the recipe, read from configs/embedded.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class _Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    minutes: float
    batch_size: int
    learning_rate: float
    ema_decay: float


class VaeRecipe(_Recipe):
    """Autoencoder: widths per level, and how its batches are mixed."""

    channels: tuple[int, ...]
    procedural_pictures: int
    procedural_share: float
    crop_share: float  # the first share of the time sees 64 px windows, the rest whole pictures
    kl_weight: float


class TextRecipe(BaseModel):
    """Text encoder and its tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int
    length: int
    width: int
    layers: int
    heads: int


class UNetRecipe(_Recipe):
    """Denoiser: widths per level, training pairs and loss weighting."""

    channels: tuple[int, ...]
    heads: int
    variants: int  # cached latents per emoji, the first half on white
    empty_prompt_share: float
    snr_floor: float
    snr_ceiling: float
    beta_start: float
    beta_end: float
    timestep_spacing: str


class Recipe(BaseModel):
    """Everything that decides the embedded model, but for the device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    defaults: dict[str, int | float | str]  # what the finished model is best sampled with
    vae: VaeRecipe
    text: TextRecipe
    unet: UNetRecipe


def load_recipe(file: Path) -> Recipe:
    """The recipe in `file`; pydantic names whatever is wrong with it."""
    return Recipe.model_validate(tomllib.loads(file.read_text()))
