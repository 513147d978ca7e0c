"""Records: complete, without paths, and read rightly by other programs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.record import (
    SAMPLERS,
    VERSION,
    Record,
    current_versions,
    parameters_text,
)
from pipeline.sources import anonymous_source
from pipeline.spec import SCHEDULERS, ModelSpec, Sampling, StillSpec

SAMPLING = Sampling(
    num_inference_steps=20, guidance_scale=7.0, height=512, width=768, scheduler="dpm++2m-karras"
)


def record(**changes: Any) -> Record:
    spec = StillSpec(prompt="a red apple", seed=1, sampling=SAMPLING)
    values: dict[str, Any] = {
        "spec": spec,
        "model_name": "embedded",
        "model_hash": "0123456789abcdef" * 4,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"greatcircle": VERSION},
    }
    return Record(**values | changes)


def prompted(prompt: str, negative_prompt: str | None = None) -> Record:
    return record(
        spec=StillSpec(prompt=prompt, negative_prompt=negative_prompt, seed=1, sampling=SAMPLING)
    )


def read_as_web_ui(text: str) -> dict[str, str]:
    """Read `parameters` as AUTOMATIC1111's web UI does, written from its behaviour.

    The last line holds the fields; a line that begins with "Negative prompt:" opens the negative
    prompt; a field's value ends at a comma unless it is in double quotes.
    """
    *lines, fields = text.strip().split("\n")
    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    current = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            current, line = "Negative prompt", line[len("Negative prompt:") :].strip()
        prompts[current].append(line)
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', fields)
    return {name: "\n".join(part) for name, part in prompts.items()} | dict(found)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_versions_are_those_installed() -> None:
    versions = current_versions()

    assert set(versions) == {"greatcircle", "python", "torch", "diffusers", "transformers"}
    assert versions["torch"] == version("torch")
    assert versions["greatcircle"] == VERSION


def test_versions_are_read_without_importing() -> None:
    code = (
        "import sys; from pipeline.record import current_versions; current_versions();"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.text(min_size=1, max_size=60))
def test_every_anonymous_source_may_be_recorded(source: str) -> None:
    if "\0" in source:  # no file system takes it, and no spec's source leads to one
        source = source.replace("\0", "")
    name = anonymous_source(source)
    assert record(model_name=name).model_name == name


@pytest.mark.parametrize(
    "path", ["/models/sd", "~/sd", "../sd", "./sd", "a/b/c", "C:\\sd", "C:sd", "a//b", "a/..", ""]
)
def test_a_path_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match="holds a name, never a path"):
        record(model_name=path)
    if path:
        spec = record().spec.replace(model=ModelSpec(source=path))
        with pytest.raises(SpecError, match="holds a name, never a path"):
            record(spec=spec)


def test_a_record_is_of_one_picture() -> None:
    with pytest.raises(SpecError, match=r"spec\.count = 2"):
        record(spec=StillSpec(prompt="a", count=2, sampling=SAMPLING))


@pytest.mark.parametrize(
    "key", ["num_inference_steps", "guidance_scale", "height", "width", "scheduler"]
)
def test_a_record_is_filled_in(key: str) -> None:
    spec = StillSpec(prompt="a", sampling=SAMPLING.replace(**{key: None}))
    with pytest.raises(SpecError, match=rf"spec\.sampling\.{key}"):
        record(spec=spec)


def test_parameters_as_the_web_ui_writes_them() -> None:
    spec = StillSpec(prompt="a red apple", negative_prompt="blurry", seed=1, sampling=SAMPLING)

    assert parameters_text(record(spec=spec)) == (
        "a red apple\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, "
        f"Size: 768x512, Model hash: 0123456789, Model: embedded, Version: greatcircle {VERSION}"
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_has_its_name(scheduler: str) -> None:
    spec = StillSpec(prompt="a", sampling=SAMPLING.replace(scheduler=scheduler))
    fields = read_as_web_ui(parameters_text(record(spec=spec)))

    assert (fields["Sampler"], fields.get("Schedule type")) == SAMPLERS[scheduler]


@pytest.mark.parametrize(
    ("scale", "text"), [(7.0, "7"), (7.125, "7.125"), (1e-5, "1e-05"), (0, "0")]
)
def test_guidance_is_written_in_full(scale: float, text: str) -> None:
    spec = StillSpec(prompt="a", sampling=SAMPLING.replace(guidance_scale=scale))
    written = read_as_web_ui(parameters_text(record(spec=spec)))["CFG scale"]

    assert written == text
    assert float(written) == scale


@pytest.mark.parametrize("negative", [None, ""])
def test_no_negative_prompt_has_no_line(negative: str | None) -> None:
    assert parameters_text(prompted("a", negative)).splitlines()[1].startswith("Steps: 20, ")


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("an apple\nNegative prompt: pears", "an apple Negative prompt : pears"),
        ("Negative prompt: pears", "Negative prompt : pears"),
        ("an apple\r\nSteps: 3, Seed: 5, Sampler: x", "an apple Steps : 3, Seed: 5, Sampler: x"),
        ("one\u2028two\x0bthree", "one two three"),
        ("", ""),
        ("a\0b", "a\ufffdb"),
    ],
)
def test_a_prompt_cannot_pass_for_another_field(prompt: str, read: str) -> None:
    for negative in (None, "blurry\nNegative prompt: sharp"):
        fields = read_as_web_ui(parameters_text(prompted(prompt, negative)))

        assert fields["Prompt"] == read
        assert fields["Negative prompt"] == (
            "" if negative is None else "blurry Negative prompt : sharp"
        )
        assert fields["Seed"] == "1"
        assert fields["Steps"] == "20"


@given(st.text(max_size=80), st.text(max_size=80) | st.none())
def test_any_prompt_is_read_back_as_its_words(prompt: str, negative: str | None) -> None:
    def words(text: str) -> str:
        return re.sub(r"\s+", "", text.replace("\0", "\ufffd"))

    fields = read_as_web_ui(parameters_text(prompted(prompt, negative)))

    assert words(fields["Prompt"]) == words(prompt)
    assert words(fields["Negative prompt"]) == words(negative or "")
    assert fields["Seed"] == "1"


@pytest.mark.parametrize("name", ["sd, Seed: 9", 'the "best"', "one\ntwo", "sd: b"])
def test_a_models_name_cannot_pass_for_another_field(name: str) -> None:
    text = parameters_text(record(model_name=name))

    assert read_as_web_ui(text)["Seed"] == "1"
    assert len(text.splitlines()) == 2
