"""Pictures of any size come to a size the model takes, and it is known what became of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SpecError
from pipeline.fitting import LARGEST, SMALLEST, Fitted, choose_size, fit_box, fit_image
from pipeline.spec import FITS, Fit, Sampling

SIDES = st.integers(1, 10_000)
SIZES = st.tuples(SIDES, SIDES)
SMALL_SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
AREAS = st.sampled_from([128 * 128, 512 * 512, 768 * 768, 1024 * 1024])
MULTIPLES = st.sampled_from([1, 8, 16, 64])

every_fit = pytest.mark.parametrize("fit", FITS)
any_fit = st.sampled_from(FITS)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    levels = np.zeros((height, width, 3), np.uint8)
    levels[..., 0] = np.linspace(0, 255, width)[None, :]
    levels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(levels)


def speckle(width: int, height: int) -> Image.Image:
    """Colours without a pattern, the same each time."""
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


@given(SIZES, AREAS, MULTIPLES)
def test_a_size_keeps_aspect_and_area(size: tuple[int, int], area: int, multiple: int):
    exact = math.sqrt(area * size[0] / size[1]), math.sqrt(area * size[1] / size[0])
    try:
        chosen = choose_size(size, area, multiple)
    except SpecError:
        assert min(exact) < SMALLEST + multiple / 2 or max(exact) > LARGEST - multiple / 2
        return

    assert all(side % multiple == 0 for side in chosen)
    assert all(SMALLEST <= side <= LARGEST for side in chosen)
    # Each is the nearest multiple to the side that keeps aspect and area; 1e-9 is for the roots.
    assert all(abs(a - b) <= multiple / 2 + 1e-9 for a, b in zip(chosen, exact, strict=True))


@given(st.floats(-math.log(3), math.log(3)))
def test_the_aspect_of_a_usual_picture_is_kept_to_two_percent(logarithm: float):
    """At 512 × 512 in steps of 8, up to 3 : 1: 4 of 296 pixels and 4 of 887 are 1.8 % together."""
    size = round(5000 * math.exp(logarithm / 2)), round(5000 * math.exp(-logarithm / 2))

    width, height = choose_size(size, 512 * 512, 8)

    assert width / height == pytest.approx(size[0] / size[1], rel=0.0185)


@given(st.integers(2, 128), st.integers(2, 128), MULTIPLES)
def test_a_size_that_can_be_kept_is_kept(columns: int, rows: int, multiple: int):
    size = columns * multiple, rows * multiple
    assume(min(size) >= SMALLEST)

    assert choose_size(size, size[0] * size[1], multiple) == size


@given(SIZES, MULTIPLES, st.integers(1, 30), st.booleans())
def test_a_side_that_is_given_stays_and_the_other_follows(
    size: tuple[int, int], multiple: int, count: int, is_width: bool
):
    side = count * multiple
    aspect = size[0] / size[1]
    exact = side / aspect if is_width else side * aspect
    try:
        width, height = choose_size(
            size, 512 * 512, multiple, side if is_width else None, None if is_width else side
        )
    except SpecError:
        short, long = sorted((exact, side))
        assert short < SMALLEST + multiple / 2 or long > LARGEST - multiple / 2
        return

    kept, other = (width, height) if is_width else (height, width)
    assert kept == side
    assert other % multiple == 0
    assert abs(other - exact) <= multiple / 2 + 1e-9


def test_sizes_by_example():
    assert choose_size((4000, 3000), 512 * 512, 8) == (592, 440)
    assert choose_size((3000, 4000), 1024 * 1024, 64) == (896, 1152)
    assert choose_size((1000, 500), 512 * 512, 8, width=640) == (640, 320)
    assert choose_size((1000, 500), 512 * 512, 8, height=320) == (640, 320)
    assert choose_size((1000, 500), 512 * 512, 8, width=24, height=96) == (24, 96)
    assert choose_size((1000, 500), 512 * 512, 8, SMALLEST, LARGEST) == (SMALLEST, LARGEST)


@pytest.mark.parametrize(
    ("size", "multiple", "sides", "said"),
    [
        ((8000, 10), 8, {}, r"8000 × 10 pixels would become 14480 × 16: sides must be between 16"),
        ((10, 8000), 8, {}, r"10 × 8000 pixels would become 16 × 14480: .* and 8192, say width"),
        ((8000, 10), 8, {"width": 512}, r"would become 512 × 0: "),
        # A side of 11 pixels is nearer to none than to 64: it is not made six times as long.
        ((800, 18), 64, {"width": 512}, r"would become 512 × 0: "),
        ((10, 8000), 8, {"width": 512}, r"would become 512 × 409600: "),
        ((100, 100), 8, {"width": 8}, r"would become 8 × 8: "),
        ((100, 100), 8, {"width": 500}, r"width = 500: must be a multiple of 8"),
        ((100, 100), 64, {"width": 512, "height": 520}, r"height = 520: must be a multiple of 64"),
    ],
)
def test_what_cannot_be_kept_is_refused(size, multiple: int, sides: dict[str, int], said: str):
    with pytest.raises(SpecError, match=said):
        choose_size(size, 512 * 512, multiple, **sides)


def test_sides_end_where_those_of_a_spec_end():
    assert Sampling(width=SMALLEST, height=LARGEST)
    for side in (SMALLEST - 1, LARGEST + 1):
        with pytest.raises(SpecError, match=f"between {SMALLEST} and {LARGEST}"):
            Sampling(width=side)


@every_fit
def test_a_picture_of_the_size_is_not_touched(fit: Fit):
    image = speckle(64, 32)
    before = image.tobytes()

    fitted = fit_image(image, (64, 32), fit)

    assert fitted.image is image
    assert fitted.image.tobytes() == before
    assert fitted.box == (0, 0, 64, 32)


@given(SIZES, SIZES, any_fit)
def test_boxes_lie_inside_in_the_middle_and_keep_the_aspect(
    old: tuple[int, int], new: tuple[int, int], fit: Fit
):
    left, top, right, bottom = fit_box(old, new, fit)
    within, aspect = (old, new[0] / new[1]) if fit == "crop" else (new, old[0] / old[1])

    assert 0 <= left < right <= within[0]
    assert 0 <= top < bottom <= within[1]
    assert (right - left == within[0]) or (bottom - top == within[1])
    if fit == "crop":  # anywhere between pixels; what is left is rounding
        assert right - left == pytest.approx(aspect * (bottom - top), rel=1e-9)
        assert left == pytest.approx(old[0] - right, abs=1e-9)
        assert top == pytest.approx(old[1] - bottom, abs=1e-9)
    else:  # whole pixels: one side is half a pixel off, or is one pixel where it would be none
        assert all(edge == int(edge) for edge in (left, top, right, bottom))
        width, height = right - left, bottom - top
        across, down = abs(width - height * aspect), abs(height - width / aspect)
        assert min(across, down) <= 0.5 + 1e-9 or min(width, height) == 1
        assert 0 <= (new[0] - right) - left <= 1
        assert 0 <= (new[1] - bottom) - top <= 1


@given(SMALL_SIZES, SMALL_SIZES, any_fit)
def test_every_picture_comes_to_every_size(old: tuple[int, int], new: tuple[int, int], fit: Fit):
    image = speckle(*old)

    fitted = fit_image(image, new, fit)

    assert fitted == Fitted(fitted.image, fit_box(old, new, fit))
    assert (fitted.image.size, fitted.image.mode) == (new, "RGB")
    assert image.tobytes() == speckle(*old).tobytes()  # what was given is not written to


def test_crop_cuts_both_sides_alike():
    fitted = fit_image(gradient(200, 100), (50, 50), "crop")

    assert fitted.box == (50, 0, 150, 100)
    red = np.asarray(fitted.image)[25, :, 0].astype(int)
    # A quarter of the way from the left, and from the right: 64 and 191 of 255, a pixel is 2.6.
    assert abs(red[0] - 64) <= 3
    assert abs(red[-1] - 191) <= 3
    assert np.abs(red + red[::-1] - 255).max() <= 2  # two roundings


@pytest.mark.parametrize("size", [(60, 60), (60, 61), (300, 120), (40, 90)])
def test_pad_shows_all_of_it_and_repeats_the_edges(size: tuple[int, int]):
    fitted = fit_image(speckle(200, 100), size, "pad")

    left, top, right, bottom = map(int, fitted.box)
    levels = np.asarray(fitted.image)
    inside = levels[top:bottom, left:right]
    beside = (top, size[1] - bottom), (left, size[0] - right), (0, 0)
    assert np.array_equal(levels, np.pad(inside, beside, mode="edge"))


def test_a_plain_picture_stays_plain():
    for fit in FITS:
        fitted = fit_image(Image.new("RGB", (100, 70), (200, 30, 10)), (50, 80), fit)

        assert (np.asarray(fitted.image) == (200, 30, 10)).all()
