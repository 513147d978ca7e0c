"""Training batches: emoji on grounds, moved and zoomed; procedural pictures beside them.

Pictures are float32 RGB in [-1, 1], shape (number, 3, side, side).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scripts.embedded.emojis import SIDE


def place(rgba: Tensor, grounds: Tensor, zoom: Tensor, shift: Tensor, side: int = SIDE) -> Tensor:
    """Draw uint8 `rgba` (n, 128, 128, 4) over `grounds` (n, 3, 1 | side, 1 | side) in [0, 1].

    `zoom` (n,) enlarges about the picture's middle, `shift` (n, 2) moves, in half-widths. A `side`
    below 128 cuts a window of that many pixels around the shifted middle.
    """
    scale = side / SIDE / zoom
    theta = torch.zeros(len(rgba), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    image = rgba.permute(0, 3, 1, 2).float() / 255
    image = torch.cat([image[:, :3] * image[:, 3:], image[:, 3:]], 1)
    grid = F.affine_grid(theta, [len(rgba), 4, side, side], align_corners=False)
    drawn = F.grid_sample(image, grid, mode="bilinear", align_corners=False)
    return (drawn[:, :3] + (1 - drawn[:, 3:]) * grounds) * 2 - 1


def draw_procedural(number: int, seed: int) -> Tensor:
    """Dead leaves, gradients, textures and text, as photographs hold: (number, 3, 128, 128)."""
    draw = np.random.default_rng(seed)
    makers = [_dead_leaves, _dead_leaves, _texture, _text]
    pictures = np.stack([makers[i % len(makers)](draw) for i in range(number)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _gradient(draw: np.random.Generator) -> np.ndarray:
    corners = draw.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _dead_leaves(draw: np.random.Generator) -> np.ndarray:
    image = Image.fromarray(_gradient(draw).copy())
    canvas = ImageDraw.Draw(image)
    for _ in range(int(draw.integers(10, 120))):
        radius = float(3 / (draw.random() + 0.04))
        x, y = draw.uniform(0, SIDE, 2)
        colour = tuple(int(c) for c in draw.integers(0, 256, 3))
        shape = canvas.ellipse if draw.random() < 0.6 else canvas.rectangle
        shape((x - radius, y - radius, x + radius, y + radius * draw.uniform(0.5, 1)), fill=colour)
    return np.asarray(image)


def _texture(draw: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft2(draw.standard_normal((3, SIDE, SIDE)))
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(SIDE), np.fft.fftfreq(SIDE)))
    noise = np.fft.irfft2(spectrum / (frequency + 1 / SIDE) ** draw.uniform(0.8, 1.8))
    noise = noise.transpose(1, 2, 0) / noise.std()
    mixed = noise @ (np.eye(3) * 0.4 + 0.6 * draw.random((3, 3))) * draw.uniform(20, 60)
    return np.clip(mixed + draw.uniform(60, 200, 3), 0, 255).astype(np.uint8)


def _text(draw: np.random.Generator) -> np.ndarray:
    image = Image.fromarray(_gradient(draw).copy())
    canvas = ImageDraw.Draw(image)
    for row in range(int(draw.integers(1, 6))):
        letters = "".join(chr(int(c)) for c in draw.integers(33, 127, 14))
        colour = tuple(int(c) for c in draw.integers(0, 256, 3))
        font = ImageFont.load_default(size=int(draw.integers(10, 34)))
        canvas.text((draw.uniform(-10, 40), row * 24), letters, fill=colour, font=font)
    return np.asarray(image)
