"""Writing the trained parts as a diffusers folder in float16, and drawing what it can do."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SHEET_PROMPTS = [
    "a red apple on a sky blue background",
    "grinning face",
    "woman detective, medium-dark skin tone",
    "prince",
    "princess",
    "man",
    "woman",
    "smiling face with sunglasses on a purple background",
    "cat face",
    "snowman",
    "flag of japan",
    "person surfing, light skin tone",
    "pizza",
    "fire engine on a mint green background",
    "tulip",
    "old man",
]
# What other schedulers, built from the same config, need so as to be right.
SCHEDULER_EXTRAS = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}


def write_model(
    out: Path,
    vae: AutoencoderKL,
    parts: nn.ModuleDict,
    tokenizer: CLIPTokenizer,
    scheduler: DPMSolverMultistepScheduler,
    defaults: Mapping[str, int | float | str],
) -> None:
    """Write the model folder beside its place, then move it there; a model card in it is kept."""
    from diffusers import StableDiffusionPipeline  # the class takes seconds to import

    pipe = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(parts["text_encoder"]).half(),
        unet=copy.deepcopy(parts["unet"]).half(),
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    fresh = out.with_name(f"{out.name}.part")
    pipe.save_pretrained(fresh, safe_serialization=True)
    config = fresh / "scheduler" / "scheduler_config.json"
    settings = json.loads(config.read_text()) | SCHEDULER_EXTRAS
    config.write_text(json.dumps(settings, indent=2) + "\n")
    (fresh / "greatcircle.json").write_text(json.dumps(dict(defaults), indent=2) + "\n")
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", fresh)
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def write_untrained(folder: Path, out: Path) -> None:
    """A model like that in `folder` which has learnt nothing: its weights are freshly drawn."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    parts = {
        "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
    }
    for name, part in parts.items():
        part.half().save_pretrained(out / name, safe_serialization=True)


@torch.no_grad()
def draw_sheet(folder: Path, file: Path) -> None:
    """A sheet of SHEET_PROMPTS × two seeds, by diffusers' own pipeline."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    defaults = json.loads((folder / "greatcircle.json").read_text())
    rows = []
    for seed in (0, 1):
        generators = [torch.Generator().manual_seed(seed) for _ in SHEET_PROMPTS]
        rows += pipe(
            SHEET_PROMPTS,
            num_inference_steps=defaults["num_inference_steps"],
            guidance_scale=defaults["guidance_scale"],
            generator=generators,
        ).images
    save_sheet(rows, file, columns=8)


def save_sheet(images: list[Image.Image], file: Path, columns: int) -> None:
    """Pictures of one size beside and below each other, as one PNG."""
    side = images[0].width
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * side, index // columns * side))
    sheet.save(file)
