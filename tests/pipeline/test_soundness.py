"""The judge of codecs can fail them: for a wrong scale on both ways, on one way, for no picture."""

from __future__ import annotations

import pytest
import torch

from pipeline.codec import Codec, PixelCodec
from pipeline.errors import RenderError
from pipeline.model import Model
from pipeline.soundness import check_codec, draw_card
from pipeline.tensors import Latents, Pixels


class Scaled(Codec):
    """A codec whose latents are scaled by one factor on the way in, another on the way out."""

    def __init__(self, codec: Codec, into: float, out: float) -> None:
        self.codec, self.into, self.out = codec, into, out
        self.channels, self.downscale = codec.channels, codec.downscale

    def encode(self, pixels: Pixels) -> Latents:
        return self.codec.encode(pixels) * self.into

    def decode(self, latents: Latents) -> Pixels:
        return self.codec.decode(latents / self.out)

    def preview(self, latents: Latents) -> Pixels:
        return self.codec.preview(latents / self.into)


def test_the_shipped_codec_is_sound(embedded: Model):
    report = check_codec(embedded.codec)

    assert report.faults == ()
    # what the training folds into its weights: unit deviation for pictures like the card
    assert report.std == pytest.approx(1, abs=0.1)
    assert report.gain == pytest.approx(1, abs=0.05)
    assert report.psnr > report.plain_psnr + 5


def test_pixels_come_back_as_they_went():
    report = check_codec(PixelCodec())

    assert (report.gain, report.faults) == (1, ())
    assert report.psnr == float("inf")


@pytest.mark.parametrize("factor", [0.18215, 0.13025, 1 / 0.18215])
def test_a_scale_that_is_wrong_on_both_ways_is_named(embedded: Model, factor: float):
    """A round trip alone does not show it: what is scaled is scaled back."""
    report = check_codec(Scaled(embedded.codec, factor, factor))

    (fault,) = report.faults
    assert fault.startswith(f"latents of the test card have deviation {report.std:.3g}, 0.5 to 2")
    assert report.psnr == pytest.approx(check_codec(embedded.codec).psnr, abs=0.01)


@pytest.mark.parametrize("factor", [0.18215, 0.7, 1.5, 1 / 0.18215])
def test_a_scale_on_one_way_only_is_named(embedded: Model, factor: float):
    report = check_codec(Scaled(embedded.codec, 1, factor))

    assert any(fault.startswith("latents come back ") for fault in report.faults)
    assert report.psnr < check_codec(embedded.codec).psnr - 1


def test_random_weights_keep_no_picture(tiny: Model):
    report = check_codec(tiny.codec)

    assert any("this autoencoder keeps no picture" in fault for fault in report.faults)


def test_numbers_that_are_not_finite_are_refused(embedded: Model):
    with pytest.raises(RenderError, match="not finite"):
        check_codec(Scaled(embedded.codec, 1, 0))


def test_the_card_is_always_the_same_and_holds_all_colours():
    card = draw_card(64)

    assert torch.equal(card, draw_card(64))
    assert card.shape == (1, 3, 64, 64)
    assert card.abs().max() <= 1
    assert card.std() > 0.4
    # rectangles: most neighbours are equal, as in photographs and unlike in noise
    assert (card[..., 1:] == card[..., :-1]).float().mean() > 0.7
