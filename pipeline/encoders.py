"""Pictures -> an mp4, WebP or GIF by FFmpeg's encoders, and such a file -> its frames' sizes.

Knows no text inside a file and no atomic writing. One picture is held at a time, beside what an
encoder looks ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingMore
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.boxes import Kind, webp_frames
from pipeline.containers import picture_size
from pipeline.errors import PictureError
from pipeline.pictures import MAX_PIXELS

# crf and quality were chosen by PSNR against the PNGs: on cross-faded emoji of 512 × 512 pixels
# crf 16 gives 45 dB at 2 kB a frame, where 4:2:0 at its best gives 48; quality 90 gives 46 dB. The
# tune gains 0.6 dB and saves a third of the bytes, on photographs 0.5 dB and a fifth.
_CODECS: dict[Kind, tuple[str, str, dict[str, str]]] = {
    "mp4": ("libx264", "yuv420p", {"preset": "medium", "tune": "animation", "crf": "16"}),
    "webp": ("libwebp", "yuv420p", {"quality": "90"}),
    "gif": ("gif", "pal8", {}),
}
_DECODERS: dict[Kind, str] = {"mp4": "h264", "gif": "gif"}

# What x264 writes depends on the number of its threads: a machine's cores must not decide a file.
_THREADS = 4

_BT601 = 6  # in ISO 23091-2, where PyAV's `Colorspace` has swscale's numbers
_SCALING = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.FULL_CHR_H_INT
)


def video_size(size: tuple[int, int], kind: Kind) -> tuple[int, int]:
    """Width and height of a video of pictures of `size`: in an mp4 the next even numbers."""
    width, height = size
    return (width + width % 2, height + height % 2) if kind == "mp4" else size


def encode(
    images: Iterator[Image.Image],
    size: tuple[int, int],
    file: Path,
    *,
    kind: Kind,
    rate: Fraction,
    loop: bool,
    comment: str | None,
) -> int:
    """Encode RGB `images` of `size` into `file`, and count them; `comment` is for an mp4 alone.

    Raises FFmpegError, which is an OSError where the disk refuses.
    """
    width, height = video_size(size, kind)
    turn = _Palettes(width, height, rate).turn if kind == "gif" else _as_it_is
    count = 0
    with av.open(str(file.absolute()), "w", format=kind, options=_mux_options(kind, loop)) as box:
        if comment is not None:
            box.metadata["comment"] = comment
        codec, pixel_format, options = _CODECS[kind]
        stream = box.add_stream(codec, rate=rate, options=dict(options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if kind == "mp4":
            _tag(stream)
        for count, image in enumerate(images, start=1):
            frame = _to_frame(image, kind)
            frame.pts, frame.time_base = count - 1, 1 / rate
            for ready in turn(frame):
                box.mux(stream.encode(ready))
        for ready in turn(None):
            box.mux(stream.encode(ready))
        box.mux(stream.encode(None))
    return count


def decode(stream: BinaryIO, file: Path, kind: Kind) -> Iterator[tuple[tuple[int, int], Fraction]]:
    """Size of each frame, and the seconds from the start of the video to the frame's end.

    `stream` reads `file`. Raises PictureError, and FFmpegError, OSError, SyntaxError and ValueError
    for what cannot be decoded.
    """
    if kind == "webp":
        yield from _decode_webp(stream)
        return
    with av.open(str(file.absolute()), format=kind) as box:
        video = next(iter(box.streams.video), None)
        # a codec that FFmpeg does not know leaves no context
        if video is None or getattr(video.codec_context, "name", None) != _DECODERS[kind]:
            raise PictureError(f"holds no video of the kind {_DECODERS[kind]}")
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        start: int | None = None
        for frame in box.decode(video):
            if frame.pts is None or frame.time_base is None:
                raise PictureError("has a frame without its time")
            start = frame.pts if start is None else start
            end = (frame.pts - start + frame.duration) * frame.time_base
            yield (frame.width, frame.height), end


def _decode_webp(stream: BinaryIO) -> Iterator[tuple[tuple[int, int], Fraction]]:
    """The same for a WebP, frame by frame: FFmpeg has no decoder, libwebp's holds the file."""
    end = 0
    for milliseconds, body in webp_frames(stream):
        end += milliseconds
        width, height = picture_size(BytesIO(body))
        if not 0 < width * height <= MAX_PIXELS:
            raise PictureError(f"has {width} × {height} pixels, allowed are at most {MAX_PIXELS}")
        image = WebPImageFile(BytesIO(body))
        image.load()
        yield image.size, Fraction(end, 1000)


def _mux_options(kind: Kind, loop: bool) -> dict[str, str]:
    match kind:
        case "mp4":
            return {"movflags": "+faststart"}
        case "webp":
            return {"loop": "0" if loop else "1"}
        case _:
            return {"loop": "0" if loop else "-1"}


def _tag(stream: VideoStream) -> None:
    """Say which colours these are: sRGB through the matrix of BT.601, as AVIF has it.

    With the matrix of BT.709 browsers that convert without a GPU show saturated yellows up to 8
    levels off: their library has no coefficient above 2, and that matrix needs 2.11.
    """
    context = stream.codec_context
    context.thread_count = _THREADS
    context.colorspace = _BT601
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.IEC61966_2_1


def _to_frame(image: Image.Image, kind: Kind) -> VideoFrame:
    levels = np.asarray(image)
    if kind == "gif":
        return VideoFrame.from_ndarray(levels, format="rgb24").reformat(format="bgra")
    if kind == "mp4":
        rows, columns = (side % 2 for side in levels.shape[:2])
        levels = np.pad(levels, ((0, rows), (0, columns), (0, 0)), mode="edge")
    return VideoFrame.from_ndarray(levels, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALING,
    )


def _as_it_is(frame: VideoFrame | None) -> Iterator[VideoFrame]:
    if frame is not None:
        yield frame


class _Palettes:
    """RGB frames in, frames with a palette of their own out, as FFmpeg's `palettegen` makes it.

    One palette for the whole video would halve the file, but it needs every frame before the first
    is written, and is 10 dB further from the PNGs (35 against 45 dB). Dithering loses 1 dB more,
    flickers and makes the file larger.
    """

    def __init__(self, width: int, height: int, rate: Fraction) -> None:
        graph = Graph()
        self._source = graph.add_buffer(
            width=width, height=height, format=VideoFormat("bgra"), time_base=1 / rate
        )
        split, self._sink = graph.add("split"), graph.add("buffersink")
        palette = graph.add("palettegen", "stats_mode=single")
        use = graph.add("paletteuse", "new=1:dither=none")
        self._source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(palette, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(self._sink)
        graph.configure()
        self._graph = graph  # which the filters live in

    def turn(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """Take `frame`, or None at the end, and give the frames that are ready."""
        self._source.push(frame)
        while True:
            try:
                ready = self._sink.pull()
            except (NothingYet, NothingMore):
                return
            assert isinstance(ready, VideoFrame)
            yield ready
