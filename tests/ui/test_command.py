"""A picture's command makes the same spec again, through the command line's own parser."""

from __future__ import annotations

import shlex

import pytest

from pipeline.spec import ModelSpec, Sampling, StillSpec
from pipeline.values import parse_spec
from scripts import generate
from scripts.command import _parse
from ui.command import as_command

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
