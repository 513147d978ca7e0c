"""Specs at the door: what is valid stays as it was written, what is not is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import GreatcircleError, SpecError
from pipeline.spec import (
    DTYPES,
    MAX_SEED,
    SCHEDULERS,
    Keyframe,
    ModelSpec,
    MorphSpec,
    Sampling,
    StillSpec,
    VideoSpec,
    with_defaults,
)
from pipeline.values import MAX_SPEC_BYTES, Spec, load_spec, parse_spec

NAN, INF = float("nan"), float("inf")


def refusal(make: Callable[[], object]) -> str:
    """The one line with which `make` is refused."""
    with pytest.raises(SpecError) as caught:
        make()
    line = str(caught.value)
    assert line
    assert "\n" not in line
    assert caught.value.__cause__ is None
    return line


# What is valid


def test_a_prompt_is_enough() -> None:
    spec = StillSpec(prompt="a red apple")

    assert (spec.seed, spec.count, spec.negative_prompt) == (0, 1, None)
    assert spec.model == ModelSpec(source="embedded")
    assert spec.sampling.batch_size is None
    assert spec.sampling.guidance_interval == (0.0, 1.0)


def test_what_only_a_model_knows_is_open() -> None:
    sampling = Sampling()
    names = ["num_inference_steps", "guidance_scale", "height", "width", "scheduler"]
    assert [getattr(sampling, name) for name in names] == [None] * 5


@pytest.mark.parametrize("prompt", ["", " ", "a" * 10_000, "ünïcödé 🍎", "line\nline", "\x00", "7"])
def test_prompts_stay_as_they_are_written(prompt: str) -> None:
    assert StillSpec(prompt=prompt).prompt == prompt


def test_no_negative_prompt_is_not_an_empty_one() -> None:
    assert StillSpec(prompt="a").negative_prompt is None
    assert StillSpec(prompt="a", negative_prompt="").negative_prompt == ""
    assert StillSpec(prompt="a") != StillSpec(prompt="a", negative_prompt="")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Sampling, {"num_inference_steps": 1}),
        (Sampling, {"num_inference_steps": 1000}),
        (Sampling, {"guidance_scale": 0.0}),
        (Sampling, {"guidance_scale": 100.0}),
        (Sampling, {"guidance_interval": (0.5, 0.5)}),
        (Sampling, {"width": 16, "height": 8192}),
        (Sampling, {"batch_size": 256}),
        (StillSpec, {"prompt": "a", "seed": MAX_SEED}),
        (StillSpec, {"prompt": "a", "seed": MAX_SEED - 9, "count": 10}),
        (ModelSpec, {"device": "cpu"}),
        (ModelSpec, {"device": "cuda:1"}),
        *((Sampling, {"scheduler": name}) for name in SCHEDULERS),
        *((ModelSpec, {"dtype": name}) for name in DTYPES),
    ],
)
def test_ends_of_the_ranges_are_valid(kind: type[Spec], values: dict[str, Any]) -> None:
    spec = kind(**values)
    assert {name: getattr(spec, name) for name in values} == values


def test_a_spec_is_a_value() -> None:
    spec = StillSpec(prompt="a", sampling=Sampling(width=128))

    assert spec == StillSpec(prompt="a", sampling={"width": 128})
    assert hash(spec) == hash(StillSpec(prompt="a", sampling={"width": 128}))
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 1  # type: ignore[misc]


def test_replace_validates_anew() -> None:
    spec = StillSpec(prompt="a", seed=3)

    assert spec.replace(seed=4) == StillSpec(prompt="a", seed=4)
    assert spec.seed == 3
    assert refusal(lambda: spec.replace(seed=-1)).startswith("seed = -1: ")
    assert refusal(lambda: spec.replace(sede=1)) == "unknown key 'sede': did you mean 'seed'?"


@given(seed=st.integers(0, MAX_SEED - 99), count=st.integers(1, 100), data=st.data())
def test_single_is_the_picture_at_that_place(seed: int, count: int, data: st.DataObject) -> None:
    spec = StillSpec(prompt="a", seed=seed, count=count)
    index = data.draw(st.integers(0, count - 1))

    alone = spec.single(index)

    assert (alone.seed, alone.count) == (seed + index, 1)
    assert alone.replace(seed=seed, count=count) == spec


def test_specs_survive_their_own_json() -> None:
    sampling = Sampling(guidance_interval=(0.1, 0.9), scheduler="dpm++2m", guidance_scale=7.5)
    spec = StillSpec(prompt="a\n🍎", negative_prompt="", seed=MAX_SEED, sampling=sampling)

    assert StillSpec.model_validate_json(spec.model_dump_json()) == spec
    assert StillSpec(**spec.model_dump(mode="json")) == spec


def test_defaults_fill_only_what_is_open() -> None:
    defaults = {"num_inference_steps": 20, "guidance_scale": 5.0, "scheduler": "ddim", "width": 128}

    filled = with_defaults(Sampling(guidance_scale=0.0), defaults)

    assert filled == Sampling(
        guidance_scale=0.0, num_inference_steps=20, scheduler="ddim", width=128, height=None
    )


def test_defaults_are_checked_too() -> None:
    assert refusal(lambda: with_defaults(Sampling(), {"width": 8})) == (
        "width = 8: must be between 16 and 8192"
    )


# What is refused

STEPS = "must be between 1 and 1000"
SIDE = "must be between 16 and 8192"
GUIDANCE = "must be between 0 and 100"

SAMPLING_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"num_inference_steps": 0}, f"num_inference_steps = 0: {STEPS}"),
    ({"num_inference_steps": -1}, f"num_inference_steps = -1: {STEPS}"),
    ({"num_inference_steps": 10**9}, f"num_inference_steps = 1000000000: {STEPS}"),
    ({"num_inference_steps": NAN}, "num_inference_steps = nan: should be a finite number"),
    ({"num_inference_steps": INF}, "num_inference_steps = inf: should be a finite number"),
    ({"num_inference_steps": 1.5}, "num_inference_steps = 1.5: should be a valid integer"),
    ({"num_inference_steps": "many"}, "num_inference_steps = 'many': should be a valid integer"),
    ({"guidance_scale": NAN}, "guidance_scale = nan: should be a finite number"),
    ({"guidance_scale": INF}, "guidance_scale = inf: should be a finite number"),
    ({"guidance_scale": -INF}, "guidance_scale = -inf: should be a finite number"),
    ({"guidance_scale": -0.1}, f"guidance_scale = -0.1: {GUIDANCE}"),
    ({"guidance_scale": 100.5}, f"guidance_scale = 100.5: {GUIDANCE}"),
    ({"width": 0}, f"width = 0: {SIDE}"),
    ({"height": 0}, f"height = 0: {SIDE}"),
    ({"height": 10**5}, f"height = 100000: {SIDE}"),
    ({"width": -64}, f"width = -64: {SIDE}"),
    ({"batch_size": 0}, "batch_size = 0: must be between 1 and 256"),
    ({"batch_size": 257}, "batch_size = 257: must be between 1 and 256"),
    ({"guidance_interval": (0.9, 0.1)}, "guidance_interval = 0.9, 0.1: must not end before"),
    ({"guidance_interval": (-0.5, 1)}, "guidance_interval.0 = -0.5: must be between 0 and 1"),
    ({"guidance_interval": (0, NAN)}, "guidance_interval.1 = nan: should be a finite number"),
    ({"scheduler": "euler_a"}, "scheduler = 'euler_a': must be one of ddim, pndm, euler, "),
    ({"guidance": 5}, "unknown key 'guidance': did you mean 'guidance_scale'?"),
    ({"steps": 5}, "unknown key 'steps': "),
    ({"zzz": 5}, "unknown key 'zzz': known are num_inference_steps, guidance_scale, "),
]


@pytest.mark.parametrize(("values", "line"), SAMPLING_REFUSALS, ids=lambda value: str(value)[:40])
def test_sampling_is_refused_alike_at_every_door(
    values: dict[str, Any], line: str, tmp_path: Path
) -> None:
    file = tmp_path / "spec.toml"
    file.write_text("prompt = 'a'\n[sampling]\n" + "".join(map(_toml, values.items())))

    alone = refusal(lambda: Sampling(**values))

    assert alone.startswith(line)
    assert refusal(lambda: StillSpec(prompt="a", sampling=values)) == alone
    assert refusal(lambda: parse_spec(StillSpec, {"prompt": "a", "sampling": values})) == alone
    assert refusal(lambda: load_spec(StillSpec, file)) == alone


def _toml(item: tuple[str, Any]) -> str:
    name, value = item
    text = str(list(value)) if isinstance(value, tuple) else repr(value)
    return f"{name} = {text}\n"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "prompt: is missing"),
        ({"prompt": None}, "prompt = None: should be a valid string"),
        ({"prompt": 7}, "prompt = 7: should be a valid string"),
        ({"prompt": "a" * 10_001}, "prompt has 10001 characters: at most 10000 are allowed"),
        ({"prompt": "a", "seed": -1}, f"seed = -1: must be between 0 and {MAX_SEED}"),
        ({"prompt": "a", "seed": 2**32}, f"seed = 4294967296: must be between 0 and {MAX_SEED}"),
        ({"prompt": "a", "seed": 0.5}, "seed = 0.5: should be a valid integer"),
        ({"prompt": "a", "seed": None}, "seed = None: should be a valid integer"),
        ({"prompt": "a", "seed": MAX_SEED, "count": 2}, f"seed = {MAX_SEED}, count = 2: seeds end"),
        ({"prompt": "a", "count": 0}, "count = 0: must be between 1 and 10000"),
        ({"prompt": "a", "count": 10**9}, "count = 1000000000: must be between 1 and 10000"),
        ({"promt": "a"}, "unknown key 'promt': did you mean 'prompt'?"),
        ({"prompt": "a", "negativ_prompt": ""}, "unknown key 'negativ_prompt': did you mean 'nega"),
        ({"prompt": "a", "sampling": 5}, "sampling = 5: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_stills_are_refused(values: dict[str, Any], line: str) -> None:
    assert refusal(lambda: StillSpec(**values)).startswith(line)
    assert refusal(lambda: parse_spec(StillSpec, values)).startswith(line)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"dtype": "float64"}, "dtype = 'float64': must be one of float32, float16 or bfloat16"),
        ({"device": "gpu"}, "device = 'gpu': must be cpu, cuda, cuda:N or mps"),
        ({"device": "cuda:x"}, "device = 'cuda:x': must be cpu, cuda, cuda:N or mps"),
        ({"source": ""}, "source = '': "),
        ({"modle": "x"}, "unknown key 'modle': "),
    ],
)
def test_models_are_refused(values: dict[str, Any], line: str) -> None:
    assert refusal(lambda: ModelSpec(**values)).startswith(line)


def test_refusals_are_errors_of_this_program() -> None:
    with pytest.raises(GreatcircleError):
        Sampling(width=0)
    with pytest.raises(ValueError, match="width"):
        Sampling(width=0)


def test_long_values_are_shortened() -> None:
    line = refusal(lambda: Sampling(scheduler="x" * 5000))
    assert len(line) < 300


def test_huge_numbers_are_refused_in_a_short_line() -> None:
    line = refusal(lambda: StillSpec(prompt="a", seed=10**5000))
    assert len(line) < 200


@given(value=st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.lists(st.integers())))
def test_whatever_comes_is_valid_or_refused_in_one_line(value: object) -> None:
    for name in StillSpec.model_fields:
        try:
            StillSpec(**{"prompt": "a", name: value})
        except SpecError as error:
            assert "\n" not in str(error)


# Files and overrides


def test_a_file_is_the_spec_it_says(tmp_path: Path) -> None:
    file = tmp_path / "apple.toml"
    file.write_text('prompt = "a"\nseed = 5\n[sampling]\nguidance_scale = 4\n[model]\nsource="x"\n')

    spec = load_spec(StillSpec, file)

    assert spec == StillSpec(
        prompt="a", seed=5, sampling=Sampling(guidance_scale=4), model=ModelSpec(source="x")
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=9", {"seed": 9}),
        (" seed = 9 ", {"seed": 9}),
        ("prompt=a red apple", {"prompt": "a red apple"}),
        ('prompt="7"', {"prompt": "7"}),
        ("prompt=a=b", {"prompt": "a=b"}),
        ("prompt=", {"prompt": ""}),
        ("sampling.guidance_scale=5", {"sampling": Sampling(guidance_scale=5.0)}),
        ("sampling.scheduler=dpm++2m", {"sampling": Sampling(scheduler="dpm++2m")}),
        (
            "sampling.guidance_interval=[0.2, 0.8]",
            {"sampling": Sampling(guidance_interval=(0.2, 0.8))},
        ),
        ("model.source=embedded", {"model": ModelSpec()}),
    ],
)
def test_overrides_lie_over_the_file(override: str, expected: dict[str, Any]) -> None:
    spec = parse_spec(StillSpec, {"prompt": "a"}, [override])
    assert spec == StillSpec(**{"prompt": "a", **expected})


def test_the_last_override_counts() -> None:
    assert parse_spec(StillSpec, {"prompt": "a"}, ["seed=1", "seed=2"]).seed == 2


def test_overrides_leave_what_they_are_laid_over() -> None:
    values = {"prompt": "a", "sampling": {"width": 128}}

    spec = parse_spec(StillSpec, values, ["sampling.width=64", "sampling.height=64"])

    assert (spec.sampling.width, spec.sampling.height) == (64, 64)
    assert values == {"prompt": "a", "sampling": {"width": 128}}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "set 'seed': must be KEY=VALUE, such as"),
        ("=5", "set '=5': must be KEY=VALUE, such as"),
        ("sampling.=5", "set 'sampling.=5': must be KEY=VALUE, such as"),
        ("seed=-1", "seed = -1: must be between"),
        ("seed=nan", "seed = nan: should be a finite number"),
        ("prompt.x=1", "set 'prompt.x=1': 'prompt' has no keys below it"),
        ("sampling.guidance=5", "unknown key 'guidance': did you mean 'guidance_scale'?"),
        ("sampling.a.b=5", "unknown key 'a': "),
        ("smapling.width=64", "unknown key 'smapling': did you mean 'sampling'?"),
        ("seed=" + "9" * 5000, "seed = "),
        ("seed=" + "[" * 5000, "seed = "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_overrides_are_refused(override: str, line: str) -> None:
    refused = refusal(lambda: parse_spec(StillSpec, {"prompt": "a"}, [override]))
    assert refused.startswith(line)
    assert len(refused) < 300


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"prompt = ", "bad.toml: not valid TOML: "),
        (b"prompt = 'a'\nprompt = 'b'\n", "bad.toml: not valid TOML: "),
        (b"prompt = 'a'\nseed = [1,\n", "bad.toml: not valid TOML: "),
        (b"\xff\xfe\x00", "bad.toml: not valid TOML: "),
        (b"prompt = 'a'\nseed = " + b"[" * 100_000, "bad.toml: not valid TOML: "),
        (b"prompt = 'a'\nseed = " + b"9" * 5000, "bad.toml: "),
        (b"#" * (MAX_SPEC_BYTES + 1), f"bad.toml: larger than {MAX_SPEC_BYTES} bytes"),
        (b"prompt = 'a'\nseed = -1\n", f"seed = -1: must be between 0 and {MAX_SEED}"),
        (b"", "prompt: is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_files_are_refused(content: bytes, line: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    assert refusal(lambda: load_spec(StillSpec, file)).startswith(line)


def test_a_broken_file_says_where(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("prompt = 'a'\nseed = = 3\n")
    assert "line 2" in refusal(lambda: load_spec(StillSpec, file))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    line = refusal(lambda: load_spec(StillSpec, tmp_path / "none.toml"))
    assert line.endswith("none.toml: No such file or directory")
    assert refusal(lambda: load_spec(StillSpec, tmp_path)).endswith(": Is a directory")


def test_a_name_no_file_can_have_is_refused() -> None:
    assert "null byte" in refusal(lambda: load_spec(StillSpec, Path("a\0b.toml")))


def test_an_override_is_one_value() -> None:
    """A line break must not smuggle a second key into the value."""
    assert parse_spec(StillSpec, {"prompt": "a"}, ["prompt=7\nseed=3"]).prompt == "7\nseed=3"


# Morphs

AB = ({"prompt": "a"}, {"prompt": "b"})


def test_a_morph_is_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "morph.toml"
    file.write_text(
        """
num_frames = 30
loop = true
easing = [0.3, 0.0, 0.7, 1.0]
[[keyframes]]
prompt = "a (red:1.3) apple"
seed = 3
hold = 0.25
[[keyframes]]
prompt = "a pear"
negative_prompt = ""
guidance_scale = 2
easing = "smoothstep"
[video]
fps = 12
kind = "gif"
[sampling]
num_inference_steps = 5
"""
    )
    spec = load_spec(MorphSpec, file, ["keyframes=" + "[{prompt='x'},{prompt='y'},{prompt='z'}]"])
    assert [keyframe.prompt for keyframe in spec.keyframes] == ["x", "y", "z"]
    spec = load_spec(MorphSpec, file)
    first, second = spec.keyframes
    assert (first.seed, first.hold, first.easing) == (3, 0.25, None)
    assert (second.negative_prompt, second.guidance_scale, second.easing) == ("", 2, "smoothstep")
    assert (spec.easing, spec.video) == ((0.3, 0, 0.7, 1), VideoSpec(fps=12, kind="gif"))


def test_what_a_keyframe_leaves_open_the_morph_says() -> None:
    spec = MorphSpec(
        keyframes=({"prompt": "a"}, {"prompt": "b", "easing": "linear", "guidance_scale": 0}),
        easing="smoothstep",
        sampling=Sampling(guidance_scale=4),
    ).fill_in()
    assert [k.easing for k in spec.keyframes] == ["smoothstep", "linear"]
    assert [k.guidance_scale for k in spec.keyframes] == [4, 0]


def test_a_smooth_path_needs_three_keyframes_to_differ() -> None:
    assert not MorphSpec(keyframes=AB).is_smooth
    assert MorphSpec(keyframes=(*AB, {"prompt": "c"})).is_smooth
    assert not MorphSpec(keyframes=(*AB, {"prompt": "c"}), path="straight").is_smooth


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"keyframes": ()}, "0 keyframes: a morph has at least 2"),
        ({"keyframes": AB[:1]}, "1 keyframes: a morph has at least 2"),
        ({"num_frames": 1}, "num_frames = 1: must be between 2 and 100000"),
        ({"num_frames": 100_001}, "num_frames = 100001: must be between 2 and 100000"),
        ({"blend": "slerp", "keyframes": (*AB, *AB)}, "blend = 'slerp': is between two prompts"),
        ({"blend": "mix"}, "blend = 'mix': must be one of nlerp, slerp or lerp"),
        ({"path": "curved"}, "path = 'curved': must be one of smooth or straight"),
        ({"easing": "bounce"}, "easing = 'bounce': must be linear, smoothstep or numbers"),
        ({"easing": [0.5, 0, 0.5, 1.5]}, "goes back on its way"),
        ({"tolerance_db": NAN}, "tolerance_db = nan: "),
        ({"tolerance_db": 19.9}, "tolerance_db = 19.9: must be between 20 and 200"),
        ({"loop": True, "video": {"boomerang": True}}, "boomerang = true: a loop comes back"),
        ({"video": {"fps": 51, "kind": "gif"}}, "fps = 51: must be at most 50 in a gif"),
        ({"video": {"fps": 0}}, "fps = 0: must be between 0.0166667 and 240"),
        ({"video": {"kind": "avi"}}, "kind = 'avi': must be one of mp4, webp, gif or png"),
        ({"sampling": {"strength": 0.5}}, "sampling.strength = 0.5: is for an image"),
        ({"keyframes": ({"prompt": "a", "hold": -1}, *AB)}, "hold = -1: must be between 0"),
        ({"keyframes": ({"prompt": "a", "hold": 2}, *AB)}, "num_frames = 48: must be at least 51"),
        ({"keyframes": ({"prompt": "a", "seed": 2**32}, *AB)}, "seed = 4294967296: must be"),
        ({"keyframes": ({"prompt": "a", "duration": 0}, *AB)}, "duration = 0: must be between"),
        ({"keyframes": ({"prompt": "<lora:x:1>"}, *AB)}, "<lora:x:1>"),
        ({"keyframes": ({"prompt": "a", "sead": 1}, *AB)}, "unknown key"),
    ],
)
def test_a_bad_morph_is_refused_in_one_line(values: dict[str, Any], line: str) -> None:
    assert line in refusal(lambda: MorphSpec(**{"keyframes": AB, **values}))


def test_a_keyframe_is_refused_by_itself_with_the_same_line() -> None:
    assert refusal(lambda: Keyframe(prompt="a", seed=-1)) == refusal(
        lambda: parse_spec(Keyframe, {"prompt": "a", "seed": -1})
    )
