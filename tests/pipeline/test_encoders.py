"""What encoders make of pictures: colours, sides, loops, the same bytes every time."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.boxes import Kind
from pipeline.video import probe, write_video
from tests.clips import plain, psnr, save, shown

every_kind = pytest.mark.parametrize("kind", get_args(Kind))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two plain frames of 16 × 16 pixels."""
    return save(tmp_path, plain(200, 10, 10), plain(10, 10, 200))


@pytest.mark.parametrize(("loop", "times"), [(True, 0), (False, 1)])
def test_loops_as_asked(files: list[Path], tmp_path: Path, loop: bool, times: int) -> None:
    for kind in ("webp", "gif"):
        write_video(files, tmp_path / kind, fps=24, kind=kind, loop=loop)
    with Image.open(tmp_path / "webp") as image:
        assert image.info["loop"] == times
    with Image.open(tmp_path / "gif") as image:
        assert image.info.get("loop", 1) == times  # 0 is for ever, no word is once


def test_an_mp4_begins_with_its_index(files: list[Path], tmp_path: Path) -> None:
    write_video(files, tmp_path / "a.mp4", fps=24, kind="mp4", metadata="text")
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@every_kind
def test_the_same_frames_give_the_same_file(files: list[Path], tmp_path: Path, kind: Kind) -> None:
    for name in "ab":
        write_video(files, tmp_path / name, fps=24, kind=kind)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_machine_s_cores_do_not_decide_an_mp4(tmp_path: Path) -> None:
    """x264 writes down its settings, and writes other bytes with another number of threads."""
    files = save(tmp_path, *(plain(level, 0, 0, 256) for level in (10, 200)))
    write_video(files, tmp_path / "a.mp4", fps=24, kind="mp4")
    assert b" threads=4 " in (tmp_path / "a.mp4").read_bytes()


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [
        ((1, 1), "mp4", (2, 2)),
        ((5, 8), "mp4", (6, 8)),
        ((8, 5), "mp4", (8, 6)),
        ((1, 1), "webp", (1, 1)),
        ((5, 7), "webp", (5, 7)),
        ((1, 1), "gif", (1, 1)),
        ((5, 7), "gif", (5, 7)),
    ],
)
def test_odd_sides(
    tmp_path: Path, size: tuple[int, int], kind: Kind, expected: tuple[int, int]
) -> None:
    width, height = size
    files = save(tmp_path, *(np.full((height, width, 3), level) for level in (30, 200)))
    write_video(files, tmp_path / "a", fps=24, kind=kind)

    found = probe(tmp_path / "a")
    assert (found.width, found.height) == expected


def test_an_odd_side_grows_by_a_copy_of_its_edge(tmp_path: Path) -> None:
    picture = np.zeros((9, 9, 3))
    picture[:, -1:] = picture[-1:, :] = 255
    write_video(save(tmp_path, picture, picture), tmp_path / "a.mp4", fps=24, kind="mp4")

    frame = shown(tmp_path / "a.mp4")[0]
    assert frame.shape == (10, 10, 3)
    # grey is coded apart from colour, so only the quantiser is between: 4 levels at this quality
    assert np.abs(frame[:, -1].astype(int) - frame[:, -2]).max() <= 4
    assert frame[-1].min() > 250


COLOURS = list(product((0, 128, 255), repeat=3))


@pytest.mark.parametrize(("kind", "most"), [("mp4", 3), ("webp", 4), ("gif", 1)])
def test_plain_colours_are_the_png_s(tmp_path: Path, kind: Kind, most: int) -> None:
    """8 bits of YCbCr cost a level or two, the encoder at most two; a wrong matrix costs 20.

    FFmpeg finds a GIF's palette in OkLab, and comes back from there within one level.
    """
    files = save(tmp_path, *(plain(*colour) for colour in COLOURS))
    write_video(files, tmp_path / f"a.{kind}", fps=1, kind=kind)

    pictures = shown(tmp_path / f"a.{kind}")
    off = [np.abs(p - np.array(c)).max() for p, c in zip(pictures, COLOURS, strict=True)]
    assert max(off) <= most


def test_an_mp4_says_which_colours_it_has(files: list[Path], tmp_path: Path) -> None:
    write_video(files, tmp_path / "a.mp4", fps=24, kind="mp4")

    with av.open(str(tmp_path / "a.mp4")) as box:
        context = box.streams.video[0].codec_context
        # ISO 23091-2: BT.709 primaries, sRGB transfer, BT.601 matrix, video range
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 13, 6)
        assert context.color_range == 1
        assert context.pix_fmt == "yuv420p"
        assert context.name == "h264"
    assert b"colrnclx\0\1\0\x0d\0\6\0" in (tmp_path / "a.mp4").read_bytes()


def test_every_frame_of_a_gif_has_colours_of_its_own(tmp_path: Path) -> None:
    """Two frames of 196 colours: one palette for both could not hold them."""
    row, column = np.mgrid[:14, :14]
    first = np.stack([row * 18, column * 18, 0 * row], -1)
    files = save(tmp_path, first, 255 - first)
    write_video(files, tmp_path / "a.gif", fps=24, kind="gif")

    for picture, wanted in zip(shown(tmp_path / "a.gif"), (first, 255 - first), strict=True):
        assert np.abs(picture - wanted).max() <= 1  # as above


@pytest.mark.parametrize(("kind", "least"), [("mp4", 33.0), ("webp", 33.0), ("gif", 40.0)])
def test_pictures_survive(tmp_path: Path, root: Path, kind: Kind, least: float) -> None:
    """Cross-faded emoji. 4:2:0 alone leaves 36 dB here; an mp4 kept 35, a WebP 35, a GIF 45."""
    names = ("prince", "pizza", "woman", "snowman")
    ends = [
        np.array(Image.open(root / f"tests/data/references/{name}.png"), float) for name in names
    ]
    pictures = [
        (one + (other - one) * step / 4).round()
        for one, other in pairwise(ends)
        for step in range(4)
    ]
    write_video(save(tmp_path, *pictures), tmp_path / f"a.{kind}", fps=24, kind=kind)

    found = [
        psnr(a, b.astype(np.uint8))
        for a, b in zip(shown(tmp_path / f"a.{kind}"), pictures, strict=True)
    ]
    assert np.mean(found) > least
