"""Keyframes become the points that stills of the same words and seeds are made from."""

from __future__ import annotations

import pytest
import torch

from pipeline.model import Model
from pipeline.morph import find_path
from pipeline.path import Point
from pipeline.prompts import TextEncoders
from pipeline.render import points, render
from pipeline.spec import Keyframe, MorphSpec, Sampling, StillSpec

QUICK = Sampling(num_inference_steps=2, batch_size=1)


def morph(*keyframes: Keyframe, **more: object) -> MorphSpec:
    return MorphSpec(keyframes=keyframes, sampling=QUICK, **more)


def is_same(a: Point, b: Point) -> bool:
    pairs = [
        (a.noise, b.noise),
        (a.prompt_embeds.embeds, b.prompt_embeds.embeds),
        (a.negative_prompt_embeds.embeds, b.negative_prompt_embeds.embeds),
    ]
    if a.prompt_embeds.pooled is not None and b.prompt_embeds.pooled is not None:
        pairs.append((a.prompt_embeds.pooled, b.prompt_embeds.pooled))
    return all(torch.equal(p, q) for p, q in pairs) and (a.guidance_scale, a.step_noise) == (
        b.guidance_scale,
        b.step_noise,
    )


@pytest.mark.parametrize("negative", [None, "", "a cat"])
@pytest.mark.parametrize("name", ["tiny", "tiny_xl"])
def test_a_keyframe_is_the_still_of_its_words(
    name: str, negative: str | None, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    keyframe = Keyframe(prompt="an apple", negative_prompt=negative, seed=7, guidance_scale=4)
    other = Keyframe(prompt="a pear", seed=8)
    path = find_path(model, morph(keyframe, other))
    still = StillSpec(
        prompt="an apple",
        negative_prompt=negative,
        seed=7,
        sampling=QUICK.replace(guidance_scale=4.0),
    )
    (point,) = points(model, still)
    assert is_same(path(0), point)
    (a,), (b,) = (render(model, QUICK, [p]) for p in (path(0), point))
    assert torch.equal(a.pixels, b.pixels)


def test_guidance_is_the_morphs_where_a_keyframe_says_nothing(tiny: Model) -> None:
    sampling = QUICK.replace(guidance_scale=2.5)
    spec = MorphSpec(
        keyframes=(Keyframe(prompt="a"), Keyframe(prompt="b", guidance_scale=0)), sampling=sampling
    )
    path = find_path(tiny, spec)
    assert (path(0).guidance_scale, path(1).guidance_scale) == (2.5, 0)


def test_each_prompt_is_encoded_once(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = TextEncoders.encode

    def count(self: TextEncoders, prompt: str, *, plain: bool = False) -> object:
        asked.append(prompt)
        return encode(self, prompt, plain=plain)

    monkeypatch.setattr(TextEncoders, "encode", count)
    monkeypatch.delitem(vars(tiny), "empty_embeds", raising=False)
    prompts = ["a", "b", "a", "c", "b"]
    find_path(tiny, morph(*(Keyframe(prompt=p, seed=k) for k, p in enumerate(prompts))))
    assert sorted(asked) == ["", "a", "b", "c"]


def test_prompts_of_unequal_length_are_as_long_as_the_longest(tiny: Model) -> None:
    long = " ".join(["pear"] * (tiny.text.encoders[0].room + 5))
    path = find_path(tiny, morph(Keyframe(prompt="a"), Keyframe(prompt=long)))
    short, both = path(0).prompt_embeds.embeds, path(1).prompt_embeds.embeds
    assert short.shape == both.shape
    window = tiny.empty_embeds.embeds.shape[1]
    assert torch.equal(short[:, window:], tiny.empty_embeds.embeds)
    assert path(0.5).negative_prompt_embeds.embeds.shape == both.shape


def test_the_blocks_of_two_text_encoders_are_blended_each_by_itself(tiny_xl: Model) -> None:
    path = find_path(tiny_xl, morph(Keyframe(prompt="a cat"), Keyframe(prompt="a dog")))
    assert sum(path.widths) == path(0).prompt_embeds.embeds.shape[-1] and len(path.widths) == 2
    lengths = [
        [block.norm(dim=-1) for block in point.prompt_embeds.embeds.split(list(path.widths), -1)]
        for point in (path(0), path(0.5), path(1))
    ]
    for start, middle, end in zip(*lengths, strict=True):
        # The length of each token goes linearly in each block; float32 keeps 1e-7 of it.
        torch.testing.assert_close(middle, (start + end) / 2, rtol=1e-5, atol=1e-6)
