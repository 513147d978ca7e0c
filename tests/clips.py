"""Small frames for videos, and videos read by other means than those that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def save(folder: Path, *pictures: np.ndarray[Any, Any]) -> list[Path]:
    """PNGs of RGB `pictures`, named so that their order is not that of time."""
    files = [folder / f"{len(pictures) - index:04d}.png" for index in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture.astype(np.uint8)).save(file)
    return files


def plain(red: int, green: int, blue: int, side: int = 16) -> np.ndarray[Any, Any]:
    return np.full((side, side, 3), (red, green, blue))


def shown(file: Path) -> list[np.ndarray[Any, Any]]:
    """The RGB frames of a video, by other means than those that wrote it where there are any."""
    if file.suffix != ".mp4":
        with Image.open(file) as image:
            return [_seek(image, index) for index in range(image.n_frames)]  # type: ignore[attr-defined]
    with av.open(str(file)) as box:
        return [frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)]


def _seek(image: Image.Image, index: int) -> np.ndarray[Any, Any]:
    image.seek(index)
    return np.array(image.convert("RGB"))


def psnr(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
