"""The command as other programs meet it: stdout, stderr, exit codes, files."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from PIL import Image

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.pictures import read_record
from pipeline.spec import ModelSpec, Sampling, StillSpec
from pipeline.stills import Stills
from pipeline.values import parse_spec
from scripts.generate import Request, app, main
from tests.tiny import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "scripts.generate"]
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def run(
    embedded: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """The command in this process: its exit code, the lines of stdout, the lines of stderr."""
    from pipeline import model

    load = model.load_model
    monkeypatch.setattr(model, "load_model", lambda s: embedded if _is_shipped(s) else load(s))
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, list[str], list[str]]:
        code = main(list(argv))
        written = capsys.readouterr()
        return code, written.out.splitlines(), written.err.splitlines()

    return run


def _is_shipped(spec: ModelSpec) -> bool:
    on_cpu = spec.device in (None, "cpu") and spec.dtype in (None, "float32")
    return spec.source == "embedded" and on_cpu


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure."""
    monkeypatch.setattr("pipeline.model.load_model", lambda spec: pytest.fail("loaded a model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint than the one that ships."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny-sd")


def levels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def texts(path: str) -> set[str]:
    """The names of what stands in a PNG beside its pixels."""
    with Image.open(path) as image:
        return set(image.info)


# What comes out


def test_paths_go_to_stdout_and_the_rest_to_stderr(run: Run) -> None:
    code, out, err = run("a red apple", "--count", "3", "--num-inference-steps", "2")

    assert code == 0
    assert err == ["embedded on cpu in float32"]
    assert len(out) == len(set(out)) == 3
    assert sorted(map(Path, out)) == sorted(Path("outputs").iterdir())
    assert out == sorted(out)
    assert {levels(path).shape for path in out} == {(128, 128, 3)}


def test_what_is_said_is_what_is_made(run: Run) -> None:
    _, (path,), _ = run(
        "a pear", "--negative-prompt", "", "--seed", "7", "--num-inference-steps", "3",
        "--guidance-scale", "0.5", "--scheduler", "euler", "--width", "64", "--height", "96",
        "--set", "sampling.guidance_interval=[0.1, 0.9]", "--out", "here/there",
    )  # fmt: skip

    spec = read_record(Path(path)).spec

    assert Path(path).parent == Path("here/there")
    assert levels(path).shape == (96, 64, 3)
    assert (spec.prompt, spec.negative_prompt, spec.seed) == ("a pear", "", 7)
    assert spec.sampling == Sampling(
        num_inference_steps=3,
        guidance_scale=0.5,
        guidance_interval=(0.1, 0.9),
        scheduler="euler",
        width=64,
        height=96,
        batch_size=1,
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "7",
        "true",
        '"quoted" \\',
        "[a]",
        "a=b",
        "-dash",
        "line\nline",
        "\x7f\t",
        "🍎 é",
        "a" * 600,
    ],
    ids=lambda prompt: ascii(prompt)[:20],
)
def test_a_prompt_stays_the_text_it_is(run: Run, prompt: str) -> None:
    _, (path,), _ = run("--num-inference-steps", "1", "--negative-prompt", prompt, "--", prompt)

    spec = read_record(Path(path)).spec

    assert (spec.prompt, spec.negative_prompt) == (prompt, prompt)
    assert Path(path).parent == Path("outputs")


def test_without_metadata_there_is_none(run: Run) -> None:
    argv = ["a", "--num-inference-steps", "1"]
    _, (bare,), _ = run(*argv, "--no-metadata")
    _, (full,), _ = run(*argv)

    assert texts(bare) == set()
    assert texts(full) == {"parameters", "greatcircle"}
    assert np.array_equal(levels(bare), levels(full))


# Specs in files


def test_a_file_gives_the_spec_and_options_go_before_it(run: Run) -> None:
    file = Path("apple.toml")
    file.write_text(
        'prompt = "an apple"\nseed = 5\n[sampling]\nnum_inference_steps = 2\nwidth = 64\n'
    )

    _, (path,), _ = run("--spec", str(file), "--seed", "6", "--set", "sampling.height=64")

    spec = read_record(Path(path)).spec
    assert (spec.prompt, spec.seed) == ("an apple", 6)
    assert (spec.sampling.num_inference_steps, spec.sampling.width) == (2, 64)
    assert spec.sampling.height == 64


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("scheduler", ["dpm++2m", "euler-ancestral"])
def test_a_picture_makes_itself_again(run: Run, batch_size: int, scheduler: str) -> None:
    """Also when it was one of several, whatever its place in a batch."""
    _, paths, _ = run(
        "a red apple", "--seed", "3", "--count", "4", "--num-inference-steps", "3",
        "--scheduler", scheduler, "--set", f"sampling.batch_size={batch_size}",
    )  # fmt: skip

    for path in paths[1:]:
        code, (again,), err = run("--spec", path, "--out", "again")

        assert (code, err) == (0, ["embedded on cpu in float32"])
        assert np.array_equal(levels(again), levels(path))
        assert read_record(Path(again)) == read_record(Path(path))


def test_a_picture_can_be_changed(run: Run) -> None:
    _, (path,), _ = run("a red apple", "--num-inference-steps", "2")
    _, (changed,), _ = run("a green pear", "--spec", path, "--seed", "9")

    was, now = read_record(Path(path)).spec, read_record(Path(changed)).spec
    assert now == was.replace(prompt="a green pear", seed=9)


def test_a_picture_starts_from_another(run: Run) -> None:
    size = "--num-inference-steps=2", "--width=64", "--height=64"
    _, (first,), _ = run("a pear", *size)
    start = f"--image={first}", "--strength=0.5", *size

    _, (weak,), _ = run("a pear", *start, "--seed=5")
    _, (again,), said = run("a pear", "--spec", weak, f"--image={first}")

    assert (levels(again) == levels(weak)).all()
    assert not any("warning" in line for line in said)
    record = read_record(Path(weak))
    assert record.image is not None
    assert (record.image.width, record.image.box) == (64, (0, 0, 64, 64))
    assert record.spec.image is not None
    assert record.spec.image.source == Path(first).name

    _, _, said = run("a pear", "--spec", weak, f"--image={weak}")
    assert any("not the same start image" in line for line in said)


def test_a_picture_does_not_choose_its_start_image(run: Run) -> None:
    _, (first,), _ = run("a pear", "--num-inference-steps=2")
    _, (second,), _ = run("a pear", "--num-inference-steps=2", f"--image={first}")

    code, made, said = run("--spec", second)

    assert (code, made) == (2, [])
    assert said == [
        f"error: made with the picture {Path(first).name!r}: say with --image where it is"
    ]


def test_a_start_image_keeps_its_aspect(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (300, 150), "red").save(tmp_path / "wide.png")

    _, (path,), _ = run("a pear", "--image=wide.png", "--num-inference-steps=2")

    with Image.open(path) as image:
        # 128 × 128 pixels at 2 : 1 are 181 × 90.5; sides are multiples of 8
        assert image.size == (184, 88)


def test_variations_count_their_own_seeds(run: Run) -> None:
    steps = "--num-inference-steps=2", "--seed=7"
    _, (plain,), _ = run("a pear", *steps)
    _, varied, _ = run("a pear", *steps, "--variation-seed=100", "--count=2")
    _, (unvaried,), _ = run("a pear", *steps, "--variation-seed=9", "--variation-strength=0")

    assert (levels(plain) == levels(unvaried)).all()
    assert not (levels(varied[0]) == levels(varied[1])).all()
    specs = [read_record(Path(path)).spec for path in varied]
    assert [(s.seed, s.variation.seed) for s in specs if s.variation] == [(7, 100), (7, 101)]
    assert specs[0].variation is not None
    assert specs[0].variation.strength == 0.2


def test_weights_are_shown_and_can_be_taken_literally(run: Run) -> None:
    _, _, weighted = run("a (red:1.5) apple", "--num-inference-steps=1", "--show-weights")
    _, _, plain = run("a (red:1.5) apple", "--num-inference-steps=1", "--show-weights", "--plain")

    assert "1.5" in weighted[0]
    assert "(red:1.5)" not in weighted[0]
    assert "(red:1.5)" in plain[0]


def test_loras_are_given_with_their_weights() -> None:
    request = _parse("x", "--lora", "a.safetensors", "--lora", "b=c.safetensors=-0.5")
    spec = parse_spec(StillSpec, {}, request.overrides)

    assert [(lora.source, lora.weight) for lora in spec.model.loras] == [
        ("a.safetensors", 1.0),
        ("b=c.safetensors", -0.5),
    ]


def _parse(*argv: str) -> Request:
    request = typer.main.get_command(app).main(list(argv), standalone_mode=False)
    assert isinstance(request, Request)
    return request


def test_a_picture_does_not_choose_the_checkpoint(run: Run, other: Path) -> None:
    argv = ["a red apple", "--num-inference-steps", "2", "--width", "32", "--height", "32"]
    _, (path,), _ = run(*argv, "--model", str(other))

    code, out, (line,) = run("--spec", path)
    assert (code, out) == (2, [])
    assert line.startswith("error: made with the checkpoint 'tiny-sd' (")
    assert "--model" in line

    code, (again,), err = run("--spec", path, "--model", str(other))
    assert (code, err) == (0, ["tiny-sd on cpu in float32"])
    assert np.array_equal(levels(again), levels(path))

    code, (strange,), err = run("--spec", path, "--model", "embedded")
    assert code == 0
    assert len(err) == 2
    assert err[1].startswith("warning: not the same checkpoint: made with tiny-sd (")
    assert not np.array_equal(levels(strange), levels(path))


# Bad input

REFUSALS: list[tuple[list[str], str]] = [
    ([], "prompt: is missing"),
    (["a", "--num-inference-steps", "0"], "num_inference_steps = 0: must be between 1 and 1000"),
    (["a", "--num-inference-steps", "-1"], "num_inference_steps = -1: must be between 1 and 1000"),
    (
        ["a", "--num-inference-steps", "1000000000"],
        "num_inference_steps = 1000000000: must be betw",
    ),
    (["a", "--num-inference-steps", "nan"], "num_inference_steps = nan: should be a finite number"),
    (
        ["a", "--num-inference-steps", "ten"],
        "num_inference_steps = 'ten': should be a valid integer",
    ),
    (["a", "--guidance-scale", "nan"], "guidance_scale = nan: should be a finite number"),
    (["a", "--guidance-scale", "inf"], "guidance_scale = inf: should be a finite number"),
    (["a", "--guidance-scale=-inf"], "guidance_scale = -inf: should be a finite number"),
    (["a", "--width", "0"], "width = 0: must be between 16 and 8192"),
    (["a", "--height", "100000"], "height = 100000: must be between 16 and 8192"),
    (["a", "--seed", "-1"], "seed = -1: must be between 0 and 4294967295"),
    (["a", "--seed", "4294967296"], "seed = 4294967296: must be between 0 and 4294967295"),
    (["a", "--seed", ""], "seed = '': should be a valid integer"),
    (["a", "--seed", "4294967295", "--count", "2"], "seed = 4294967295, count = 2: seeds end at"),
    (["a", "--count", "0"], "count = 0: must be between 1 and 10000"),
    (["a" * 10_001], "prompt has 10001 characters: at most 10000 are allowed"),
    (["\udcff"], "prompt = '\\udcff': should be a valid string"),
    (["a", "--scheduler", "euler_a"], "scheduler = 'euler_a': must be one of ddim, pndm, "),
    (["a", "--dtype", "half"], "dtype = 'half': must be one of float32, float16 or bfloat16"),
    (["a", "--device", "gpu"], "device = 'gpu': must be cpu, cuda, cuda:N or mps"),
    (["a", "--model", ""], "source = '': "),
    (
        ["a", "--set", "sampling.guidance=5"],
        "unknown key 'guidance': did you mean 'guidance_scale'?",
    ),
    (["a", "--set", "seed"], "set 'seed': must be KEY=VALUE"),
    (["a", "--sed", "3"], "No such option: --sed"),
    (["a", "--seed"], "Option '--seed' requires an argument"),
    (["a", "red", "apple"], "Got unexpected extra argument"),
    (["--spec", "none.toml"], "none.toml: No such file or directory"),
    (["--spec", "none.png"], "none.png: "),
    (["--spec", "apple.jpg"], "spec 'apple.jpg': must be a .toml file or a .png"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("argv", "line"), REFUSALS, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_at_the_door(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    code = main(["--out", str(out), *argv])

    written = capsys.readouterr()
    assert code == 2
    assert written.out == ""
    assert written.err.startswith(f"error: {line}")
    assert written.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"sampling": {"num_inference_steps": 0}}, ["--num-inference-steps", "0"]),
        ({"sampling": {"guidance_scale": float("nan")}}, ["--guidance-scale", "nan"]),
        ({"sampling": {"scheduler": "eulr"}}, ["--scheduler", "eulr"]),
        ({"seed": 2**32}, ["--seed", str(2**32)]),
        ({"model": {"dtype": "int8"}}, ["--dtype", "int8"]),
    ],
    ids=str,
)
def test_the_text_is_that_of_python(
    values: dict[str, object], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpecError) as refused:
        StillSpec(prompt="a", **values)

    assert main(["a", *option]) == 2
    assert capsys.readouterr().err == f"error: {refused.value}\n"


@pytest.mark.usefixtures("no_model")
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")

    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        assert main(["a", "--out", str(folder)]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {folder}: cannot be written to: ")
        assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--width", "100"], "width = 100: must be a multiple of 8"),
        (["--dtype", "float16"], "dtype = 'float16': must be float32 on a CPU"),
        (["--device", "cuda:99"], "device = 'cuda:99': not on this machine, which has "),
        (["--model", "no/such/folder"], "model 'no/such/folder': no such folder"),
    ],
)
def test_what_the_model_refuses_leaves_nothing(run: Run, argv: list[str], line: str) -> None:
    code, out, err = run("a", "--device", "cpu", *argv, "--out", "made-for-nothing")

    assert (code, out) == (2, [])
    assert err[-1].startswith(f"error: {line}")
    assert not Path("made-for-nothing").exists()


def test_too_little_space_is_said_before_the_first_step(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr("pipeline.files.shutil.disk_usage", lambda place: usage)
    monkeypatch.setattr("pipeline.render.denoise", lambda *args: pytest.fail("began to render"))

    code, out, err = run("a", "--count", "1000")

    assert (code, out) == (2, [])
    assert err[-1] == "error: outputs: 50 MB are needed there, 1 MB are free"


# Help, and leaving early


def test_help_is_quick_and_complete() -> None:
    """In seconds of the processor: how busy the machine is otherwise is not the program's doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    names = """--negative-prompt --seed --count --num-inference-steps --guidance-scale --scheduler
        --width --height --model --device --dtype --out --set --spec --no-metadata""".split()
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in names if name not in done.stdout] == []
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5


def test_a_refusal_comes_before_torch() -> None:
    code = (
        "import sys; from scripts.generate import main;"
        "code = main(['a', '--seed', '-1']);"
        "print(code, [name for name in ('torch', 'diffusers', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 []\n"


def test_an_interruption_says_what_was_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Stills.save

    def save_two(stills: Stills, frame: object) -> Path:
        if frame.index == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return save(stills, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(Stills, "save", save_two)

    code, out, err = run("a", "--count", "4", "--num-inference-steps", "1")

    assert code == 130
    assert err[1:] == ["interrupted: 2 of 4 pictures kept in outputs"]
    assert sorted(map(Path, out)) == sorted(Path("outputs").iterdir())


@pytest.mark.parametrize("way", ["interrupted", "nobody reads"])
def test_a_process_that_is_left_ends_in_good_order(way: str, tmp_path: Path) -> None:
    argv = ["a", "--count", "9999", "--num-inference-steps", "1", "--width", "32", "--height", "32"]
    process = subprocess.Popen(
        [*COMMAND, *argv, "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline().strip()
    if way == "interrupted":
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    process.stdout.close()

    err = process.stderr.read().splitlines()

    assert process.wait(timeout=60) == 130
    kept = sorted(tmp_path.iterdir())
    assert Path(first) in kept
    assert err[-1] == f"interrupted: {len(kept)} of 9999 pictures kept in {tmp_path}"
    assert all(path.suffix == ".png" and levels(path).shape == (32, 32, 3) for path in kept)
    process.stderr.close()
