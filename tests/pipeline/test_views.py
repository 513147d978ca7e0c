"""Pictures of what has none: their scales are fixed, and they show what they should."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from pipeline.views import (
    FULL_ERROR,
    FULL_LATENT,
    draw_channels,
    draw_colours,
    draw_error,
    join_strip,
)


def brightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(int)


def test_an_error_is_bright_where_it_is_and_black_elsewhere():
    pixels = torch.zeros(1, 3, 8, 8)
    back = pixels.clone()
    back[..., 2, 5] = 2 * FULL_ERROR / 255
    back[..., 6, 1] = 1 * FULL_ERROR / 255

    shown = brightness(draw_error(pixels, back))

    assert shown[2, 5] > 230
    assert 60 < shown[6, 1] < 180
    assert np.delete(shown.ravel(), [2 * 8 + 5, 6 * 8 + 1]).max() < 5
    assert brightness(draw_error(back, back)).max() < 5


def test_an_error_beyond_what_is_shown_is_none():
    white = torch.ones(1, 3, 4, 4)

    assert brightness(draw_error(white, 1.5 * white)).max() < 5


def test_channels_are_red_above_zero_and_blue_below():
    latents = torch.tensor([-FULL_LATENT, 0, FULL_LATENT]).view(1, 1, 1, 3).repeat(1, 2, 2, 1)

    pictures = draw_channels(latents, 8)

    assert [picture.size for picture in pictures] == [(24, 16)] * 2
    blue, white, red = (np.asarray(pictures[0])[4, 8 * i + 4].astype(int) for i in range(3))
    assert blue[2] - blue[0] > 50
    assert white.min() > 240
    assert red[0] - red[2] > 50


def test_colours_are_enlarged_without_blur():
    colours = torch.tensor([[1.0, -1, -1], [-1, -1, 1]]).T.reshape(1, 3, 1, 2)

    shown = np.asarray(draw_colours(colours, 4))

    assert shown.shape == (4, 8, 3)
    assert {tuple(c) for c in shown.reshape(-1, 3).tolist()} == {(255, 0, 0), (0, 0, 255)}


def test_a_strip_holds_its_pictures_in_order():
    strip = join_strip([Image.new("RGB", (5, 7), colour) for colour in ("red", "blue")])

    assert strip.size == (14, 7)
    assert strip.getpixel((0, 6)) == (255, 0, 0)
    assert strip.getpixel((6, 3)) == (255, 255, 255)
    assert strip.getpixel((13, 6)) == (0, 0, 255)
