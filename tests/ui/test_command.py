"""A command makes the same spec again, through the command line's own parser."""

from __future__ import annotations

import shlex

import pytest

from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling, StillSpec, VideoSpec
from pipeline.values import parse_spec
from scripts import generate, morph
from scripts.command import _parse
from ui.command import as_command, as_morph_command

FULL = Sampling(
    num_inference_steps=7, guidance_scale=2.5, height=64, width=128, scheduler="dpm++2m-karras"
)
HELD = ModelSpec(source="some/model", revision="abc", device="cuda:1", dtype="bfloat16")


def parsed(command: str) -> StillSpec:
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "scripts.generate"]
    request = _parse("generate", generate.app, words[3:])
    return parse_spec(StillSpec, {}, request.overrides)


@pytest.mark.parametrize(
    "spec",
    [
        StillSpec(prompt="a red apple"),
        StillSpec(prompt="a red apple", negative_prompt="", seed=2**32 - 1),
        StillSpec(prompt="", seed=3, count=4),
        StillSpec(prompt="--seed", negative_prompt="-x", sampling=FULL),
        StillSpec(prompt='it\'s "so" $HOME `ls` \\ * ; & | > ~', model=HELD),
        StillSpec(prompt="two\nlines, Ünïcode, 日本 🍎", sampling=Sampling(batch_size=4)),
        StillSpec(prompt="7", sampling=Sampling(guidance_interval=(0.25, 0.75))),
    ],
    ids=lambda spec: repr(spec.prompt),
)
def test_the_command_means_the_same(spec: StillSpec) -> None:
    assert parsed(as_command(spec)) == spec


def test_it_reads_well() -> None:
    spec = StillSpec(prompt="a red apple", seed=7, sampling=FULL)
    assert as_command(spec) == (
        "python -m scripts.generate 'a red apple' --seed 7 --num-inference-steps 7 "
        "--guidance-scale 2.5 --height 64 --width 128 --scheduler dpm++2m-karras --model embedded"
    )


HELD_TWICE = (Keyframe(prompt="a", hold=0.5), Keyframe(prompt="b", guidance_scale=2.0))
MORPHS = [
    MorphSpec(keyframes=(Keyframe(prompt="a man"), Keyframe(prompt="a woman"))),
    MorphSpec(keyframes=(Keyframe(prompt="-x", seed=3), Keyframe(prompt="it's 'b'", seed=4))),
    MorphSpec(
        keyframes=(*HELD_TWICE, Keyframe(prompt="c\n7", negative_prompt="", plain=True)),
        easing="smoothstep",
        sampling=FULL,
        model=HELD,
    ),
    MorphSpec(
        keyframes=(*HELD_TWICE, Keyframe(prompt="日本 🍎", easing=(0.4, 0, 0.6, 1), duration=2)),
        loop=True,
        even=False,
        exact=True,
        path="straight",
        blend="slerp",
        easing=(0.4, 0.0, 0.6, 1.0),
        tolerance_db=52.5,
        video=VideoSpec(kind="gif", fps=12.5),
    ),
    MorphSpec(keyframes=HELD_TWICE, video=VideoSpec(boomerang=True)),
]


@pytest.mark.parametrize("spec", MORPHS, ids=lambda spec: repr(spec.keyframes[-1].prompt))
def test_the_command_of_a_morph_means_the_same(spec: MorphSpec) -> None:
    """Resolved, keyframes say for themselves what the morph says for all."""
    resolved = spec.fill_in()

    words = shlex.split(as_morph_command(resolved))

    assert words[:3] == ["python", "-m", "scripts.morph"]
    request = _parse("morph", morph.app, words[3:])
    found = parse_spec(MorphSpec, {"keyframes": request.ends.keyframes}, request.overrides)
    assert found.fill_in() == resolved


def test_the_command_of_a_simple_morph_reads_well() -> None:
    assert as_morph_command(MORPHS[0].replace(loop=True)) == (
        "python -m scripts.morph --from 'a man' --to 'a woman' --seed 0 --frames 48 --fps 24 "
        "--loop --model embedded"
    )
