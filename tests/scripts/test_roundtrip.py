"""The command as other programs meet it: stdout, stderr, exit codes, files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline import perceptual
from pipeline.autoencoder import Autoencoder, load_codec
from pipeline.pictures import save_png, to_images
from pipeline.soundness import draw_card
from pipeline.spec import ModelSpec
from scripts.roundtrip import main
from tests.tiny import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "scripts.roundtrip"]
SHOWN = ("error", "latents", "original", "reconstruction")
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def shipped() -> Autoencoder:
    return load_codec(ModelSpec(device="cpu"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture
def run(
    shipped: Autoencoder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """The command in this process, in a folder with pictures: code, stdout, stderr."""
    from pipeline import autoencoder

    load = autoencoder.load_codec
    monkeypatch.setattr(autoencoder, "load_codec", lambda s: shipped if _is_plain(s) else load(s))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    (card,) = to_images(draw_card(64))
    card.save("photos/b.png")
    card.rotate(90).save("photos/a.JPG", format="JPEG")
    Path("photos/notes.txt").write_text("no picture")
    card.save("card.png")

    def run(*argv: str) -> tuple[int, list[str], list[str]]:
        code = main(list(argv))
        written = capsys.readouterr()
        return code, written.out.splitlines(), written.err.splitlines()

    return run


def _is_plain(spec: ModelSpec) -> bool:
    return spec.replace(device=None) == ModelSpec()


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading an autoencoder is a failure."""
    monkeypatch.setattr(
        "pipeline.autoencoder.load_codec", lambda spec: pytest.fail("loaded a model")
    )


def read_last(out: list[str]) -> Any:
    return json.loads(out[-1])


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(float)


# What comes out


def test_the_last_line_is_json_and_the_table_is_before_it(run: Run) -> None:
    code, out, err = run("card.png", "--out", "here")

    assert (code, err) == (0, ["AutoencoderKL of embedded on cpu in float32"])
    assert [line.split()[0] for line in out[:-1]] == ["index", "0"]
    document = read_last(out)
    (image,) = document["images"]
    assert document["psnr"] == image["psnr"]
    assert document["ssim"] == image["ssim"]
    assert f"{image['psnr']:.2f}" in out[1]
    assert f"{image['ssim']:.4f}" in out[1]
    assert (image["width"], image["height"], image["image"]) == (64, 64, "card.png")
    assert image["compression"]["ratio"] == 48
    assert document["codec"]["faults"] == []
    assert document["lpips"] is None
    assert json.loads(Path("here/roundtrip.json").read_text()) == document


def test_the_files_show_what_the_numbers_say(run: Run) -> None:
    _, out, _ = run("card.png", "--out", "here")

    (image,) = read_last(out)["images"]
    files = {shows: Path("here") / name for shows, name in image["files"].items()}
    assert sorted(files) == sorted(SHOWN)
    assert {path.name for path in files.values()} == {f"0000-{shows}.png" for shows in SHOWN}

    original, back = levels(files["original"]), levels(files["reconstruction"])
    assert np.array_equal(original, levels(Path("card.png")))
    psnr = 10 * np.log10(255**2 / ((original - back) ** 2).mean())
    # the picture is rounded to 8 bits, the number is not
    assert psnr == pytest.approx(image["psnr"], abs=0.05)
    assert levels(files["error"]).shape == (64, 64, 3)
    assert levels(files["latents"]).shape == (64, 5 * 64 + 4 * 4, 3)  # four channels and colours


def test_a_folder_is_its_pictures_in_order(run: Run) -> None:
    code, out, _ = run("photos", "card.png")

    assert code == 0
    document = read_last(out)
    assert [image["image"] for image in document["images"]] == ["a.JPG", "b.png", "card.png"]
    assert document["images"][1]["psnr"] == document["images"][2]["psnr"]
    mean = sum(image["psnr"] for image in document["images"]) / 3
    assert document["psnr"] == pytest.approx(mean)
    names = sorted(path.name for path in Path("outputs/roundtrip").iterdir())
    assert names == [f"{i:04d}-{shows}.png" for i in range(3) for shows in SHOWN] + [
        "roundtrip.json"
    ]


def test_what_is_asked_for_is_what_is_made(run: Run) -> None:
    _, out, err = run(
        "card.png", "--size", "32", "--repeat", "3", "--sample", "--seed", "4",
        "--dtype", "bfloat16", "--device", "cpu",
    )  # fmt: skip

    assert err == ["AutoencoderKL of embedded on cpu in bfloat16"]
    document = read_last(out)
    (image,) = document["images"]
    assert (image["width"], image["height"], document["dtype"]) == (32, 32, "bfloat16")
    assert [drift["trip"] for drift in image["drift"]] == [1, 2, 3]
    assert image["sampled"]["psnr"] != image["psnr"]
    assert image["float32"]["agreement"] > 40


def test_a_draw_is_made_from_seed_0_unless_told(run: Run) -> None:
    draws = [
        read_last(run("card.png", *argv)[1])["images"][0]["sampled"]
        for argv in ([], ["--sample"], ["--sample", "--seed", "0"], ["--sample", "--seed", "1"])
    ]

    assert draws[0] is None
    assert draws[1] == draws[2] != draws[3]


def test_another_model_and_another_autoencoder(run: Run, other: Path) -> None:
    _, by_model, said = run("card.png", "--model", str(other))
    _, by_vae, _ = run("card.png", "--vae", str(other / "vae"))

    assert read_last(by_model)["model"] == "tiny-sd"
    assert read_last(by_vae)["model"] == "vae"
    assert read_last(by_model)["images"] == read_last(by_vae)["images"]
    # random weights keep no picture, and that is said
    faults = read_last(by_model)["codec"]["faults"]
    assert said[1:] == [f"warning: {fault}" for fault in faults]
    assert any("keeps no picture" in fault for fault in faults)


def test_lpips_with_weights_that_are_there(run: Run) -> None:
    drawn = torch.Generator().manual_seed(0)
    shapes = perceptual._shapes()
    weights = {name: torch.rand(shape, generator=drawn) / 50 for name, shape in shapes.items()}
    save_file(weights, "alex.safetensors")

    _, out, _ = run("card.png", "--lpips", "alex.safetensors")

    document = read_last(out)
    assert document["lpips"] == document["images"][0]["lpips"] > 0


def test_a_large_picture_is_made_smaller_and_that_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.roundtrip.MAX_AREA", 64 * 64)
    Image.new("L", (210, 50), 128).save("wide.png")

    _, out, err = run("wide.png", "card.png")

    wide, card = read_last(out)["images"]
    assert (wide["width"], wide["height"]) == (128, 32)
    assert (card["width"], card["height"]) == (64, 64)
    assert err[1:] == ["wide.png: 210 × 50 made 128 × 32 pixels"]


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc.png",
        "a\nb.png",
        "\x1b[2J.png",
        "-rf.png",
        "$(touch x).png",
        "é🍎.png",
        "x" * 240 + ".png",
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_a_name_is_never_that_of_a_file(run: Run, name: str) -> None:
    (card,) = to_images(draw_card(64))
    save_png(card, Path(name), None)
    before = {path for path in Path().rglob("*") if path.is_file()}

    code, out, err = run("--out", "here", "--", name)

    assert (code, len(out), len(err)) == (0, 3, 1)
    after = {path for path in Path().rglob("*") if path.is_file()}
    expected = [*(f"0000-{shows}.png" for shows in SHOWN), "roundtrip.json"]
    assert sorted(str(path) for path in after - before) == [f"here/{name}" for name in expected]
    assert all(character.isprintable() for character in out[1])


def test_a_name_in_a_folder_need_not_be_text(run: Run) -> None:
    Path("card.png").rename("photos/\udcff.png")

    code, out, _ = run("photos")

    assert code == 0
    assert [image["image"] for image in read_last(out)["images"]] == ["a.JPG", "b.png", "?.png"]


# Bad input


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "images: must be one or more, pictures or folders of them"),
        (["none.png"], "none.png: cannot be read: No such file or directory"),
        (["card.png", "none.png"], "none.png: cannot be read: No such file or directory"),
        (["photos/notes.txt"], "notes.txt: is not a PNG, JPEG or WebP"),
        (["empty"], "empty: holds no picture, which ends in .jpeg, .jpg, .png, .webp"),
        (["card.png", "--size", "0"], "size = 0: must be between 16 and 8192"),
        (["card.png", "--size", "big"], "size = 'big': should be a valid integer"),
        (["card.png", "--size", "nan"], "size = nan: should be a "),
        (["card.png", "--repeat", "-1"], "repeat = -1: must be between 1 and 100"),
        (["card.png", "--repeat", "1000000"], "repeat = 1000000: must be between 1 and 100"),
        (["card.png", "--seed", "3"], "seed = 3: is for --sample"),
        (["card.png", "--sample", "--seed", "-1"], "seed = -1: must be between 0 and"),
        (["card.png", "--dtype", "half"], "dtype = 'half': must be one of float32, float16 or"),
        (["card.png", "--device", "gpu"], "device = 'gpu': must be cpu, cuda, cuda:N or mps"),
        (["card.png", "--model", ""], "source = '': "),
        (["card.png", "--lpips", "alex.pth"], "'alex.pth': "),
        (["card.png", "--lpips", "card.png"], "'card.png': no such .safetensors file"),
        (["card.png", "--siz", "3"], "No such option: --siz"),
        (["\0.png"], "\0.png: is not a file"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    run: Run, argv: list[str], line: str
) -> None:
    Path("empty").mkdir()

    code, out, err = run(*argv, "--out", "here")

    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {line}")
    assert not Path("here").exists()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["card.png", "--size", "100"], "size = 100: must be a multiple of 8, 16 or more"),
        (["small.png"], "small.png: a picture of 15 × 64 pixels: sides must be 16 or more"),
        (["card.png", "--device", "cuda:99"], "device = 'cuda:99': not on this machine"),
        (["card.png", "--model", "no/such/folder"], "model 'no/such/folder': no such folder"),
        (["card.png", "--vae", "photos"], "photos: config.json: is missing"),
    ],
    ids=str,
)
def test_what_the_model_refuses_leaves_nothing(run: Run, argv: list[str], line: str) -> None:
    Image.new("RGB", (15, 64)).save("small.png")

    code, out, err = run(*argv, "--out", "here")

    assert (code, out) == (2, [])
    assert err[-1].startswith(f"error: {line}")
    assert not Path("here").exists()


def test_an_interruption_says_what_was_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import roundtrip

    measure, done = roundtrip.measure_trip, []

    def stop_at_the_second(*args: Any, **settings: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(args)
        return measure(*args, **settings)

    monkeypatch.setattr(roundtrip, "measure_trip", stop_at_the_second)

    code, _, err = run("photos", "--out", "here")

    assert code == 130
    assert err[-1] == "interrupted: 1 of 2 pictures kept in here"
    assert len(list(Path("here").iterdir())) == len(SHOWN)


def test_help_is_quick_and_complete() -> None:
    """In seconds of the processor: how busy the machine is otherwise is not the program's doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    names = "--model --vae --size --repeat --sample --seed --device --dtype --lpips --out".split()
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in names if name not in done.stdout] == []
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5


def test_a_refusal_comes_before_torch() -> None:
    code = (
        "import sys; from scripts.roundtrip import main;"
        "code = main(['a.png', '--repeat', '0']);"
        "print(code, [name for name in ('torch', 'diffusers', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 []\n"
