"""The safety checker that a checkpoint may bring: it reports, and changes no picture.

Knows pictures only. Loaded when it is asked for, never otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.checkpoint import Checkpoint
from pipeline.loaders import load_part


@dataclass(frozen=True)
class SafetyChecker:
    """A classifier of pictures by a CLIP image encoder, with the processor that feeds it."""

    processor: Any
    checker: Any

    def flags(self, image: Image.Image) -> bool:
        """Whether the checker takes `image` for unsafe."""
        prepared = self.processor(image, return_tensors="pt").pixel_values
        prepared = prepared.to(self.checker.device, self.checker.dtype)
        unused = np.zeros((1, 1, 1, 3))  # the pictures that it would blacken
        _, flagged = self.checker(images=unused, clip_input=prepared)
        return bool(flagged[0])


def load_safety_checker(checkpoint: Checkpoint, device: torch.device) -> SafetyChecker:
    """The safety checker of a checkpoint that was checked with it, in float32."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    checker = load_part(StableDiffusionSafetyChecker, checkpoint, "safety_checker", torch.float32)
    processor = CLIPImageProcessor.from_pretrained(checkpoint.folder / "feature_extractor")
    return SafetyChecker(processor, checker.to(device))
