"""Judges of the study: all of it is 1, none of it 0, and what they count is what they say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.tensors import Pixels
from scripts import study_cards
from scripts.study_cards import (
    SIDE,
    Card,
    draw_cards,
    judge_colours,
    judge_edges,
    judge_tiles,
    judge_variance,
    shrink,
)


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    """Those that need no package and no font."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_cards, "SCENES", 2)
        patch.setattr(study_cards, "find_spec", lambda name: None)
        return {card.name: card for card in draw_cards()}


def blur(pixels: Pixels, size: int = 9) -> Tensor:
    return F.avg_pool2d(pixels, size, 1, size // 2, count_include_pad=False)


NAMES = ("edges", "text", "colours", "noise")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [256, 64])
def test_a_judge_gives_all_none_and_something_between(
    cards: dict[str, Card], name: str, side: int
) -> None:
    card = cards[name]
    pixels = shrink(card.scenes, side)
    plain = pixels.mean((2, 3), keepdim=True).expand_as(pixels)

    assert pixels.shape == (2, 3, side, side)
    assert card.judge(pixels, pixels) == pytest.approx(1, abs=1e-6)
    # of 36 letters a plain picture is nearest to one
    assert card.judge(pixels, plain) <= (0.1 if name == "text" else 1e-6)
    assert 0 <= card.judge(pixels, plain) < card.judge(pixels, blur(pixels, 5)) < 1 or (
        name == "text"  # blurred letters may all be recognised
    )


def test_scenes_are_always_the_same(cards: dict[str, Card]) -> None:
    assert list(cards) == list(NAMES)
    for name, draw in (("edges", study_cards._draw_edges), ("text", study_cards._draw_text)):
        again = study_cards._draw_many(draw)
        assert torch.equal(again[:2], cards[name].scenes)


def test_edges_half_as_steep_are_half_kept() -> None:
    steps = torch.zeros(1, 3, 32, 32)
    steps[..., 16:] = 1

    assert judge_edges(steps, steps / 2) == 0.5
    assert judge_edges(steps, steps.roll(1, 3)) == 0  # moved edges are lost ones


def test_variance_by_hand() -> None:
    x = torch.tensor([-1.0, 1.0]).repeat(32).view(1, 1, 8, 8).repeat(1, 3, 1, 1)

    assert judge_variance(x, x / 2) == pytest.approx(0.75)
    assert judge_variance(x, -x) == 0


def test_colours_are_those_of_the_eye(cards: dict[str, Card]) -> None:
    scenes = cards["colours"].scenes

    assert judge_colours(scenes, scenes * 0.9) > judge_colours(scenes, scenes * 0.5) > 0
    grey = scenes.mean(1, keepdim=True).expand_as(scenes)
    assert judge_colours(scenes, grey) < 0.5


def test_tiles_that_change_places_are_not_recognised() -> None:
    drawn = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    judge = judge_tiles(64)

    assert judge(drawn, drawn + 0.1 * torch.rand_like(drawn)) == 1
    assert judge(drawn, drawn.roll(64, 2)) == 0
    half = torch.cat([drawn[:, :, :128], drawn[:, :, 128:].roll(64, 3)], 2)
    assert judge(drawn, half) == 0.5


def test_shrinking_takes_means() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)

    assert shrink(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert shrink(x, 4) is x


def test_people_are_those_never_shown_in_training() -> None:
    pytest.importorskip("emoji")
    people = study_cards._draw_people()
    if people is None:
        pytest.skip("the font is missing: apt-get install fonts-noto-color-emoji")

    assert people.shape == (study_cards.PEOPLE // 4, 3, SIDE, SIDE)
    assert (people[:, :, 0, 0] == 1).all()  # on white
    tiles = study_cards._cut(people, SIDE // 2)
    assert len(torch.unique(tiles, dim=0)) == study_cards.PEOPLE


def test_photographs_fill_their_scenes() -> None:
    pytest.importorskip("skimage")

    scenes = study_cards._load_photographs()

    assert scenes.shape == (len(study_cards.PHOTOGRAPHS), 3, SIDE, SIDE)
    assert scenes.std() > 0.3
