"""Keys: the same for the same picture, and another for whatever decides a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.identity import Identity
from pipeline.model import Model
from pipeline.noise import NoiseMix
from pipeline.path import Point
from pipeline.render import points
from pipeline.spec import Sampling, StillSpec
from pipeline.tensors import PromptEmbeds

QUICK = Sampling(num_inference_steps=2)


@pytest.fixture
def point(tiny: Model) -> Point:
    (found,) = points(tiny, StillSpec(prompt="a pear", seed=3, sampling=QUICK))
    return found


def key(model: Model, sampling: Sampling, point: Point) -> str:
    return Identity(model, model.complete(sampling)).rendered(point)


def test_the_same_point_has_the_same_key(tiny: Model, point: Point) -> None:
    (again,) = points(tiny, StillSpec(prompt="a pear", seed=3, sampling=QUICK))
    assert key(tiny, QUICK, point) == key(tiny, QUICK, again)
    assert len(key(tiny, QUICK, point)) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 1.5},
        {"guidance_interval": (0.0, 0.5)},
        {"scheduler": "euler"},
        {"batch_size": 2},
        {"width": 64},
    ],
)
def test_all_of_the_sampling_counts(tiny: Model, point: Point, change: dict[str, object]) -> None:
    assert key(tiny, QUICK, point) != key(tiny, QUICK.replace(**change), point)


def test_all_of_the_point_counts(tiny: Model, point: Point) -> None:
    embeds = point.prompt_embeds.embeds
    changed = PromptEmbeds(embeds + 1e-6)
    others = [
        replace(point, noise=point.noise * (1 + 1e-6)),
        replace(point, step_noise=NoiseMix.single(4)),
        replace(point, step_noise=NoiseMix((3, 4), (0.5, 0.5))),
        replace(point, step_noise=NoiseMix((3, 4), (0.5, 0.5), is_arc=True)),
        replace(point, prompt_embeds=changed),
        replace(point, negative_prompt_embeds=changed),
        replace(point, guidance_scale=point.guidance_scale + 1e-9),
        replace(point, prompt_embeds=PromptEmbeds(embeds, torch.ones(1, 3))),
    ]
    keys = {key(tiny, QUICK, other) for other in [point, *others]}
    assert len(keys) == 1 + len(others)


def test_the_model_counts_and_its_place_does_not(
    tiny: Model, tiny_velocity: Model, point: Point
) -> None:
    found = key(tiny, QUICK, point)
    assert found != key(tiny_velocity, QUICK, point)
    assert found != key(replace(tiny, hashes={"a.safetensors": "0" * 64}), QUICK, point)
    assert found != key(replace(tiny, dtype=torch.float16), QUICK, point)
    config = {**tiny.scheduler_config, "beta_end": 0.02}
    assert found != key(replace(tiny, scheduler_config=config), QUICK, point)


def test_what_is_solved_is_known_by_its_place_and_what_it_is_solved_from(tiny: Model) -> None:
    identity = Identity(tiny, tiny.complete(QUICK))
    support = [(0.0, "a" * 64), (1.0, "b" * 64)]
    keys = {
        identity.solved(0.5, support),
        identity.solved(0.5 + 1e-12, support),
        identity.solved(0.5, [(0.0, "a" * 64), (1.0, "c" * 64)]),
        identity.solved(0.5, [(0.1, "a" * 64), (1.0, "b" * 64)]),
        identity.timed(support, [17]),
        identity.timed(support, [33]),
    }
    assert len(keys) == 6
