"""The drawing of a report: whole, light, and of what the report says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib import _pylab_helpers
from PIL import Image
from torch import Tensor

from pipeline.figures import draw_report
from pipeline.quality import DISTANCES, distance_in
from pipeline.report import MorphReport, measure_morph

MAGENTA = (255, 0, 255)


def frames(*levels: float) -> list[Tensor]:
    return [torch.full((1, 3, 16, 16), level) for level in levels]


def report(*levels: float, **more) -> MorphReport:
    return measure_morph(frames(*levels), **more)


def thumbnails(count: int, size: tuple[int, int] = (64, 64)) -> dict[int, Image.Image]:
    return {index: Image.new("RGB", size, MAGENTA) for index in range(count)}


def count_pixels(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(-1).sum())


EVEN = [k / 12 - 0.5 for k in range(13)]
JUMPING = [*EVEN[:6], *(level + 0.4 for level in EVEN[6:])]


def noises(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((1, 4, 16, 16), generator=generator) for _ in range(count)]


def test_a_report_becomes_a_light_picture_with_its_contact_sheet():
    image = draw_report(report(*EVEN), thumbnails(9))

    assert image.mode == "RGB"
    assert image.width == 1100
    assert count_pixels(image, (255, 255, 255)) > 0.5 * image.width * image.height
    # Nine thumbnails side by side: at least 100 px square each, less the seams between them.
    assert count_pixels(image, MAGENTA) > 9 * 100 * 100
    assert count_pixels(draw_report(report(*EVEN), {}), MAGENTA) == 0


def test_what_is_measured_is_what_is_drawn():
    even, jumping = (draw_report(report(*levels), {}, "same title") for levels in (EVEN, JUMPING))

    below = (0, 150, 1100, min(even.height, jumping.height))  # under the words
    assert np.asarray(even.crop(below)).tobytes() != np.asarray(jumping.crop(below)).tobytes()


def test_noises_add_a_panel_and_thumbnails_add_rows():
    bare = draw_report(report(*EVEN), {})
    judged = draw_report(report(*EVEN, noises=noises(13)), {})
    one_row, two_rows = (draw_report(report(*EVEN), thumbnails(count)) for count in (9, 10))
    wide = draw_report(report(*EVEN), thumbnails(9, (128, 64)))

    assert judged.height > bare.height + 150
    assert two_rows.height - one_row.height == pytest.approx(one_row.height - bare.height, abs=2)
    assert bare.height < wide.height < one_row.height


@pytest.mark.parametrize(
    "made",
    [
        report(*EVEN, distances={**DISTANCES, "encoder": distance_in(lambda pixels: pixels)}),
        report(*JUMPING, pace=[0.1 + k for k in range(12)], noises=noises(13)),
        measure_morph(frames(*EVEN), [(0, 4), (6, 13)]),  # a hold, and a loop
        measure_morph(frames(*EVEN), [(k, k + 2) for k in range(11)]),  # a long verdict
        report(0.1, 0.1, 0.1),
        report(0.1, 0.9),
        report(*torch.linspace(-1, 1, 200).tolist()),
    ],
    ids=["three distances", "pace", "loop", "many segments", "still", "short", "long"],
)
def test_nothing_is_cut_off(made: MorphReport):
    """At its borders the picture is white: no word and no line runs out of it."""
    pixels = np.asarray(draw_report(made, thumbnails(3)))

    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert (edge == 255).all()


def test_a_name_is_drawn_as_it_stands():
    """What looks like a formula is none."""
    odd = report(*EVEN, distances={"$x^{$": distance_in(lambda pixels: pixels)})

    assert draw_report(odd, {}, r"50 $ to \frac $").width == 1100


def test_drawings_at_once_are_those_one_by_one_and_leave_nothing_behind():
    reports = [report(*EVEN), report(*JUMPING)]
    alone = [draw_report(made, thumbnails(3)).tobytes() for made in reports]

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda made: draw_report(made, thumbnails(3)).tobytes(), reports))

    assert together == alone
    assert not _pylab_helpers.Gcf.figs
