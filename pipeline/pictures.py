"""Images in and out: the home of uint8, of PNG files with their record inside, of guarded decoding.

Knows no latents and no models. Files from elsewhere are taken for hostile.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.containers import MAX_ASIDE_BYTES, essentials, picture_size, png_text
from pipeline.errors import PictureError, RenderError, SpecError
from pipeline.files import parse_json, write_atomically
from pipeline.record import Record, parameters_text
from pipeline.tensors import Pixels

MAX_PIXELS = 2**26  # 8192 × 8192, the largest picture a spec may ask for
MAX_SIDE = 2**14  # on longer rows the time that decoders take grows with the square

TEXT_NAME = "greatcircle"
"""The text in a PNG of ours that holds what made it."""

_MAX_PIXEL_BYTES = 9  # 4 channels of 16 bits, and what packing may add to noise

# Opened by class, past `Image.open`, whose limits and warnings are global to the process.
_DECODERS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
}

# EXIF 2.32, tag 0x0112: how the rows and columns lie that are stored
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_images(pixels: Pixels) -> list[Image.Image]:
    """One image for each of `pixels`, rounded as diffusers' VaeImageProcessor rounds.

    Raises RenderError where a number is not finite: it would be a black picture.
    """
    if not (finite := pixels.isfinite()).all():
        bad = int((~finite).sum())
        raise RenderError(
            f"{bad} of {pixels.numel()} numbers in the pixels are NaN or infinite: "
            "no picture is made of them"
        )
    shares = (pixels * 0.5 + 0.5).clamp(0, 1)
    levels = (shares.cpu().float() * 255).round().to(torch.uint8)
    return [Image.fromarray(image.numpy()) for image in levels.permute(0, 2, 3, 1).contiguous()]


def to_pixels(image: Image.Image) -> Pixels:
    """The pixels of an RGB image, shape (1, 3, height, width), float32 on the CPU."""
    if image.mode != "RGB":
        raise PictureError(f"a picture of mode {image.mode}: must be RGB")
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous()
    return levels.float() / 255 * 2 - 1


def save_png(image: Image.Image, file: Path, record: Record | None) -> None:
    """Write a PNG that is whole or not there, with its record inside unless that is None.

    The record stands in it twice: as `parameters`, which other programs read, and as `greatcircle`,
    lossless JSON. Raises OutputError.
    """
    texts = {}
    if record is not None:
        texts["parameters"] = parameters_text(record)
        texts[TEXT_NAME] = json.dumps(record.model_dump(mode="json"), allow_nan=False)
    write_png(image, file, texts)


def write_png(image: Image.Image, file: Path, texts: Mapping[str, str]) -> None:
    """Write a PNG that is whole or not there, with `texts` inside. Raises OutputError."""
    chunks = PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)

    def write(stream: BinaryIO) -> None:
        image.save(stream, format="PNG", pnginfo=chunks, icc_profile=None)

    write_atomically(file, write)


def read_record(file: Path) -> Record:
    """The record inside a PNG of ours; its pixels are not decoded. Raises PictureError."""
    with opened(file) as stream:
        text = png_text(stream, TEXT_NAME.encode())
        if text is None:
            raise PictureError(
                "holds no settings: give a PNG that this program saved with its metadata"
            )
        try:
            values = parse_json(text)
            if not isinstance(values, dict):
                raise PictureError("its settings are not a JSON object")
            return Record(**values)
        except SpecError as error:
            raise PictureError(f"its settings are not valid: {error}") from None
        except ValueError as error:
            raise PictureError(f"its settings are not valid JSON: {error}") from None


def open_image(file: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a PNG, JPEG or WebP file as RGB: first frame, upright, over white.

    Its size is checked before it is decoded, metadata is dropped, colour profiles are not applied.
    Raises PictureError.
    """
    with opened(file) as stream:
        size = width, height = picture_size(stream)
        if max(size) > MAX_SIDE:
            raise PictureError(
                f"has {width} × {height} pixels, allowed are at most {MAX_SIDE} along a side"
            )
        if not 0 < width * height <= max_pixels:
            raise PictureError(
                f"has {width} × {height} pixels, allowed are between 1 and {max_pixels} in all"
            )
        if file.stat().st_size > MAX_ASIDE_BYTES + _MAX_PIXEL_BYTES * width * height:
            raise PictureError(f"is larger than {width} × {height} pixels can be")
        format, body, orientation = essentials(stream)
        image = _decode(_DECODERS[format], body, size)

    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def read_size(file: Path) -> tuple[int, int]:
    """Width and height of the picture that `open_image` would give. Raises PictureError."""
    return open_image(file).size


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """`file` for reading; what is wrong with it is said under its name, without its folder."""
    try:
        if "\0" in file.name or not stat.S_ISREG(file.stat().st_mode):
            raise PictureError("is not a file")
        with file.open("rb") as stream:
            yield stream
    except PictureError as error:
        raise PictureError(f"{file.name}: {error}") from error.__cause__
    except OSError as error:
        raise PictureError(f"{file.name}: cannot be read: {error.strerror or error}") from error


def _decode(decoder: type[ImageFile], body: BytesIO, size: tuple[int, int]) -> Image.Image:
    """The picture in `body` as RGB; its decoder must find the `size` that was checked."""
    try:
        image = decoder(body)
        if image.size != size:
            raise PictureError(f"has {image.size} pixels where its header says {size}")
        return _over_white(image)
    except PictureError:
        raise
    except Exception as error:  # decoders raise whatever they stumble over
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PictureError(f"cannot be decoded: {reason}") from error


def _over_white(image: Image.Image) -> Image.Image:
    """`image` as RGB without its metadata, what is transparent in it laid over white."""
    image.load()
    if image.mode.startswith("I;16"):
        image = image.point(lambda level: level / 256).convert("L")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    image = image.convert("RGB")
    image.info = {}
    return image
