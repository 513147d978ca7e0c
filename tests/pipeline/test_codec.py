"""Two spaces behind one interface, and one home for the scaling factor."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pipeline.allowed import AUTOENCODERS
from pipeline.codec import PixelCodec, VaeCodec
from pipeline.errors import CheckpointError
from pipeline.model import Model
from tests.tiny_autoencoders import create_small

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


def test_a_posterior_is_that_of_diffusers_at_the_scale_of_the_unet(tiny: Model):
    vae = tiny.codec.vae
    gaussian, scale = vae.encode(PIXELS).latent_dist, vae.config.scaling_factor

    posterior = tiny.codec.posterior(PIXELS)

    assert torch.equal(posterior.mean, gaussian.mode() * scale)
    assert torch.equal(posterior.variance, gaussian.var * scale**2)
    # the same sum of some thousand float32 numbers in another order
    torch.testing.assert_close(posterior.kl, gaussian.kl(), rtol=1e-5, atol=0)


def test_draws_have_the_spread_of_the_posterior_and_a_seed_each(tiny: Model):
    one = tiny.codec.posterior(PIXELS)
    two = tiny.codec.posterior(torch.cat([PIXELS, PIXELS]))

    first, both = one.sample(5), two.sample(5)
    spread = (torch.cat([one.sample(seed) for seed in range(50)]) - one.mean).square().mean(0)

    # convolutions of a batch of two round otherwise than those of one
    torch.testing.assert_close(both[:1], first, rtol=0, atol=1e-5)
    assert not torch.equal(both[1:], both[:1])
    # 50 × 1,024 draws: the mean of their squares is within 2 % (ten deviations of √(2/51,200))
    assert (spread / one.variance[0]).mean() == pytest.approx(1, abs=0.06)


def test_pixels_have_no_posterior():
    posterior = PixelCodec().posterior(PIXELS)

    assert posterior.mean is posterior.sample(3) is PIXELS
    assert posterior.variance is posterior.kl is None


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_every_class_that_may_be_loaded_is_diffusers_own_trip(kind: str):
    vae = create_small(kind)
    codec = VaeCodec(vae)
    encoded = vae.encode(PIXELS)
    raw = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    scale = vae.config.scaling_factor

    latents = codec.encode(PIXELS)

    assert torch.equal(latents, raw * scale)
    assert torch.equal(codec.decode(latents), vae.decode(raw * scale / scale).sample)
    assert latents.shape == (1, codec.channels, 16, 16)
    assert codec.downscale == 2
    assert codec.colours(latents).shape == (1, 3, 16, 16)
    assert codec.codebook == (32 if kind == "VQModel" else None)


def test_what_a_book_rounds_has_as_many_channels_as_its_entries():
    assert VaeCodec(create_small("VQModel")).channels == 2
    assert VaeCodec(create_small("VQModel", vq_embed_dim=None, latent_channels=5)).channels == 5


def test_a_shift_is_taken_off_and_put_back():
    vae = create_small("AutoencoderKL", shift_factor=0.3, scaling_factor=1.5)
    codec = VaeCodec(vae)
    raw = vae.encode(PIXELS).latent_dist.mode()

    latents = codec.encode(PIXELS)

    assert torch.equal(latents, (raw - 0.3) * 1.5)
    assert torch.equal(codec.decode(latents), vae.decode(latents / 1.5 + 0.3).sample)
    assert torch.equal(
        codec.posterior(PIXELS).variance, vae.encode(PIXELS).latent_dist.var * 1.5**2
    )


def test_statistics_of_channels_are_taken_off_and_put_back():
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 2.0, 1.0, 4.0]
    vae = create_small("AutoencoderKL", latents_mean=mean, latents_std=std, scaling_factor=1.5)
    codec = VaeCodec(vae)
    gaussian = vae.encode(PIXELS).latent_dist
    m, s = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))

    posterior = codec.posterior(PIXELS)

    assert torch.equal(posterior.mean, (gaussian.mode() - m) * 1.5 / s)
    # two roundings in another order: 2⁻²³ each
    torch.testing.assert_close(posterior.variance, gaussian.var * (1.5 / s) ** 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("kind", "settings", "line"),
    [
        ("AutoencoderKL", {"shift_factor": float("nan")}, "vae: shift_factor = nan"),
        ("AutoencoderKL", {"shift_factor": "1"}, "vae: shift_factor = '1'"),
        ("AutoencoderKL", {"scaling_factor": 0}, "vae: scaling_factor = 0"),
        (
            "AutoencoderTiny",
            {"decoder_block_out_channels": (8, 8, 8), "num_decoder_blocks": (1, 1, 1)},
            "vae: makes sides 2 times shorter and 4 times longer again",
        ),
        (
            "AutoencoderTiny",
            {"upsampling_scaling_factor": 3},
            "vae: makes sides 2 times shorter and 3 times longer again",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(kind: str, settings: dict[str, Any], line: str):
    with pytest.raises(CheckpointError, match=f"^{line}"):
        VaeCodec(create_small(kind, **settings))


def test_another_precision_is_a_copy_that_is_kept(embedded: Model):
    codec = embedded.codec
    assert isinstance(codec, VaeCodec)

    half = codec.in_dtype(torch.bfloat16)

    assert half.vae.dtype == torch.bfloat16
    assert codec.vae.dtype == torch.float32
    assert codec.in_dtype(torch.bfloat16) is half
    assert codec.in_dtype(torch.float32) is codec
