"""The command as other programs meet it: options, sources, stdout, stderr, exit codes."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from pipeline.errors import OutputError
from pipeline.spec import MorphSpec
from pipeline.values import load_spec, parse_spec
from pipeline.video import probe, read_metadata
from scripts.morph import Request, app, main

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., tuple[int, list[str], list[str]]]
COMMAND = [sys.executable, "-m", "scripts.morph"]
MORPHS = [
    file
    for file in sorted((ROOT / "configs").glob("*.toml"))
    if "[[keyframes]]" in file.read_text()
]


def parsed(*argv: str) -> Request:
    request = typer.main.get_command(app).main(list(argv), standalone_mode=False)
    assert isinstance(request, Request)
    return request


def spec_of(*argv: str) -> MorphSpec:
    request = parsed(*argv)
    return parse_spec(MorphSpec, {"keyframes": request.ends.keyframes}, request.overrides)


def frame_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "frames").iterdir()}


# Options


def test_options_are_the_spec() -> None:
    spec = spec_of(
        "--from", "a man", "--to", "a woman", "--frames", "30", "--fps", "12", "--seed", "3",
        "--num-inference-steps", "20", "--guidance-scale", "4", "--scheduler", "ddim",
        "--width", "64", "--height", "32", "--batch-size", "2", "--kind", "gif", "--boomerang",
        "--exact", "--no-even", "--easing", "smoothstep", "--negative-prompt", "",
        "--device", "cpu", "--dtype", "float32", "--model", "x", "--vae", "y", "--lora", "z=0.5",
        "--set", "tolerance_db=40",
    )  # fmt: skip

    assert [(k.prompt, k.seed, k.negative_prompt) for k in spec.keyframes] == [
        ("a man", 3, ""),
        ("a woman", 3, ""),
    ]
    assert (spec.num_frames, spec.even, spec.exact, spec.easing) == (30, False, True, "smoothstep")
    assert (spec.video.fps, spec.video.kind, spec.video.boomerang) == (12, "gif", True)
    assert (spec.sampling.num_inference_steps, spec.sampling.guidance_scale) == (20, 4)
    assert (spec.sampling.width, spec.sampling.height, spec.sampling.batch_size) == (64, 32, 2)
    assert (spec.sampling.scheduler, spec.tolerance_db) == ("ddim", 40)
    assert (spec.model.source, spec.model.vae, spec.model.loras[0].weight) == ("x", "y", 0.5)


def test_what_is_not_said_is_left_to_the_spec() -> None:
    assert spec_of("--from", "a", "--to", "b") == MorphSpec(
        keyframes=[{"prompt": "a"}, {"prompt": "b"}]
    )


@pytest.mark.parametrize(
    ("argv", "keyframes"),
    [
        (["--to", "b", "--to", "c", "--seed", "5"], [("a", 5), ("b", 5), ("c", 5)]),
        (["--to", "b", "--to-seed", "7"], [("a", 0), ("b", 7)]),
        (["--to-seed", "7", "--to-seed", "8"], [("a", 0), ("a", 7), ("a", 8)]),
        (["--to", "7", "--seed", "0"], [("a", 0), ("7", 0)]),
    ],
)
def test_keyframes_are_said_by_prompts_and_seeds(
    argv: list[str], keyframes: list[tuple[str, int]]
) -> None:
    spec = spec_of("--from", "a", *argv)
    assert [(keyframe.prompt, keyframe.seed) for keyframe in spec.keyframes] == keyframes


def test_a_bezier_is_an_easing() -> None:
    spec = spec_of("--from", "a", "--to", "b", "--easing", "[0.4, 0, 0.2, 1]")
    assert spec.easing == (0.4, 0, 0.2, 1)


def test_folders_are_named_after_what_is_made(tmp_path: Path) -> None:
    assert parsed("configs/faces.toml").out == Path("outputs/faces")
    assert parsed("--from", "a", "--to", "b").out == Path("outputs/morph")
    assert parsed(str(tmp_path)).out == tmp_path
    assert parsed(str(tmp_path), "--out", "here").out == Path("here")


REFUSALS: list[tuple[list[str], str]] = [
    ([], "keyframes: are missing: give a SOURCE, or --from and --to"),
    (["--from", "a"], "from: leads nowhere: say with --to what to, or --to-seed"),
    (["--to", "b"], "to: goes with --from"),
    (["x.toml", "--from", "a", "--to", "b"], "from: goes without a SOURCE, which is 'x.toml'"),
    (["x.toml", "--seed", "3"], "seed: goes with --from; a file's keyframes have their own"),
    (["x.toml", "--to-seed", "0"], "to-seed: goes with --from"),
    (["x.toml", "--negative-prompt", ""], "negative-prompt: goes with --from"),
    (
        ["--from", "a", "--to", "b", "--to-seed", "1", "--to-seed", "2"],
        "2 to-seed for 1 to: must be as many",
    ),
    (["--from", "a", "--to", "b", "--seed", "ten"], "seed = 'ten': should be a valid integer"),
    (["--from", "a", "--to", "b", "--seed", "-1"], "seed = -1: must be between 0 and 4294967295"),
    (["--from", "a", "--to", "b", "--frames", "1"], "num_frames = 1: must be between 2 and 100000"),
    (["--from", "a", "--to", "b", "--fps", "0"], "fps = 0: must be between"),
    (["--from", "a", "--to", "b", "--fps", "nan"], "fps = nan: should be a finite number"),
    (
        ["--from", "a", "--to", "b", "--kind", "gif", "--fps", "60"],
        "fps = 60: must be at most 50 in a gif",
    ),
    (["--from", "a", "--to", "b", "--kind", "avi"], "kind = 'avi': must be one of mp4, webp"),
    (["--from", "a", "--to", "b", "--easing", "jump"], "easing = 'jump': must be linear"),
    (["--from", "a", "--to", "b", "--loop", "--boomerang"], "boomerang = true: a loop comes back"),
    (["none.toml"], "none.toml: No such file or directory"),
    (["none"], "source 'none': must be a .toml file, or a run, film or frame of ours"),
    (["none.mp4"], "none.mp4: "),
    (["none.png"], "none.png: "),
    (["--frame", "3"], "No such option"),
    (["verify"], "Missing parameter: folder"),
    (["verify", "none"], "none: is no run of a morph: there is no plan.json"),
]


@pytest.mark.parametrize(("argv", "line"), REFUSALS, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_at_the_door(
    argv: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.model.load_model", lambda spec: pytest.fail("loaded a model"))
    monkeypatch.chdir(tmp_path)

    assert main(argv) == 2

    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(f"error: {line}")
    assert written.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_names_both_commands() -> None:
    """In seconds of the processor: how busy the machine is otherwise is not the program's doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    names = """--from --to --seed --to-seed --frames --fps --loop --boomerang --even --exact --kind
        --model --vae --lora --device --dtype --out --set --no-metadata --no-report""".split()
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in names if name not in done.stdout] == []
    assert "python -m scripts.morph verify FOLDER" in done.stdout
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5


# What comes out


def test_the_film_goes_to_stdout_and_the_rest_to_stderr(command: Command, small: list[str]) -> None:
    code, out, err = command(*small, "--out", "here")

    assert (code, out) == (0, ["here/morph.mp4"])
    assert probe(Path(out[0])).frames == 5
    cost = re.compile(
        r"5 frames from 9 to \d+ renders: at most \d+ UNet calls of 2, about \d+( to \d+)? s"
    )
    assert err[0] == "tiny-sd on cpu in float32"
    assert cost.fullmatch(err[1])
    assert re.match(r"5 frames from \d+ renders", err[2])
    assert len(err) == 4  # and the verdict
    assert json.loads(Path("here/report.json").read_text())["verdict"] == err[3]
    assert Path("here/report.png").is_file()


def test_the_same_command_makes_nothing_twice(command: Command, small: list[str]) -> None:
    command(*small, "--out", "here", "--no-report")
    times = {file: file.stat().st_mtime_ns for file in Path("here").glob("*/*")}
    film = Path("here/morph.mp4").read_bytes()

    code, _, err = command(*small, "--out", "here")

    assert code == 0
    kept = re.fullmatch(r"5 frames and (\d+) renders are kept in here: what fits is used", err[1])
    assert kept
    assert {file: file.stat().st_mtime_ns for file in Path("here").glob("*/*")} == times
    assert Path("here/morph.mp4").read_bytes() == film


def test_an_edited_file_uses_what_is_there(
    command: Command, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "three.toml"
    lines = [
        'num_frames = 7', 'even = false', 'exact = true', 'path = "straight"', '[sampling]',
        'num_inference_steps = 1', 'width = 16', 'height = 16', 'batch_size = 2', '[model]',
        f'source = "{tiny_folder}"',
    ]  # fmt: skip
    keyframes = [f'[[keyframes]]\nprompt = "{p}"\n' for p in ("a red apple", "b", "c")]
    file.write_text("\n".join([*lines, *keyframes]))
    command(str(file), "--out", "here", "--no-report")
    before = set(frame_bytes(Path("here")))

    file.write_text("\n".join([*lines, *keyframes[:2], '[[keyframes]]\nprompt = "d"\n']))
    code, _, _ = command(str(file), "--out", "here", "--no-report")

    # the first way and the keyframe at its end are as they were: three frames are new
    assert code == 0
    assert len(set(frame_bytes(Path("here"))) - before) == 3


@pytest.mark.parametrize("kind", ["webp", "gif", "png"])
def test_films_come_in_kinds(command: Command, small: list[str], kind: str) -> None:
    code, out, _ = command(*small, "--out", "here", "--kind", kind, "--boomerang", "--no-report")

    assert code == 0
    if kind == "png":
        assert [file.name for file in sorted(Path(out[0]).iterdir())] == [
            f"{k:06d}.png" for k in range(8)
        ]
    else:
        assert out == [f"here/morph.{kind}"]
        assert probe(Path(out[0])).frames == 8


def test_without_metadata_there_is_none(command: Command, small: list[str]) -> None:
    _, (film,), _ = command(*small, "--out", "here", "--no-metadata", "--no-report")

    assert read_metadata(Path(film)) is None
    assert not any(b"red apple" in data for data in frame_bytes(Path("here")).values())


# From what was made


@pytest.mark.parametrize("what", ["folder", "film", "frame"])
def test_a_run_makes_itself_again(
    command: Command, small: list[str], tiny_folder: Path, what: str
) -> None:
    _, (film,), _ = command(*small, "--out", "here", "--no-report")
    frame = next(Path("here/frames").iterdir())
    source = {"folder": "here", "film": film, "frame": str(frame)}[what]

    code, _, (line,) = command(source, "--out", "again")
    assert code == 2
    assert line.startswith("error: made with the checkpoint 'tiny-sd' (")
    assert line.endswith("say with --model where it is")
    assert not Path("again").exists()

    code, _, err = command(source, "--out", "again", "--model", str(tiny_folder), "--no-report")
    assert code == 0
    assert not any("warning" in line for line in err)
    assert frame_bytes(Path("again")) == frame_bytes(Path("here"))


def test_a_run_can_be_changed(command: Command, small: list[str], tiny_folder: Path) -> None:
    command(*small, "--out", "here", "--no-report")

    code, (film,), _ = command(
        "here", "--model", str(tiny_folder), "--fps", "10", "--frames", "6", "--no-report"
    )

    assert (code, film) == (0, "here/morph.mp4")
    assert probe(Path(film)).duration == pytest.approx(0.6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nan",
        '{"plan": 3}',
        '{"spec": {"keyframes": []}}',
        '{"spec": {"keyframes": [], "exec": 1}, "model_name": "../x"}',
        "[" * 100_000,
        '{"spec": ' * 50_000,
    ],
    ids=lambda text: text[:30],
)
@pytest.mark.parametrize("name", ["x.mp4", "x.png", "run"])
def test_hostile_settings_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    name: str,
) -> None:
    monkeypatch.setattr("pipeline.model.load_model", lambda spec: pytest.fail("loaded a model"))
    monkeypatch.setattr("scripts.morphing._read_text", lambda file: text.encode())
    if name == "run":
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text(text)

    assert main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2

    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Verify


def test_verify_says_what_is_wrong(command: Command, small: list[str]) -> None:
    command(*small, "--out", "here", "--no-report")
    assert command("verify", "here") == (0, [], ["here: whole, 5 frames and their film"])

    first, second, *_ = sorted(Path("here/frames").iterdir())
    first.unlink()
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    Path("here/morph.mp4").write_bytes(b"torn")

    code, out, err = command("verify", "here")
    assert (code, out) == (2, [])
    assert f"{first.name}: is missing" in err
    assert any(line.startswith(f"{second.name}: ") for line in err)
    assert "morph.mp4: is not what was written" in err
    assert err[-1].startswith(f"error: here: {len(err) - 1} faults; ")

    assert command(*small, "--out", "here", "--no-report")[0] == 0
    assert command("verify", "here")[0] == 0


def test_errors_on_the_way_say_what_is_kept(
    command: Command, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OutputError("morph.mp4: cannot be written: No space left on device")

    monkeypatch.setattr("pipeline.outcome.write_video", refuse)

    code, out, err = command(*small, "--out", "here")

    assert (code, out) == (2, [])
    assert re.fullmatch(
        r"error: morph.mp4: cannot be written: No space left on device; "
        r"5 frames and \d+ renders are kept in here; the same command goes on from there",
        err[-1],
    )


# Configs


@pytest.mark.parametrize("file", MORPHS, ids=lambda file: file.name)
def test_configs_are_morphs_of_the_embedded_model(file: Path) -> None:
    spec = load_spec(MorphSpec, file)

    assert file.read_text().startswith("# ")
    assert spec.model.source == "embedded"
    assert spec.num_frames / spec.video.fps >= 3


def test_there_are_configs_enough() -> None:
    """Loops, one prompt with many seeds, one seed with many prompts, holds."""
    specs = [load_spec(MorphSpec, file) for file in MORPHS]
    keyframes = [spec.keyframes for spec in specs]

    assert len(specs) >= 6
    assert any(spec.loop for spec in specs)
    assert any(len({k.prompt for k in keys}) == 1 for keys in keyframes)
    assert any(len({k.seed for k in keys}) == 1 and len(keys) > 3 for keys in keyframes)
    assert any(k.hold for keys in keyframes for k in keys)
