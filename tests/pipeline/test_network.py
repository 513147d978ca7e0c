"""What the UNet is told beside latents, time and prompt."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipeline.model import Model
from pipeline.network import bind, embed_guidance, embeds_guidance, is_xl


@pytest.mark.parametrize("width", [8, 9, 256])
def test_guidance_is_embedded_as_in_diffusers(width: int):
    scale = torch.tensor([0.0, 4.0, 7.5])

    expected = StableDiffusionPipeline.get_guidance_scale_embedding(None, scale, width)

    assert torch.equal(embed_guidance(scale, width), expected)


def test_families_are_told_apart_by_their_configs(tiny: Model, tiny_xl: Model, tiny_lcm: Model):
    assert [is_xl(m.unet) for m in (tiny, tiny_xl, tiny_lcm)] == [False, True, False]
    assert [embeds_guidance(m.unet) for m in (tiny, tiny_xl, tiny_lcm)] == [False, False, True]


def test_xl_sees_its_size_and_the_others_do_not(tiny: Model, tiny_xl: Model):
    for model, differs in ((tiny, False), (tiny_xl, True)):
        prompt, latents = model.text.encode("a pear"), torch.randn(1, 4, 16, 16)
        small, large = (
            bind(model.unet, size, torch.ones(1))(latents, torch.tensor(500), prompt)
            for size in ((32, 32), (1024, 768))
        )
        assert torch.equal(small, large) is not differs


def test_lcm_sees_guidance(tiny_lcm: Model):
    prompt, latents = tiny_lcm.text.encode("a pear"), torch.randn(1, 4, 16, 16)
    weak, strong = (
        bind(tiny_lcm.unet, (32, 32), torch.tensor([scale]))(latents, torch.tensor(500), prompt)
        for scale in (1.0, 9.0)
    )
    assert not torch.equal(weak, strong)
