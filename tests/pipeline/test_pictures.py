"""Images in and out: diffusers' rounding, PNGs that carry their record, hostile files refused."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.errors import OutputError, PictureError, RenderError
from pipeline.pictures import open_image, read_record, save_png, to_images, to_pixels
from pipeline.record import VERSION, Record, parameters_text
from pipeline.spec import Sampling, StillSpec

SAMPLING = Sampling(
    num_inference_steps=20, guidance_scale=7.5, height=512, width=768, scheduler="dpm++2m"
)


def record(prompt: str = "a red apple", **changes: Any) -> Record:
    return Record(
        spec=StillSpec(prompt=prompt, seed=7, sampling=SAMPLING, **changes),
        model_name="embedded",
        model_hash="0123456789abcdef" * 4,
        device="cpu",
        dtype="float32",
        versions={"greatcircle": VERSION},
    )


def noise_image(width: int = 6, height: int = 4, mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


# Pixels and uint8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_images_equal_those_of_diffusers(dtype: torch.dtype) -> None:
    from diffusers.image_processor import VaeImageProcessor

    generator = torch.Generator().manual_seed(0)
    pixels = (torch.randn(3, 3, 64, 48, generator=generator) * 0.8).to(dtype)
    halves = ((torch.arange(256) + 0.5) / 255 * 2 - 1).to(dtype)  # where rounding is decided
    pixels[0, 0].view(-1)[:256] = halves

    theirs = VaeImageProcessor().postprocess(pixels, output_type="pil")

    for ours, reference in zip(to_images(pixels), theirs, strict=True):
        assert ours.mode == "RGB"
        assert np.array_equal(np.array(ours), np.array(reference))


def test_pixels_equal_those_of_diffusers() -> None:
    from diffusers.image_processor import VaeImageProcessor

    image = noise_image(16, 8)
    assert torch.equal(to_pixels(image), VaeImageProcessor().preprocess(image))


def test_every_level_survives_the_way_there_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1))
    pixels = to_pixels(image)

    assert pixels.shape == (1, 3, 16, 16)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert np.array_equal(np.array(to_images(pixels)[0]), np.array(image))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pixels_that_are_no_numbers_make_no_picture(value: float, dtype: torch.dtype) -> None:
    pixels = torch.zeros(2, 3, 4, 4, dtype=dtype)
    pixels[1, 0, 0, 0] = value
    with pytest.raises(RenderError, match=r"^1 of 96 numbers in the pixels are NaN or infinite"):
        to_images(pixels)


def test_only_rgb_becomes_pixels() -> None:
    with pytest.raises(PictureError, match="mode RGBA: must be RGB"):
        to_pixels(noise_image(mode="RGBA"))


# PNG with its record


def test_a_png_holds_pixels_and_record(tmp_path: Path) -> None:
    image, file = noise_image(), tmp_path / "a.png"
    save_png(image, file, record())

    with Image.open(file) as read:
        assert np.array_equal(np.array(read), np.array(image))
        assert read.info["parameters"] == parameters_text(record())
        assert set(read.info) == {"parameters", "greatcircle"}
        assert json.loads(read.info["greatcircle"])["spec"]["prompt"] == "a red apple"
    assert read_record(file) == record()
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("prompt", ["a café", "ein Apfel – rot", "りんご", "🍎", "two\nlines\t\0"])
def test_other_programs_read_every_script(tmp_path: Path, prompt: str) -> None:
    save_png(noise_image(), tmp_path / "a.png", record(prompt))

    with Image.open(tmp_path / "a.png") as read:
        assert str(read.info["parameters"]) == parameters_text(record(prompt))
    assert read_record(tmp_path / "a.png").spec.prompt == prompt


@settings(max_examples=40)  # each one waits for the disk
@given(
    prompt=st.text(max_size=200),
    negative=st.text(max_size=50) | st.none(),
    scale=st.floats(0, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_records_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    negative: str | None,
    scale: float,
    seed: int,
) -> None:
    spec = StillSpec(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        sampling=SAMPLING.replace(guidance_scale=scale, guidance_interval=(0.1, 0.7)),
    )
    written = record().replace(spec=spec)
    file = tmp_path_factory.getbasetemp() / "record.png"

    save_png(noise_image(1, 1), file, written)

    assert read_record(file) == written


def test_the_longest_prompts_fit(tmp_path: Path) -> None:
    long = record("🍎" * 10_000, negative_prompt="🍏" * 10_000)
    save_png(noise_image(), tmp_path / "a.png", long)
    assert read_record(tmp_path / "a.png") == long


def test_without_a_record_nothing_is_told(tmp_path: Path) -> None:
    image = noise_image()
    image.info = {"icc_profile": b"secret", "comment": "secret"}
    save_png(image, tmp_path / "a.png", None)

    with Image.open(tmp_path / "a.png") as read:
        assert read.info == {}
    assert b"secret" not in (tmp_path / "a.png").read_bytes()
    with pytest.raises(PictureError, match=r"^a\.png: holds no settings: give a PNG that this"):
        read_record(tmp_path / "a.png")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Image.Image.save

    def save_half(self: Image.Image, stream: Any, **options: Any) -> None:
        whole = io.BytesIO()
        real(self, whole, **options)
        stream.write(whole.getvalue()[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", save_half)
    with pytest.raises(OutputError, match=r"^a\.png: cannot be written: No space left on device$"):
        save_png(noise_image(), tmp_path / "a.png", record())
    assert list(tmp_path.iterdir()) == []


def test_the_place_of_the_picture_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist"):
        save_png(noise_image(), tmp_path / "missing" / "a.png", record())


# Records from elsewhere


def write_text(file: Path, text: str) -> Path:
    info = PngInfo()
    info.add_text("greatcircle", text)
    noise_image().save(file, pnginfo=info)
    return file


def changed(path: str, value: object) -> str:
    """The record's JSON with one value changed."""
    values = record().model_dump(mode="json")
    *tables, key = path.split(".")
    inner = values
    for table in tables:
        inner = inner[table]
    inner[key] = value
    return json.dumps(values)


RECORDS = {
    "": "are not valid JSON",
    "[]": "not a JSON object",
    '{"spec": NaN}': "NaN is not allowed",
    '{"a": 1, "a": 2}': "'a' stands there twice",
    "[" * 100_000: "nested too deeply",
    '{"spec": ' + "9" * 10_000 + "}": "10000 digits",
    "{}": "is missing",
    '{"self": 1}': "are not valid",
    changed("spec.prompt", 5): "prompt = 5",
    changed("spec.steps", 5): "unknown key",
    changed("spec.seed", -1): "seed = -1",
    changed("spec.sampling.height", 10**9): "height = 1000000000",
    changed("spec.sampling.scheduler", "os.system"): "scheduler = 'os.system'",
    changed("spec.model.source", "/etc/passwd"): "holds a name, never a path",
    changed("spec.count", 2): "a record is of 1 picture",
    changed("device", {"cpu": 1}): "device = {'cpu': 1}",
}


@pytest.mark.parametrize("text", RECORDS, ids=range(len(RECORDS)))
def test_a_record_that_is_not_valid(tmp_path: Path, text: str) -> None:
    with pytest.raises(PictureError) as caught:
        read_record(write_text(tmp_path / "a.png", text))

    line = str(caught.value)
    assert line.startswith("a.png: its settings are not")
    assert RECORDS[text] in line
    assert "\n" not in line
    assert len(line) < 300


def test_a_picture_whose_pixels_are_broken_still_tells(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    save_png(noise_image(), file, record())
    data = bytearray(file.read_bytes())
    place = data.index(b"IDAT") + 4
    data[place : place + 8] = b"\xff" * 8
    file.write_bytes(data)

    assert read_record(file) == record()
    with pytest.raises(PictureError, match="is damaged"):
        open_image(file)


@pytest.mark.parametrize("door", [read_record, open_image])
def test_what_is_no_file_is_said(tmp_path: Path, door: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "missing.png": "cannot be read: No such file or directory",
        ".": "is not a file",
        "pipe": "is not a file",
        "a\0.png": "is not a file",
        "n" * 300: "cannot be read: File name too long",
    }.items():
        with pytest.raises(PictureError, match=reason) as caught:
            door(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


# Pictures from elsewhere


def test_pictures_of_every_format_are_opened(tmp_path: Path) -> None:
    image = noise_image(9, 5)
    for name, options in {"a.png": {}, "a.webp": {"lossless": True}, "a.jpg": {}}.items():
        file = tmp_path / name
        image.save(file, **options)
        opened = open_image(file)

        assert type(opened) is Image.Image
        assert (opened.mode, opened.size, opened.info) == ("RGB", (9, 5), {})
        with Image.open(file) as plain:
            assert np.array_equal(np.array(opened), np.array(plain.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """Where a mode is lossless, an opaque grey ramp comes out as it went in."""
    ramp = Image.fromarray(np.arange(0, 256, dtype=np.uint8).reshape(16, 16))
    if mode == "I;16":
        image = Image.fromarray(np.array(ramp).astype(np.uint16) * 257)
    else:
        image = ramp.convert(mode)
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(file, **({"quality": 100} if mode == "CMYK" else {}))

    opened = np.array(open_image(file)).astype(int)

    assert opened.shape == (16, 16, 3)
    if mode == "1":
        assert set(opened.flat) == {0, 255}
    else:
        # JPEG rounds, the others do not
        assert abs(opened[..., 1] - np.array(ramp)).max() <= (3 if mode == "CMYK" else 0)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    levels = np.zeros((1, 3, 4), dtype=np.uint8)
    levels[0, :, 3] = 0, 128, 255
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert np.array(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 127, 0]

    indexed = Image.new("RGB", (1, 1), "black").convert("P")
    indexed.save(tmp_path / "p.png", transparency=indexed.getpixel((0, 0)))
    assert open_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("RGB", (1, 1), "black").save(tmp_path / "c.png", transparency=(0, 0, 0))
    assert open_image(tmp_path / "c.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_eight_orientations_come_out_upright(tmp_path: Path, name: str) -> None:
    """The stored picture is turned so that undoing the tag's turn gives the upright one."""
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("black", (0, 0, 16, 8))
    turn = Image.Transpose
    stored = {
        1: upright,
        2: upright.transpose(turn.FLIP_LEFT_RIGHT),
        3: upright.transpose(turn.ROTATE_180),
        4: upright.transpose(turn.FLIP_TOP_BOTTOM),
        5: upright.transpose(turn.TRANSPOSE),
        6: upright.transpose(turn.ROTATE_90),
        7: upright.transpose(turn.TRANSVERSE),
        8: upright.transpose(turn.ROTATE_270),
    }
    for tag, image in stored.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        image.save(tmp_path / name, exif=exif.tobytes(), quality=95)

        opened = open_image(tmp_path / name)

        assert opened.size == upright.size
        # lossy formats blur the edges by some levels, a wrong turn moves whole quarters by 255
        assert np.abs(np.array(opened).astype(int) - np.array(upright)).mean() < 4


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_the_first_frame_is_the_picture(tmp_path: Path, name: str) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / name, save_all=True, append_images=[second])
    if name == "a.gif":
        with pytest.raises(PictureError, match=r"^a\.gif: is not a PNG, JPEG or WebP picture$"):
            open_image(tmp_path / name)
        return

    red, _, blue = open_image(tmp_path / name).getpixel((0, 0))  # type: ignore[misc]
    assert red > 200 > 50 > blue


def test_a_picture_saved_here_is_opened_unchanged(tmp_path: Path) -> None:
    image = noise_image(64, 32)
    save_png(image, tmp_path / "a.png", record())
    assert np.array_equal(np.array(open_image(tmp_path / "a.png")), np.array(image))


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND")


def palette_header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))


def bytes_of(format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    noise_image(40, 30).save(stream, format=format, **options)
    return stream.getvalue()


EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"


def resized(format: str, offset: int, size: bytes, **options: Any) -> bytes:
    """A small picture whose header says it is large."""
    data = bytearray(bytes_of(format, **options))
    if format == "JPEG":
        offset += data.index(b"\xff\xc0")
    data[offset : offset + len(size)] = size
    return bytes(data)


ROWS = zlib.compress(b"\0" * 31 * 10)  # 10 × 10 pixels
NOISE = zlib.compress((b"\0" + np.random.default_rng(0).bytes(30)) * 10)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "a bomb": (png(50_000, 50_000, data=zlib.compress(bytes(2**20))), "has 50000 × 50000 pixels"),
    "the widest": (png(2**31 - 1, 2**31 - 1), "has 2147483647 × 2147483647 pixels"),
    "a line": (png(16385, 1), "has 16385 × 1 pixels, allowed are at most 16384 along a side"),
    "many pixels": (png(8193, 8192), "has 8193 × 8192 pixels, allowed are between 1 and 67108864"),
    "no width": (png(0, 10), "has 0 × 10 pixels"),
    "a large JPEG": (resized("JPEG", 5, b"\xff\xff\xff\xff"), "has 65535 × 65535 pixels"),
    "a JPEG of no height": (resized("JPEG", 5, b"\0\0"), "has 40 × 0 pixels"),
    "a large WebP": (
        resized("WEBP", 24, b"\xff\xff\xff" * 2, exif=EXIF),
        "has 16777216 × 16777216 pixels",
    ),
    "a large lossy WebP": (resized("WEBP", 26, b"\xff\x3f\xff\x3f"), "has 16383 × 16383 pixels"),
    "texts without end": (
        png(10, 10, chunk(b"tEXt", b"a\0" + bytes(2**20)) * 17, data=ROWS),
        "is larger than 10 × 10 pixels can be",
    ),
    "no pixels": (png(10, 10), "cannot be decoded"),
    "half the pixels": (png(10, 10, data=NOISE[:20]), "cannot be decoded"),
    "pixels not packed": (png(10, 10, data=b"\xff" * 50), "cannot be decoded"),
    "no palette": (
        png(10, 10, data=ROWS).replace(png(10, 10)[8:33], palette_header(10, 10)),
        "cannot be decoded",
    ),
    "two headers": (
        png(10, 10, png(9000, 9000)[8:33], data=ROWS),
        r"has \(9000, 9000\) pixels where its header says \(10, 10\)",
    ),
    "an unknown depth": (
        png(10, 10).replace(b"\x08\x02\0\0\0", b"\x07\x02\0\0\0"),
        "damaged|decoded",
    ),
    "PNG cut": (bytes_of("PNG")[:-30], "ends too early"),
    "JPEG cut": (bytes_of("JPEG")[:-200], "cannot be decoded: image file is truncated"),
    "WebP cut": (bytes_of("WEBP")[:-200], "ends too early"),
    "WebP of two minds": (resized("WEBP", 24, b"\x63\0\0", exif=EXIF), "cannot be decoded"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a PNG, JPEG or WebP"),
    "TIFF": (bytes_of("TIFF"), "is not a PNG, JPEG or WebP"),
    "BMP": (bytes_of("BMP"), "is not a PNG, JPEG or WebP"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a PNG, JPEG or WebP"),
    "nothing": (b"", "is not a PNG, JPEG or WebP"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_picture_is_refused_fast_and_in_little_memory(tmp_path: Path, case: str) -> None:
    data, reason = HOSTILE[case]
    file = tmp_path / "a.png"
    file.write_bytes(data)

    start = time.process_time()
    with pytest.raises(PictureError, match=reason) as caught:
        open_image(file)
    assert time.process_time() - start < 0.05
    assert str(caught.value).startswith("a.png: ")
    assert "\n" not in str(caught.value)

    tracemalloc.start()
    with pytest.raises(PictureError, match=reason):
        open_image(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_texts_that_unpack_to_much_are_never_unpacked(tmp_path: Path) -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 9)) * 50
    (tmp_path / "a.png").write_bytes(png(10, 10, bomb, data=ROWS))

    tracemalloc.start()
    image = open_image(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert image.size == (10, 10)
    assert peak < 2**20


def test_the_limit_can_be_lowered(tmp_path: Path) -> None:
    noise_image(6, 4).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=24).size == (6, 4)
    with pytest.raises(PictureError, match="has 6 × 4 pixels, allowed are between 1 and 23 in all"):
        open_image(tmp_path / "a.png", max_pixels=23)


@given(
    format=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.floats(0.3, 1),
)
def test_damage_anywhere_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    format: str,
    places: list[tuple[float, int]],
    cut: float,
) -> None:
    data = bytearray(bytes_of(format))
    for place, value in places:
        data[int(place * (len(data) - 1))] = value
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(data[: int(cut * len(data)) + 1])

    try:
        image = open_image(file, max_pixels=10**6)
    except PictureError as error:
        assert str(error).startswith("damaged: ")
    else:
        assert image.mode == "RGB"
