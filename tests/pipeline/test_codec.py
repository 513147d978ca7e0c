"""Two spaces behind one interface, and one home for the scaling factor."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.codec import PixelCodec, VaeCodec
from pipeline.model import Model

PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pixel_space_loses_nothing():
    codec = PixelCodec()

    assert codec.decode(codec.encode(PIXELS)) is PIXELS
    assert (codec.channels, codec.downscale) == (3, 1)


def test_latents_are_as_much_smaller_as_the_checkpoint_says(tiny: Model, embedded: Model):
    for model, downscale in ((tiny, 2), (embedded, 8)):
        latents = model.codec.encode(PIXELS)

        assert model.codec.downscale == downscale
        assert latents.shape == (1, model.codec.channels, 32 // downscale, 32 // downscale)
        assert model.codec.decode(latents).shape == PIXELS.shape


def test_encoding_is_the_mode_times_the_scaling_factor(tiny: Model):
    vae = tiny.codec.vae

    expected = vae.encode(PIXELS).latent_dist.mean * vae.config.scaling_factor

    assert torch.equal(tiny.codec.encode(PIXELS), expected)
    assert torch.equal(tiny.codec.encode(PIXELS), tiny.codec.encode(PIXELS))


def test_a_decoder_that_overflows_in_sixteen_bits_is_asked_again_in_float32(tiny: Model):
    vae = copy.deepcopy(tiny.codec.vae).to(torch.float16)
    vae.decoder.conv_norm_out.weight *= 6e4  # passes float16's largest number, 65,504
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()

    with torch.no_grad():
        assert not vae.decode(latents / vae.config.scaling_factor).sample.isfinite().all()
        pixels = VaeCodec(vae).decode(latents)

    assert pixels.dtype == torch.float32
    assert pixels.isfinite().all()


@pytest.mark.parametrize("light", [0, 5_000_000], ids=["linear view", "small decoder"])
@pytest.mark.parametrize("colour", [(-1.0, -1.0, -1.0), (1.0, 0.2, -0.6), (0.0, 0.0, 0.8)])
def test_a_preview_shows_the_colours(
    embedded: Model,
    monkeypatch: pytest.MonkeyPatch,
    colour: tuple[float, float, float],
    light: int,
):
    monkeypatch.setattr("pipeline.codec.LIGHT", light)
    codec = VaeCodec(embedded.codec.vae)
    plain = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64)

    preview = codec.preview(codec.encode(plain))

    # Linear in the latents, which the decoder is not: a fifth of the range is enough to see by.
    assert preview.shape[2:] == ((64, 64) if light else (8, 8))
    assert (preview.mean((2, 3)) - torch.tensor(colour)).abs().max() < 0.4
