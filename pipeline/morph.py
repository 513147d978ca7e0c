"""Keyframes to a path: what a morph goes through, as points.

Knows prompts and seeds; knows no pictures, no time and no file.
"""

from __future__ import annotations

from functools import cache

from pipeline.model import Model
from pipeline.noise import NoiseMix
from pipeline.path import Path, Point
from pipeline.prompts import pad_embeds
from pipeline.spec import Keyframe, MorphSpec
from pipeline.tensors import PromptEmbeds


def find_path(model: Model, spec: MorphSpec) -> Path:
    """The path through the keyframes of `spec`. No prompt is encoded twice.

    All prompts become as long as the longest, by windows of the empty prompt.
    """
    spec = model.resolve(spec)
    shape = model.noise_shape(spec.sampling)
    prompts = _encode_all(model, spec)
    tokens = max(prompt.embeds.shape[1] for pair in prompts for prompt in pair)
    keypoints = []
    for keyframe, pair in zip(spec.keyframes, prompts, strict=True):
        noise, scale = NoiseMix.single(keyframe.seed), keyframe.guidance_scale
        positive, negative = (pad_embeds(prompt, model.empty_embeds, tokens) for prompt in pair)
        assert scale is not None  # of a resolved spec
        keypoints.append(
            Point(
                noise=noise.draw(shape),
                step_noise=noise,
                prompt_embeds=positive,
                negative_prompt_embeds=negative,
                guidance_scale=scale,
            )
        )
    return Path(
        keypoints=keypoints,
        loop=spec.loop,
        is_smooth=spec.is_smooth,
        blend=spec.blend,
        widths=model.text.widths,
    )


def _encode_all(model: Model, spec: MorphSpec) -> list[tuple[PromptEmbeds, PromptEmbeds]]:
    """The positive and the negative prompt of each keyframe."""

    @cache
    def encode(prompt: str, plain: bool) -> PromptEmbeds:
        return model.text.encode(prompt, plain=plain) if prompt else model.empty_embeds

    def encode_pair(keyframe: Keyframe) -> tuple[PromptEmbeds, PromptEmbeds]:
        positive = encode(keyframe.prompt, keyframe.plain)
        if keyframe.negative_prompt is None and model.text.zeros_if_no_negative:
            return positive, positive.zeros()
        return positive, encode(keyframe.negative_prompt or "", keyframe.plain)

    return [encode_pair(keyframe) for keyframe in spec.keyframes]
