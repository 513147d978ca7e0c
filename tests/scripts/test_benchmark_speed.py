"""The speed benchmark: what each way asks of the networks, the limit, the card, exit codes.

Counts and keys, never seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cost import count_decode, count_unet
from pipeline.errors import SpecError
from pipeline.ladder import META
from pipeline.model import Model, load_model
from pipeline.spec import Keyframe, ModelSpec, MorphSpec, Sampling, VideoSpec
from scripts.benchmark import main
from scripts.benchmarks import arms, limit, machine, random_model, speed, speed_card, trials
from scripts.benchmarks.arms import build_arms, check_comparable, counted, shorten
from scripts.benchmarks.counts import Counts, count_waits, counting
from scripts.benchmarks.films import Film
from scripts.benchmarks.limit import Rate, Work, best_rate, count_work
from scripts.benchmarks.random_model import RANDOM, create_parts, create_random_model
from scripts.benchmarks.trials import Trials

ROOT = Path(__file__).resolve().parents[2]
FRAMES, STEPS = 5, 2
PROMPTS = ("a red apple", "a green pear")
KINDS = [
    "plain",
    "strong",
    "videos",
    "videos, batched",
    "ours, exact",
    "ours, solved",
    "ours, solved, even",
]

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def model(tiny_folder: Path) -> Model:
    """The tiny model, loaded anew: it has encoded nothing."""
    return load_model(ModelSpec(source=str(tiny_folder), device="cpu"))


def create_spec(model: Model, scheduler: Any = "euler", **values: Any) -> MorphSpec:
    """A resolved morph of few frames and steps, in batches of 2."""
    sampling = Sampling(
        height=16, width=16, num_inference_steps=STEPS, scheduler=scheduler, batch_size=2
    )
    keyframes = tuple(Keyframe(prompt=text, seed=k) for k, text in enumerate(PROMPTS))
    spec = MorphSpec(keyframes=keyframes, num_frames=FRAMES, sampling=sampling)
    return model.resolve(spec.replace(**values))


def make(model: Model, spec: MorphSpec, kind: str, folder: Path) -> Film:
    """One film of that kind, counted; the baselines' batches are 2 and 3."""
    arm = next(arm for arm in build_arms(model, spec, 2, 3) if arm.name == kind)
    return counted(model, arm.create(spec))(folder / "film")


def test_the_plain_pipeline_is_called_for_each_frame(model: Model, tmp_path: Path) -> None:
    film = make(model, create_spec(model), "plain", tmp_path)

    assert len(film.files) == film.renders == FRAMES
    assert film.counts == Counts(
        unet_calls=FRAMES * STEPS,
        unet_samples=2 * FRAMES * STEPS,  # guided
        text_calls=len(PROMPTS) + 1,
        decoded=FRAMES,
    )


def test_the_strong_baseline_goes_in_batches_and_pads_none(model: Model, tmp_path: Path) -> None:
    film = make(model, create_spec(model), "strong", tmp_path)
    counts = film.counts

    assert counts is not None
    assert counts.unet_calls == 3 * STEPS  # of 2, 2 and 1
    assert counts.unet_samples == 2 * FRAMES * STEPS
    assert counts.text_calls == len(PROMPTS) + 1
    assert (tmp_path / "film" / "film.mp4").stat().st_size > 0


def test_the_strong_baseline_renders_a_held_frame_once(model: Model, tmp_path: Path) -> None:
    held = tuple(
        Keyframe(prompt=text, seed=k, hold=2 / 24 * (k == 0)) for k, text in enumerate(PROMPTS)
    )
    film = make(model, create_spec(model, keyframes=held, num_frames=6), "strong", tmp_path)

    assert len(film.files) == 6
    assert film.renders < 6


@pytest.mark.parametrize(("kind", "calls"), [("videos", 1), ("videos, batched", 3)])
def test_the_peer_encodes_the_negative_prompt_for_each_batch(
    model: Model, tmp_path: Path, kind: str, calls: int
) -> None:
    film = make(model, create_spec(model), kind, tmp_path)
    batches = -(-FRAMES // calls)

    assert film.counts is not None
    assert film.counts.unet_calls == batches * STEPS
    assert film.counts.text_calls == len(PROMPTS) + batches


def test_the_peer_renders_inner_keyframes_twice(model: Model, tmp_path: Path) -> None:
    keyframes = tuple(Keyframe(prompt=text, seed=k) for k, text in enumerate(("a", "b", "c")))
    spec = create_spec(model, keyframes=keyframes, num_frames=6)
    film = make(model, spec, "videos", tmp_path)

    assert len(film.files) == 6
    assert film.files[2].read_bytes() == film.files[3].read_bytes()


@pytest.mark.parametrize("prompts", [2, 3])
def test_ours_encodes_each_prompt_once_and_the_empty_one(
    model: Model, tmp_path: Path, prompts: int
) -> None:
    texts = ("a red apple", "a green pear", "a table")[:prompts]
    keyframes = tuple(Keyframe(prompt=text, seed=k) for k, text in enumerate(texts))
    film = make(model, create_spec(model, keyframes=keyframes), "ours, exact", tmp_path)

    assert film.counts is not None
    assert film.counts.text_calls == prompts + 1


def test_ours_renders_each_frame_once_in_batches_of_one_size(model: Model, tmp_path: Path) -> None:
    film = make(model, create_spec(model), "ours, exact", tmp_path)
    counts, batches = film.counts, -(-FRAMES // 2)

    assert counts is not None
    assert film.renders == FRAMES
    assert counts.unet_calls == batches * STEPS
    assert counts.unet_samples == 2 * 2 * batches * STEPS  # guided, and the last batch is padded
    assert counts.decoded == FRAMES


def test_an_unguided_film_asks_for_half_the_samples(model: Model, tmp_path: Path) -> None:
    sampling = create_spec(model).sampling.replace(guidance_scale=1.0)
    keyframes = tuple(Keyframe(prompt=text) for text in PROMPTS)
    spec = create_spec(model, sampling=sampling, keyframes=keyframes)
    film = make(model, spec, "plain", tmp_path)

    assert film.counts is not None
    assert film.counts.unet_samples == FRAMES * STEPS
    assert count_work(model, spec).samples == STEPS


def test_what_is_counted_ends_with_the_block(model: Model) -> None:
    with counting(model) as counts:
        model.text.encode("a")
    model.text.encode("a")

    assert counts.text_calls == 1


@pytest.mark.parametrize("scheduler", ["euler", "heun", "dpm++2m", "dpm++2m-karras", "unipc"])
def test_no_step_of_the_loop_waits_for_a_device(model: Model, scheduler: str) -> None:
    assert count_waits(model, create_spec(model, scheduler)) == 0


def test_a_loop_that_waits_would_be_seen(model: Model) -> None:
    """DDIM looks numbers up by a timestep that lies on the device."""
    assert count_waits(model, create_spec(model, "ddim")) >= STEPS


def test_work_is_what_is_counted_by_hand(model: Model) -> None:
    unet, decode = 3, 5
    work = Work(unet=unet, decode=decode, samples=4)

    assert work.picture == 4 * unet + decode
    assert work.done(Counts(unet_samples=7, decoded=2)) == 7 * unet + 2 * decode
    spec = create_spec(model)
    assert count_work(model, spec).samples == 2 * STEPS
    assert count_work(model, create_spec(model, "heun")).samples == 2 * (2 * STEPS - 1)


def test_work_is_that_of_the_ladder() -> None:
    """The same networks over as many cells and tokens, so the same FLOPs to the last."""
    model = create_random_model(torch.device("cpu"), torch.float32, width=0.125)
    spec = model.resolve(MorphSpec(keyframes=tuple(Keyframe(prompt=text) for text in PROMPTS)))
    unet, vae, _ = create_parts(META, torch.float32, width=0.125)
    work = count_work(model, spec)

    assert (spec.sampling.height, spec.sampling.width) == (512, 512)
    assert work.unet == count_unet(unet, 64).flops
    assert work.decode == count_decode(vae, 64).flops


def test_the_random_networks_are_those_of_stable_diffusion() -> None:
    unet, vae, encoder = create_parts(META, torch.float16)
    parameters = [sum(p.numel() for p in part.parameters()) for part in (unet, vae, encoder)]

    # As published: https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5
    assert parameters == [859_520_964, 83_653_863, 123_060_480]
    assert all(p.is_meta and p.dtype == torch.float16 for p in unet.parameters())
    assert count_unet(unet, 64).flops == pytest.approx(0.803e12, rel=1e-3)


def test_random_weights_are_the_same_each_time_and_change_no_other_dice() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = (
        create_random_model(torch.device("cpu"), torch.float32, width=0.125) for _ in range(2)
    )

    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(one.unet.parameters(), two.unet.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad


@pytest.mark.slow
def test_random_weights_make_a_film_and_nothing_is_solved(tmp_path: Path) -> None:
    model = create_random_model(torch.device("cpu"), torch.float32, width=0.125)
    sampling = Sampling(height=16, width=16, num_inference_steps=1, batch_size=2)
    spec = model.resolve(
        MorphSpec(
            keyframes=tuple(Keyframe(prompt=text, seed=k) for k, text in enumerate(PROMPTS)),
            num_frames=2,
            sampling=sampling,
            model=ModelSpec(source=RANDOM),
        )
    )
    film = make(model, spec, "ours, exact", tmp_path)
    run = Trials(model, spec, 1, 0, lambda: model)
    for _ in run.run():
        pass

    assert len(film.files) == 2
    assert run.is_random
    assert [one.arm.name for one in run.readings] == KINDS[:5]


def test_the_limit_counts_the_fastest_product() -> None:
    rates = [Rate(flops_per_second=a, flops_per_processor_second=b) for a, b in ((1, 9), (2, 3))]
    assert best_rate(rates) == Rate(flops_per_second=2, flops_per_processor_second=9)


def test_products_are_timed_and_leave_the_dice_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "_SIDES", {"cpu": (8, 16), "other": (8,)})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rate = limit.measure_rate(torch.device("cpu"), torch.float32)

    assert rate.flops_per_second > 0
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheduler": "euler-ancestral"}, "one that draws no noise"),
        ({"guidance_interval": (0.2, 1.0)}, "guidance_interval = 0.2, 1: must be 0, 1"),
    ],
)
def test_what_peers_cannot_do_is_refused(model: Model, changes: Any, words: str) -> None:
    spec = create_spec(model)
    spec = spec.replace(sampling=spec.sampling.replace(**changes))
    with pytest.raises(SpecError, match=words):
        check_comparable(model, spec)


def test_other_films_than_an_mp4_are_refused(model: Model) -> None:
    for video in (VideoSpec(kind="gif"), VideoSpec(boomerang=True)):
        with pytest.raises(SpecError, match="must be 'mp4', without a boomerang"):
            check_comparable(model, create_spec(model, video=video))


def test_two_guidance_scales_are_refused(model: Model) -> None:
    keyframes = [Keyframe(prompt="a", guidance_scale=scale) for scale in (3.0, 5.0)]
    with pytest.raises(SpecError, match="guidance_scale = 3, 5: must be one for all"):
        check_comparable(model, create_spec(model, keyframes=tuple(keyframes)))


def test_long_prompts_are_refused(model: Model) -> None:
    keyframes = tuple(Keyframe(prompt=text) for text in ("a red apple " * 20, "a"))
    with pytest.raises(SpecError, match="longer than 16 tokens, where peers cut it off"):
        check_comparable(model, create_spec(model, keyframes=keyframes))


def test_a_warm_up_has_a_whole_batch_and_no_more_frames_than_the_film(model: Model) -> None:
    spec = create_spec(model, num_frames=40)

    assert shorten(spec, 1).num_frames == 3
    assert shorten(spec, 8).num_frames == 9
    assert shorten(spec, 64).num_frames == 40
    assert shorten(create_spec(model, num_frames=2), 8).num_frames == 2


def test_batches_that_do_not_fit_are_halved(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Model, spec: MorphSpec, size: int) -> float:
        if size > 4:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(arms, "_time_batch", refuse)
    spec = create_spec(model, num_frames=97)

    assert arms.find_their_batch(model, spec) == 4
    assert arms.find_best_batch(model, spec) == 4


@pytest.fixture
def run(
    model: Model,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """The command in this process on the tiny model, whose window takes short prompts.

    Matrix products are small, and the machine is never busy.
    """
    film = tmp_path / "film.toml"
    film.write_text(
        "".join(f'[[keyframes]]\nprompt = "{text}"\nseed = {k}\n' for k, text in enumerate(PROMPTS))
    )
    monkeypatch.setattr(speed, "FILM", film)
    monkeypatch.setattr(speed, "fetch_model", lambda spec: model)
    monkeypatch.setattr(machine, "warn_if_busy", lambda found: None)
    monkeypatch.setattr(limit, "_SIDES", {"cpu": (16,), "other": (16,)})
    options = ["--model", str(tiny_folder), "--device", "cpu", "--num-inference-steps", "1"]
    for key, value in {"height": 16, "width": 16, "scheduler": "'euler'"}.items():
        options += ["--set", f"sampling.{key}={value}"]

    def run(*argv: str) -> tuple[int, list[str], list[str]]:
        code = main(["speed", *options, *argv])
        written = capsys.readouterr()
        return code, written.out.splitlines(), written.err.splitlines()

    return run


def test_the_last_line_has_every_way_and_the_limit(run: Run) -> None:
    code, out, err = run("--frames", "3", "--rounds", "2", "--warmups", "0")
    document = json.loads(out[-1])

    assert code == 0
    assert err == [line for line in err if line.startswith("7 ways × 2 rounds of 3 frames")]
    assert document["benchmark"] == "speed"
    assert document["weights"] == "the model's own"
    assert (document["rounds"], document["warmups"], document["waits"]) == (2, 0, 0)
    assert document["film"]["num_frames"] == 3
    assert [line["kind"] for line in document["films"]] == KINDS
    assert {"greatcircle", "torch", "diffusers", "python"} <= set(document["versions"])
    assert "commit" in document
    assert document["limit"]["picture_flops"] > 0
    first = document["films"][0]
    assert (first["speedup"], first["unet_calls"], first["text_calls"]) == (1, 3, 2)


def test_lossy_ways_stand_beside_what_they_lose(run: Run) -> None:
    _, out, _ = run("--frames", "9", "--rounds", "1", "--warmups", "0")
    films = {line["kind"]: line for line in json.loads(out[-1])["films"]}
    card = "\n".join(out[:-1])

    for kind in KINDS[-2:]:
        line = films[kind]
        assert (line["worst_psnr"] is None) == (line["solved"] == 0)
        assert line["float32_psnr"] is None
    assert films["ours, solved, even"]["solved"] > 0
    assert films["ours, solved, even"]["worst_psnr"] >= 40  # what a morph promises by default
    assert "worst dB" in card
    assert "…" not in card  # nothing is cut off


def test_exact_ways_are_the_plain_pipelines_pictures(run: Run) -> None:
    _, out, _ = run("--frames", "3", "--rounds", "1", "--warmups", "0")
    films = {line["kind"]: line for line in json.loads(out[-1])["films"]}

    for kind in ("plain", "strong", "ours, exact"):
        # On a CPU the reference is the plain pipeline; batches round otherwise, by 2e-6 at most.
        assert films[kind]["float32_psnr"] > 80
        assert films[kind]["is_exact"]
        assert films[kind]["worst_psnr"] is None
    assert films["videos"]["float32_psnr"] is None


@pytest.mark.parametrize(
    ("psnr", "plain", "expected"),
    [
        (97.0, 100.0, True),  # float32: a batch of another size
        (79.0, 100.0, False),
        (41.6, 42.0, True),  # 16 bits: as far from float32 as plain is
        (41.4, 42.0, False),
        (45.0, 42.0, True),
    ],
)
def test_what_is_exact(psnr: float, plain: float, expected: bool) -> None:
    assert speed_card.is_exact(psnr, plain) == expected


def test_a_file_says_how_many_frames_and_an_option_more(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[MorphSpec] = []

    def stop(self: Trials, model: Model, spec: MorphSpec, *rest: Any) -> None:
        asked.append(spec)
        raise SpecError("stop")

    monkeypatch.setattr(trials.Trials, "__init__", stop)
    file = tmp_path / "film.toml"
    file.write_text("num_frames = 7\n" + file.read_text())
    run(str(file))
    run(str(file), "--frames", "8", "--batch-size", "3")
    run()

    assert [spec.num_frames for spec in asked] == [7, 8, speed._FRAMES["cpu"]]
    assert asked[1].sampling.batch_size == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "rounds = 0: must be between 1 and 100"),
        (["--rounds", "many"], "rounds = "),
        (["--warmups", "-1"], "warmups = -1: must be between 0 and 100"),
        (["--frames", "1"], "num_frames = 1: must be between 2 and 100000"),
        (["--batch-size", "0"], "batch_size = 0: must be between 1 and 256"),
        (["--num-inference-steps", "0"], "num_inference_steps = 0: must be between 1 and 1000"),
        (["--device", "toaster"], "device = 'toaster'"),
        (["--dtype", "float16"], "must be float32 on a CPU"),
        (["--set", "fps=3"], "unknown key 'fps'"),
        (["nowhere.toml"], "nowhere.toml: "),
        (["--fast"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)

    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert words in err[0]


def test_the_name_of_the_random_model_opens_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(random_model, "create_random_model", lambda *given: made.append(given))
    monkeypatch.setattr(speed, "fetch_model", lambda spec: pytest.fail("opened a checkpoint"))
    speed._open(ModelSpec(source=RANDOM), torch.device("cpu"), torch.float32)

    assert made == [(torch.device("cpu"), torch.float32)]


def test_help_comes_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from scripts.benchmark import main; main(['speed', '--help']);"
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "random-sd15" in done.stdout
