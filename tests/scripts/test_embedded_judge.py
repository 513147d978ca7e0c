"""The judge of the embedded model: it passes what is right, and it can fail."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.embedded.captions import COLOURS, WHITE, is_held_out
from scripts.embedded.compose import draw_procedural
from scripts.embedded.emojis import Emoji
from scripts.embedded.judge import measure_distances, measure_grounds, rank, shrink
from scripts.embedded.retrieval import (
    Renders,
    Request,
    choose_held_out,
    choose_seen,
    count_hits,
    match_grounds,
    rank_requests,
)
from tests.scripts.toys import create_renders


@pytest.fixture(scope="module")
def renders() -> Renders:
    return create_renders([f"thing {i}" for i in range(12)])


def _pictures(renders: Renders, colour: str = WHITE) -> Tensor:
    return torch.cat([renders.draw(i, colour) for i in range(len(renders.emojis))])


def test_what_looks_the_same_is_a_hit_wherever_it_stands():
    """Products of large matrices differ in their last bits from one column to another."""
    several = draw_procedural(40, seed=0)
    candidates = torch.cat([several[:1], several, several[:1], several[1:30], several[:1]])
    same = [0, 1, 41, len(candidates) - 1]

    distances = measure_distances(draw_procedural(5, seed=1), candidates)

    assert all(torch.equal(distances[:, 0], distances[:, i]) for i in same)
    for own in same:
        assert rank(several[:1], candidates, torch.tensor([own])).tolist() == [0]


def test_a_hair_of_difference_decides():
    """One grey level in one small square is seen, and the right one of the two is nearer."""
    first = draw_procedural(1, seed=0).clamp(-0.9, 0.9)
    second = first.clone()
    second[..., :4, :4] += 2 / 255
    candidates = torch.cat([first, second])

    assert rank(candidates, candidates, torch.tensor([0, 1])).tolist() == [0, 0]
    assert rank(candidates, candidates, torch.tensor([1, 0])).tolist() == [1, 1]


@pytest.mark.parametrize("zoom", [0.85, 1.0, 1.2])
def test_renders_are_known_again_when_they_are_zoomed(renders: Renders, zoom: float):
    pictures = _pictures(renders)
    side = round(128 * zoom)
    zoomed = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
    edge = (side - 128) // 2
    moved = F.pad(zoomed, [-edge] * 4, value=1.0)

    assert moved.shape[-1] in (127, 128, 129)
    assert not rank(moved, pictures, torch.arange(12)).any()


def test_distances_are_squared_distances_of_small_pictures():
    pictures, candidates = draw_procedural(3, seed=0), draw_procedural(4, seed=1)

    found = measure_distances(pictures, candidates)

    direct = (shrink(pictures)[:, None] - shrink(candidates)[None]).square().sum((2, 3, 4))
    # Zooms can only come nearer; zoom 1 resamples at the pixels' own middles, up to float32.
    assert (found <= direct + 1e-3).all()
    itself = measure_distances(candidates, candidates).diagonal()
    assert itself.abs().max() < 1e-6


def test_noise_and_another_picture_are_no_hits(renders: Renders):
    pictures = _pictures(renders)
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    # Noise is nearest to the one palest or greyest picture, whatever was asked for.
    assert (rank(noise, pictures, torch.arange(12)) == 0).sum() <= 1
    assert (rank(pictures.roll(1, 0), pictures, torch.arange(12)) > 0).all()


def test_hits_are_counted():
    assert count_hits(torch.tensor([0, 0, 1, 4, 5, 300])) == {
        "top1": pytest.approx(2 / 6),
        "top5": pytest.approx(4 / 6),
    }


@pytest.mark.parametrize("colour", COLOURS)
def test_small_looks_are_what_the_judge_makes_of_whole_pictures(renders: Renders, colour: str):
    whole = torch.cat([renders.draw(i, colour) for i in range(3)])

    # Shrinking first or laying over a plain ground first: the same but for rounding in float32.
    assert (renders.looks(colour)[:3] - shrink(whole)).abs().max() < 1e-5


@pytest.mark.parametrize("colour", COLOURS)
def test_a_ground_is_measured_behind_what_is_drawn(renders: Renders, colour: str):
    pictures = _pictures(renders, colour)

    expected = torch.tensor(COLOURS[colour]) / 127.5 - 1

    assert (measure_grounds(pictures) - expected).abs().max() < 1e-5
    requests = [Request(prompt="", index=i, colour=colour) for i in range(12)]
    assert match_grounds(pictures, requests).all()
    # A decoder that is off by a tenth of the range still names the colours right.
    assert match_grounds((pictures + 0.1).clamp(-1, 1), requests).all()


def test_the_right_thing_on_the_wrong_ground_is_a_miss(renders: Renders):
    requests = [Request(prompt="", index=i, colour="teal") for i in range(12)]

    assert not rank_requests(_pictures(renders, "teal"), requests, renders).any()
    missed = rank_requests(_pictures(renders, "red"), requests, renders)
    assert (missed == len(renders.emojis)).all()


def test_requests_on_several_grounds_are_judged_each_on_its_own(renders: Renders):
    colours = ["teal", WHITE, "beige", "teal", WHITE]
    requests = [Request(prompt="", index=i, colour=c) for i, c in enumerate(colours)]
    drawn = torch.cat([renders.draw(r.index, r.colour) for r in requests])
    drawn[4:] = renders.draw(7)

    assert rank_requests(drawn, requests, renders).bool().tolist() == [False] * 4 + [True]


def _people(number: int) -> list[Emoji]:
    tones = ("light", "medium-light", "medium", "medium-dark", "dark")
    return [
        Emoji(
            characters="x",
            name=f"woman {i}, {tone} skin tone",
            tones=(tone,),
            base=f"woman {i}",
            aliases=(),
        )
        for i in range(number)
        for tone in tones
    ]


def _faces(number: int) -> list[Emoji]:
    return [
        Emoji(characters="x", name=f"face {i}", tones=(), base=f"face {i}", aliases=())
        for i in range(number)
    ]


def test_the_sample_is_fixed_and_holds_as_many_things_as_people():
    emojis = _people(30) + _faces(60)
    random.seed(1)

    chosen = choose_seen(emojis, 41)

    assert [len(requests) for requests in chosen.values()] == [21, 20]
    assert chosen == choose_seen(emojis, 41)
    for group, requests in chosen.items():
        for request in requests:
            emoji = emojis[request.index]
            assert request.prompt == emoji.name and not emoji.held_out
            assert bool(emoji.tones) == (group == "people")


def test_all_that_is_held_out_is_asked_for_once():
    emojis = _people(30) + _faces(20)

    chosen = choose_held_out(emojis)

    people, faces = chosen["held_out_people"], chosen["held_out_faces"]
    assert [r.index for r in people] == [i for i, e in enumerate(emojis) if e.held_out]
    pairs = {(r.index, r.colour) for r in faces}
    assert len(pairs) == len(faces) > 10
    assert all(is_held_out(emojis[i], c) and not emojis[i].held_out for i, c in pairs)
    assert all(r.colour in r.prompt and emojis[r.index].name in r.prompt for r in faces)
    expected = sum(is_held_out(e, c) for e in emojis[150:] for c in COLOURS)
    assert len(faces) == expected
