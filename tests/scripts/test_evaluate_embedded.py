"""The evaluation of the embedded model, in miniature: toy pictures, a tiny model, every part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import scripts.embedded.evaluate as evaluation
from pipeline.model import Model, load_model
from pipeline.render import points, render
from pipeline.spec import ModelSpec, Sampling, StillSpec
from scripts import evaluate_embedded
from scripts.embedded.evaluate import Bench, Figure
from scripts.embedded.export import SHEET_PROMPTS, write_untrained
from scripts.embedded.retrieval import FIRST_SEED, Drawing, draw_prompts
from tests.scripts.toys import create_renders
from tests.tiny import write_tiny_checkpoint

NAMES = sorted({name for terms in evaluation.ARITHMETIC for name in terms} | {"red face"})
SAMPLING = Sampling(num_inference_steps=1, guidance_scale=1.0, batch_size=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-sd")
    return load_model(ModelSpec(source=str(folder), device="cpu"))


@pytest.fixture
def bench(tiny: Model, tmp_path: Path) -> Bench:
    bench = Bench(model=tiny, sampling=tiny.complete(SAMPLING), prompts=4, out=tmp_path)
    vars(bench)["renders"] = create_renders(NAMES, tones=["light"])  # in the place of the font's
    return bench


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Bench:
    """A bench whose model draws exactly what it is asked for."""
    renders = bench.renders
    named = {emoji.name: index for index, emoji in enumerate(renders.emojis)}

    def draw(model: Model, sampling: Sampling, prompts: list[str]) -> object:
        asked = [p.removesuffix(" background").partition(" on a ") for p in prompts]
        pictures = [renders.draw(named[name], colour or "white") for name, _, colour in asked]
        return Drawing(pixels=torch.cat(pictures), seconds=0.5)

    monkeypatch.setattr(evaluation, "draw_prompts", draw)
    return bench


def _judge(part: Callable[[Bench], Iterator[Figure]], bench: Bench) -> dict[str, float]:
    return {name: float(value) for name, value in part(bench)}


def test_prompts_are_taken_literally(tiny: Model):
    prompt = "a (red:1.4) apple [sic]"

    drawn = draw_prompts(tiny, SAMPLING, [prompt]).pixels

    def draw(plain: bool) -> torch.Tensor:
        spec = StillSpec(prompt=prompt, plain=plain, seed=FIRST_SEED, sampling=SAMPLING)
        return torch.cat([f.pixels for f in render(tiny, SAMPLING, points(tiny, spec))])

    assert torch.equal(drawn, draw(plain=True))
    assert not torch.equal(drawn, draw(plain=False))


def test_a_perfect_model_has_perfect_figures(perfect: Bench):
    figures = _judge(evaluation.judge_prompts, perfect)

    assert figures["things_prompts"] == figures["people_prompts"] == 2
    for group in ("things", "people", "held_out_people", "held_out_faces", "held_out"):
        assert figures[f"{group}_prompts"] > 0
        assert figures[f"{group}_top1"] == figures[f"{group}_top5"] == 1
    assert figures["held_out_faces_ground"] == 1
    assert figures["seconds_per_image"] == 0.5
    assert (perfect.out / "held_out_faces.png").exists()


def test_a_random_model_does_not(bench: Bench):
    figures = _judge(evaluation.judge_prompts, bench)

    # Of what looks like noise to a judge, at most the one picture nearest to noise is a hit.
    assert figures["held_out_faces_top1"] == 0
    assert figures["things_top1"] + figures["people_top1"] <= 0.5
    assert figures["seconds_per_image"] > 0


def test_the_judge_is_judged(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "CEILING_EVERY", 5)
    monkeypatch.setattr(evaluation, "UNTRAINED_PROMPTS", 10)

    figures = _judge(evaluation.judge_judge, bench)

    assert figures["ceiling_top1"] == figures["ceiling_top5"] == 1
    # A codec of random weights keeps nothing.
    assert figures["ceiling_through_codec_top1"] < 0.2
    for chance in ("chance_of_noise", "chance_of_untrained"):
        assert figures[f"{chance}_prompts"] >= 10
        assert figures[f"{chance}_top1"] < 0.2


def test_an_untrained_model_is_another_one_of_the_same_shape(tiny: Model, tmp_path: Path):
    write_untrained(tiny.checkpoint.folder, tmp_path / "untrained")

    model = load_model(ModelSpec(source=str(tmp_path / "untrained"), device="cpu"))

    weights, others = tiny.unet.state_dict(), model.unet.state_dict()
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in others.items()}
    assert not torch.equal(weights["conv_in.weight"], others["conv_in.weight"])
    assert model.scheduler_config == tiny.scheduler_config


def test_the_sheet_shows_prompts_by_seeds(bench: Bench):
    figures = _judge(evaluation.judge_sheet, bench)

    assert figures["variety"] > 0.5  # a random model hardly listens to its prompt
    with Image.open(bench.out / "prompts.png") as sheet:
        cells = len(SHEET_PROMPTS) * evaluation.SHEET_SEEDS
        assert sheet.width * sheet.height == cells * 32 * 32


def test_a_codec_that_loses_nothing_has_no_error(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "_load_photograph", lambda name: torch.zeros(1, 3, 128, 128))
    lossy = _judge(evaluation.judge_codec, bench)
    monkeypatch.setattr(evaluation, "_round_trip", lambda model, pixels: pixels + 0.02)
    good = _judge(evaluation.judge_codec, bench)

    # An error of 0.02 of a range of 2 is one hundredth: 40 dB.
    assert good["held_out_psnr"] == pytest.approx(40, abs=0.01)
    assert good["photographs_psnr"] == pytest.approx(40, abs=0.01)
    assert lossy["held_out_psnr"] < 20
    assert (bench.out / "codec.png").exists()


def test_photographs_come_with_the_package():
    pytest.importorskip("skimage", reason="only the [train] extra brings photographs")

    for name in evaluation.PHOTOGRAPHS:
        pixels = evaluation._load_photograph(name)
        assert pixels.shape[1] == 3 and pixels.shape[2] % 64 == pixels.shape[3] % 64 == 0
        assert pixels.min() >= -1 and 0.5 < pixels.max() <= 1


def test_sums_that_come_out_right_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    named = {emoji.name: index for index, emoji in enumerate(bench.renders.emojis)}
    right = [bench.renders.draw(named[d]) for *_, d in evaluation.ARITHMETIC]

    def draw(wrong: int) -> Callable[..., torch.Tensor]:
        wanted = [bench.renders.draw(named["red face"])] * wrong + right[wrong:]

        def draw_points(model: Model, sampling: Sampling, points: object) -> torch.Tensor:
            assert len(list(points)) == len(wanted)
            return torch.cat(wanted)

        return draw_points

    for wrong in (0, 3):
        monkeypatch.setattr(evaluation, "draw_points", draw(wrong))
        figures = _judge(evaluation.judge_arithmetic, bench)
        assert figures == {"arithmetic_hits": 10 - wrong, "arithmetic_sums": 10}


def test_the_terms_of_a_sum_are_embeds(bench: Bench):
    (point, *_) = evaluation._add(bench)

    a, b, c = (bench.model.text.encode(t, plain=True) for t in ("prince", "man", "woman"))
    found, total = point.prompt_embeds.embeds, a.embeds - b.embeds + c.embeds
    # As long as in `a`, as the sum points: a few roundings of float32.
    assert torch.allclose(found.norm(dim=-1), a.embeds.norm(dim=-1), rtol=1e-5)
    assert torch.cosine_similarity(found, total, dim=-1).min() > 1 - 1e-5


def test_the_command_ends_with_json(
    tiny: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--model", str(tiny.checkpoint.folder), "--out", str(tmp_path / "sheets")]
    options = ["--num-inference-steps", "1", "--guidance-scale", "1", "--scheduler", "ddim"]

    assert evaluate_embedded.main([*arguments, *options, "--only", "sheet"]) == 0

    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["hash"] == tiny.hash and figures["num_inference_steps"] == 1
    assert figures["scheduler"] == "ddim" and figures["variety"] > 0
    assert [line.split()[0] for line in table] == list(figures)
    assert (tmp_path / "sheets" / "prompts.png").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--only", "sheet", "--only", "all"], "'all': must be one of sheet, prompts, judge"),
        (["--scheduler", "magic"], "scheduler = 'magic': must be one of ddim"),
        (["--prompts", "0"], "prompts = 0: must be between 1 and"),
        (["--prompts", "many"], "prompts = 'many'"),
        (["--num-inference-steps", "-1"], "num_inference_steps = -1: must be between 1 and"),
        (["--guidance-scale", "nan"], "guidance_scale = nan"),
        (["--model", "no-such-model", "--only", "sheet"], "no-such-model"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate_embedded.main([*options, "--out", str(tmp_path)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


def test_every_sum_names_what_the_font_draws():
    pytest.importorskip("emoji", reason="only the [train] extra brings the names")
    from emoji import EMOJI_DATA, STATUS

    drawn = {
        entry["en"].strip(":").replace("_", " ").replace("’", "'").lower()
        for entry in EMOJI_DATA.values()
        if entry["status"] == STATUS["fully_qualified"]
    }
    for *terms, wanted in evaluation.ARITHMETIC:
        assert {*terms, wanted} <= drawn
        assert any(name.startswith(f"{wanted} ") and "skin tone" in name for name in drawn)
