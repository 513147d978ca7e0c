"""Round trips: right with a codec that loses nothing, and told apart from those that do."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.autoencoder import Autoencoder, load_codec
from pipeline.codec import Codec, PixelCodec, VaeCodec
from pipeline.disturb import mix_latents
from pipeline.errors import PictureError, RenderError, SpecError
from pipeline.model import Model
from pipeline.roundtrip import (
    MAX_AREA,
    PictureReport,
    TripsReport,
    choose_trip_size,
    decode,
    fit_trip,
    measure_trip,
    mix_pictures,
    repeat_trips,
    round_trip,
    summarise,
)
from pipeline.soundness import check_codec, draw_card
from pipeline.spec import ModelSpec
from pipeline.tensors import Latents, Pixels
from tests.tiny_autoencoders import create_small

CARD = draw_card(64)


class Faulty(Codec):
    """Pixels as latents, changed by a function on the way back."""

    channels, downscale = 3, 1

    def __init__(self, change) -> None:
        self.change = change

    def encode(self, pixels: Pixels) -> Latents:
        return pixels

    def decode(self, latents: Latents) -> Pixels:
        return self.change(latents)

    def preview(self, latents: Latents) -> Pixels:
        return latents


def test_what_loses_nothing_has_infinite_psnr():
    trip, report = measure_trip(PixelCodec(), CARD, repeat=3, seed=0)

    assert torch.equal(trip.back, CARD)
    assert (report.psnr, report.ssim) == (math.inf, 1)
    assert (report.worst_error, report.channel_errors) == (0, (0, 0, 0))
    assert report.compression.ratio == 1
    assert [(d.trip, d.psnr, d.step_psnr) for d in report.drift] == [
        (index, math.inf, math.inf) for index in (1, 2, 3)
    ]
    assert report.sampled is report.float32 is report.latents.posterior_std is None


def test_a_shift_by_one_pixel_is_penalised():
    _, still = measure_trip(Faulty(lambda x: x + 0.01), CARD)
    _, shifted = measure_trip(Faulty(lambda x: x.roll(1, 3)), CARD)

    assert still.psnr == pytest.approx(20 * math.log10(2 / 0.01), abs=0.5)  # less what is clipped
    assert shifted.psnr < 20 < still.psnr
    assert shifted.ssim < 0.9 < still.ssim


def test_a_lost_colour_is_seen_in_its_channel():
    def drop_green(pixels: Tensor) -> Tensor:
        return pixels * torch.tensor([1.0, 0, 1]).view(1, 3, 1, 1)

    _, report = measure_trip(Faulty(drop_green), CARD)

    assert report.channel_errors[0] == report.channel_errors[2] == 0
    assert report.channel_errors[1] > 50


def test_the_shipped_autoencoder_keeps_most_of_the_card(embedded: Model):
    trip, report = measure_trip(embedded.codec, CARD, seed=5)

    # the latents and pixels are those of the codec itself
    latents = embedded.codec.encode(CARD)
    assert torch.equal(trip.latents, latents)
    assert torch.equal(trip.back, embedded.codec.decode(latents).clamp(-1, 1))
    assert 14 < report.psnr < 40
    assert (report.compression.ratio, report.compression.bits_ratio) == (48, 12)
    assert report.compression.posterior_bits is not None
    assert 0 < report.compression.posterior_bits < report.compression.bits_out
    # draws lie so near the mode that no eye could tell their pictures apart
    assert report.sampled is not None
    assert report.sampled.psnr == pytest.approx(report.psnr, abs=0.1)
    assert report.sampled.psnr != report.psnr


def test_a_seed_draws_the_same_again(embedded: Model):
    codec = embedded.codec

    first, again, other = (round_trip(codec, CARD, seed=seed).latents for seed in (5, 5, 6))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, codec.encode(CARD))


def test_repeated_trips_go_on_from_where_they_are(embedded: Model):
    codec = embedded.codec
    first, second, third = repeat_trips(codec, CARD, 3)

    assert torch.equal(second.pixels, first.back)
    assert torch.equal(third.back, codec.decode(codec.encode(second.back)).clamp(-1, 1))

    _, report = measure_trip(codec, CARD, repeat=3)
    assert report.drift[0].psnr == report.drift[0].step_psnr == report.psnr
    assert report.drift[0].psnr > report.drift[1].psnr > report.drift[2].psnr
    # what the first trip lost cannot be lost again
    assert report.drift[1].step_psnr > report.psnr + 3


def test_sixteen_bits_are_held_against_thirty_two(embedded: Model):
    half = load_codec(ModelSpec(device="cpu", dtype="bfloat16"))
    _, exact = measure_trip(embedded.codec, CARD)
    _, report = measure_trip(half.codec, CARD, exact=half.exact)

    assert report.float32 is not None
    assert report.float32.psnr == exact.psnr
    # bfloat16 has 8 bits: errors of some thousandths, an eighth of a grey level to a few of them
    assert 40 < report.float32.agreement < 80
    assert report.compression.bits_ratio == 24
    assert exact.float32 is None


@pytest.mark.parametrize("kind", ["VQModel", "AsymmetricAutoencoderKL", "AutoencoderTiny"])
def test_every_class_makes_the_trip(kind: str):
    codec = VaeCodec(create_small(kind))

    trip, report = measure_trip(codec, CARD, seed=1)

    assert trip.back.shape == CARD.shape
    assert (report.sampled is None) == (kind != "AsymmetricAutoencoderKL")
    if kind == "VQModel":
        assert report.compression.bits_out == 32 * 32 * 5  # 32 entries in the book


def test_two_pictures_mix_in_both_spaces(embedded: Model):
    codec, other = embedded.codec, CARD.flip(3)

    mixed, faded = mix_pictures(codec, CARD, other, 0.5)

    assert torch.equal(faded, (CARD + other) / 2)
    latents = mix_latents(codec.encode(CARD), codec.encode(other), 0.5)
    assert torch.equal(mixed, codec.decode(latents).clamp(-1, 1))
    start, _ = mix_pictures(codec, CARD, other, 0)
    assert torch.equal(start, round_trip(codec, CARD).back)
    with pytest.raises(PictureError, match="must have the same size"):
        mix_pictures(codec, CARD, CARD[..., :32], 0.5)
    with pytest.raises(SpecError, match="weight = 2: must be between 0 and 1"):
        mix_pictures(codec, CARD, other, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(embedded: Model, bad: float):
    with pytest.raises(RenderError, match=r"^decoded pixels: 12288 of 12288 numbers are not fin"):
        round_trip(Faulty(lambda x: x * 0 + bad), CARD)
    with pytest.raises(RenderError, match=r"^latents: 256 of 256 numbers are not finite$"):
        decode(embedded.codec, torch.full((1, 4, 8, 8), bad))


def test_memory_that_runs_out_is_said():
    def run_out(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(RenderError, match=r"^out of memory on cpu at 64 × 64: choose a smaller"):
        round_trip(Faulty(run_out), CARD)


@pytest.mark.parametrize("size", [(64, 63), (60, 64), (64, 8), (0, 0)])
def test_sizes_that_do_not_fit_are_refused(embedded: Model, size: tuple[int, int]):
    with pytest.raises(PictureError, match=r"sides must be multiples of 8, 16 or more$"):
        round_trip(embedded.codec, torch.zeros(1, 3, *size))


# Sizes


@pytest.mark.parametrize(
    ("size", "side", "chosen"),
    [
        ((640, 427), None, (640, 424)),
        ((23, 16), None, (16, 16)),
        ((640, 427), 128, (128, 128)),
        ((10, 10), 64, (64, 64)),
        ((4000, 3000), None, (1184, 888)),  # 1024² pixels at 4 : 3
        ((1024, 1024), None, (1024, 1024)),
    ],
)
def test_the_size_of_a_trip(
    embedded: Model, size: tuple[int, int], side: int | None, chosen: tuple[int, int]
):
    assert choose_trip_size(embedded.codec, size, side) == chosen


def test_sizes_that_cannot_be_are_refused(embedded: Model):
    codec = embedded.codec

    for side in (100, 8):
        with pytest.raises(SpecError, match=f"^size = {side}: must be a multiple of 8, 16 or more"):
            choose_trip_size(codec, (64, 64), side)
    with pytest.raises(PictureError, match=r"^a picture of 15 × 400 pixels: sides must be 16 or"):
        choose_trip_size(codec, (15, 400))
    with pytest.raises(SpecError, match="sides must be between"):
        choose_trip_size(codec, (16_384, 1000 * MAX_AREA))


def test_what_is_cut_off_lies_around_and_no_pixel_is_changed(embedded: Model):
    levels = torch.randint(0, 256, (29, 35, 3), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(levels.to(torch.uint8).numpy())

    pixels = fit_trip(embedded.codec, image)

    kept = levels[2:26, 1:33].permute(2, 0, 1)[None]  # 5 rows and 3 columns are too many
    assert torch.equal(((pixels + 1) * 127.5).round().long(), kept)
    assert fit_trip(embedded.codec, image, 64).shape == (1, 3, 64, 64)


def test_a_large_picture_is_made_smaller(embedded: Model):
    image = Image.new("RGB", (2048, 1024), "red")

    pixels = fit_trip(embedded.codec, image)

    assert pixels.shape == (1, 3, 728, 1448)
    assert pixels[0, :, 5, 5].tolist() == [1, -1, -1]


def test_a_summary_is_the_mean_and_reads_again(embedded: Model):
    assert isinstance(embedded.codec, VaeCodec)
    reports = [
        PictureReport(**dict(measure_trip(embedded.codec, pixels)[1]), image="a", files={})
        for pixels in (CARD, -CARD)
    ]
    autoencoder = Autoencoder(name="embedded", hash="0" * 64, codec=embedded.codec)

    found = summarise(autoencoder, check_codec(embedded.codec), reports)

    assert found.psnr == pytest.approx((reports[0].psnr + reports[1].psnr) / 2)
    assert found.ssim == pytest.approx((reports[0].ssim + reports[1].ssim) / 2)
    assert (found.lpips, found.device, found.dtype) == (None, "cpu", "float32")
    assert TripsReport.model_validate_json(found.model_dump_json()) == found
