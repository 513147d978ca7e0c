"""Guidance is one call a step, per sample, and only where it is asked for."""

from __future__ import annotations

import torch

from pipeline.guidance import condition, guide, limit
from pipeline.tensors import PromptEmbeds

LATENTS = torch.zeros(2, 4, 2, 2)
POSITIVE = PromptEmbeds(torch.full((2, 3, 5), 3.0))
NEGATIVE = PromptEmbeds(torch.full((2, 3, 5), 1.0))
TIMESTEP = torch.tensor(7)


class Network:
    """Predicts the mean of a sample's embeds, and counts its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, latents, timestep, prompt):
        self.batches.append(len(latents))
        return prompt.embeds.mean((1, 2)).view(-1, 1, 1, 1).expand_as(latents)


def test_both_prompts_share_one_call():
    network = Network()
    predict = guide(network, POSITIVE, NEGATIVE, torch.tensor([2.0, 2.0]))

    predict(LATENTS, TIMESTEP, 0)

    assert network.batches == [4]


def test_each_sample_has_its_own_scale_and_none_below_one():
    predict = guide(Network(), POSITIVE, NEGATIVE, torch.tensor([4.0, 0.0]))

    prediction = predict(LATENTS, TIMESTEP, 0)

    assert prediction[0].unique().item() == 1 + 4 * (3 - 1)
    assert prediction[1].unique().item() == 3  # unguided: the prompt's own prediction


def test_outside_its_interval_guidance_costs_nothing():
    network = Network()
    plain = condition(network, POSITIVE)
    guided = guide(network, POSITIVE, NEGATIVE, torch.tensor([4.0, 4.0]))
    predict = limit(guided, plain, (0.25, 0.75), 4)

    values = [predict(LATENTS, TIMESTEP, index)[0].unique().item() for index in range(4)]

    assert values == [3, 9, 9, 3]
    assert network.batches == [2, 4, 4, 2]
