"""The benchmarks of whole morphs, and what they share: films, the peer's algorithm, comparisons.

Counts and keys, never seconds.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.codec import VaeCodec
from pipeline.errors import SpecError
from pipeline.model import Model, load_model
from pipeline.prompts import TextEncoder, TextEncoders
from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling
from scripts.benchmark import main
from scripts.benchmarks import frames, morph
from scripts.benchmarks.films import (
    Film,
    Stopwatch,
    compare,
    compare_solved,
    interleave,
    midpoint_std,
    ours,
    report,
    theirs,
)
from scripts.benchmarks.walk import slerp, walk
from tests.tiny import write_tiny_xl

Run = Callable[..., tuple[int, list[str], list[str]]]


def create_spec(model: Model, num_frames: int = 4, steps: int = 1) -> MorphSpec:
    """A resolved morph between two prompts."""
    sampling = Sampling(height=16, width=16, num_inference_steps=steps, scheduler="euler")
    keyframes = tuple(Keyframe(prompt=text, seed=k) for k, text in enumerate(("a", "b")))
    return model.resolve(MorphSpec(keyframes=keyframes, num_frames=num_frames, sampling=sampling))


def save(image: Image.Image, file: Path) -> Path:
    image.save(file)
    return file


def film(files: list[Path]) -> Film:
    return Film(seconds=1.0, processor_seconds=1.0, renders=len(files), files=files)


def test_the_peers_slerp_goes_from_one_noise_to_the_other() -> None:
    start, end = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))

    # float32, through an arc cosine
    assert torch.allclose(slerp(0.0, start, end), start, atol=1e-6)
    assert torch.allclose(slerp(1.0, start, end), end, atol=1e-6)
    assert torch.equal(slerp(0.25, start, start), start)


def test_the_peer_walks_a_loop_back_to_its_first_keyframe(tiny: Model, tmp_path: Path) -> None:
    spec = create_spec(tiny).replace(loop=True)
    files = walk(tiny, spec, 2, tmp_path)

    assert [file.name for file in files] == [f"{k:06d}.png" for k in range(4)]
    assert files[0].read_bytes() == files[3].read_bytes()


def test_the_peer_works_in_16_bits(tiny: Model, tmp_path: Path) -> None:
    """Noise is drawn in float32, and the stock pipeline takes it as it comes."""

    def halve(module: object) -> torch.nn.Module:
        assert isinstance(module, torch.nn.Module)
        return torch.nn.Module.to(copy.deepcopy(module), torch.bfloat16)

    one = tiny.text.encoders[0]
    text = TextEncoder(
        tokenizer=one.tokenizer,
        encoder=halve(one.encoder),  # type: ignore[arg-type]
        device=one.device,
    )
    assert isinstance(tiny.codec, VaeCodec)
    half = replace(
        tiny,
        dtype=torch.bfloat16,
        unet=halve(tiny.unet),
        codec=VaeCodec(halve(tiny.codec.vae), tiny.device),  # type: ignore[arg-type]
        text=TextEncoders(encoders=(text,)),
    )
    assert len(walk(half, create_spec(tiny), 2, tmp_path)) == 4


def test_the_peer_knows_no_xl(tmp_path: Path) -> None:
    model = load_model(ModelSpec(source=str(write_tiny_xl(tmp_path / "xl")), device="cpu"))
    with pytest.raises(SpecError, match="no XL"):
        theirs(model, create_spec(model), 1)


def test_films_take_turns_and_are_gone_when_the_next_is_made(tiny: Model) -> None:
    spec = create_spec(tiny)
    makers = {"ours": ours(tiny, spec.replace(exact=True, even=False)), "b": theirs(tiny, spec, 2)}
    seen: list[str] = []
    before: list[Path] = []
    for name, made, folder in interleave(makers, 2):
        assert all(file.is_file() for file in made.files)
        assert not any(place.exists() for place in before)
        assert len(made.files) == made.renders == 4
        assert made.seconds > 0
        assert list(folder.glob("*.mp4"))
        seen.append(name)
        before.append(folder)

    assert seen == ["ours", "b", "ours", "b"]


def test_a_stopwatch_runs_on() -> None:
    watch = Stopwatch()
    first, second = watch.read(), watch.read()
    assert 0 <= first["seconds"] <= second["seconds"]
    assert 0 <= first["processor_seconds"] <= second["processor_seconds"]


def test_a_report_follows_the_frames_that_are_there(tiny: Model, tmp_path: Path) -> None:
    spec = create_spec(tiny, num_frames=5)
    keyframes = (*spec.keyframes, spec.keyframes[0].replace(seed=7))
    spec = spec.replace(keyframes=keyframes)
    made = theirs(tiny, spec, 2)(tmp_path / "film")

    assert len(made.files) == 4  # 2 on each way
    assert len(report(tiny, spec, made).segments) == 2


def test_frames_are_compared_in_decibels(tmp_path: Path) -> None:
    grey, light = (Image.new("RGB", (4, 4), (level,) * 3) for level in (100, 110))
    a, b = save(grey, tmp_path / "a.png"), save(light, tmp_path / "b.png")
    found = compare([a, a], [a, b])

    psnr = 20 * np.log10(255 / 10)  # 10 levels of 255
    assert found["worst_psnr"] == pytest.approx(psnr, abs=1e-3)  # dB, of numbers in float32
    assert found["mean_psnr"] == pytest.approx(psnr + 10 * np.log10(2), abs=1e-3)
    assert compare([a], [a])["worst_psnr"] == 100


def test_only_solved_frames_are_compared(tmp_path: Path) -> None:
    grey, light = (Image.new("RGB", (4, 4), (level,) * 3) for level in (100, 110))
    a, b, c = (
        save(image, tmp_path / f"{name}.png")
        for name, image in zip("abc", (grey, light, grey), strict=True)
    )
    count, found = compare_solved(film([a, b]), film([a, c]))

    assert count == 1
    assert found["mean_psnr"] == found["worst_psnr"] < 30
    assert compare_solved(film([a]), film([a])) == (0, {})


def test_the_noise_half_way_keeps_its_size_on_our_path(embedded: Model) -> None:
    keyframes = tuple(Keyframe(prompt="a", seed=seed) for seed in (1, 2))
    found = midpoint_std(embedded, MorphSpec(keyframes=keyframes))

    # 1,024 numbers have a standard deviation of 1 within 1/√2048, here six of these
    assert found["ours"] == pytest.approx(1, abs=6 / 2048**0.5)
    assert set(found) == {"ours", "theirs"}


@pytest.fixture
def run(
    tiny: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """The command in this process on the tiny model, with a morph in `film.toml`."""
    for module in (morph, frames):
        monkeypatch.setattr(module, "fetch_model", lambda spec: tiny)
    monkeypatch.chdir(tmp_path)
    Path("film.toml").write_text(
        "num_frames = 4\n"
        "[sampling]\nheight = 16\nwidth = 16\nnum_inference_steps = 1\nscheduler = 'euler'\n"
        "[[keyframes]]\nprompt = 'a'\n[[keyframes]]\nprompt = 'b'\nseed = 1\n"
    )

    def run(*argv: str) -> tuple[int, list[str], list[str]]:
        code = main(list(argv))
        written = capsys.readouterr()
        return code, written.out.splitlines(), written.err.splitlines()

    return run


def test_the_morph_benchmark_has_a_line_for_each_kind(run: Run) -> None:
    code, out, _ = run("morph", "film.toml")
    document = json.loads(out[-1])

    assert code == 0
    assert [line["kind"] for line in document["films"]] == [
        "ours",
        "ours, every frame rendered",
        "theirs",
        "theirs, batches of 4",
    ]
    assert {"benchmark", "commit", "machine", "films"} == set(document)
    assert all(line["frames"] == 4 for line in document["films"])


def test_the_frames_benchmark_has_a_line_for_each_length(run: Run) -> None:
    code, out, _ = run("frames", "film.toml", "--frames", "3", "--frames", "9")
    films = json.loads(out[-1])["films"]

    assert code == 0
    assert [line["frames"] for line in films] == [3, 9]
    for line in films:
        assert (line["worst_psnr"] is None) == (line["solved"] == 0)
        assert line["solved"] <= line["frames"]


def test_the_frames_benchmark_refuses_what_is_no_morph(run: Run) -> None:
    code, out, err = run("frames", "nowhere.toml")
    assert (code, out, len(err)) == (2, [], 1)
